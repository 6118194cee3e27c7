"""Which technique moves the bottleneck: every applicable one, and the best of them in pairs, ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity, ceilings
from roofline.engines import kernels_of, run_by
from roofline.predict import Prediction, predict
from roofline.reasons import SAME, reason
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.techniques.base import QUALITIES
from workloads.traced_model import TracedModel

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.engines import Engine
    from workloads.techniques.base import Technique

PAIRED = 7  # of the best single techniques up to each label of quality, all pairs are tried
MOVED = 1e-4  # relative change of a total from which a technique changes something
MORE = 0.01  # what a pair gains over the better of its two, to be shown
TOTALS = ("time_s", "ttft_s", "tpot_s", "memory_bytes", "energy_j")


@dataclass(frozen=True)
class Outcome:
    """A prediction with some techniques beside the one without."""

    techniques: tuple[Technique, ...]
    before: Prediction
    after: Prediction

    @property
    def speedup(self) -> float:
        """Time without over time with them."""
        return self.before.time_s() / self.after.time_s()

    @property
    def quality(self) -> str:
        """The label of its techniques together."""
        return max((t.quality for t in self.techniques), key=QUALITIES.index, default="exact")

    @property
    def changes_nothing(self) -> bool:
        """Whether no total changes, to a reader."""
        before, after = self.before.totals(), self.after.totals()
        return all(_alike(before[name], after[name]) for name in TOTALS)

    def why(self) -> str:
        """The phase whose time changed most, what of its work did, what binds it now, what is assumed.

        Models that run beside the one asked for are named.
        """
        others = [name for name in self.after.schedule.others if name not in self.before.schedule.others]
        beside = f"; beside it {' and '.join(others)}" if others else ""
        assumed = ", ".join(filter(None, (t.assumes() for t in self.techniques)))
        because = reason(self.before, self.after, self.techniques[0].removes)
        return because + beside + (f"; assumed {assumed}" if assumed else "")

    def record(self) -> dict[str, Any]:
        """The outcome in plain values; `record` of the baseline has a speedup of 1."""
        totals = self.after.totals()
        phases = list(dict.fromkeys(row.phase for row in self.after.rows))
        return {
            "techniques": [t.told() for t in self.techniques],
            "names": [t.name for t in self.techniques],
            "called": [t.called() for t in self.techniques],
            "quality": self.quality,
            "speedup": self.speedup,
            **{key: totals[key] for key in ("time_s", "ttft_s", "tpot_s", "tokens_per_s", "memory_bytes")},
            "fits": totals["fits"],
            "energy_j": totals["energy_j"],
            "bound_before": {p: self.before.bound(p) for p in phases if self.before.time_s(p)},
            "bound_after": {p: self.after.bound(p) for p in phases},
            "why": self.why() if self.techniques else "",
        }


@dataclass(frozen=True)
class WhatIf:
    """The baseline, the outcome of each technique, and the reasons of those refused."""

    baseline: Prediction
    outcomes: list[Outcome]  # the fastest first
    refused: dict[str, str]  # technique, as it is called -> reason
    counted: list[Outcome]  # what the baseline has already, beside what it would be without it

    def table(self) -> pd.DataFrame:
        """A row per technique or pair: `Outcome.record`."""
        import pandas as pd

        return pd.DataFrame([outcome.record() for outcome in self.outcomes])


def whatif(
    scenario: Scenario,
    device: Device,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    techniques: Sequence[Technique] | None = None,
    engine: Engine | None = None,
    backend: str = "",
) -> WhatIf:
    """Try techniques (by default every one, in its formats and sizes) alone and the best of them in pairs.

    Of the sizes that are tried by default the fastest stands for all. Techniques that the scenario has
    already stay in the baseline and in every outcome, and so does an `engine` with what it adds; `backend` is
    the library of all kernels, by default the engine's. Raises InputError for a traced module, of which no
    layer is known.
    """
    from workloads.techniques.registry import offered as every

    if isinstance(scenario.model, TracedModel):
        raise InputError(
            f"{scenario.model.name} is a traced module; techniques change the layers of described models."
        )
    offered = every() if techniques is None else techniques
    if engine is not None:
        scenario = run_by(scenario, engine)
    limits = replace(ceilings(device, fidelity, backend or kernels_of(engine, fidelity)), known={})
    baseline = predict(scenario, device, limits=limits, engine=engine)
    singles, refused = _alone(baseline, offered, device)
    if techniques is None:
        singles, refused = _in_one_size(offered, singles, refused)
    pairs = _better(_promising(singles), device)
    counted, worthless = _counted_already(baseline, offered, device)
    told = {outcome.techniques[0].called() for outcome in counted}
    refused = {called: why for called, why in refused.items() if called not in told} | worthless
    return WhatIf(baseline, _ranked([*singles, *pairs]), refused, counted)


def _ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: -outcome.speedup)


def _alone(
    baseline: Prediction, offered: Sequence[Technique], device: Device
) -> tuple[list[Outcome], dict[str, str]]:
    """Each technique beside the baseline, the fastest first, and why others are not among them."""
    singles: list[Outcome] = []
    refused: dict[str, str] = {}
    had = {technique.name: technique.told() for technique in baseline.scenario.techniques}
    convention = baseline.scenario.setting.convention
    for technique in offered:
        if technique.name in had:
            refused[technique.called()] = f"{had[technique.name]} is in the baseline already."
            continue
        if technique.counted(convention):
            refused[technique.called()] = f"{technique.already(convention)}."
            continue
        try:
            single = _outcome(baseline, (technique,), device)
        except InputError as error:
            refused[technique.called()] = str(error).removeprefix(f"{technique.name} is not applicable: ")
            continue
        if single.changes_nothing:
            refused[technique.called()] = f"{technique.told()} changes nothing here."
        else:
            singles.append(single)
    return _ranked(singles), refused


def _in_one_size(
    offered: Sequence[Technique], singles: Sequence[Outcome], refused: dict[str, str]
) -> tuple[list[Outcome], dict[str, str]]:
    """Of each technique in a format the size that stands first, or else the first reason."""
    best: dict[tuple[str, str], Outcome] = {}
    for one in singles:
        best.setdefault(one.techniques[0].alike(), one)
    sized = {technique.called(): technique.alike() for technique in offered}
    reasons: dict[tuple[str, str], tuple[str, str]] = {}
    for called, why in refused.items():
        if sized[called] not in best:
            name, form = sized[called]
            reasons.setdefault((name, form), (called if form else name, why))
    return list(best.values()), dict(reasons.values())


def _better(promising: Sequence[tuple[Outcome, Outcome]], device: Device) -> list[Outcome]:
    """Pairs that gain more than either of their techniques alone."""
    pairs = []
    for one, other in promising:
        try:
            pair = _outcome(one.before, one.techniques + other.techniques, device)
        except InputError:  # they exclude each other, which their own lines do not need to say
            continue
        if pair.speedup > max(one.speedup, other.speedup) * (1 + MORE):
            pairs.append(pair)
    return pairs


def _counted_already(
    baseline: Prediction, offered: Sequence[Technique], device: Device
) -> tuple[list[Outcome], dict[str, str]]:
    """The baseline as the outcome of each technique that its convention counts already.

    Of those without an effect or a prediction, the reason instead.
    """
    from workloads.techniques.counted import lacking

    scenario = baseline.scenario
    setting, decided = scenario.setting, {slot for t in scenario.techniques for slot in t.decides()}
    found: list[Outcome] = []
    worthless: dict[str, str] = {}
    for technique in offered:
        if technique.slot in decided or not technique.counted(setting.convention):
            continue
        convention = lacking(setting.convention, [technique.name])
        try:
            asked = replace(scenario, setting=replace(setting, convention=convention))
            outcome = Outcome((technique,), _again(baseline, asked, device), baseline)
        except InputError as error:  # the device's file does not say how it would be without
            unasked = f"; leave out --without {technique.name}."
            worthless[technique.called()] = f"counted already; {str(error).removesuffix(unasked)}."
            continue
        if outcome.changes_nothing:
            worthless[technique.called()] = "counted already, and leaving it out changes nothing here."
        else:
            found.append(outcome)
    return _ranked(found), worthless


def of_each(singles: Iterable[Outcome]) -> list[Outcome]:
    """The first outcome of each technique: of several formats the fastest, where the fastest stand first."""
    found: dict[str, Outcome] = {}
    for one in singles:
        found.setdefault(one.techniques[0].name, one)
    return list(found.values())


def _promising(singles: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Pairs to try: of the best that keep the output, of the best that may change it, of the best of all.

    Chosen among all at once, pairs of methods that need training would leave no place for others. Techniques
    whose gain is a property of the requests are in no pair, and of several formats the fastest is.
    """
    gaining = [o for o in singles if o.speedup > 1 + SAME and not o.techniques[0].of_requests]
    gaining = of_each(gaining)
    pairs: dict[tuple[str, str], tuple[Outcome, Outcome]] = {}
    for worst in range(len(QUALITIES)):
        allowed = [o for o in gaining if QUALITIES.index(o.techniques[0].quality) <= worst]
        for one, other in combinations(allowed[:PAIRED], 2):
            pairs.setdefault((one.techniques[0].name, other.techniques[0].name), (one, other))
    return list(pairs.values())


def _outcome(baseline: Prediction, techniques: tuple[Technique, ...], device: Device) -> Outcome:
    scenario = baseline.scenario
    asked = replace(scenario, techniques=(*scenario.techniques, *techniques))
    return Outcome(techniques, baseline, _again(baseline, asked, device))


def _again(baseline: Prediction, asked: Scenario, device: Device) -> Prediction:
    """A prediction of another scenario, by the same ceilings and with the same engine."""
    engine = baseline.served.engine if baseline.served else None
    return predict(asked, device, limits=baseline.ceilings, engine=engine)


def _alike(one: float | None, other: float | None) -> bool:
    """Whether two totals are the same to a reader; a total may be None."""
    return one == other or bool(one and other and abs(other / one - 1) < MOVED)
