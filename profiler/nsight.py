"""A model's steps under Nsight Systems or Nsight Compute: the command reruns itself inside the tool."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.counted import counted_rows, told
from profiler.interrupts import interruptible_children
from profiler.traces import nsysrep
from profiler.traces.attribution import attribute
from profiler.traces.ncu import is_page
from profiler.traces.reading import read_traces
from profiler.traces.runs import save
from roofline.run import Run
from specfiles.errors import InputError
from workloads.catalogue import Loaded

if TYPE_CHECKING:
    from profiler.forward import Point

REPEATS = {"nsys": 3, "ncu": 1}  # steps of each point; counts are the same in each
Ended = subprocess.CompletedProcess[str]
FOLDER = "nsight"  # the imported run, inside the run measured without a tool
NSYS = ("profile", "--trace=nvtx,cuda,osrt", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true")
ON_CUDA = (
    "--capture-range=cudaProfilerApi",  # excludes loading
    "--capture-range-end=stop",
    "--cuda-graph-trace=node",  # a row per kernel, not per graph
)
NCU = ("--nvtx", "--set", "roofline", "--clock-control", "none", "--profile-from-start", "off", "-f")
# Totals beside the set's: that of 2024.1 has instructions of the tensor units, whose FLOP differ by kind, and
# no bytes of L2. Metrics of a sparsity or of one instruction are parts of these.
TOTALS = re.compile(r"sm__ops_path_tensor_src_(?!.*_sparsity_)\w+|dram__bytes(_read|_write)?|lts__t_bytes")
LEAST_S = 60.0  # of a tool, however small the budget: the program starts again, and kernels are repeated
ENDING_S = 60.0  # for a tool to write its report after an interrupt
WHERE = {
    "nsys": "Nsight Systems is part of the CUDA toolkit and of Debian's package nsight-systems",
    "ncu": "Nsight Compute is part of the CUDA toolkit",
}
UNSEEN = (
    "nsys recorded no NVTX range: this nsys does not see the installed nvtx package (nvtx 0.2.12 and newer "
    "need a newer nsys); pip install 'nvtx<0.2.12' or update nsys."
)


def installed(tools: Sequence[str], device: str) -> None:
    """InputError where a tool is missing or useless on the device; checked first."""
    if "ncu" in tools and not device.startswith("cuda"):
        raise InputError(f"--ncu counts what GPU kernels do, and the model would run on {device}; use CUDA.")
    for tool in tools:
        if shutil.which(tool) is None:
            raise InputError(f"--{tool} needs {tool}, which is not on PATH; {WHERE[tool]}.")


def record(
    tools: Sequence[str],
    words: Sequence[str],
    run: Run,
    loaded: Loaded,
    device: str,
    points: Sequence[Point],
    progress: Callable[[str], None],
    budget_s: float = inf,
) -> None:
    """Run `roofline profile --replay` under each tool and import the reports into one run.

    A tool that takes more than `budget_s` is interrupted, and what it has written is read. The reports are
    kept with its tables. Raises InputError with the messages of tools that fail, and KeyboardInterrupt,
    after those of the others were imported.
    """
    folder = run.path / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _release(device)
    files: dict[str, Path] = {}
    failed: list[str] = []
    interrupt: KeyboardInterrupt | None = None
    for tool in tools:
        progress(f"under {tool}")
        seconds = max(budget_s, LEAST_S)
        repeated = ("--repeats", str(REPEATS[tool]), "--replay")
        program = [sys.executable, "-m", "profiler", "profile", *words, *repeated]
        try:
            files[tool], said = (
                _nsys(program, folder, device, seconds) if tool == "nsys" else _ncu(program, folder, seconds)
            )
        except InputError as error:  # as without permission to count, which nsys does not need
            failed.append(str(error))
        except KeyboardInterrupt as pressed:
            interrupt = pressed
            failed.append(f"{tool} was interrupted.")
            break
        else:
            failed += [said] if said else []
    notes = _imported(files, folder, run, loaded, points) if files else []
    for note in notes:
        progress(note)
    run.write_head(notes=[*run.head.notes, *notes, *failed])
    if interrupt:
        progress(f"interrupted; what was measured is in {run.path}")
        raise interrupt
    if failed:
        raise InputError(f"{' '.join(failed)} What else was measured is in {run.path}.")


def _imported(
    files: Mapping[str, Path], folder: Path, run: Run, loaded: Loaded, points: Sequence[Point]
) -> list[str]:
    """Import each tool's file into the run in `folder`; returns notes."""
    trace, head = attribute(read_traces(list(files.values()))), run.head
    notes = []
    if "ncu" in files:
        rows = counted_rows(files["ncu"], loaded, head.dtype, points, REPEATS["ncu"])
        run.write_rows({"counted": rows})
        notes += told(rows)
    for file in files.values():  # derived from the reports; a SQLite export holds all environment variables
        file.unlink()
    save(
        trace,
        folder,
        command=head.command,
        device=head.device,
        model=head.model,
        model_config_fields=loaded.config,
        dtype=head.dtype,
    )
    if "nsys" in files and not trace["ranges"].num_rows:
        notes.append(UNSEEN)
    return notes


def _release(device: str) -> None:
    """Give back the device memory that PyTorch keeps: the tools' process loads the model again."""
    if device.startswith("cuda"):
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _nsys(program: Sequence[str], folder: Path, device: str, seconds: float = inf) -> tuple[Path, str]:
    """The export of its report, and what it complains of."""
    report = folder / "report.nsys-rep"
    only = ON_CUDA if device.startswith("cuda") else ()
    said = _recorded(["nsys", *NSYS, *only, f"--output={report.with_suffix('')}", *program], report, seconds)
    exported = folder / "report.sqlite"
    nsysrep.export(report, exported)
    return exported, said


def _ncu(program: Sequence[str], folder: Path, seconds: float = inf) -> tuple[Path, str]:
    """The page of its report, and what it complains of."""
    report, page = folder / "report.ncu-rep", folder / "report.ncu.csv"
    totals = _totals()
    also = ("--metrics", ",".join(totals)) if totals else ()
    said = _recorded(["ncu", *NCU, *also, "-o", str(report.with_suffix("")), *program], report, seconds)
    read = _run(["ncu", "--import", str(report), "--csv", "--page", "raw"])
    if read.returncode:
        raise InputError(f"ncu cannot read its own report: {_complaint(read)}.")
    page.write_text(read.stdout, encoding="utf-8")
    if not is_page(page):
        raise InputError(said or "ncu counted no kernel: its report is empty.")
    return page, said


def _totals() -> list[str]:
    """The metrics of TOTALS that this ncu lists for the devices here; others would be an error."""
    listed = (line.partition(" ")[0] for line in _run(["ncu", "--query-metrics"]).stdout.splitlines())
    return [f"{name}.sum" for name in dict.fromkeys(filter(TOTALS.fullmatch, listed))]


def _recorded(command: Sequence[str], written: Path, seconds: float) -> str:
    """Run a tool, and return its complaint if it fails with a report, as where the program's end does.

    InputError where it writes none.
    """
    ended = _run(command, seconds)
    if not written.exists():
        raise InputError(f"{command[0]} wrote no report: {_complaint(ended)}.")
    if not ended.returncode:
        return ""
    return f"{command[0]} failed, its report is read and may lack the end of what ran: {_complaint(ended)}."


def _run(command: Sequence[str], seconds: float = inf) -> Ended:
    """Run a tool in a process group of its own, with the program that it starts; interrupt it after a time.

    An interrupt that only this process gets, as by `kill -INT`, would leave that program on the device.
    """
    with interruptible_children():
        tool = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
    try:
        output, errors = tool.communicate(timeout=None if seconds == inf else seconds)
    except subprocess.TimeoutExpired:
        _end(tool)
        late = f"==ERROR== after {seconds:.0f} s it had to be interrupted"
        return Ended(command, tool.returncode or 1, "", late)
    except BaseException:
        _end(tool)
        raise
    return Ended(command, tool.returncode, output, errors)


def _end(tool: subprocess.Popen[str]) -> None:
    """Interrupt a tool and its program, and wait while it writes its report; end them where it does not."""
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt), tool:
        try:
            _signal(tool, signal.SIGINT)
            tool.communicate(timeout=ENDING_S)  # reads on: a full pipe would keep it waiting
        finally:
            _signal(tool, signal.SIGKILL)  # what is left of the group


def _signal(tool: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(tool.pid, number)


def _complaint(ended: Ended) -> str:
    """The tool's errors and our own within the output of the program it ran, else its end, without a stop."""
    outputs = ended.stdout, ended.stderr
    spoken = [line for output in outputs for line in output.splitlines()]
    lines = [line for line in spoken if "==ERROR==" in line or line.startswith("roofline: ")]
    said = " ".join(lines) or next((output for output in reversed(outputs) if output.strip()), "")
    return " ".join(said.split())[-500:].rstrip(".") or f"it ended with {ended.returncode}"
