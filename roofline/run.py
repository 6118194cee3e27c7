"""A measured run: a folder with `run.json`, Parquet tables and raw traces.

Every table is written whole or not at all and `run.json` last, so that a run that was cut short
still opens with what it has. Reports are made from it without the device.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from specfiles.errors import InputError
from specfiles.reading import read_json
from specfiles.strict import Strict, plain_data, validated
from specfiles.writing import atomic, write_new, write_text

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
POINT = ["phase", "batch", "q_len", "kv_len"]  # what tells the measured points of a run apart
TABLES = {
    # One row per phase point and operator: times of one execution.
    "operators": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "name",
        "kind",
        "where",  # model: inside the whole model; alone: as a kernel by itself; framework: beside operators
        "count",  # executions per step
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "low_s",  # from here to high_s lies the median of the distribution, at 95 % confidence
        "high_s",
        "outliers",  # repeats far outside the others; none is dropped
    ),
    # One row per phase point and way of running the whole step.
    # Times are of work; waited_s is how much longer the median step took while it waited for a processor.
    "steps": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "instrumented",
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "low_s",
        "high_s",
        "outliers",
        "waited_s",
        "warm_ups",  # steps before the first repeat
        "ended",  # why no more were made: all repeats, narrow interval, budget spent; or not over
    ),
    # One row per repeat of a whole step far outside the others.
    "outliers": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "instrumented",
        "repeat",
        "step_s",
        "time_s",  # when it ended, by the clock of the samples of power
    ),
    # One row per phase point: reference steps (profiler/references.py) repeated beside it.
    # layers_s is the median time of the operators in their layers alone.
    "references": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "model",
        "dtype",
        "flops",
        "bytes",
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "layers_s",
    ),
    # One row per operator of a traced module: what a pass does where no described model says it.
    "traced": ("name", "kind", "count", "flops", "bytes", "fields"),  # fields: the operator's, as JSON
    # One row per device kernel or host operation of a traced step.
    "kernels": ("phase", "batch", "q_len", "kv_len", "operator", "name", "count", "time_s"),
    # One row per phase point and technique: the step without and with it, measured in turn.
    "techniques": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "technique",  # as the command line takes it, with what was measured of its parameters
        "convention",  # by which the step without it is counted
        "repeats",
        "base_s",
        "treated_s",
        "gain",  # median of base / treated of neighbours
        "gain_q25",
        "gain_q75",
        "deviation",  # of results: largest difference over largest value
        "remark",  # what of it was measured and what assumed
    ),
    # One row per collective that a process saw: when it came and left, on the clock of the first process.
    "arrivals": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "name",
        "repeat",
        "index",  # among the collectives of the step
        "begin_s",
        "end_s",
        "uncertainty_s",  # of the clock
    ),
    # One row per phase point and collective of a merged run: medians over occurrences that all ranks have.
    "collectives": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "name",
        "ranks",
        "count",  # per step
        "repeats",
        "wait_s",  # from the first rank's arrival to the last's
        "mean_wait_s",  # of a rank for the last
        "median_s",  # from the last arrival to the last end, as are the quartiles
        "q25_s",
        "q75_s",
        "last_rank",  # that came last most often
        "last_share",  # of the occurrences
        "uncertainty_s",
    ),
    # One row per phase point and operator, its executions in a step together: work counted by Nsight Compute.
    "counted": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "name",  # empty: kernels in no operator's range
        "kind",
        "kernels",
        "flops",  # by the descriptor
        "counted_flops",
        "bytes",
        "counted_bytes",  # of DRAM; caches are flushed before each kernel
    ),
    # Samples of the power monitor.
    "power": (
        "time_s",
        "power_w",
        "sm_clock_hz",
        "memory_clock_hz",
        "temperature_c",
        "throttle",  # bits of nvmlClocksEventReasons
        "energy_j",  # a counter since the driver was loaded
        "memory_used_bytes",  # of the device, by all processes
    ),
    # One row per phase point: the mean energy of a step, from the device's counter.
    "energy": (
        "phase",
        "batch",
        "q_len",
        "kv_len",
        "energy_j",
        "power_w",
        "steps",
        "window_s",
        "uncertainty",  # relative: the steps in which the counter jumped
    ),
}


# Columns that older runs and imported ones do not have.
LATER = {
    "operators": ("low_s", "high_s", "outliers"),
    "steps": ("low_s", "high_s", "outliers", "waited_s", "warm_ups", "ended"),
    "references": ("layers_s",),
    "power": ("energy_j", "memory_used_bytes"),
    "techniques": ("remark",),
}


class Origin(Strict, frozen=True, kw_only=True):
    """One trace file: what wrote it."""

    file: str
    format: str  # kineto | nsys | ncu
    version: str = ""
    rank: int | None = None
    zero_ns: int | None = None  # the clock's zero in Unix time, where the file says it


class DeviceFacts(Strict, frozen=True, kw_only=True):
    """What a trace says of one device; nothing where it does not say."""

    source: int  # which of the trace files
    device: int
    name: str = ""
    processors: int | None = None  # SMs or compute units
    memory_bytes: int | None = None
    byte_per_s: float | None = None
    clock_hz: float | None = None
    capability: str = ""


class Loss(Strict, frozen=True, kw_only=True):
    """Something of a trace that was dropped, repaired or could not be linked, and how often."""

    what: str  # dropped | repaired | unlinked | noted
    count: int
    sentence: str


class Imported(Strict, frozen=True, kw_only=True):
    """What traces of other tools said of themselves, beside the tables made from them."""

    origins: list[Origin]
    devices: list[DeviceFacts] = []
    losses: list[Loss] = []


class Overhead(Strict, frozen=True, kw_only=True):
    """What ranges cost a step: the median over pairs of steps with and without, and its 95 % interval."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    fraction: float  # 0.01: a step with ranges takes 1 % longer
    low: float
    high: float
    pairs: int


class Part(Strict, frozen=True, kw_only=True):
    """What one process contributed to a run of several: the folder rank0, rank1, ... beside its tables."""

    rank: int
    status: Literal["running", "complete", "failed", "missing"] = "running"
    device: str = ""


class Compilation(Strict, frozen=True, kw_only=True):
    """What compiling the step of a point took; no measured time holds it."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    seconds: float  # of the first run, in which the step was compiled
    graphs: int  # pieces that the step was compiled in: one where nothing broke it
    recompilations: int  # after the first run
    breaks: list[str] = []  # why the graph was broken


class Attributed(Strict, frozen=True, kw_only=True):
    """How much of a traced step belongs to operators: kernels on a device, operations on a processor."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    in_operators_s: float
    in_framework_s: float = 0.0  # in what the framework prepares: positions, rotary tables, masks
    of_s: float  # of all kernels or operations


class Head(Strict, frozen=True, kw_only=True):
    """`run.json`. An imported run leaves empty what its traces do not say."""

    schema_version: Literal[1] = 1
    status: Literal["running", "complete", "failed"] = "running"
    created: str
    command: str
    model: str
    model_config_fields: dict[str, Any]
    weights: str  # where the weights came from: a file, or random
    phase: str
    dtype: str
    convention: str
    mode: str  # eager, compile, graph
    attention: str = ""  # what computed it in the traced steps: flash, efficient, cudnn, math, ...
    device: str  # the name in the device file that was measured beside it
    environment: dict[str, Any]
    seed: int
    notes: list[str] = []
    overheads: list[Overhead] = []
    compilations: list[Compilation] = []
    attributed: list[Attributed] = []
    tensor_parallel: int = 1  # devices that shared each layer
    # What follows from `dtype` and `convention` where it is empty or null.
    activations: str = ""
    kv: str = ""
    experts: str = ""
    absorbs_latents: bool | None = None
    imported: Imported | None = None
    parts: list[Part] = []  # of a run of several processes


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path
    head: Head

    def table(self, name: str) -> pd.DataFrame:
        """A table of the run, its documented columns even when nothing was measured.

        Raises InputError where the file is cut short or lacks a column.
        """
        import pandas as pd

        columns, file = TABLES[name], self.path / f"{name}.parquet"
        if not file.exists():
            return pd.DataFrame(columns=list(columns))
        try:
            table = pd.read_parquet(file)
        except Exception as error:  # pyarrow raises several kinds for a broken file
            raise InputError(
                f"{file}: cannot be read ({str(error).splitlines()[0]}); measure the run again."
            ) from None
        table = _with_later(name, table)
        missing = [column for column in columns if column not in table]
        if missing:
            raise InputError(f"{file}: has no column {missing[0]!r}; expected {', '.join(columns)}.")
        return table

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table of the run in one step."""
        with atomic(self.path / f"{name}.parquet") as draft:
            _with_later(name, table)[list(TABLES[name])].to_parquet(draft, index=False)

    def write_head(self, **changes: Any) -> Run:
        """Write `run.json`, with changes, and return the run that it now describes."""
        head = self.head.replace(**changes)
        write_text(self.path / "run.json", _as_json(head))
        return Run(self.path, head)


def _as_json(head: Head) -> str:
    return json.dumps(plain_data(head), indent=1) + "\n"


def _with_later(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with its later columns, empty where it was made without them."""
    return table.assign(**{column: float("nan") for column in LATER.get(name, ()) if column not in table})


def open_run(path: Path) -> Run:
    """The run in a folder; an InputError says what is missing or broken."""
    if path.is_file():
        raise InputError(f"{path}: is a file, expected the folder of a run.")
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder; `roofline profile MODEL -o {path}` makes one.")
    if not (path / "run.json").exists():
        raise InputError(f"{path}: is not a run, it has no run.json; `roofline profile` writes one.")
    data = read_json(path / "run.json")
    if data.get("schema_version") != SCHEMA:
        raise InputError(
            f"{path / 'run.json'}: schema {data.get('schema_version')!r} is not known; expected {SCHEMA}."
        )
    return Run(path, validated(Head, data, str(path / "run.json")))


def create_run(path: Path, head: Head) -> Run:
    """A new run folder; refuses to mix with one that exists, also with one that was begun just now."""
    refuse_existing(path)
    write_new(path / "run.json", _as_json(head))
    return Run(path, head)


def refuse_existing(path: Path) -> None:
    """An InputError where a new run cannot stand; asked before anything long is started."""
    if (path / "run.json").exists():
        raise InputError(f"{path}: a run is already there; name another folder or remove it.")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; name a folder for the run.")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be made, {parent} is not writable; name another folder.")
