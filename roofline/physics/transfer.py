"""Carry fitted constants to a GPU that nobody measured: from those measured, scaled by their physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofline.physics.base import Constant, Gpu

# How many more operands a processor's port delivers where clusters of blocks share them, and how many more
# results it takes in bulk (cp.async.bulk), and what is left of the wait between waves where kernels are
# persistent, since Hopper: as one model was fitted to A100, H100 and B200 (l2_share 0.6, 1.1, 1.8;
# store_share 0.2, 0.3, 1.3; felt_waves, wave_s). They follow the programming model, not a data sheet.
SHARED_OPERANDS = {9: 1.75, 10: 2.25}
PERSISTENT_WAIT = 0.08

GRAPHICS_STREAM = 0.95  # of the bandwidth of GDDR memory: 0.97 on an L40S, 0.94 on an RTX PRO 6000


def _stream(gpu: Gpu) -> float | None:
    """The share of the memory bandwidth that was measured, or that its kind of memory reaches elsewhere."""
    usual = None if gpu.stacked else GRAPHICS_STREAM
    return gpu.reached["dram"][0] if "dram" in gpu.reached else usual


# What a constant may follow; its `scales_with` names some. None where a data sheet does not say.
QUANTITIES: Mapping[str, Callable[[Gpu], float | None]] = {
    "clock": lambda gpu: gpu.boost_hz,
    "1/clock": lambda gpu: 1 / gpu.boost_hz,
    "processors": lambda gpu: gpu.processors,
    "dram": lambda gpu: gpu.dram_byte_per_s,
    "threads": lambda gpu: gpu.processors * gpu.boost_hz / gpu.dram_byte_per_s,
    "l2": lambda gpu: gpu.l2_byte_per_s,
    "link": lambda gpu: gpu.link_byte_per_s,
    "stream": _stream,
    "clusters": lambda gpu: SHARED_OPERANDS.get(gpu.generation, 1.0),
    "persistent": lambda gpu: PERSISTENT_WAIT if gpu.grouped else 1.0,
    "slices": lambda _: 1.0,  # of the L2's ports: the same, up to what its slices feed
    "whole": lambda gpu: 1 / gpu.partitions,
    "heat": lambda _: 1.0,  # clock lost in long runs: less where the power limit leaves more, see `_cooler`
    "library": lambda _: 1.0,  # a habit of its kernels: kept within a generation, unknown in another
    # At its power limit a GPU lowers clock and voltage together, and power goes with the cube of them.
    "power": lambda gpu: gpu.joule_per_flop and gpu.joule_per_flop ** (1 / 3),
}
MOST_SHARE = 0.95  # of a tensor peak, however much power there is: main loops have their own losses


def carried(
    values: Mapping[str, float], constants: Sequence[Constant], source: Gpu, target: Gpu, unit: str = "bf16"
) -> dict[str, float]:
    """The constants of `source` on `target`: within their bounds; one that `source` lacks starts afresh.

    `unit` is the format that is multiplied in, whose measured peaks count.
    """
    found = {}
    for constant in constants:
        before = value = values.get(constant.name, constant.start)
        for name in constant.scales_with.split():
            value *= _factor(name, source, target, unit)
        if "power" in constant.scales_with:
            value = min(value, max(before, MOST_SHARE))
        elif "slices" in constant.scales_with and target.slices < source.slices:
            value = min(value, target.slices)  # processors ask for what they did, of slices that feed fewer
        elif "whole" in constant.scales_with and value > before:
            value = min(value, max(before, 1.0))
        elif "heat" in constant.scales_with:
            value = _cooler(value, source, target)
        found[constant.name] = min(max(value, constant.low), constant.high)
    return found


def _cooler(lost: float, source: Gpu, target: Gpu) -> float:
    """What long products lose of the clock where the same kind of die has more power for each FLOP."""
    one, two = (QUANTITIES["power"](gpu) for gpu in (source, target))
    more = max(two / one, 1.0) if one and two and source.generation == target.generation else 1.0
    return max((1 + lost) / more - 1, 0.0)


def _factor(name: str, source: Gpu, target: Gpu, unit: str) -> float:
    """By how much the target has more of a quantity; 1 where nobody says.

    Power stands aside where both devices' peaks were measured, in the same way: a short replay is not a
    minute of load.
    """
    for peak in (unit, "bf16") if name == "power" else ():
        (here, way), (there, other) = (gpu.reached.get(peak, (0.0, gpu.name)) for gpu in (source, target))
        if way == other and here:
            return there / here
    one, two = (QUANTITIES[name](gpu) for gpu in (source, target))
    ratio = two / one if one and two else 1.0
    # Kernels whose threads set their rate need no more memory than they had; more may well serve them.
    return max(ratio, 1.0) if name == "threads" else ratio


def averaged(
    sources: Sequence[tuple[Gpu, Mapping[str, float]]],
    constants: Sequence[Constant],
    target: Gpu,
    unit: str = "bf16",
) -> dict[str, float]:
    """The constants of several devices on one of another generation: what they have in common.

    Geometric means, as latencies and shares spread by factors; each generation further off counts half, and
    a device counts once, however many of its kernels are given.
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
    """How unlike two GPUs are: generations first, then the ratio of their peaks and bandwidths."""
    generations = abs(source.generation - target.generation)
    ratios = (
        (source.processors, target.processors),
        (source.dram_byte_per_s, target.dram_byte_per_s),
        (source.boost_hz, target.boost_hz),
    )
    return 10 * generations + sum(abs(math.log(a / b)) for a, b in ratios)
