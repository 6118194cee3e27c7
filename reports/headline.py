"""The summary of a report: key numbers and a few sentences, all from the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from reports.records import Advice, Card, Content, Totals
from reports.step_records import Operator, Point
from reports.units import percent, si
from reports.wording import listed, rate, signed

WORDS = {
    "compute": "compute-bound",
    "memory": "memory-bound",
    "communication": "communication-bound",
    "launch": "launch-bound",
    "fused": "fused",
}
MOST_NAMED = 3  # operators named in a sentence
MOSTLY = 0.5  # share of a step's time from which its limit is that of the step
WORTH_SAYING = 0.1  # minimum share of a step outside its operators that is mentioned

MODELLED = "modelled, not measured: its method stands below"


def cards(content: Content) -> tuple[Card, ...]:
    """The numbers to see first in a measured run."""
    return tuple(chain.from_iterable(_cards(point) for point in content.headline))


def _cards(point: Point) -> Iterator[Card]:
    time = point.time_s
    if not time:
        return
    note = f"median of {point.repeats} repeats" if point.repeats else ""
    if point.predicted_s:
        note = f"predicted {si(point.predicted_s, 's')} ({signed(point.predicted_s / time - 1)})"
    yield Card(_latency_name(point), si(time, "s"), note)
    label = "Passes/s" if point.unit == "passes" else f"{point.phase.capitalize()} tokens/s"
    yield Card(label, rate(point.tokens / time), point.sizes)
    if point.headroom:
        passes = point.unit == "passes"
        what, label = (
            ("it", "Head-room") if passes else (point.phase, f"{point.phase.capitalize()} head-room")
        )
        note = f"what {what} would take at the ceilings, {si(point.roof_s, 's')}"
        yield Card(label, f"{point.headroom:.2f} ×", note)


def _latency_name(point: Point) -> str:
    other = "One pass" if point.unit == "passes" else f"{point.phase} step"
    return {"prefill": "TTFT", "decode": "TPOT"}.get(point.phase, other)


def predicted_cards(totals: Totals, unit: str = "tokens") -> tuple[Card, ...]:
    """The numbers to see first in a prediction; its steps make `unit`s."""
    fits = "fits the device's memory" if totals.fits else "does NOT fit the device's memory"
    first = ("TTFT", "time to first token") if unit == "tokens" else ("One pass", "of its inputs")
    times = ((*first, totals.ttft_s), ("TPOT", "time per output token", totals.tpot_s))
    return (
        *(Card(label, si(value, "s"), note) for label, note, value in times if value is not None),
        Card(
            f"{unit.capitalize()}/s", rate(totals.tokens_per_s), "all sequences together" * (unit == "tokens")
        ),
        Card("MFU", percent(totals.mfu), "of the dense peak"),
        Card("MBU", percent(totals.mbu), "of the memory bandwidth"),
        Card("Memory", si(totals.memory_bytes, "B"), fits),
        *([] if totals.energy_j is None else [Card("Energy", si(totals.energy_j, "J"), MODELLED)]),
    )


def sentences(content: Content) -> tuple[str, ...]:
    """Bound of each phase, prediction error, and recoverable time by operator."""
    if len(content.totals) > 1:
        return tuple(_best(content.totals))
    points = content.headline
    if not points:
        return ("Nothing was measured.",)
    said = [_pace(point) for point in points]
    if content.measured:
        said += [_forecast(points, content.fidelity), _headroom(points, content.reference)]
        said += [_recoverable(points), _machine(points), _suspects(content.points)]
    else:
        said += [_largest(points)]
    said += [_helpful(advice, alone=len(content.advice) == 1) for advice in content.advice]
    return tuple(sentence for sentence in said if sentence)


def _helpful(advice: Advice, *, alone: bool) -> str:
    """The best exact technique, and the best that needs no training."""
    labels = (("exact", "with the same output"), ("lossy", "with another output"))
    found = [(advice.best(quality), words) for quality, words in labels]
    told = [f"{row.name} ({row.speedup:.2f}\u00a0× {words}: {row.why})" for row, words in found if row]
    helps = f"what would help most is predicted to be {listed(told)}."
    return "" if not told else _start(helps) if alone else f"{advice.title}: {helps}"


def _best(totals: Iterable[Totals]) -> Iterator[str]:
    """The best of several predictions, by each of the totals."""
    totals = list(totals)
    for label, name in (("time to first token", "ttft_s"), ("time per output token", "tpot_s")):
        known = [t for t in totals if getattr(t, name) is not None]
        if known:
            best = min(known, key=lambda t: float(getattr(t, name)))
            yield f"The shortest {label} is {si(getattr(best, name), 's')}: {best.title}."
    best = max(totals, key=lambda t: t.tokens_per_s)
    yield f"The highest rate is {rate(best.tokens_per_s)} tokens/s: {best.title}."
    tight = sum(not t.fits for t in totals)
    if tight:
        yield f"{tight} of {len(totals)} do not fit the memory of their device."


def _pace(point: Point) -> str:
    """The time and bound of a step."""
    time = point.time_s
    if not time:
        return f"{point.title}: no time is known."
    each = " per token" if point.phase == "decode" else ""
    verb = "takes" if point.measured else "is predicted to take"
    if point.measured and point.measured_s is None:
        verb = "was not timed whole; its operators sum to"
    step = f"{point.phase.capitalize()} ({point.sizes})"
    bound, share = next(iter(point.shares.items()), ("", 0.0))
    if share > MOSTLY:
        step += f" is {WORDS.get(bound, bound)} and"
    text = f"{step} {verb} {si(time, 's')}{each}, {rate(point.tokens / time)} {point.unit}/s."
    return " ".join(filter(None, (text, _bound(point), _outside(point))))


def _bound(point: Point) -> str:
    """The limit of most of the time, and its attained fraction."""
    shares = point.shares
    if not shares:
        return ""
    bound, share = next(iter(shares.items()))
    attained = point.attained(bound) if bound != "launch" else None  # launches have no roof
    reach = f" and reach {percent(attained, 0)} of their roof" if attained is not None else ""
    word = WORDS.get(bound, bound).capitalize()
    return f"{word} operators hold {percent(share, 0)} of its operators' time{reach}."


def _outside(point: Point) -> str:
    if point.remainder_s is None or not point.measured_s:
        return ""
    share = point.remainder_s / point.measured_s
    if share > WORTH_SAYING:
        return f"Outside its operators lies {percent(share, 0)} of the step: launches, host code, gaps."
    if share < -WORTH_SAYING:
        return f"Timed one by one, its operators sum to {percent(1 - share, 0)} of the step."
    return ""


def _forecast(points: Iterable[Point], fidelity: str) -> str:
    said = []
    for point in points:
        predicted, measured = point.predicted_s, point.time_s
        if predicted and measured:
            difference = signed(predicted / measured - 1)
            said.append(
                f"{_latency_name(point)} {si(predicted, 's')} against {si(measured, 's')} ({difference})"
            )
    return f"Predicted at fidelity {fidelity}: {listed(said)}." if said else ""


def _headroom(points: Iterable[Point], reference: str) -> str:
    known = [p for p in points if p.headroom]
    if not known:
        return ""
    at_roof = listed([f"{si(p.roof_s, 's')} in {p.phase}" for p in known])
    times = listed([f"{p.headroom:.2f}" for p in known])
    verb = "step takes" if len(known) == 1 else "steps take"
    measured = f"the measured {verb} {times} times that"
    text = f"At the {reference} the same operators would take {at_roof}: {measured}."
    if any(p.headroom and p.headroom < 1 for p in known):
        text += " A step below its bound means that the ceiling, the count of its work or the timer is wrong."
    return text


def _recoverable(points: Iterable[Point]) -> str:
    said = []
    for point in points:
        excess = sum(o.excess_s for o in point.above)
        if excess:
            named = listed(
                [f"{o.name} ({percent(o.excess_s / excess, 0)})" for o in point.above[:MOST_NAMED]]
            )
            said.append(
                f"{point.phase} spends {si(excess, 's')} above its operators' ceilings, most of it in {named}"
            )
    return _start("; ".join(said)) + "." if said else ""


def _machine(points: Iterable[Point]) -> str:
    """Drift of the machine's speed since its ceilings were measured, and other load."""
    said = []
    for p in points:
        if p.drift and abs(p.drift - 1) > WORTH_SAYING:
            pace = "slower" if p.drift > 1 else "faster"
            said.append(
                f"beside {p.phase} the machine was {percent(abs(p.drift - 1), 0)} {pace} than its file says"
            )
        if p.waited_s and p.measured_s and p.waited_s > WORTH_SAYING * p.measured_s:
            wait = f"{si(p.waited_s, 's')} per {p.phase} step"
            said.append(f"other load let the process wait {wait} (not counted)")
    return _start("; ".join(said)) + "." if said else ""


def _suspects(points: Iterable[Point]) -> str:
    flagged = [(p, o) for p in points for o in p.operators if o.above_ceiling]
    if not flagged:
        return ""
    verb, data = ("measurement is", "its data") if len(flagged) == 1 else ("measurements are", "their data")
    named = listed([f"{o.name} in {p.phase}" for p, o in flagged[:MOST_NAMED]])
    more = " …" if len(flagged) > MOST_NAMED else ""
    return (
        f"{len(flagged)} {verb} faster than the ceiling allows ({named}{more}): "
        f"{data} came from a cache, or the ceiling, the count of the work or the timer is wrong."
    )


def _largest(points: Iterable[Point]) -> str:
    said = []
    for point in points:
        total = sum(o.total_s for o in point.operators)
        ranked: list[Operator] = sorted(point.operators, key=lambda o: -o.total_s)[:MOST_NAMED]
        if total:
            named = listed([f"{o.name} ({percent(o.total_s / total, 0)})" for o in ranked])
            said.append(f"{point.phase} spends most time in {named}")
    return _start("; ".join(said)) + "." if said else ""


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]
