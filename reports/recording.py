"""The report on a recording by other tools: time by group, causes of idle time, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from reports.records import Card, Content, Recording, Timeline
from reports.show import COLUMNS, WORTH_SAYING, savings, sentences
from reports.step_records import Operator, Point, Roof
from reports.units import percent, si, text
from reports.wording import APART, listed

MOST_NAMED = 3  # operators and losses named in a summary
WHOLE = 0.01  # maximum share of a row's time without modelled work for a mark under the roofs


def of_recording(
    title: str,
    facts: Iterable[tuple[str, str]],
    shown: Mapping[str, Any],
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    timelines: Sequence[Timeline] = (),
    roofs: Sequence[Roof] = (),
    remarks: Sequence[str] = (),
) -> Content:
    """A report on what `show` says of a recording (its JSON), with its rows by every grouping.

    `roofs` are those of the device, none where it is not known; `remarks` are sentences to add.
    """
    rows = list(groups["operator"])
    modelled = [r for r in rows if r["flops"] and r["bytes"] and r["modelled_share"] >= 1 - WHOLE]
    recording = Recording(
        groups=tuple((by, tuple(found)) for by, found in groups.items()),
        lost=tuple(shown.get("lost", ())),
        losses=tuple((loss["what"], loss["count"], loss["sentence"]) for loss in shown.get("losses", ())),
        unknown=tuple(
            (each["name"], each["time_s"], each["share"]) for each in shown.get("unknown_kernels", ())
        ),
        timelines=tuple(timelines),
        point=_point(modelled if roofs else (), roofs),
        times=_point(rows),
        told=(*sentences(shown), *savings(rows)),
    )
    warnings = [f"{row['name']}: {row['warning']}" for row in rows if row["warning"]]
    return Content(
        title=title,
        facts=tuple(facts),
        points=(),
        fidelity="datasheet",
        reference="",
        cards=tuple(_cards(shown, list(groups["kind"]))),
        sentences=(*_longest(rows), *_first_losses(shown), *remarks, *warnings),
        recording=recording,
        measured=True,
    )


def _point(rows: Sequence[Mapping[str, Any]], roofs: Sequence[Roof] = ()) -> Point:
    several = len({row["phase"] for row in rows}) > 1
    kinds = Counter(name for name, _ in {(row["name"], row["kind"]) for row in rows})
    operators = tuple(_operator(row, kinds[row["name"]] > 1, several) for row in rows)
    return Point("recording", "", 0.0, None, None, operators, tuple(roofs))


def _cards(shown: Mapping[str, Any], kinds: Sequence[Mapping[str, Any]]) -> Iterator[Card]:
    """Duration, utilisation, longest operators, distance from the ceilings, and the largest losses."""
    totals, devices = shown["totals"], shown["devices"]
    if totals["gpu_span_s"]:
        span, several = totals["gpu_span_s"], f"of {len(devices)} devices together" * (len(devices) > 1)
        yield Card("Recorded", si(span, "s"), several or "from the first to the last kernel")
        idle = f"idle {si(totals['gpu_idle_s'], 's')}"
        yield Card("Busy", percent(totals["gpu_busy_s"] / span), idle)
    if kinds:
        first = kinds[0]
        note = f"{si(first['time_s'], 's')}, the most of any kind"
        yield Card(f"In {first['name']}", percent(first["share"]), note)
    if totals.get("attained") is not None:
        share = percent(totals["modelled_share"], 0)
        note = f"of the ceilings, by the {share} of the time that has a model"
        yield Card("Attained", percent(totals["attained"]), note)
    for loss in shown.get("lost", ())[:1]:
        note = f"{loss['what']}: at most {si(loss['time_s'], 's')}"
        yield Card("Largest loss", percent(loss["share"]), note)


def _longest(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The longest operators, and their attained share of the ceilings."""
    known = any(row["attained"] is not None for row in rows)  # else no device is
    named = [
        f"{row['name']} ({percent(row['share'])}{f', {_reach(row)}' if known else ''})"
        for row in rows[:MOST_NAMED]
    ]
    if named:
        yield f"Most time goes to {listed(named)}."


def _reach(row: Mapping[str, Any]) -> str:
    if row["attained"] is None:
        return "no model of its work"
    return f"{row['bound']}-bound, {percent(row['attained'], 0)} of its ceiling"


def _first_losses(shown: Mapping[str, Any]) -> Iterator[str]:
    """The largest losses as sentences."""
    for loss in shown.get("lost", ())[:MOST_NAMED]:
        if loss["share"] >= WORTH_SAYING:
            share, seconds = percent(loss["share"]), si(loss["time_s"], "s")
            lost = f"Time lost, {loss['what']}: at most {seconds}, {share} of all ({loss['why']})."
            yield f"{lost} Would help: {loss['help']}."


def _operator(row: Mapping[str, Any], named_kind: bool, named_phase: bool) -> Operator:
    """A row as a mark under the roofs: work and time of the mean kernel.

    Its kind and phase are part of its name where other rows have the same one.
    """
    count = row["count"]
    whole = row["attained"] and row["modelled_share"] >= 1 - WHOLE
    words = (row["name"], row["kind"] if named_kind else None, row["phase"] if named_phase else None)
    return Operator(
        name=APART.join(filter(None, words)),
        kind=str(row["kind"]),
        count=count,
        flops=(row["flops"] or 0.0) / count,
        bytes=(row["bytes"] or 0.0) / count,
        bound=row["bound"] or "not modelled",
        predicted_s=0.0,
        bound_s=row["time_s"] * row["attained"] / count if whole else None,
        measured_s=row["time_s"] / count,
        attained=row["attained"],
        above_ceiling=bool(row["warning"]),
    )


def cell(row: Mapping[str, Any], key: str) -> str:
    """A value of a row as in the terminal, but for thousands, which the page does not separate."""
    _, shown = COLUMNS[key]
    return (text if key == "count" else shown)(row[key])
