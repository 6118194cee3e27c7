"""The schema of a device file: every value in SI base units, with its source.

`datasheet`: what the vendor states; peaks are dense. `measured`: what was reached on a device; it stands
beside the data sheet and never overwrites it. `calibration`: the fitted constants of the calibrated fidelity,
with the measurements that they were fitted to.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hwspecs.node import Node
from hwspecs.values import LinkName, Sourced, check_sources
from specfiles.strict import NotNegative, Positive, Strict, Text

Dtype = Literal["fp64", "tf32", "fp32", "fp16", "bf16", "fp8", "fp6", "int8", "fp4", "int4"]
MOST_RATIO = 3.9  # between neighbouring dtypes; 4 is twice the dense ratio: a sparse peak


class Dram(Strict, frozen=True, kw_only=True):
    """Main memory of the device: HBM, GDDR, LPDDR or DDR.

    capacity_bytes: as printed, a GB as 1e9 bytes and a GiB as 2**30. Most data sheets print GB for GiB, so
    programs may see up to 7 % more: `Measured.dram_capacity_bytes`.
    """

    type: Text
    capacity_bytes: Sourced
    byte_per_s: Sourced | None = None  # absent where no document states it, as for a cloud machine's CPU
    bus_bits: Sourced | None = None
    pin_bit_per_s: Sourced | None = None


class Cache(Strict, frozen=True, kw_only=True):
    """A cache shared by the whole device.

    capacity_bytes: as drivers report it; the MB and KB of data sheets are then 2**20 and 2**10 bytes.
    """

    capacity_bytes: Sourced
    byte_per_s: Sourced | None = None


class Link(Strict, frozen=True, kw_only=True):
    """A connection to other devices or the host; bandwidth in one direction, summed over its lanes."""

    byte_per_s: Sourced
    type: Text


class Datasheet(Strict, frozen=True, kw_only=True):
    """What the vendor states. Peaks are dense; structured sparsity is a separate factor."""

    processors: Sourced | None = None  # streaming multiprocessors, compute units, cores
    clock_hz: Sourced | None = None  # the boost clock at which the tensor peaks are stated
    vector_clock_hz: Sourced | None = None  # where the vector peak is stated at another clock
    tensor_flop_per_s: dict[Dtype, Sourced] = {}
    vector_flop_per_s: dict[Dtype, Sourced] = {}
    special_op_per_s: Sourced | None = None  # exp, rsqrt, sin: one result is one operation
    structured_sparsity: Sourced | None = None  # peak with 2:4 sparsity / dense peak
    dram: Dram
    l2: Cache | None = None
    last_level_cache: Cache | None = None  # behind the L2, where there is one (MI300X, CPUs)
    shared_bytes_per_processor: Sourced | None = None
    register_bytes_per_processor: Sourced | None = None
    links: dict[LinkName, Link] = {}
    tdp_w: Sourced | None = None
    price_usd_per_hour: Sourced | None = None


class Measured(Strict, frozen=True, kw_only=True):
    """Ceilings that were measured, under the names of the data sheet."""

    tensor_flop_per_s: dict[Dtype, Sourced] = {}
    vector_flop_per_s: dict[Dtype, Sourced] = {}
    steady_flop_per_s: dict[Dtype, Sourced] = {}  # matrix products under sustained load (power limit)
    special_op_per_s: Sourced | None = None
    dram_capacity_bytes: Sourced | None = None  # the total that the driver reports: nvidia-smi, rocm-smi
    dram_byte_per_s: Sourced | None = None
    l2_byte_per_s: Sourced | None = None
    launch_s: Sourced | None = None  # from the end of one operator to the start of the next, next to no work
    graph_launch_s: Sourced | None = None  # the same inside a replayed CUDA graph
    links: dict[LinkName, Sourced] = {}
    bandwidth_curve: list[BandwidthPoint] = []
    references: list[Reference] = []


class Reference(Strict, frozen=True, kw_only=True):
    """A short step of a small model, timed while the ceilings were measured.

    Timing the same step again later gives the drift of the machine's speed since then (`roofline.drift`).
    """

    phase: Literal["prefill", "decode"]
    dtype: Dtype
    model: Text
    flops: Positive  # of the step; FLOP and bytes together identify it
    bytes: Positive
    median_s: Positive
    q25_s: Positive
    q75_s: Positive
    repeats: Annotated[int, msgspec.Meta(gt=0)]
    layers_s: Positive | None = None  # median of the operators in its layers; older files do not have it


class BandwidthPoint(Strict, frozen=True, kw_only=True):
    """Bandwidth of one access pattern over a buffer of a given size: lower once it exceeds a cache."""

    pattern: Literal["copy", "triad", "read", "write"]
    footprint_bytes: Positive
    byte_per_s: Positive
    spread: NotNegative  # (third quartile - first quartile) / median of the repeats


class Constants(Strict, frozen=True, kw_only=True):
    """The calibrated constants of one operator class in one dtype; the term of an absent rate is 0.

    compute = flop / flop_per_s + special / special_op_per_s
    memory  = bytes / byte_per_s, or / cached_byte_per_s where they fit into cache_bytes, + outputs * output_s
    time    = launch_s + longer + (1 - overlap) * shorter
    """

    dtype: Dtype
    launch_s: NotNegative = 0.0  # fixed time of all kernels that the operator launches
    flop_per_s: Positive | None = None
    special_op_per_s: Positive | None = None
    byte_per_s: Positive | None = None
    cache_bytes: Positive | None = None
    cached_byte_per_s: Positive | None = None
    output_s: NotNegative = 0.0  # per element of the result: start and reduction of one dot product
    overlap: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0  # 1: compute and memory overlap fully
    points: Annotated[int, msgspec.Meta(gt=0)]  # measurements in the fit
    median_error: NotNegative  # median |predicted / measured - 1| on held-out shapes


class Kernel(Strict, frozen=True, kw_only=True):
    """The constants of one kernel model for a format, a backend and a kernel; an empty name means any.

    `op`, `dtype`, `kv_dtype`, `backend` and `kernel` are columns of operator tables. `lower` and `upper` are
    quantiles of measured / predicted over held-out rows; the share `coverage` of them lies between.
    """

    op: Text
    dtype: Text
    kv_dtype: str = ""
    backend: str = ""
    kernel: str = ""
    values: dict[str, NotNegative]  # by the model's names of its constants
    points: Annotated[int, msgspec.Meta(gt=0)]
    families: Annotated[int, msgspec.Meta(gt=0)]  # shape families among the points
    held_out_error: NotNegative | None = None  # mean |predicted / measured - 1| on families held out
    lower: Positive | None = None
    upper: Positive | None = None
    # (predicted time [s] up to which it holds, lower, upper)
    bands: list[tuple[float, float, float]] | None = None
    coverage: NotNegative | None = None  # of the bands, on families that they were not set on
    carried_error: NotNegative | None = None  # mean |error| on devices whose rows were not in the fit
    carried_lower: Positive | None = None  # quantiles of measured / predicted on those
    carried_upper: Positive | None = None
    domain: dict[str, tuple[float, float]] = {}  # smallest and largest size in the fit, by column
    source: Text


class Calibration(Strict, frozen=True, kw_only=True):
    """Constants fitted to measured times, and what they were fitted on.

    operators: constants per operator class, measured inside models on this machine by `roofline ceilings`.
    kernels: constants of the kernel models of GPUs, fitted to tables of kernel times by `roofline calibrate`.
    Where a file has both for an operator, `operators` is used.
    """

    source: Text
    operators: dict[str, list[Constants]] = {}
    kernels: list[Kernel] = []


class Shipped(Strict, frozen=True, kw_only=True):
    """A file of `calibrations/`: the kernel constants of one device."""

    schema_version: Literal[1] = msgspec.field(name="schema")
    device: Text
    calibration: Calibration


class Device(Strict, frozen=True, kw_only=True):
    """One accelerator or processor."""

    schema_version: Literal[1] = msgspec.field(name="schema")
    name: Text
    aliases: list[Text] = []
    vendor: Text
    kind: Literal["gpu", "cpu", "tpu", "npu", "soc"]
    architecture: Text
    sources: dict[Text, Text]
    conflicts: list[Text] = []  # where public documents disagree, and which value was taken
    datasheet: Datasheet
    measured: Measured = Measured()
    calibration: Calibration | None = None
    node: Node | None = None  # set by the loader when a node is asked for

    def __repr__(self) -> str:
        """One line; the fields would fill pages of a notebook."""
        return f"<Device: {self.name}, {self.kind}, {self.architecture}>"

    @property
    def capacity_bytes(self) -> float:
        """Memory that decides what fits: what the driver reports, else what the data sheet states."""
        return (self.measured.dram_capacity_bytes or self.datasheet.dram.capacity_bytes).value

    def __post_init__(self) -> None:
        """Raise ValueError for a source that is not listed, or a sparse peak that is written as dense."""
        check_sources(self, self.sources)
        peaks = {str(dtype): peak for dtype, peak in self.datasheet.tensor_flop_per_s.items()}
        for wide, narrow in (("bf16", "fp8"), ("fp16", "fp8"), ("tf32", "bf16")):
            if wide not in peaks or narrow not in peaks or _said_dense(peaks[narrow]):
                continue
            if peaks[narrow].value > MOST_RATIO * peaks[wide].value:
                raise ValueError(
                    f"datasheet.tensor_flop_per_s.{narrow}: {peaks[narrow].value:g} is "
                    f"{peaks[narrow].value / peaks[wide].value:.1f} times {wide}; "
                    "that looks like a peak with structured sparsity, state the dense one "
                    "or, if it is dense, begin its note with 'dense;'."
                )


def _said_dense(peak: Sourced) -> bool:
    """Whether a note begins with `dense` or `dense by SOURCE`: elsewhere the word may say the opposite."""
    clause = (peak.note or "").partition(";")[0].strip()
    return clause == "dense" or clause.startswith("dense by ")
