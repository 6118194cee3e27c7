"""Why one prediction is faster than another: the phase that changed, what of its work did, what binds it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from roofline.times import COMMUNICATION, COMPUTE, LAUNCH, MEMORY, products_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roofline.ceilings import Ceilings
    from roofline.predict import Prediction, Row

TOLD = 0.01  # relative change of a rate from which a reason mentions it
SAME = 1e-6  # relative change that is rounding


class Quantity(NamedTuple):
    """A quantity of work in words, and the limit whose time it takes."""

    words: str
    limit: str


QUANTITIES = {
    "matrix_flops": Quantity("FLOP on matrix units", COMPUTE),
    "vector_flops": Quantity("FLOP on vector units", COMPUTE),
    "special_ops": Quantity("exponentials and roots", COMPUTE),
    "weight_bytes": Quantity("bytes of weights", MEMORY),
    "kv_bytes": Quantity("bytes of the cache", MEMORY),
    "activation_bytes": Quantity("bytes of activations", MEMORY),
    "comm_bytes": Quantity("bytes over links between devices", COMMUNICATION),
    "host_bytes": Quantity("bytes over the link to the host", COMMUNICATION),
    "disk_bytes": Quantity("bytes of the host's disks", COMMUNICATION),
    "host_memory_bytes": Quantity("bytes that the host computes with", COMMUNICATION),
    "launch_s": Quantity("launch latency", LAUNCH),
}


def reason(before: Prediction, after: Prediction, removed: str) -> str:
    """One sentence; `removed` is what to say where less time is taken by no less of any quantity."""
    phases = dict.fromkeys((*before.phases, *after.phases))
    phase = max(phases, key=lambda p: abs(after.time_s(p) - before.time_s(p)))
    if not (before.time_s(phase) and after.time_s(phase)):
        return f"its time moves to or from {phase}: the passes are others"
    ratio = after.time_s(phase) / before.time_s(phase)
    bound = before.bound(phase)
    if abs(ratio - 1) < SAME:
        held, needs = (p.memory()["memory_bytes"] for p in (before, after))
        if abs(needs / held - 1) > SAME:
            return f"{_change(needs / held)} memory, and the same time; {phase} stays {bound}-bound"
        return f"nothing that binds changes; {phase} stays {bound}-bound"
    cause = _cause(before, after, phase)
    if cause is None:
        said = f"without {removed}" if ratio < 1 else "its operators are others"
    else:
        said = _told(cause, before, after, phase)
    return f"{phase} takes {_change(ratio)} time: {said}; {_bounds(before, after, phase, cause)}"


def _cause(before: Prediction, after: Prediction, phase: str) -> str | None:
    """The quantity whose change explains most of the phase's: the one that takes most where its limit binds.

    FLOP that hide behind bytes cost nothing; where none that bound changed the way the time did, those that
    did not bind are asked.
    """
    sign = math.copysign(1, after.time_s(phase) - before.time_s(phase))
    old, new = ([row for row in p.rows if row.phase == phase] for p in (before, after))

    def change(quantity: str, binding: bool) -> float:
        was, now = (
            _seconds(quantity, rows, p.ceilings, binding) for rows, p in ((old, before), (new, after))
        )
        return sign * (now - was)

    moved = {quantity: change(quantity, False) for quantity in QUANTITIES}
    moved = {quantity: by for quantity, by in moved.items() if by > 0}
    bound = {quantity: change(quantity, True) for quantity in moved}
    weights = bound if max(bound.values(), default=0.0) > 0 else moved
    return max(weights, key=weights.__getitem__, default=None)


def _seconds(quantity: str, rows: Iterable[Row], limits: Ceilings, binding: bool = False) -> float:
    """Seconds of a quantity at its own ceiling, of all rows or, if `binding`, of those that it limits."""
    if quantity == "launch_s":  # comes on top of the others
        return sum(float(row.count * row.times.launch_s) for row in rows)
    chosen = [row for row in rows if not binding or row.times.bound == QUANTITIES[quantity].limit]
    if quantity == "matrix_flops":
        return sum(float(row.count * products_s(row.work, limits)) for row in chosen)
    total = float(sum(row.count * getattr(row.work, quantity) for row in chosen))
    if not total:
        return 0.0
    rates = {
        "vector_flops": lambda: limits.vector_flop_per_s or math.inf,
        "special_ops": lambda: limits.special_op_per_s or math.inf,
        "comm_bytes": limits.link,
        "host_bytes": limits.host,
        "disk_bytes": limits.disk,
        "host_memory_bytes": limits.host_memory,
    }
    return float(total / (rates[quantity]() if quantity in rates else limits.dram_byte_per_s))


def _told(quantity: str, before: Prediction, after: Prediction, phase: str) -> str:
    """How a quantity changed: how much of it there is, or how fast its units are."""
    words = QUANTITIES[quantity].words
    old_s, new_s = (
        _seconds(quantity, (row for row in p.rows if row.phase == phase), p.ceilings) for p in (before, after)
    )
    if quantity == "launch_s":
        return f"{_change(new_s / old_s) if old_s else 'more'} {words}"
    old, new = (p.total(quantity, phase) for p in (before, after))
    if not old:
        return f"{words}, of which there were none"
    if quantity == "matrix_flops" and new:
        faster = (new / new_s) / (old / old_s)
        if abs(faster - 1) > TOLD:  # perhaps for fewer of them
            fewer = f"{_counted(new / old)} " if abs(new / old - 1) > TOLD else ""
            return f"{fewer}{words} at {faster:.2g} times the rate"
    if abs(new / old - 1) < TOLD * abs(after.time_s(phase) / before.time_s(phase) - 1):
        return f"{'more' if new > old else 'fewer'} {words} where they bind"  # as many in all
    return f"{_counted(new / old)} {words}"


def _bounds(before: Prediction, after: Prediction, phase: str, cause: str | None) -> str:
    """What binds most of the phase before and now, and how much the limit of another cause binds."""
    bound, now = before.bound(phase), after.bound(phase)
    moved = f"{bound}-bound" if now == bound else f"{bound}-bound before, {now}-bound now"
    if cause is None:
        return moved
    limit = QUANTITIES[cause].limit
    faster = after.time_s(phase) < before.time_s(phase)
    share = (before if faster else after).bounds(phase).get(limit, 0.0)
    if limit == (bound if faster else now) or share < SAME:
        return moved
    return f"{moved}, but for {_percent(share)} that {'was' if faster else 'is now'} {limit}-bound"


def _change(ratio: float) -> str:
    """A ratio in words: 30 % less, 2.5 times the."""
    if ratio >= 2:
        return f"{ratio:.1f} times the"
    return f"{_percent(abs(ratio - 1))} {'less' if ratio < 1 else 'more'}"


def _percent(share: float) -> str:
    """A share in per cent; below one with one significant digit."""
    return f"{100 * share:.0f} %" if share >= TOLD else f"{100 * share:.1g} %"


def _counted(ratio: float) -> str:
    """The same of things that are counted: 30 % fewer."""
    return _change(ratio).replace("less", "fewer")
