"""The inverse question: on which devices, with which techniques, is a target met?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Fidelity
from roofline.cost import price, usd_per_million_tokens
from roofline.engines import kernels_of, run_by
from roofline.predict import Prediction, predict
from specfiles.errors import InputError, choose
from workloads.arrays import maximum
from workloads.techniques.base import QUALITIES

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.engines import Engine
    from roofline.scenario import Scenario
    from workloads.techniques.base import Technique

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
GOALS = {"ttft": "ttft_s", "tpot": "tpot_s", "throughput": "tokens_per_s"}
SHARED_BY = (1, 2, 4, 8)  # devices that are tried for each layer
TRIED = 8  # techniques of each quality that gain most on a device, served or not; their pairs are tried, too
NEAREST = 5  # devices reported where none meets the target


@dataclass(frozen=True)
class Goal:
    """Totals that a prediction must reach: times at most, throughput at least."""

    goals: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Goal:
        """From `tpot=20ms,ttft=500ms,throughput=1000`; an InputError says what is wrong."""
        goals: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in GOALS:
                raise choose(name, list(GOALS), "target")
            if name in goals:
                raise InputError(f"{text!r} has {name} twice; leave one out.")
            found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(us|ms|s|)", value)
            if not found or not float(found[1]) or (name == "throughput") == bool(found[2]):
                raise InputError(
                    f"the target {part!r} cannot be read; expected tpot=20ms, ttft=0.5s or throughput=1000."
                )
            goals[name] = float(found[1]) * UNITS[found[2]]
        return cls(goals)

    def misses(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """The factor by which each goal, and the device's memory, is missed: at most 1 where it is met.

        Totals are numbers, or arrays over devices.
        """
        found = {"memory": totals["memory_bytes"] / totals["capacity_bytes"]}
        for name, wanted in self.goals.items():
            value = totals[GOALS[name]]
            if value is None:
                raise InputError(f"the phase has no {name}; ask for generate.")
            found[name] = wanted / value if name == "throughput" else value / wanted
        return found

    def missed(self, totals: Mapping[str, Any]) -> Any:
        """The largest of these factors."""
        worst: Any = 0.0
        for ratio in self.misses(totals).values():
            worst = maximum(worst, ratio)
        return worst


@dataclass(frozen=True)
class Option:
    """A number of devices that share each layer, and techniques."""

    devices: int
    techniques: tuple[Technique, ...] = ()

    def of(self, scenario: Scenario) -> Scenario:
        """The scenario with these devices, and these techniques beside its own."""
        return replace(
            scenario,
            setting=replace(scenario.setting, tensor_parallel=self.devices),
            techniques=(*scenario.techniques, *self.techniques),
        )


@dataclass(frozen=True)
class Answer:
    """Devices and techniques that meet a target."""

    device: Device
    devices: int
    techniques: tuple[Technique, ...]
    prediction: Prediction
    usd_per_hour: float | None = None  # of all devices; None where nobody gave a price

    @property
    def totals(self) -> dict[str, Any]:
        """The totals of the prediction, and the memory capacity of the device."""
        return {**self.prediction.totals(), "capacity_bytes": self.device.capacity_bytes}

    @property
    def watts(self) -> float | None:
        """TDP of all devices [W], the measure of cost where no price is known; None where it is not, too."""
        each = _watts(self.device)
        return None if each is None else each * self.devices

    @property
    def usd_per_million_tokens(self) -> float | None:
        """USD per million tokens at the predicted rate; None without a price or without tokens."""
        rate, usd = self.totals["tokens_per_s"], self.usd_per_hour
        return None if usd is None or not rate else float(usd_per_million_tokens(usd, rate))

    @property
    def served(self) -> bool:
        """Whether inference engines offer all of its techniques."""
        return all(technique.served for technique in self.techniques)

    def cost(self) -> tuple[float, ...]:
        """The order of answers: by the price of a token, else of an hour, else by power."""
        return tuple(map(_or_last, (self.usd_per_million_tokens, self.usd_per_hour, self.watts)))


@dataclass(frozen=True)
class Found:
    """What meets a target, in the order of `answers`.

    Where nothing that inference engines serve does, `nearest` is on some devices what misses it least: first
    of what they serve, then, where nothing at all meets it, also of what they do not. `unmet` are the devices
    on which nothing that was tried meets it.
    """

    met: list[Answer]
    nearest: list[Answer]
    unmet: tuple[str, ...] = ()


def answers(
    scenario: Scenario,
    devices: Iterable[Device],
    goal: Goal,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    quality: str = "lossy",
    prices: Mapping[str, float] | None = None,
    engine: Engine | None = None,
    techniques: Sequence[Technique] | None = None,
    shared_by: Sequence[int] = SHARED_BY,
) -> Found:
    """For each device the fewest of them that meet the target, with the mildest techniques, ordered by cost.

    `shared_by` are the numbers of devices that are tried for each layer, the fewest first; stages and
    experts stay shared as the scenario says. At one batch the fewest are the cheapest, too: sharing
    divides what a step does and adds messages.

    `prices` are USD per hour by device name; they come before those of device files. With them the cheapest
    token is first, at the batch asked for: whoever has more requests takes more such instances. What has no
    price comes after what has one, the least power first; last comes what needs a technique that no inference
    engine serves, unless `techniques` are given. On one device the mildest answer stands, even where another
    would make tokens cheaper: without a technique before with one, exact before lossy before retrained, one
    before two. What no inference engine serves is given only where nothing else meets the target, as its
    gains depend on what is assumed. `techniques` are what is tried, by default every one but
    those whose gain is a property of the requests: nobody can choose them. An `engine` adds its time to
    every prediction.

    What the floors of all devices rule out is not predicted one by one (`roofline.bounds`).
    """
    from roofline.bounds import Bounds

    bounds = Bounds(scenario, sorted(devices, key=lambda d: _or_last(_watts(d))), goal)
    counts = [count for count in shared_by if bounds.possible(Option(count))]
    if not counts:
        bounds.require(Option(shared_by[0]))
    singles = _singles(quality, techniques)
    missed, gains = cache(bounds.missed), cache(bounds.gains)

    def options(index: int, unserved: bool) -> Iterator[Option]:
        """What is tried on a device, of what engines serve or not, in an order that other devices keep."""

        @cache
        def sets(count: int) -> list[list[tuple[Technique, ...]]]:
            there = {t: float(gains(Option(count, (t,)))[index]) for t in singles}
            return _sets(_in_one_size(there) if techniques is None else there, techniques is not None)

        for count in counts:
            yield from (Option(count, chosen) for chosen in sets(count)[unserved])

    def nearest(unserved: bool) -> list[Answer]:
        """The best option of each device by its bounds, predicted on the devices with the best ones."""
        best = {
            d: option
            for d in range(len(bounds.devices))
            if (option := min(options(d, unserved), key=lambda o: missed(o)[d], default=None)) is not None
        }
        order = sorted(best, key=lambda d: missed(best[d])[d])[:NEAREST]
        tried = (_tried(scenario, bounds.devices[d], fidelity, best[d], prices or {}, engine) for d in order)
        return sorted((a for a in tried if a), key=lambda a: goal.missed(a.totals))

    found = []
    if engine is not None:
        scenario = run_by(scenario, engine)
    for index, device in enumerate(bounds.devices):
        every = chain(options(index, False), options(index, True))
        promising = (option for option in every if missed(option)[index] <= 1)
        tried = (_tried(scenario, device, fidelity, option, prices or {}, engine) for option in promising)
        answer = next((a for a in tried if a is not None and goal.missed(a.totals) <= 1), None)
        if answer is not None:
            found.append(answer)
    met = sorted(found, key=lambda answer: (techniques is None and not answer.served, answer.cost()))
    meeting = {answer.device.name for answer in met}
    unmet = tuple(device.name for device in bounds.devices if device.name not in meeting)
    if met and (techniques is not None or met[0].served):
        return Found(met, [], unmet)
    served = nearest(False)
    least = goal.missed(served[0].totals) if served else math.inf
    others = [] if met else [answer for answer in nearest(True) if goal.missed(answer.totals) < least]
    return Found(met, [*served, *others], unmet)


def _tried(
    scenario: Scenario,
    device: Device,
    fidelity: Fidelity | str,
    option: Option,
    prices: Mapping[str, float],
    engine: Engine | None,
) -> Answer | None:
    """A prediction of an option, or None where the device file lacks something that it needs."""
    try:
        backend = kernels_of(engine, fidelity)
        prediction = predict(option.of(scenario), device, fidelity, backend, engine=engine)
    except InputError:
        return None
    each = price(device, prices)
    devices = prediction.scenario.setting.devices
    usd = None if each is None else each * devices
    return Answer(device, devices, option.techniques, prediction, usd)


def _singles(quality: str, named: Sequence[Technique] | None) -> list[Technique]:
    """The techniques that are tried: those named, else every one that somebody can choose."""
    from workloads.techniques.registry import offered

    allowed = QUALITIES[: QUALITIES.index(quality) + 1]
    chosen = [t for t in offered() if not t.of_requests] if named is None else named
    return [technique for technique in chosen if technique.quality in allowed]


def _in_one_size(gains: Mapping[Technique, float]) -> dict[Technique, float]:
    """Of each technique in a format the size that gains most."""
    best: dict[tuple[str, str], Technique] = {}
    for technique in sorted(gains, key=lambda t: -gains[t]):
        best.setdefault(technique.alike(), technique)
    return {technique: gains[technique] for technique in gains if best[technique.alike()] is technique}


def _sets(gains: Mapping[Technique, float], named: bool) -> list[list[tuple[Technique, ...]]]:
    """What is tried on so many devices: no technique, the best of each quality, then pairs of these.

    What no engine serves is a list of its own, which comes last, unless it was named.
    """
    rank = {technique: QUALITIES.index(technique.quality) for technique in gains}
    best = [
        technique
        for label in QUALITIES
        for served in (True, False)
        for technique in sorted(
            (t for t in gains if gains[t] > 1 and t.quality == label and bool(t.served) == served),
            key=lambda t: -gains[t],
        )[:TRIED]
    ]
    pairs = [(a, b) for a, b in combinations(best, 2) if not {*a.decides()} & {*b.decides()}]
    pairs.sort(key=lambda pair: (max(rank[t] for t in pair), -gains[pair[0]] * gains[pair[1]]))
    found = []
    for wanted in (True, False):
        alone, both = (
            [techniques for techniques in sets if wanted == (named or all(t.served for t in techniques))]
            for sets in ([(), *((one,) for one in best)], pairs)
        )
        found.append([*alone, *both[: 2 * TRIED]])
    return found


def _watts(device: Device) -> float | None:
    return device.datasheet.tdp_w.value if device.datasheet.tdp_w else None


def _or_last(cost: float | None) -> float:
    """A cost by which things are ordered, the unknown ones last."""
    return math.inf if cost is None else cost
