"""What is to be measured on a device, and what was measured so far."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hwspecs import Device
from profiler.environment import last_level_cache_bytes
from profiler.repeats import Effort, Sample, sample, uncertainty

Key = tuple[Any, ...]  # of words and numbers, and of such tuples
CLASS, STEP = "class", "step"  # first words of keys: an operator inside a model, a step of one
REFERENCE, REFERENCE_LAYERS = "reference", "reference layers"
SERIES = ("bandwidth", "matmul", "steady")  # measured by sizes: what is known of one is known when all are


@dataclass
class Plan:
    """What is measured on which device, and how often."""

    device: str
    dtypes: tuple[str, ...]
    passes: int = 6  # at most; of fewer the interval of a median is not known
    name: str | None = None
    progress: Callable[[str], None] = lambda _: None
    budget_s: float = float("inf")  # no pass begins later, but the first
    precision: float = 0.0  # no pass begins when every ceiling's median is known to this fraction
    sheet: Device | None = None  # whose data sheet goes along; else the shipped device of this name

    @property
    def cache_bytes(self) -> int:
        """The last-level cache."""
        return last_level_cache_bytes(self.device)


@dataclass
class Findings:
    """What was measured so far: seconds by key, in the order of their passes."""

    times: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    visits: Counter[Key] = field(default_factory=Counter)  # how often each probe and step was carried out
    failed: dict[Key, str] = field(default_factory=dict)  # what could not be measured, and why
    left_out: list[str] = field(default_factory=list)  # what was not begun
    done: int = 0  # passes
    ended: str = ""  # why no more were made

    def add(self, visit: Key, times: Iterable[tuple[Key, list[float]]]) -> None:
        """What one visit to a probe or a step found."""
        for key, found in times:
            self.times[key] += found
        self.visits[visit] += 1

    def sampled(self, key: Key) -> Sample:
        """Quartiles over the passes of one figure."""
        return sample(self.times[key])

    def keys(self, kind: str) -> list[Key]:
        """The keys that begin with a word."""
        return [key for key in self.times if key[0] == kind]

    def count(self, wanted: Iterable[Key]) -> None:
        """See how many passes are whole: what failed is no part of them."""
        self.done = min((self.visits[key] for key in wanted if key not in self.failed), default=0)

    def enough(self, plan: Plan, spent_s: float) -> str:
        """Why no more passes are needed, empty while they are: the ceiling that is known least decides.

        Times of operators in the yardsticks do not: a fit takes many of them together.
        """
        effort = Effort(plan.passes, plan.budget_s, plan.precision, fewest=1)
        ceilings = (times for key, times in self.times.items() if key[0] != CLASS)
        return effort.ended(max(ceilings, key=uncertainty, default=[]), spent_s, self.done)

    def without_halves(self, wanted: Iterable[Key]) -> Findings:
        """Of a first pass that was cut short, the figures that are whole.

        The best of some sizes is no ceiling, and constants of some models' operators are no fit.
        """
        halves = {_group(key) for key in wanted if not self.visits[key] and key not in self.failed}
        whole = {key: times for key, times in self.times.items() if _group(key) not in halves}
        return Findings(whole, self.visits, self.failed, self.left_out, self.done, self.ended)


def _group(key: Key) -> Key:
    """What is known together."""
    if key[0] in SERIES:
        return key[:2]
    return (STEP,) if key[0] == CLASS else key[:1]
