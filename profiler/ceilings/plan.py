"""The plan of measurements on a device, and the findings so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hwspecs import Device
from profiler.environment import last_level_cache_bytes
from profiler.repeats import Effort, Sample, sample, uncertainty
from specfiles.errors import InputError

Key = tuple[Any, ...]  # of words and numbers, and of such tuples
CLASS, STEP = "class", "step"  # first words of keys: an operator inside a model, a step of one
REFERENCE, REFERENCE_LAYERS = "reference", "reference layers"
SERIES = ("bandwidth", "matmul", "steady")  # measured by size: complete when all sizes are


class OutOfTimeError(InputError):
    """The time for all measurements ended within a pass."""


@dataclass
class Plan:
    """What is measured, on which device, and how often."""

    device: str
    dtypes: tuple[str, ...]
    passes: int = 6  # maximum; with fewer a median has no interval
    name: str | None = None
    progress: Callable[[str], None] = lambda _: None
    budget_s: float = float("inf")  # after it no further pass starts
    precision: float = 0.0  # no further pass starts when every ceiling's median is known to this fraction
    sheet: Device | None = None  # the device whose data sheet is kept; else the shipped one of this name
    most_s: float = float("inf")  # after it no further measurement starts, not even in the first pass

    @property
    def kind(self) -> str:
        """The kind of device, `cpu` or `cuda`, whatever its number."""
        return self.device.partition(":")[0]

    @property
    def cache_bytes(self) -> int:
        """Size of the last-level cache."""
        return last_level_cache_bytes(self.device)


@dataclass
class Findings:
    """The measurements so far: seconds by key, in the order of passes."""

    times: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    visits: Counter[Key] = field(default_factory=Counter)  # of each probe and step
    failed: dict[Key, str] = field(default_factory=dict)  # reasons of failed measurements
    left_out: list[str] = field(default_factory=list)  # measurements not attempted
    done: int = 0  # passes
    ended: str = ""  # why no more were made

    def add(self, visit: Key, times: Iterable[tuple[Key, list[float]]]) -> None:
        """Add the times of one visit to a probe or a step."""
        for key, found in times:
            self.times[key] += found
        self.visits[visit] += 1

    def sampled(self, key: Key) -> Sample:
        """Statistics of one figure over the passes."""
        return sample(self.times[key])

    def keys(self, kind: str) -> list[Key]:
        """The keys with this first word."""
        return [key for key in self.times if key[0] == kind]

    def count(self, wanted: Iterable[Key]) -> None:
        """Set the number of complete passes, without failed keys."""
        self.done = min((self.visits[key] for key in wanted if key not in self.failed), default=0)

    def enough(self, plan: Plan, spent_s: float) -> str:
        """Why no more passes are needed, empty while they are; decided by the least certain ceiling.

        Operators in the yardsticks do not count, as a fit combines many of them.
        """
        effort = Effort(plan.passes, plan.budget_s, plan.precision, fewest=1)
        ceilings = (times for key, times in self.times.items() if key[0] != CLASS)
        return effort.ended(max(ceilings, key=uncertainty, default=[]), spent_s, self.done)

    def without_halves(self, wanted: Iterable[Key]) -> Findings:
        """The complete figures of an incomplete first pass.

        The best of some sizes is no ceiling, and operators of some of the models give no fit.
        """
        halves = {_group(key) for key in wanted if not self.visits[key] and key not in self.failed}
        whole = {key: times for key, times in self.times.items() if _group(key) not in halves}
        return Findings(whole, self.visits, self.failed, self.left_out, self.done, self.ended)


def _group(key: Key) -> Key:
    """Keys that are complete together share a group."""
    if key[0] in SERIES:
        return key[:2]
    return (STEP,) if key[0] == CLASS else key[:1]
