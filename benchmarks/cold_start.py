"""What does one answer cost from a cold start: a new process that imports, predicts and prints?

CPU seconds (user and system) of whole processes, beside a Python that does nothing and one that imports
NumPy. The three take turns, so that a slow minute of the machine touches all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ASKED = {
    "predict": ("--phase", "decode", "--batch", "8", "--context", "2048"),
    "whatif": ("--batch", "8", "--prompt", "4096", "--output", "256"),
}


def answer(verb: str, model: str, hardware: str, tp: int) -> list[str]:
    """The installed command where there is one, as a user starts it."""
    script = Path(sys.executable).with_name("roofline")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "profiler"]
    return [*start, verb, model, "--hw", hardware, "--tp", str(tp), *ASKED[verb], "--format", "json"]


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a process from its start to its end; byte code is kept, as installers do."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    here = Path(__file__).parents[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=here, env=kept)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-n", "--runs", type=int, default=15, help="processes of each kind; the median counts"
    )
    parser.add_argument("--command", choices=ASKED, default="predict")
    parser.add_argument("--model", default="Llama-3.1-8B")
    parser.add_argument("--hw", default="h100_sxm")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    ours = f"roofline {options.command}"
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        ours: answer(options.command, options.model, options.hw, options.tp),
    }
    for command in commands.values():  # byte code is compiled and files are read once before
        cpu_seconds(command)
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, command in commands.items():
            found[name].append(cpu_seconds(command))
    medians = {name: median(times) for name, times in found.items()}
    ratios = {name: medians[ours] / other for name, other in medians.items() if name != ours}
    if options.json:
        print(json.dumps({"runs": options.runs, "cpu_s": medians, "over": ratios}, indent=1))
        return
    print(f"CPU time of a new process, median of {options.runs}")
    for name, value in medians.items():
        beside = f"   {options.command} takes {ratios[name]:.2f} times that" if name in ratios else ""
        print(f"  {name:18} {value * 1e3:7.1f} ms{beside}")


if __name__ == "__main__":
    main()
