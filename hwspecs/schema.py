"""What a device file holds: every value in SI base units with the document it comes from.

`datasheet` is what the vendor prints, dense. `measured` is what someone reached on the real thing;
it stands beside the data sheet and never overwrites it. `calibration` holds the few constants per
operator kind that the calibrated fidelity adds; each says what it was fitted on.
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
    """Main memory of the device: HBM, GDDR, LPDDR or DDR."""

    type: Text
    capacity_bytes: Sourced
    byte_per_s: Sourced | None = None  # absent where no document states it: a CPU of a cloud machine
    bus_bits: Sourced | None = None
    pin_bit_per_s: Sourced | None = None


class Cache(Strict, frozen=True, kw_only=True):
    """A cache shared by the whole device."""

    capacity_bytes: Sourced
    byte_per_s: Sourced | None = None


class Link(Strict, frozen=True, kw_only=True):
    """A connection to other devices or the host; bandwidth in one direction, all its lanes together."""

    byte_per_s: Sourced
    type: Text


class Datasheet(Strict, frozen=True, kw_only=True):
    """What the vendor states. Peaks are dense: structured sparsity is a factor of its own."""

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
    idle_w: Sourced | None = None
    price_usd_per_hour: Sourced | None = None


class Measured(Strict, frozen=True, kw_only=True):
    """Ceilings that were reached, by the same names as in the data sheet."""

    tensor_flop_per_s: dict[Dtype, Sourced] = {}
    vector_flop_per_s: dict[Dtype, Sourced] = {}
    steady_flop_per_s: dict[Dtype, Sourced] = {}  # of products after seconds of load: power holds clocks down
    special_op_per_s: Sourced | None = None
    dram_byte_per_s: Sourced | None = None
    l2_byte_per_s: Sourced | None = None
    launch_s: Sourced | None = None  # from one operator's end to the next one's start, nothing to compute
    graph_launch_s: Sourced | None = None  # the same between operators of a replayed graph
    links: dict[LinkName, Sourced] = {}
    bandwidth_curve: list[BandwidthPoint] = []
    references: list[Reference] = []


class Reference(Strict, frozen=True, kw_only=True):
    """A short step of a small model of no published sizes, timed while everything else was measured.

    Who repeats the same work later learns how fast the machine is then, relative to this file.
    """

    phase: Literal["prefill", "decode"]
    dtype: Dtype
    model: Text
    flops: Positive  # of the step: with the bytes they tell whether it is the same work
    bytes: Positive
    median_s: Positive
    q25_s: Positive
    q75_s: Positive
    repeats: Annotated[int, msgspec.Meta(gt=0)]
    layers_s: Positive | None = None  # median of the operators in its layers; older files do not have it


class BandwidthPoint(Strict, frozen=True, kw_only=True):
    """Bandwidth of one access pattern over a footprint; the steps show the caches."""

    pattern: Literal["copy", "triad", "read", "write"]
    footprint_bytes: Positive
    byte_per_s: Positive
    spread: NotNegative  # (third quartile - first quartile) / median of the repeats


class Constants(Strict, frozen=True, kw_only=True):
    """The calibrated ceilings of one operator kind in one dtype; an absent ceiling is not a term.

    compute = flop / flop_per_s + special / special_op_per_s
    memory  = bytes / byte_per_s, or / cached_byte_per_s where they fit into cache_bytes, + outputs * output_s
    time    = launch_s + longer + (1 - overlap) * shorter
    """

    dtype: Dtype
    launch_s: NotNegative = 0.0  # fixed cost of all the kernels that the operator starts
    flop_per_s: Positive | None = None
    special_op_per_s: Positive | None = None
    byte_per_s: Positive | None = None
    cache_bytes: Positive | None = None
    cached_byte_per_s: Positive | None = None
    output_s: NotNegative = 0.0  # per result: the start and the reduction of one dot product
    overlap: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0  # 1 takes the longer limit
    points: Annotated[int, msgspec.Meta(gt=0)]  # measurements behind the fit
    median_error: NotNegative  # median |predicted / measured - 1| on shapes held out of the fit


class Kernel(Strict, frozen=True, kw_only=True):
    """The constants of one kernel model for a format, a backend and a kernel; empty names mean any.

    `op`, `dtype`, `kv_dtype`, `backend` and `kernel` are the columns of operator tables. `lower` and `upper`
    are the quantiles of measured / predicted between which `coverage` of the held-out rows lay.
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
    bands: list[tuple[float, float, float]] | None = (
        None  # up to this predicted time in s; lower, upper there
    )
    coverage: NotNegative | None = None  # reached by the bands on families that did not set them
    carried_error: NotNegative | None = None  # mean |error| on devices whose own rows took no part
    carried_lower: Positive | None = None  # the interval there
    carried_upper: Positive | None = None
    domain: dict[str, tuple[float, float]] = {}  # smallest and largest size seen, by column
    source: Text


class Calibration(Strict, frozen=True, kw_only=True):
    """Constants fitted to measured times, and what they were fitted on.

    `operators` are ceilings per operator class, measured inside models on this very machine by
    `roofline ceilings`. `kernels` are constants of the kernel models of CUDA GPUs, fitted to tables of
    kernels by `roofline calibrate`. Where a file has both for an operator, its own machine's come first.
    """

    source: Text
    operators: dict[str, list[Constants]] = {}
    kernels: list[Kernel] = []


class Shipped(Strict, frozen=True, kw_only=True):
    """A file of `calibrations/`: the kernels of one device, beside its device file."""

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
    conflicts: list[Text] = []  # where public documents disagree, and which reading is right
    datasheet: Datasheet
    measured: Measured = Measured()
    calibration: Calibration | None = None
    node: Node | None = None  # where it stands: the loader adds it when a node is asked for by name

    def __repr__(self) -> str:
        """Not every value with its source, which fills pages of a notebook."""
        return f"<Device: {self.name}, {self.kind}, {self.architecture}>"

    def __post_init__(self) -> None:
        """Refuse a value whose source is not listed, and a peak with sparsity written as dense."""
        check_sources(self, self.sources)
        peaks = {str(dtype): peak.value for dtype, peak in self.datasheet.tensor_flop_per_s.items()}
        for wide, narrow in (("bf16", "fp8"), ("fp16", "fp8"), ("tf32", "bf16")):
            if wide in peaks and narrow in peaks and peaks[narrow] > MOST_RATIO * peaks[wide]:
                raise ValueError(
                    f"datasheet.tensor_flop_per_s.{narrow}: {peaks[narrow]:g} is "
                    f"{peaks[narrow] / peaks[wide]:.1f} times {wide}; "
                    "that is a peak with structured sparsity, state the dense one."
                )
