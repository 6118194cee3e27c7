"""The content of a report as plain records in SI units: filled by `reports.content`, drawn by renderers.

A renderer needs nothing but these: no run folder, no device file, no formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.step_records import Point

if TYPE_CHECKING:
    from hwspecs import Constants


@dataclass(frozen=True)
class Pair:
    """One operator predicted and measured: a point of the scatter."""

    phase: str
    sizes: str
    name: str
    bound: str
    predicted_s: float
    measured_s: float


@dataclass(frozen=True)
class StepError:
    """A whole step, or its layers, predicted and measured."""

    title: str
    predicted_s: float
    measured_s: float | None
    drift: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        return self.predicted_s / self.measured_s - 1 if self.measured_s else None

    @property
    def error_after_drift(self) -> float | None:
        """The error of the prediction after correction for the machine's drift at the measured step."""
        return None if self.error is None or self.drift is None else (1 + self.error) * self.drift - 1


@dataclass(frozen=True)
class Comparison:
    """A run against the prediction at one fidelity; `missing` says why there is none."""

    fidelity: str
    groups: tuple[Mapping[str, Any], ...] = ()  # errors by phase and bound: Validation.summary
    pairs: tuple[Pair, ...] = ()
    steps: tuple[StepError, ...] = ()
    layers: tuple[StepError, ...] = ()  # the operators inside the layers, summed
    missing: str | None = None
    drift_unknown: str = ""  # why there is no drift to take out
    layers_drift_unknown: str = ""  # why the drift of whole steps is also taken out of layers


@dataclass(frozen=True)
class Elsewhere:
    """The same workload on a device at data-sheet ceilings: floors on time; `error` where it has none."""

    device: str
    dtype: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    tokens_per_s: float | None = None
    memory_bytes: float | None = None
    fits: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class Advised:
    """One technique, or a pair, and its effect on a workload."""

    name: str
    options: str  # parameters used
    quality: str  # of the output: exact, lossy or retrained
    speedup: float  # time without / time with
    time_s: float
    memory_bytes: float
    why: str
    caveat: str = ""  # why an engine's user cannot just choose it: no engine has it, or requests decide


@dataclass(frozen=True)
class Advice:
    """Techniques that help one workload, exact ones first, then by gain; `missing`: why none was tried."""

    title: str
    rows: tuple[Advised, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()  # name and reason
    missing: str | None = None
    counted: tuple[tuple[str, str], ...] = ()  # name, and what it would be without

    def best(self, quality: str) -> Advised | None:
        """Of those with one label, the first without a caveat, or of all where each has one."""
        alike = [row for row in self.rows if row.quality == quality]
        return next((row for row in alike if not row.caveat), alike[0] if alike else None)


@dataclass(frozen=True)
class Totals:
    """The totals of one prediction."""

    title: str
    device: str
    fidelity: str
    ttft_s: float | None
    tpot_s: float | None
    tokens_per_s: float
    mfu: float
    mbu: float
    memory_bytes: float
    fits: bool
    energy_j: float | None


@dataclass(frozen=True)
class Card:
    """A key number of the summary."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A number of the device file and where it was read."""

    path: str
    value: float
    unit: str
    source: str
    document: str
    note: str | None


@dataclass(frozen=True)
class Provenance:
    """Provenance of the numbers, with their documents."""

    device: str
    conventions: tuple[tuple[str, str], ...]
    measuring: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # of the run
    device_notes: tuple[str, ...] = ()  # stand-in values, documents that disagree
    sources: tuple[Source, ...] = ()
    calibration: tuple[tuple[str, Constants], ...] = ()  # by class of operators
    calibration_source: str = ""


Curve = tuple[str, tuple[float, ...], tuple[float, ...]]  # name, seconds, values


@dataclass(frozen=True)
class Timeline:
    """Samples of one quantity, a curve per device."""

    title: str
    axis: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Recording:
    """A recording by other tools: rows as in `show`, by grouping."""

    groups: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]
    lost: tuple[Mapping[str, Any], ...]  # ways to lose time, the largest first, as `show` has them
    losses: tuple[tuple[str, int, str], ...]
    unknown: tuple[tuple[str, float, float], ...]  # kernels that no rule knows: name, seconds, share
    timelines: tuple[Timeline, ...]
    point: Point  # its operators under the roofs
    times: Point  # all of its operators
    told: tuple[str, ...]  # what `show` says of it as a whole


@dataclass(frozen=True)
class Content:
    """A whole report."""

    title: str
    facts: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]
    fidelity: str
    reference: str  # the ceilings that attained fractions refer to
    cards: tuple[Card, ...] = ()
    sentences: tuple[str, ...] = ()
    totals: tuple[Totals, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    gains: tuple[Mapping[str, Any], ...] = ()  # of techniques: reports.gains.records
    advice: tuple[Advice, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    elsewhere_for: str = ""
    elsewhere_on: int = 1  # devices of each kind
    provenance: tuple[Provenance, ...] = ()
    measured: bool = False
    recording: Recording | None = None  # by other tools

    @property
    def headline(self) -> tuple[Point, ...]:
        """The first point of each phase, which the summary describes."""
        first: dict[str, Point] = {}
        for point in self.points:
            first.setdefault(point.phase, point)
        return tuple(first.values())
