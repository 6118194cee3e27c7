"""The content of `run.json`: how a run was made, and what no table holds."""

from __future__ import annotations

from typing import Any, Literal

from specfiles.strict import Strict


class Origin(Strict, frozen=True, kw_only=True):
    """One trace file and the tool that wrote it."""

    file: str
    format: str  # kineto | nsys | ncu
    version: str = ""
    rank: int | None = None
    zero_ns: int | None = None  # the clock's zero in Unix time, where the file says it


class DeviceFacts(Strict, frozen=True, kw_only=True):
    """Facts of one device, as far as a trace states them."""

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


class AtPoint(Strict, frozen=True, kw_only=True):
    """Something of one measured point (`roofline.run_tables.POINT`)."""

    phase: str
    batch: int
    q_len: int
    kv_len: int
    encoder_len: int = 0


class Overhead(AtPoint, frozen=True, kw_only=True):
    """What ranges cost a step: the median over pairs of steps with and without, and its 95 % interval."""

    fraction: float  # 0.01: a step with ranges takes 1 % longer
    low: float
    high: float
    pairs: int


class Part(Strict, frozen=True, kw_only=True):
    """What one process contributed to a run of several: the folder rank0, rank1, ... beside its tables."""

    rank: int
    status: Literal["running", "complete", "failed", "missing"] = "running"
    device: str = ""


class Compilation(AtPoint, frozen=True, kw_only=True):
    """What compiling the step of a point took; no measured time holds it."""

    seconds: float  # of the first run, in which the step was compiled
    graphs: int  # pieces that the step was compiled in: one where nothing broke it
    recompilations: int  # after the first run
    breaks: list[str] = []  # why the graph was broken


class Attributed(AtPoint, frozen=True, kw_only=True):
    """How much of a traced step belongs to operators: kernels on a device, operations on a processor."""

    in_operators_s: float
    in_framework_s: float = 0.0  # in what the framework does beside operators, as masks
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
    expert_activations: str = ""
    checkpoint: bool = False  # layers have formats beside these, which the model's config states
    absorbs_latents: bool | None = None
    imported: Imported | None = None
    parts: list[Part] = []  # of a run of several processes
