"""Lower bounds of one scenario on many devices at once, which exclude devices before any is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.many import many
from roofline.scenario import target
from roofline.times import times
from roofline.totals import held_bytes, reference
from specfiles.errors import InputError
from workloads.dtypes import compute_dtype
from workloads.techniques.compose import compose_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwspecs import Device
    from roofline.ceilings import Ceilings
    from roofline.many import ManyCeilings
    from roofline.scenario import Scenario
    from roofline.target import Goal, Option
    from workloads.operators import Operator
    from workloads.work import Work


@dataclass(frozen=True)
class Bounds:
    """Floors of a scenario's times on devices, by the data sheet.

    Every step of a pass counts as its first, a lower bound as work grows with the context.
    """

    scenario: Scenario
    devices: Sequence[Device]
    goal: Goal
    _limits: list[ManyCeilings] = field(default_factory=list)
    _known: dict[Operator, tuple[Work, Any, Any]] = field(default_factory=dict)
    _totals: dict[Option, dict[str, Any] | InputError] = field(default_factory=dict)

    def missed(self, option: Option) -> NDArray[np.float64]:
        """The least factor by which each device misses the goal; infinite where it cannot run the option."""
        return self._where_allowed(option, self.goal.missed)

    def gains(self, option: Option) -> NDArray[np.float64]:
        """The factor by which techniques bring each device nearer to all goals; 0 where they cannot run.

        Of all goals together: one that improves another goal than the one missed most has a part in a pair.
        """
        plain, changed = (
            self._where_allowed(asked, self._product) for asked in (replace(option, techniques=()), option)
        )
        found: NDArray[np.float64] = np.divide(plain, changed, np.zeros(len(plain)), where=changed < np.inf)
        return found

    def _product(self, totals: Mapping[str, Any]) -> Any:
        """The factors of all goals, multiplied; of memory that suffices, less is no gain."""
        misses = self.goal.misses(totals)
        memory = np.maximum(1, misses.pop("memory"))
        return prod(misses.values(), start=memory)

    def _where_allowed(self, option: Option, of: Callable[[dict[str, Any]], Any]) -> NDArray[np.float64]:
        """A number of the totals by device, infinite where a device cannot run the option."""
        totals = self._of(option)
        if isinstance(totals, InputError):
            return np.full(len(self.devices), np.inf)
        found: NDArray[np.float64] = np.where(totals["allowed"], of(totals), np.inf)
        return found

    def possible(self, option: Option) -> bool:
        """Whether any device can run the option."""
        return not isinstance(self._of(option), InputError)

    def require(self, option: Option) -> None:
        """Raise InputError where no device can run the option."""
        found = self._of(option)
        if isinstance(found, InputError):
            raise found

    def _of(self, option: Option) -> dict[str, Any] | InputError:
        if option not in self._totals:
            try:
                self._totals[option] = self._summed(option)
            except InputError as error:
                self._totals[option] = error
        return self._totals[option]

    def _summed(self, option: Option) -> dict[str, Any]:
        """Totals by device, as arrays."""
        asked = option.of(self.scenario)
        targets = [target(device) for device in self.devices]
        schedule, allowed = compose_for(asked.techniques, asked.plain(), targets)
        seconds: dict[str, Any] = {}
        widest, able = 0.0, np.array(allowed)
        for each in schedule.passes:
            for named in each.operators(each.first):
                work, floor, runs = self._priced(named.operator)
                able &= runs
                seconds[each.phase] = seconds.get(each.phase, 0.0) + named.count * each.times * floor
                widest = max(widest, float(work.activation_bytes))
        whole: Any = sum(seconds.values())
        steps = asked.decode_steps
        return {
            "allowed": able,
            "ttft_s": seconds.get("prefill", whole) if asked.phase in ("prefill", "generate") else None,
            # an answer that comes at once has no time per token, and meets no target of it
            "tpot_s": seconds.get("decode", np.inf) / steps if steps else None,
            "tokens_per_s": asked.batch * asked.tokens_each / whole,
            "memory_bytes": sum(held_bytes(schedule, widest)),
            "capacity_bytes": np.array([d.capacity_bytes for d in self.devices]),
        }

    def _priced(self, operator: Operator) -> tuple[Work, Any, Any]:
        """Its work, and by device its floor and whether the device can run it at all."""
        found = self._known.get(operator)
        if found is None:
            work, limits = operator.work(), self._ceilings()
            floor = times(operator, limits, work=work).time_s
            found = self._known[operator] = work, floor, np.array([_runs(work, c) for c in limits.of])
        return found

    def _ceilings(self) -> ManyCeilings:
        if not self._limits:
            drawn = [replace(reference(device), is_floor=True) for device in self.devices]
            self._limits.append(many(drawn, np.arange(len(drawn))))
        return self._limits[0]


def _runs(work: Work, limits: Ceilings) -> bool:
    """Whether the device's file states what an operator needs: a peak in its format, a link."""
    if work.matrix_flops and compute_dtype(str(work.dtype)) not in limits.matrix_by_dtype:
        return False
    return not work.comm_bytes or limits.link_byte_per_s is not None
