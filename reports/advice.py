"""Advice: the techniques that shorten a workload, ranked within each label of output quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hwspecs import Device
from reports.records import Advice, Advised
from reports.units import si
from roofline.ceilings import Fidelity
from roofline.engines import Engine
from roofline.scenario import Scenario
from roofline.whatif import Outcome, WhatIf, of_each, whatif
from specfiles.errors import InputError
from workloads.techniques.base import QUALITIES

MOST = 6  # techniques shown per label of quality, followed by the best pair
WORTH_SHOWING = 1.01  # minimum gain shown: less is below the error of any prediction


def advice(
    title: str,
    scenario: Scenario,
    device: Device,
    fidelity: Fidelity,
    engine: Engine | None = None,
    backend: str = "",
) -> Advice:
    """Every technique that applies to a workload and the best pairs; or the reason why there is none.

    An `engine` and the library of the kernels are those of the prediction that the advice is beside.
    """
    try:
        found = whatif(scenario, device, fidelity, engine=engine, backend=backend)
    except InputError as error:
        return Advice(title, missing=str(error))
    rows = [row for quality in QUALITIES for row in _ranked(found, quality)]
    return Advice(title, tuple(rows), tuple(found.refused.items()), counted=tuple(_counted(found)))


def _counted(found: WhatIf) -> Iterator[tuple[str, str]]:
    """Techniques that the prediction counts already, and the loss without them."""
    for outcome in found.counted:
        held, needs = (p.memory()["memory_bytes"] for p in (outcome.before, outcome.after))
        memory = (
            f" and {si(held, 'B')} of memory for {si(needs, 'B')}" if held > WORTH_SHOWING * needs else ""
        )
        time = f"{outcome.speedup:.2f} times the time{memory}"
        yield outcome.techniques[0].name, f"without it {time}; with it {outcome.why()}"


def _ranked(found: WhatIf, quality: str) -> Iterator[Advised]:
    """The best single techniques of a label, one without a caveat among them, and the best pair, by gain."""
    alike = [one for one in found.outcomes if one.speedup > WORTH_SHOWING and one.quality == quality]
    singles = of_each(one for one in alike if len(one.techniques) == 1)
    pairs = [one for one in alike if len(one.techniques) > 1]
    shown = singles[:MOST]
    if all(map(_caveat, shown)):
        shown += [one for one in singles if not _caveat(one)][:1]
    for one in sorted(shown + pairs[:1], key=lambda one: -one.speedup):
        record = one.record()
        yield Advised(
            " + ".join(record["names"]),
            _options(record["names"], record["techniques"]),
            quality,
            record["speedup"],
            record["time_s"],
            record["memory_bytes"],
            record["why"],
            _caveat(one),
        )


def _caveat(outcome: Outcome) -> str:
    if not all(technique.served for technique in outcome.techniques):
        return "in no inference engine"
    return "where requests allow it" * any(technique.of_requests for technique in outcome.techniques)


def _options(names: Sequence[str], told: Sequence[str]) -> str:
    """Parameters of techniques in command-line syntax: `ratio=26, requests=100; block=64`."""
    given = (words.removeprefix(name)[1:].replace(",", ", ") for name, words in zip(names, told, strict=True))
    return "; ".join(filter(None, given))
