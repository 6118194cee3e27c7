"""Carry fitted constants to a GPU that nobody measured: from those measured, scaled by their physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roofline.physics.base import Constant, Gpu

# What a constant may follow; the constant's `scales_with` names one.
QUANTITIES: Mapping[str, Callable[[Gpu], float]] = {
    "": lambda gpu: 1.0,
    "clock": lambda gpu: gpu.boost_hz,
    "1/clock": lambda gpu: 1 / gpu.boost_hz,
    "processors": lambda gpu: gpu.processors,
    "dram": lambda gpu: gpu.dram_byte_per_s,
    "l2": lambda gpu: gpu.l2_byte_per_s,
    "link": lambda gpu: gpu.link_byte_per_s or 1.0,
}


def carried(
    values: Mapping[str, float], constants: Sequence[Constant], source: Gpu, target: Gpu
) -> dict[str, float]:
    """The constants of `source` on `target`: within their bounds; one that `source` lacks starts afresh."""
    found = {}
    for constant in constants:
        follows = QUANTITIES[constant.scales_with]
        value = values.get(constant.name, constant.start) * follows(target) / follows(source)
        found[constant.name] = min(max(value, constant.low), constant.high)
    return found


def averaged(
    sources: Sequence[tuple[Gpu, Mapping[str, float]]], constants: Sequence[Constant], target: Gpu
) -> dict[str, float]:
    """The constants of several devices on one of another generation: what they have in common.

    Geometric means, as latencies and shares spread by factors; each generation further off counts half, and
    a device counts once, however many of its kernels are given.
    """
    given = [(carried(values, constants, gpu, target), gpu, values) for gpu, values in sources]
    found = {}
    for c in constants:
        known = [(at[c.name], gpu) for at, gpu, values in given if c.name in values]
        weights = [
            2.0 ** -abs(gpu.generation - target.generation) / sum(g is gpu for _, g in known)
            for _, gpu in known
        ]
        if not known:
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
