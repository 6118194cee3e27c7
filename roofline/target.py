"""The inverse question: on which devices, with which techniques, is a target met?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity
from roofline.predict import Prediction, predict
from specfiles.errors import InputError, choose
from workloads.techniques.base import QUALITIES

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.scenario import Scenario
    from workloads.techniques.base import Technique

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
GOALS = {"ttft": "ttft_s", "tpot": "tpot_s", "throughput": "tokens_per_s"}
SHARED_BY = (1, 2, 4, 8)  # devices that are tried for each layer
TRIED = 8  # techniques of each quality that gain most on the first device; their pairs are tried, too


@dataclass(frozen=True)
class Goal:
    """Totals that a prediction must reach: times at most, throughput at least."""

    goals: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Goal:
        """From `tpot=20ms,ttft=500ms,throughput=1000`; an InputError says what is wrong."""
        goals = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in GOALS:
                raise choose(name, list(GOALS), "target")
            found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(us|ms|s|)", value)
            if not found or not float(found[1]) or (name == "throughput" and found[2]):
                raise InputError(
                    f"the target {part!r} cannot be read; expected tpot=20ms, ttft=0.5s or throughput=1000."
                )
            goals[name] = float(found[1]) * UNITS[found[2]]
        return cls(goals)

    def met(self, totals: dict[str, Any]) -> bool:
        """Whether a prediction reaches every goal, and fits."""
        return bool(totals["fits"]) and all(self._reached(totals, name) for name in self.goals)

    def _reached(self, totals: dict[str, Any], name: str) -> bool:
        value = totals[GOALS[name]]
        if value is None:
            raise InputError(f"the phase has no {name}; ask for generate.")
        return bool(value >= self.goals[name] if name == "throughput" else value <= self.goals[name])


@dataclass(frozen=True)
class Answer:
    """Devices and techniques that meet a target."""

    device: Device
    devices: int
    techniques: tuple[Technique, ...]
    prediction: Prediction
    usd_per_hour: float | None = None  # of all devices; None where nobody gave a price

    @property
    def watts(self) -> float:
        """Power of all devices by the data sheet: what stands for their cost where no price is known."""
        return _watts(self.device) * self.devices


def answers(
    scenario: Scenario,
    devices: Iterable[Device],
    goal: Goal,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    quality: str = "lossy",
    prices: Mapping[str, float] | None = None,
) -> list[Answer]:
    """For each device the fewest of them that meet the target, with the mildest techniques, cheapest first.

    `prices` are USD per hour by device name; they come before those of device files. What has a price comes
    before what has none, and among those what takes the least power is first.
    Without a technique before with one, exact before lossy before retrained, one before two.
    """
    found = []
    sets: list[tuple[Technique, ...]] = []
    for device in sorted(devices, key=_watts):
        sets = sets or _sets(scenario, device, fidelity, quality)
        answer = next(_meeting(scenario, device, goal, fidelity, sets or [()]), None)
        if answer is not None:
            price = _price(device, prices or {})
            found.append(replace(answer, usd_per_hour=None if price is None else price * answer.devices))
    return sorted(found, key=lambda a: (a.usd_per_hour is None, a.usd_per_hour or 0.0, a.watts))


def _meeting(
    scenario: Scenario,
    device: Device,
    goal: Goal,
    fidelity: Fidelity | str,
    sets: Sequence[tuple[Technique, ...]],
) -> Iterator[Answer]:
    """Answers of one device, the fewest devices first."""
    for count in SHARED_BY:
        for techniques in sets:
            prediction = _tried(scenario, device, fidelity, techniques, count)
            if prediction is None and not techniques:
                break  # what the device or the split does not allow is left alone
            if prediction is not None and goal.met(prediction.totals()):
                yield Answer(device, count, techniques, prediction)


def _tried(
    scenario: Scenario,
    device: Device,
    fidelity: Fidelity | str,
    techniques: tuple[Technique, ...],
    count: int,
) -> Prediction | None:
    """A prediction, or None where the device, the split or a technique does not allow it."""
    try:
        asked = replace(
            scenario,
            setting=replace(scenario.setting, tensor_parallel=count),
            techniques=(*scenario.techniques, *techniques),
        )
        return predict(asked, device, fidelity)
    except InputError:
        return None


def _sets(
    scenario: Scenario, device: Device, fidelity: Fidelity | str, quality: str
) -> list[tuple[Technique, ...]]:
    """Sets of techniques from the mildest: none, the best of each quality alone, then in pairs.

    Which ones are best is found on one device: what they save is the model's and not the device's.
    """
    from workloads.techniques.registry import known

    allowed = QUALITIES[: QUALITIES.index(quality) + 1]
    base = _tried(scenario, device, fidelity, (), 1)
    if base is None:
        return []
    gains: dict[tuple[Technique, ...], float] = {}
    for kind in known().values():
        one = (kind(),)
        tried = _tried(scenario, device, fidelity, one, 1) if kind.quality in allowed else None
        if tried is not None and tried.time_s() < base.time_s():
            gains[one] = base.time_s() / tried.time_s()
    best = [
        one
        for label in allowed
        for one in sorted((g for g in gains if g[0].quality == label), key=lambda g: -gains[g])[:TRIED]
    ]
    pairs = [a + b for a, b in combinations(best, 2) if a[0].slot != b[0].slot]
    pairs.sort(
        key=lambda pair: (max(QUALITIES.index(t.quality) for t in pair), -gains[pair[:1]] * gains[pair[1:]])
    )
    return [(), *best, *pairs[: 2 * TRIED]]


def _price(device: Device, prices: Mapping[str, float]) -> float | None:
    stated = device.datasheet.price_usd_per_hour
    return prices.get(device.name, stated.value if stated else None)


def _watts(device: Device) -> float:
    return device.datasheet.tdp_w.value if device.datasheet.tdp_w else float("inf")
