"""A stage of a benchmark in a process of its own: how long it takes, and the most memory it holds.

Beside the scripts that measure stages: they say which there are, this runs one and reads what it cost.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Stages = Mapping[str, Callable[[Path], None]]


def parser_of(description: str | None, stages: Stages) -> argparse.ArgumentParser:
    """Options that every such script has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--runs", type=int, default=3, help="runs of each stage; the median counts")
    parser.add_argument("--trace", type=Path, help="a file to read instead of a made one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--stage", choices=stages, help=argparse.SUPPRESS)
    return parser


def measured(script: str, stages: Stages, path: Path, runs: int) -> dict[str, dict[str, Any]]:
    """Wall and CPU seconds and bytes of memory of each stage: the run of the median wall time."""
    found: dict[str, list[dict[str, Any]]] = {stage: [] for stage in stages}
    for _ in range(runs):  # in turn: a slow minute of the machine touches all of them
        for stage, results in found.items():
            command = [sys.executable, script, "--stage", stage, "--trace", str(path)]
            root = Path(script).resolve().parents[1]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
            results.append(json.loads(done.stdout))
    return {
        stage: sorted(results, key=lambda run: run["wall_s"])[len(results) // 2]
        for stage, results in found.items()
    }


def run(stage: Callable[[Path], None], path: Path) -> None:
    """Inside that process: print what the stage cost."""
    import numpy  # noqa: F401  (what every stage needs is not its cost)
    import pyarrow  # noqa: F401

    before, began = time.process_time(), time.perf_counter()
    stage(path)
    found = {
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - before,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(found))


def line(stage: str, values: Mapping[str, Any], ratio: float) -> str:
    """A stage for people, and its time as a multiple of the floor's."""
    return (
        f"  {stage:8} {values['wall_s']:7.2f} s wall {values['cpu_s']:7.2f} s CPU "
        f"{values['memory_bytes'] / 1e6:7.0f} MB   {ratio:.2f}"
    )
