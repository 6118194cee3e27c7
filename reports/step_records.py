"""One step and its operators as plain records in SI units, measured, predicted or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RoofKind = Literal["matrix", "vector", "memory"]
Origin = Literal["data sheet", "measured"]


@dataclass(frozen=True)
class Roof:
    """One ceiling of the device: FLOP/s for `matrix` and `vector`, B/s for `memory`."""

    kind: RoofKind
    label: str
    per_s: float
    origin: Origin


@dataclass(frozen=True)
class Operator:
    """One operator of a step; works and times are of one execution."""

    name: str
    kind: str
    count: float  # executions per step
    flops: float
    bytes: float
    bound: str
    predicted_s: float
    bound_s: float | None  # at the reachable ceilings, launches excluded
    compute_s: float | None = None
    memory_s: float | None = None
    measured_s: float | None = None
    alone_s: float | None = None  # measured as a reference kernel by itself
    error: float | None = None  # predicted / measured - 1
    attained: float | None = None  # bound / measured
    above_ceiling: bool = False
    fused: bool = False  # predicted to run inside a neighbour's kernel, at no roof of its own

    @property
    def time_s(self) -> float:
        """Measured if available, else predicted."""
        return self.predicted_s if self.measured_s is None else self.measured_s

    @property
    def total_s(self) -> float:
        """Time of all executions in a step."""
        return self.count * self.time_s

    @property
    def intensity(self) -> float | None:
        """FLOP per byte of main memory traffic; null without traffic."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def drawable(self) -> bool:
        """Whether it can be drawn on logarithmic axes."""
        alone = self.measured_s is not None or not self.fused
        return alone and self.flops > 0 and self.bytes > 0 and self.time_s > 0

    @property
    def excess_s(self) -> float:
        """Measured time above the ceiling, all executions: what an optimisation could recover."""
        if self.measured_s is None or self.bound_s is None:
            return 0.0
        return self.count * max(0.0, self.measured_s - self.bound_s)


@dataclass(frozen=True)
class Stray:
    """An operator that only the prediction or only the measurement has."""

    name: str
    side: str
    seconds: float | None


@dataclass(frozen=True)
class Kernel:
    """A kernel of a traced step."""

    operator: str | None  # None: unattributed
    name: str
    count: int
    time_s: float | None


PASS = "pass"  # the phase of a module: it has one pass, and no tokens


@dataclass(frozen=True)
class Point:
    """One phase at one size: a step, its operators, and what did not match."""

    phase: str
    sizes: str  # in words, "batch 1, 512 tokens"
    tokens: float  # new tokens per step
    predicted_s: float | None
    roof_s: float | None  # the step's operators at the reachable ceilings, launches excluded
    operators: tuple[Operator, ...] = ()
    roofs: tuple[Roof, ...] = ()
    measured_s: float | None = None  # the whole step, nothing attached
    q25_s: float | None = None
    q75_s: float | None = None
    low_s: float | None = None  # the step's median at 95 % confidence, to high_s
    high_s: float | None = None
    repeats: int | None = None
    outliers: int | None = None  # repeats far outside the others
    instrumented_s: float | None = None  # the whole step while its operators are timed
    waited_s: float | None = None  # additional time waiting for a processor
    drift: float | None = None  # the machine beside this step / when its device file was made; 1.1 is slower
    strays: tuple[Stray, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    prefix: str = ""  # distinguishes points of several predictions

    @property
    def unit(self) -> str:
        """The unit of a step's output; for a module a pass."""
        return "passes" if self.phase == PASS else "tokens"

    @property
    def title(self) -> str:
        """The phase and its sizes."""
        return f"{self.prefix}{self.phase.capitalize()}: {self.sizes}"

    @property
    def measured(self) -> bool:
        """Whether it has measured times."""
        return self.measured_s is not None or any(o.measured_s is not None for o in self.operators)

    @property
    def operators_s(self) -> float:
        """Sum of the operators' times, with those that only the measurement has."""
        known = sum(o.total_s for o in self.operators)
        return known + sum(s.seconds or 0.0 for s in self.measured_strays)

    @property
    def time_s(self) -> float | None:
        """The step: measured whole, else the sum of its measured operators, else predicted."""
        if self.measured_s is not None:
            return self.measured_s
        return self.operators_s if self.measured else self.predicted_s

    @property
    def remainder_s(self) -> float | None:
        """Measured step less its operators; negative where timing them cost more than the gaps."""
        return self.measured_s - self.operators_s if self.measured_s is not None and self.operators else None

    @property
    def measured_strays(self) -> tuple[Stray, ...]:
        """Measured operators without a prediction; `seconds` covers all executions."""
        return tuple(s for s in self.strays if s.side.startswith("measured"))

    @property
    def shares(self) -> dict[str, float]:
        """The share of the operators' time by what bounds them, the largest first."""
        total = sum(o.total_s for o in self.operators)
        sums: dict[str, float] = {}
        for operator in self.operators:
            sums[operator.bound] = sums.get(operator.bound, 0.0) + operator.total_s
        ranked = sorted(sums.items(), key=lambda item: -item[1])
        return {bound: seconds / total for bound, seconds in ranked if seconds} if total else {}

    def attained(self, bound: str) -> float | None:
        """The attained fraction of the roof of all measured operators with one bound."""
        known = [o for o in self.operators if o.bound == bound and o.measured_s and o.bound_s is not None]
        measured = sum(o.total_s for o in known)
        return sum(o.count * (o.bound_s or 0.0) for o in known) / measured if measured else None

    @property
    def above(self) -> tuple[Operator, ...]:
        """Operators with time above their ceiling, the most recoverable first."""
        return tuple(sorted((o for o in self.operators if o.excess_s > 0), key=lambda o: -o.excess_s))

    @property
    def headroom(self) -> float | None:
        """Time / time at the ceilings: 1 is at the roof."""
        return self.time_s / self.roof_s if self.time_s and self.roof_s else None
