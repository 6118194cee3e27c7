"""Which technique moves the bottleneck: every applicable one, and the best of them in pairs, ranked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity, ceilings
from roofline.engines import kernels_of, run_by
from roofline.predict import Prediction, predict
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
TOLD = 0.01  # changes of a rate that a reason tells, and gains of a pair over one of it that are shown
SAME = 1e-6  # relative change that is rounding
# What a technique can save, by the limit that it relieves.
QUANTITIES = {
    "matrix_flops": "FLOP on matrix units",
    "weight_bytes": "bytes of weights",
    "kv_bytes": "bytes of the cache",
    "activation_bytes": "bytes of activations",
    "comm_bytes": "bytes over links between devices",
    "host_bytes": "bytes over the link to the host",
    "disk_bytes": "bytes of the host's disks",
    "host_memory_bytes": "bytes that the host computes with",
    "launch_s": "waiting for the host",
}


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
    def changes_nothing(self) -> bool:
        """Whether every total stays: the model or the device has it already, or nothing is long enough."""
        return (
            self.after.totals() == self.before.totals()
            and self.after.schedule.notes == self.before.schedule.notes
        )

    def why(self) -> str:
        """The phase whose time changed most, what of its work did, what binds it now, what is assumed."""
        assumed = ", ".join(filter(None, (t.assumes() for t in self.techniques)))
        return self._reason() + (f"; assumed {assumed}" if assumed else "")

    def _reason(self) -> str:
        phases = dict.fromkeys(row.phase for row in (*self.before.rows, *self.after.rows))
        phase = max(phases, key=lambda p: abs(self.after.time_s(p) - self.before.time_s(p)))
        if not (self.before.time_s(phase) and self.after.time_s(phase)):
            return f"its time moves to or from {phase}: the passes are others"
        ratio = self.after.time_s(phase) / self.before.time_s(phase)
        bound, now = self.before.bound(phase), self.after.bound(phase)
        moved = f"{bound}-bound" if now == bound else f"{bound}-bound before, {now}-bound now"
        if abs(ratio - 1) < SAME:
            held, needs = (p.memory()["memory_bytes"] for p in (self.before, self.after))
            if abs(needs / held - 1) > TOLD:
                return f"{_change(needs / held)} memory, and the same time; {phase} stays {bound}-bound"
            return f"nothing that binds changes; {phase} stays {bound}-bound"
        return f"{phase} takes {_change(ratio)} time: {self._cause(phase)}; {moved}"

    def _cause(self, phase: str) -> str:
        """The quantity whose change weighs most of those that changed the way the time did."""
        changes = {}
        for quantity in QUANTITIES:
            before, after = (_seconds(p, quantity, phase) for p in (self.before, self.after))
            if before or after:
                changes[quantity] = after - before
        if not changes:
            return "its work is another"
        sign = math.copysign(1, self.after.time_s(phase) - self.before.time_s(phase))
        quantity = max(changes, key=lambda q: sign * changes[q])
        if sign * changes[quantity] <= 0:
            return f"without {self.techniques[0].removes}" if sign < 0 else "its operators are others"
        if quantity == "launch_s":
            before, after = (_seconds(p, quantity, phase) for p in (self.before, self.after))
            return f"{_change(after / before) if before else 'more'} {QUANTITIES[quantity]}"
        before, after = (p.total(quantity, phase) for p in (self.before, self.after))
        if not before:
            return f"{QUANTITIES[quantity]}, of which there were none"
        if quantity == "matrix_flops":
            rates = (self.before, before), (self.after, after)
            old, new = (flops / _seconds(p, quantity, phase) for p, flops in rates)
            if abs(new / old - 1) > TOLD:  # faster units, perhaps for fewer of them
                fewer = f"{_counted(after / before)} " if abs(after / before - 1) > TOLD else ""
                return f"{fewer}FLOP on matrix units at {new / old:.2g} times the rate"
        return f"{_counted(after / before)} {QUANTITIES[quantity]}"

    def record(self) -> dict[str, Any]:
        """The outcome in plain values; `record` of the baseline has a speedup of 1."""
        totals = self.after.totals()
        phases = list(dict.fromkeys(row.phase for row in self.after.rows))
        return {
            "techniques": [t.told() for t in self.techniques],
            "names": [t.name for t in self.techniques],
            "quality": _worst([t.quality for t in self.techniques]),
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
    """The baseline, what each technique makes of it, and why some make nothing."""

    baseline: Prediction
    outcomes: list[Outcome]  # the fastest first
    refused: dict[str, str]  # name -> reason
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
) -> WhatIf:
    """Try techniques (by default every one with its defaults) alone and the best of them in pairs.

    Techniques that the scenario has already stay in the baseline and in every outcome, and so does an
    `engine` with what it adds. Raises InputError for a traced module, of which no layer is known.
    """
    from workloads.techniques.registry import known

    if isinstance(scenario.model, TracedModel):
        raise InputError(
            f"{scenario.model.name} is a traced module; techniques change the layers of described models."
        )
    offered = [each() for each in known().values()] if techniques is None else techniques
    if engine is not None:
        scenario = run_by(scenario, engine)
    limits = replace(ceilings(device, fidelity, kernels_of(engine, fidelity)), known={})
    baseline = predict(scenario, device, limits=limits, engine=engine)
    singles: list[Outcome] = []
    refused: dict[str, str] = {}
    had = {technique.name: technique.told() for technique in scenario.techniques}
    for technique in offered:
        if technique.name in had:
            refused[technique.name] = f"{had[technique.name]} is in the baseline already."
            continue
        try:
            single = _outcome(baseline, (technique,), device)
        except InputError as error:
            refused[technique.name] = str(error).removeprefix(f"{technique.name} is not applicable: ")
            continue
        if single.changes_nothing:
            refused[technique.name] = f"{technique.told()} changes nothing here."
        else:
            singles.append(single)
    singles.sort(key=lambda outcome: -outcome.speedup)
    pairs = []
    for one, other in _promising(singles):
        try:
            pair = _outcome(baseline, one.techniques + other.techniques, device)
        except InputError:  # they exclude each other, which their own lines do not need to say
            continue
        if pair.speedup > max(one.speedup, other.speedup) * (1 + TOLD):  # otherwise one of them does it all
            pairs.append(pair)
    ranked = sorted([*singles, *pairs], key=lambda outcome: -outcome.speedup)
    counted = sorted(_counted_already(baseline, offered, device, refused), key=lambda o: -o.speedup)
    return WhatIf(baseline, ranked, refused, counted)


def _counted_already(
    baseline: Prediction, offered: Sequence[Technique], device: Device, refused: dict[str, str]
) -> Iterator[Outcome]:
    """The baseline as the outcome of each technique that its convention counts, where that is something.

    Of those that were `refused` because they are counted, the reason goes or says why they are not here.
    """
    from workloads.techniques.counted import lacking

    scenario = baseline.scenario
    setting, decided = scenario.setting, {slot for t in scenario.techniques for slot in t.decides()}
    for technique in offered:
        if technique.slot in decided or not technique.counted(setting.convention):
            continue
        convention = lacking(setting.convention, [technique.name])
        try:
            asked = replace(scenario, setting=replace(setting, convention=convention))
            outcome = Outcome((technique,), _again(baseline, asked, device), baseline)
        except InputError as error:  # the device's file does not say how it would be without
            reason = str(error)
        else:
            if not outcome.changes_nothing:
                refused.pop(technique.name, None)
                yield outcome
                continue
            reason = "counted already, and leaving it out changes nothing here."
        if technique.name in refused:
            refused[technique.name] = reason


def _promising(singles: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Pairs to try: of the best that keep the output, of the best that may change it, of the best of all.

    Asked for all alike, pairs of methods that need training would leave no place to the others. What is a
    property of the requests is asked for by name.
    """
    gaining = [o for o in singles if o.speedup > 1 + SAME and not o.techniques[0].of_requests]
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
    """Something else on the same ceilings, with the same engine around it."""
    engine = baseline.served.engine if baseline.served else None
    return predict(asked, device, limits=baseline.ceilings, engine=engine)


def _seconds(prediction: Prediction, quantity: str, phase: str) -> float:
    """What a quantity of a phase takes at its own ceiling, to weigh FLOP against bytes."""
    limits = prediction.ceilings
    if quantity == "launch_s":
        return sum(float(row.count * row.times.launch_s) for row in prediction.rows if row.phase == phase)
    if quantity == "matrix_flops":
        return sum(
            float(row.count * row.work.matrix_flops / limits.matrix_flop_per_s(row.work.dtype))
            for row in prediction.rows
            if row.phase == phase and row.work.matrix_flops
        )
    total = prediction.total(quantity, phase)
    if not total:
        return 0.0
    rates = {
        "comm_bytes": limits.link,
        "host_bytes": limits.host,
        "disk_bytes": limits.disk,
        "host_memory_bytes": limits.host_memory,
    }
    return float(total / (rates[quantity]() if quantity in rates else limits.dram_byte_per_s))


def _change(ratio: float) -> str:
    """A ratio in words: 30 % less, 2.5 times the; shares below a per cent with the digit that tells."""
    if ratio >= 2:
        return f"{ratio:.1f} times the"
    share = abs(ratio - 1)
    return (
        f"{share:.0%} {'less' if ratio < 1 else 'more'}"
        if share >= 0.01
        else (f"{100 * share:.1g}% {'less' if ratio < 1 else 'more'}")
    )


def _counted(ratio: float) -> str:
    """The same of things that are counted: 30 % fewer."""
    return _change(ratio).replace("less", "fewer")


def _worst(labels: Sequence[str]) -> str:
    """The label of several techniques together."""
    return max(labels, key=QUALITIES.index, default="exact")
