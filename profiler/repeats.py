"""When to stop repeating a measurement, and statistics of its repeats. Nothing here reads a clock.

A measurement is warmed up until it gets no faster, then repeated until the interval of its median is narrow,
its budget is spent or all repeats were made. No repeat is dropped: outliers are counted and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, inf, sqrt
from statistics import NormalDist, median
from typing import Any

CONFIDENCE = 0.95
FEWEST = 3  # default minimum of repeats, whatever the budget
KNOWN_FROM = 6  # repeats: with fewer no interval of the median has 95 % confidence
CALM, SETTLED = 3, 0.02  # consecutive warm-ups, none faster than all before by more than this fraction
MOST_WARM_UPS = 50
MANY = 1000  # values from which the normal approximation of the binomial is exact to less than one rank
FAR = 3.0  # interquartile ranges beyond a quartile: Tukey's "far out"
NEAR = 0.02  # of the median: values this near a quartile are never outliers

ALL, NARROW, SPENT, NOT_OVER = "all repeats", "narrow interval", "budget spent", "not over"


@dataclass(frozen=True)
class Sample:
    """Statistics of a call's repeated times, in seconds: quartiles, the interval of the median, outliers."""

    median_s: float
    q25_s: float
    q75_s: float
    low_s: float  # the interval of the distribution's median
    high_s: float  # at 95 % confidence
    repeats: int
    outliers: tuple[int, ...] = ()  # indices of repeats
    warm_ups: int = 0
    ended: str = ""  # why no more repeats were made

    @property
    def spread(self) -> float:
        """Interquartile range over median."""
        return (self.q75_s - self.q25_s) / self.median_s

    def row(self) -> dict[str, Any]:
        """Its columns in a run's tables."""
        times = {name: getattr(self, name) for name in ("median_s", "q25_s", "q75_s", "low_s", "high_s")}
        return {**times, **self._counts()}

    def micros(self) -> dict[str, Any]:
        """Its columns in a table of kernels, MICROS."""
        times = (self.median_s, self.q25_s, self.q75_s, self.low_s, self.high_s)
        return {**dict(zip(MICROS, (1e6 * time_s for time_s in times), strict=False)), **self._counts()}

    def _counts(self) -> dict[str, Any]:
        counts = {"repeats": self.repeats, "outliers": len(self.outliers)}
        return {**counts, "warm_ups": self.warm_ups, "ended": self.ended}


MICROS = ("latency_us", "q25_us", "q75_us", "low_us", "high_us", "repeats", "outliers", "warm_ups", "ended")


def sample(times_s: Sequence[float], warm_ups: int = 0, ended: str = "") -> Sample:
    """Statistics of repeats; none is dropped."""
    q25, middle, q75 = quartiles(times_s)
    low, high = median_interval(times_s)
    return Sample(middle, q25, q75, low, high, len(times_s), outliers(times_s), warm_ups, ended)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Interpolated linearly, as NumPy's default."""
    import numpy as np

    q25, middle, q75 = np.quantile(values, (0.25, 0.5, 0.75))
    return float(q25), float(middle), float(q75)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the distribution's median, at 95 % confidence or more.

    By order statistics, for any distribution: the number of values below its median is binomial. Fewer than
    six values cannot reach that confidence: then it is the smallest and the largest.
    """
    ranked, cut = sorted(values), _cut(len(values))
    return ranked[cut], ranked[-1 - cut]


@cache
def _cut(n: int) -> int:
    """Values outside the interval on each side, of n; for many by the normal approximation."""
    if n > MANY:
        return int(n / 2 - NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * sqrt(n) / 2) - 1
    outside, cut = 1 / 2**n, 0
    while cut + 1 < n / 2 and 2 * (outside + comb(n, cut + 1) / 2**n) <= 1 - CONFIDENCE:
        cut += 1
        outside += comb(n, cut) / 2**n
    return cut


def uncertainty(times_s: Sequence[float]) -> float:
    """Half the width of the median's interval over the median; infinite where there are too few values."""
    if len(times_s) < KNOWN_FROM:
        return inf
    low, high = median_interval(times_s)
    return (high - low) / 2 / median(times_s)


def outliers(times_s: Sequence[float]) -> tuple[int, ...]:
    """Indices of outliers (Tukey, Exploratory Data Analysis, 2D)."""
    q25, middle, q75 = quartiles(times_s)
    reach = max(FAR * (q75 - q25), NEAR * middle)
    return tuple(i for i, time_s in enumerate(times_s) if not q25 - reach <= time_s <= q75 + reach)


def moved(times_s: Sequence[float]) -> float:
    """How much slower the second half of the repeats is than the first, as a fraction.

    Zero where the intervals of their medians overlap, or the halves are too short to have one.
    """
    half = len(times_s) // 2
    if half < KNOWN_FROM:
        return 0.0
    first, second = times_s[:half], times_s[-half:]
    (low, high), (later_low, later_high) = median_interval(first), median_interval(second)
    apart = later_low > high or later_high < low
    return median(second) / median(first) - 1 if apart else 0.0


def settled(times_s: Sequence[float]) -> bool:
    """Whether warm-up is over: the last few calls were not noticeably faster than all before them."""
    before, last = times_s[:-CALM], times_s[-CALM:]
    return bool(before) and min(last) >= (1 - SETTLED) * min(before)


def warm_up(
    once: Callable[[], float],
    late: Callable[[], bool] = lambda: False,
    together: Callable[[bool], bool] = bool,
) -> list[float]:
    """Call until settled or `late`, at least once; returns the seconds of each call.

    Processes that run a step together must stop together: `together` reduces the decision over all of them.
    """
    times: list[float] = []
    over = False
    while not over:
        times.append(once())
        over = together(settled(times) or late() or len(times) >= MOST_WARM_UPS)
    return times


@dataclass(frozen=True)
class Effort:
    """When to stop: after `repeats`, when the median is known to `precision`, or when the budget is spent.

    The precision is half the width of the median's interval over the median; zero means all repeats.
    """

    repeats: int
    budget_s: float = inf
    precision: float = 0.0
    fewest: int = FEWEST  # whatever the budget

    def ended(self, times_s: Sequence[float], spent_s: float, rounds: int | None = None) -> str:
        """Why no more repeats are needed; empty while they are.

        Where a round has several neighbouring repeats, which are not independent, rounds are counted.
        """
        made = len(times_s) if rounds is None else rounds
        if made >= self.repeats:
            return ALL
        if made >= KNOWN_FROM and uncertainty(times_s) < self.precision:
            return NARROW
        return SPENT if made >= self.fewest and spent_s >= self.budget_s else ""


EFFORT = Effort(repeats=16, precision=0.005)  # of a step of a model
WARM_UP_S = 1.0  # of a step's warm-up, exceeded by at most one step
