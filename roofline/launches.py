"""Waiting for the host: the cost of launching operators one by one where no latency was measured.

A step takes as long as the slower of the device and the host. The host's time for a kernel is a property of
the host and of its code; the value that is assumed was fitted to engines under load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwspecs.serving import EAGER, Overheads, fits, overheads_for
from roofline.ceilings import Ceilings
from roofline.engines import gaps_s, launches, on_device, waiting
from roofline.predict import Row
from specfiles.errors import InputError
from workloads.operators import Activation, Norm, Operator
from workloads.schedule import Pass, Schedule

KIND = "launch"
# Kernels that plain PyTorch code launches for operators that libraries have one kernel for: those of
# transformers' modeling_llama.py, whose RMSNorm casts, squares, averages, adds, takes the root, scales, casts
# and weighs.
PLAIN = {"rmsnorm": 8, "rope": 10, "act_mul": 2, "kv_append": 2, "residual": 1}


@dataclass(frozen=True)
class Launching:
    """The host's time for a kernel, in seconds, the range of it over what was fitted, and the source."""

    each_s: float
    low_s: float
    high_s: float
    source: str

    def told(self) -> str:
        """The number with its range and its source."""
        low, each, high = (f"{1e6 * value:.0f}" for value in (self.low_s, self.each_s, self.high_s))
        return (
            f"{each} us for each kernel that the host launches ({low} to {high} over engines; {self.source})"
        )


def assumed() -> Launching:
    """The time of a script that launches kernels one by one, with the range over all fitted engines."""
    each = overheads_for(EAGER)
    low, high = (fit.low.launch_s for fit in fits()), (fit.high.launch_s for fit in fits())
    return Launching(each.overheads.launch_s, min(low), max(high), f"fitted to {each.source}")


def with_waits(each: Pass, rows: list[Row], limits: Ceilings) -> list[Row]:
    """The rows of a pass, and one for the time that the device waits in each of its steps.

    Nothing where the convention does not count launches, or each operator carries a measured latency.
    """
    if not each.setting.convention.launches or each.launch != "each" or limits.launch_s or limits.constants:
        return rows
    if limits.processors is None:
        raise InputError(
            f"{limits.device} is no GPU whose file states its processors, and what hosts take to launch "
            "kernels was measured on GPUs; leave out --without cuda-graphs."
        )
    busy_s, kernels = (whole / each.times for whole in on_device(rows, eager=True))
    if not each.setting.convention.elementwise_fused:
        kernels += _further(each, rows) / each.times
    wait_s = gaps_s(busy_s, kernels, False, Overheads(launch_s=assumed().each_s))
    return [*rows, waiting(f"{each.scope}launches", KIND, each.phase, each.times, wait_s)]


def _further(each: Pass, rows: Sequence[Row]) -> float:
    """Kernels beyond those of libraries, where modules are written in PyTorch's own operations."""
    whole = {named.name for named in each.operators(each.first) if _is_one(named.operator)}
    further: float = sum(
        row.count * (PLAIN[row.kind] - launches(row.kind, row.phase, row.work, eager=True))
        for row in rows
        if row.kind in PLAIN and row.name not in whole
    )
    return further


def _is_one(operator: Operator) -> bool:
    """Whether torch has one kernel for it: LayerNorm, an activation that multiplies with nothing."""
    if isinstance(operator, Norm):
        return operator.center
    return isinstance(operator, Activation) and not operator.gated


def told(schedule: Schedule, passes: Sequence[tuple[Pass, list[Row]]]) -> Schedule:
    """The schedule with a note of what was assumed, where something was."""
    if not any(row.kind == KIND for _, rows in passes for row in rows):
        return schedule
    return replace(schedule, notes=(*schedule.notes, assumed().told()))
