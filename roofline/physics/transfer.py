"""Transfer fitted constants to a GPU that was not measured, scaled by physical quantities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from roofline.physics.base import SLICES_OF_STACKS

if TYPE_CHECKING:
    from roofline.physics.base import Constant, Gpu

# From Hopper on, factors relative to Ampere: of operands and results through a processor's L2 port (clusters
# share operands, cp.async.bulk writes results), and of the time between waves (persistent kernels). Values
# from one model fitted to A100, H100 and B200 (l2_share 0.6, 1.1, 1.8; store_share 0.2, 0.3, 1.3; felt_waves,
# wave_s): they come with the programming model and stand in no data sheet.
SHARED_OPERANDS = {9: 1.75, 10: 2.25}
PERSISTENT_WAIT = 0.08

# Slices of the L2 deliver 78 to 91 bytes per clock and MB where memory is stacked (5.4 TB/s of 42 MB on an
# A100, 9.7 of 63 on an H200; gpu-benches, gpu-l2-cache). Blackwell's two dies have 133 MB, which would feed
# 1.1 to 1.3 times all ports: these are the limit there, of which 0.9 is reached, not slices (0.55 before).
TWO_DIES = 0.9 / SLICES_OF_STACKS

# A message's step to the next GPU: NCCL counts 1.0 us over PCIe and 0.6 over NVLink for short ones, 5.7 and
# 3.4 for long ones (`hwLatencies` in its tuning.cc). Over NVLink the step follows the processors' clock (0.84
# us fitted on an A100, 0.74 on an H100), where NCCL's are taken as an A100's; over PCIe it does not.
PCIE_HOP, CLOCK_OF_HOPS = 1.0 / 0.6, 1.41e9

GRAPHICS_STREAM = 0.95  # share of GDDR bandwidth that is reached: 0.97 on an L40S, 0.96 on an RTX PRO 6000


def _stream(gpu: Gpu) -> float | None:
    """The share of the memory bandwidth that is reached: measured, or usual for GDDR; None if unknown."""
    usual = None if gpu.stacked else GRAPHICS_STREAM
    return gpu.reached["dram"][0] if "dram" in gpu.reached else usual


# The quantities that `Constant.scales_with` may name; None where the data sheet lacks the value.
QUANTITIES: Mapping[str, Callable[[Gpu], float | None]] = {
    "clock": lambda gpu: gpu.boost_hz,
    "1/clock": lambda gpu: 1 / gpu.boost_hz,
    "processors": lambda gpu: gpu.processors,
    "dram": lambda gpu: gpu.dram_byte_per_s,
    "issue": lambda gpu: gpu.dram_byte_per_s / (gpu.processors * gpu.boost_hz),
    "threads": lambda gpu: gpu.processors * gpu.boost_hz / gpu.dram_byte_per_s,
    "l2": lambda gpu: gpu.l2_byte_per_s,
    "link": lambda gpu: gpu.link_byte_per_s,
    "hop": lambda gpu: PCIE_HOP if gpu.link == "pcie" else CLOCK_OF_HOPS / gpu.boost_hz,
    "stream": _stream,
    "loads": lambda _: 1.0,  # share of the memory bandwidth that loads in flight reach, see `_fed`
    "clusters": lambda gpu: SHARED_OPERANDS.get(gpu.generation, 1.0),
    "persistent": lambda gpu: PERSISTENT_WAIT if gpu.grouped else 1.0,
    "slices": lambda _: 1.0,  # share of the L2 ports: the same, at most what the slices deliver
    "dies": lambda gpu: TWO_DIES if gpu.stacked and gpu.generation >= 10 else 1.0,  # see TWO_DIES
    "whole": lambda gpu: 1 / gpu.partitions,
    "heat": lambda _: 1.0,  # clock lost in long runs, see `_cooler`
    "library": lambda _: 1.0,  # a library's choice: kept within a generation, unknown in another
    "launches": lambda _: 1.0,  # of kernels in a CUDA graph, which take as long whoever wrote them
    "engine": lambda _: 1.0,  # of a kernel beside the attention that the engine brings, whatever attends
    "format": lambda _: 1.0,  # that a format decides: kernels in another one know nothing of it
    # At its power limit a GPU lowers clock and voltage together, and power is about their cube.
    "power": lambda gpu: gpu.joule_per_flop and gpu.joule_per_flop ** (1 / 3),
}
MOST_SHARE = 0.95  # of a tensor peak at unlimited power: main loops have losses of their own


def carried(
    values: Mapping[str, float], constants: Sequence[Constant], source: Gpu, target: Gpu, unit: str = "bf16"
) -> dict[str, float]:
    """The constants of `source` scaled to `target`, within their bounds; one it lacks has its start value.

    `unit` is the format of the multiplication, whose measured peaks are used.
    """
    found = {}
    for constant in constants:
        before = value = values.get(constant.name, constant.start)
        for name in constant.scales_with.split():
            value *= _factor(name, source, target, unit)
        if "power" in constant.scales_with:
            value = min(value, max(before, MOST_SHARE), _most_of_integers(source, target, unit))
        elif "slices" in constant.scales_with and target.slices < source.slices:
            value = min(value, target.slices)  # the same demand, of slices that deliver less
        elif "whole" in constant.scales_with and value > before:
            value = min(value, max(before, 1.0))
        elif "issue" in constant.scales_with:
            value = max(value, min(before, 1.0))  # what the memory takes for its bytes
        elif "heat" in constant.scales_with:
            value = _cooler(value, source, target)
        elif "loads" in constant.scales_with:
            value = _fed(value, source, target)
        found[constant.name] = min(max(value, constant.low), constant.high)
    return found


def _most_of_integers(source: Gpu, target: Gpu, unit: str) -> float:
    """What fp8 reached on another GPU, where nobody measured integers: as many bits at the same rate."""
    known = unit != "int8" or unit in target.reached or source.name == target.name
    return math.inf if known else target.reached.get("fp8", (math.inf, ""))[0]


def _fed(share: float, source: Gpu, target: Gpu) -> float:
    """The share of the bandwidth of stacked memory that a kernel's loads in flight reach.

    A processor has a number of bytes in flight, whatever the memory (Little's law): where its part of the
    bandwidth is smaller, they are a larger share of it, up to what the memory delivers at all. Where that
    part is larger they may be too few, but a kernel that fed a slower memory does not tell.
    """
    if not (source.stacked and target.stacked):
        return share
    part, here = (gpu.dram_byte_per_s / (gpu.processors * gpu.boost_hz) for gpu in (source, target))
    return max(share, min(share * part / here, _stream(target) or _stream(source) or 1.0))


def _cooler(lost: float, source: Gpu, target: Gpu) -> float:
    """The share of the clock that long products lose, less where the same die has more power per FLOP."""
    one, two = (QUANTITIES["power"](gpu) for gpu in (source, target))
    more = max(two / one, 1.0) if one and two and source.generation == target.generation else 1.0
    return max((1 + lost) / more - 1, 0.0)


def _factor(name: str, source: Gpu, target: Gpu, unit: str) -> float:
    """The ratio of a quantity, target over source; 1 where it is unknown.

    Power is replaced by the ratio of measured peaks where both were measured in the same way (the same
    source): a short replay reaches other peaks than a minute of load.
    """
    for peak in (unit, "bf16") if name == "power" else ():
        (here, way), (there, other) = (gpu.reached.get(peak, (0.0, gpu.name)) for gpu in (source, target))
        if way == other and here:
            return there / here
    one, two = (QUANTITIES[name](gpu) for gpu in (source, target))
    ratio = two / one if one and two else 1.0
    # With less bandwidth per thread the share of it that kernels reach rises; with more it is kept.
    return max(ratio, 1.0) if name == "threads" else ratio


def averaged(
    sources: Sequence[tuple[Gpu, Mapping[str, float]]],
    constants: Sequence[Constant],
    target: Gpu,
    unit: str = "bf16",
) -> dict[str, float]:
    """The means of the constants of several devices, each scaled to a target of another generation.

    Geometric means, as latencies and shares differ by factors. Each further generation has half the weight; a
    device has the same weight whatever the number of its kernels.
    """
    given = [(carried(values, constants, gpu, target, unit), gpu, values) for gpu, values in sources]
    found = {}
    for c in constants:
        known = [(at[c.name], gpu) for at, gpu, values in given if c.name in values]
        weights = [
            2.0 ** -abs(gpu.generation - target.generation) / sum(g is gpu for _, g in known)
            for _, gpu in known
        ]
        if not known or "library" in c.scales_with.split():
            found[c.name] = c.start
        elif c.low > 0:
            logs = sum(w * math.log(value) for w, (value, _) in zip(weights, known, strict=True))
            found[c.name] = math.exp(logs / sum(weights))
        else:
            means = sum(w * value for w, (value, _) in zip(weights, known, strict=True))
            found[c.name] = means / sum(weights)
    return found


def distance(source: Gpu, target: Gpu) -> float:
    """A distance of two GPUs: generations first, then ratios of processors, bandwidths and clocks."""
    generations = abs(source.generation - target.generation)
    ratios = (
        (source.processors, target.processors),
        (source.dram_byte_per_s, target.dram_byte_per_s),
        (source.boost_hz, target.boost_hz),
    )
    return 10 * generations + sum(abs(math.log(a / b)) for a, b in ratios)
