"""The basis of all kernel models: named constants, the facts of a GPU, and the smooth maximum.

A kernel model gives a time as a sum of named parts, each with one physical reason. The first part is the
ideal roofline of the kernel; the others are what the hardware or the library adds to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specfiles.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwspecs import Device
    from hwspecs.values import LinkName

    Floats = NDArray[np.float64]
    Columns = Mapping[str, NDArray[Any]]  # the columns of the measured tables by name, one array each
    Bound = Callable[[Mapping[str, float]], dict[str, Floats]]  # parts of given rows by their constants

# Bytes per clock from the L2 to one streaming multiprocessor: the width of its port to the crossbar
# (Chips and Cheese and gpu-benches reach 80-100 % of it on Volta to Blackwell).
L2_BYTES_PER_CLOCK = 64.0
# Bandwidth of all L2 slices over that of all ports. Data-centre dies (HBM) have two partitions of slices
# (5.4 of 9.7 TB/s on an A100, 7.0 of 12.8 on an H100 PCIe), graphics dies (GDDR) one, with fewer slices
# (5.2 of 22.9 TB/s on an L40); all by gpu-benches, gpu-l2-cache.
SLICES_OF_STACKS, SLICES_OF_GRAPHICS = 0.55, 0.23

# Dense 16-bit FLOP per clock and processor of products by single warps (mma.sync) on all generations: more
# than Ampere's peak, and 63 % of Hopper's (Luo et al., 2024, arXiv:2402.13499).
WARP_FLOP_PER_CLOCK = 2580.0
WARP_ROWS = 16.0  # of one such instruction
SHARED_BYTES_PER_CLOCK = 128.0  # of a processor: 32 banks of 4 bytes (CUDA C++ Programming Guide)

HEAT_S = 3e-3  # time under full load after which the power limit lowers the clock

LINKS: tuple[LinkName, ...] = ("nvlink", "xgmi", "pcie")  # to other GPUs, the fastest first


class Dtypes(NamedTuple):
    """The formats of a row of a table: its name there, and the formats of its tensors."""

    name: str  # as in the table: fp8_block, int4_wo
    inputs: str  # of activations, and of the multiplication
    weights: str
    outputs: str
    kv: str  # the KV cache


@dataclass(frozen=True)
class Constant:
    """One named, bounded, physical constant of a kernel model; fitted in log space where low > 0.

    `scales_with` names the quantities that it scales with on a device that was not measured (`transfer`).
    """

    name: str
    unit: str
    low: float
    high: float
    start: float
    why: str
    scales_with: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.start <= self.high:
            raise ValueError(f"constant {self.name}: {self.start} is outside {self.low} to {self.high}")


@dataclass(frozen=True)
class Gpu:
    """The data-sheet values of a device that kernel models use, as floats in SI units.

    The share of a peak that is reached is a constant of the kernel, so that it can be transferred.
    """

    name: str
    capability: int  # compute capability x 10: 80 Ampere, 90 Hopper, 100 Blackwell; AMD counts as Ampere
    processors: float
    clock_hz: float  # at which the tensor peaks are stated
    boost_hz: float  # the highest clock, at which short kernels run
    tensor_flop_per_s: Mapping[str, float]  # by compute dtype
    vector_flop_per_s: float  # fp32
    special_op_per_s: float
    dram_byte_per_s: float
    l2_bytes: float
    l2_byte_per_s: float  # processors x clock x L2_BYTES_PER_CLOCK
    shared_bytes: float  # per processor
    link_byte_per_s: float | None  # to the other GPUs, one direction
    tdp_w: float | None
    link: LinkName | None = None  # the kind of that link
    stacked: bool = True  # memory in stacks beside the die (HBM), behind an L2 of two partitions
    # Measured shares of peaks ("dram": of the memory's) and how they were measured.
    reached: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def slices(self) -> float:
        """Bandwidth of all L2 slices over that of all processors' ports."""
        return SLICES_OF_STACKS if self.stacked else SLICES_OF_GRAPHICS

    @property
    def partitions(self) -> int:
        """Partitions of the L2. Each caches for its own processors: what all processors read is in both."""
        return 2 if self.stacked and self.capability >= 80 else 1

    @property
    def joule_per_flop(self) -> float | None:
        """TDP over the 16-bit peak [J/FLOP]; None if either is unknown."""
        peak = self.tensor_flop_per_s.get("fp16") or self.tensor_flop_per_s.get("bf16")
        return self.tdp_w / peak if self.tdp_w and peak else None

    @property
    def resident_threads(self) -> int:
        """Threads that a processor holds at once (CUDA C++ Programming Guide, technical specifications)."""
        return 1024 if self.capability == 75 else 1536 if self.capability in (86, 87, 89, 120, 121) else 2048

    @property
    def grouped(self) -> bool:
        """Whether it has warp-group matrix instructions and thread-block clusters (Hopper and later)."""
        return self.generation >= 9

    @classmethod
    def of(cls, device: Device) -> Gpu:
        """Raises InputError where the file is not one of a GPU or lacks what every kernel model needs."""
        sheet = device.datasheet
        capability = re.search(r"\((sm|gfx)(\w+)\)", device.architecture)
        processors, clock, l2 = sheet.processors, sheet.clock_hz, sheet.l2
        vector, dram = sheet.vector_flop_per_s.get("fp32"), sheet.dram.byte_per_s
        if capability is None or not (processors and clock and l2 and vector and dram):
            needed = {
                "an architecture that ends as (sm90) or (gfx942)": capability,
                "processors": processors,
                "clock_hz": clock,
                "vector_flop_per_s.fp32": vector,
                "dram.byte_per_s": dram,
                "l2.capacity_bytes": l2,
            }
            lacking = ", ".join(name for name, value in needed.items() if not value)
            raise InputError(
                f"the kernel models cannot predict {device.name}: they are for CUDA and ROCm GPUs, and its "
                f"file lacks {lacking}; use --fidelity datasheet or measured."
            )
        boost = max(clock.value, sheet.vector_clock_hz.value if sheet.vector_clock_hz else 0.0)
        tensor = {**sheet.vector_flop_per_s, **sheet.tensor_flop_per_s}
        special = sheet.special_op_per_s
        link = next((name for name in LINKS if name in sheet.links), None)
        shared = sheet.shared_bytes_per_processor
        return cls(
            name=device.name,
            # AMD's compute units, as Ampere's processors, share no operands and multiply by single waves.
            capability=int(capability[2]) if capability[1] == "sm" else 80,
            processors=processors.value,
            clock_hz=clock.value,
            boost_hz=boost,
            tensor_flop_per_s={str(dtype): peak.value for dtype, peak in tensor.items()},
            vector_flop_per_s=vector.value,
            # 16 results per clock and SM: CUDA C++ Programming Guide, arithmetic throughput, sm70 to sm120.
            special_op_per_s=special.value if special else 16 * processors.value * clock.value,
            dram_byte_per_s=dram.value,
            l2_bytes=l2.capacity_bytes.value,
            l2_byte_per_s=processors.value * boost * L2_BYTES_PER_CLOCK,
            # 100 KB is the least of any CUDA GPU since Ampere (CUDA C++ Programming Guide, technical specs).
            shared_bytes=shared.value if shared else 100e3,
            link_byte_per_s=sheet.links[link].byte_per_s.value if link else None,
            link=link,
            tdp_w=sheet.tdp_w.value if sheet.tdp_w else None,
            stacked="HBM" in sheet.dram.type,
            reached=_reached(device),
        )

    @property
    def generation(self) -> int:
        """The generation of kernels: 7 Volta and Turing, 8 Ampere, Ada and sm12x, 9 Hopper, 10 Blackwell.

        Blackwell without tensor memory (sm12x) multiplies as Ampere does (mma.sync; in the PTX ISA tcgen05 is
        for sm10x and wgmma for sm90 only), and libraries run kernels of that kind on it.
        """
        return 8 if self.capability >= 120 else min(self.capability // 10, 10)

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s of matrix products in a compute dtype; raises InputError where it has none."""
        if dtype not in self.tensor_flop_per_s:
            known = ", ".join(sorted(self.tensor_flop_per_s))
            raise InputError(
                f"{self.name} has no dense peak for {dtype} (it has: {known}); choose another dtype."
            )
        return self.tensor_flop_per_s[dtype]


def _reached(device: Device) -> dict[str, tuple[float, str]]:
    """The measured shares of the data-sheet peaks, by name, with their sources."""
    sheet, measured = device.datasheet, device.measured
    found = {
        str(name): (value.value / sheet.tensor_flop_per_s[name].value, value.source)
        for name, value in measured.tensor_flop_per_s.items()
        if name in sheet.tensor_flop_per_s
    }
    if (stream := measured.dram_byte_per_s) and sheet.dram.byte_per_s:
        found["dram"] = (stream.value / sheet.dram.byte_per_s.value, stream.source)
    return found


def total(parts: Mapping[str, Floats]) -> Floats:
    """The time: the sum of the parts."""
    return np.asarray(sum(parts.values(), start=np.float64(0.0)))


def smooth_max(limits: Sequence[Floats | float], sharpness: float) -> Floats:
    """The p-norm of the limits, p = `sharpness`: imperfect overlap of copies and arithmetic.

    p = inf is the maximum (the roofline's corner), p = 1 the sum (no overlap).
    """
    stacked = np.stack(np.broadcast_arrays(*limits)).astype(np.float64)
    largest = np.maximum(stacked.max(axis=0), 1e-30)
    return np.asarray(largest * np.sum((stacked / largest) ** sharpness, axis=0) ** (1 / sharpness))


def ceil_div(a: Any, b: Any) -> Floats:
    """ceil(a / b): the number of pieces of size b that cover a."""
    return np.asarray(np.ceil(np.asarray(a, dtype=np.float64) / b))


def column(rows: Columns, name: str, default: float = 0.0) -> Floats:
    """A column of numbers; `default` where it is absent or empty."""
    if name not in rows:
        return np.full(len(next(iter(rows.values()))), default)
    values = np.asarray(rows[name], dtype=np.float64)
    return np.where(np.isnan(values), default, values)
