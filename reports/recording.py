"""What a report says of a recording by other tools: where time went, why devices waited, what was sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports.records import Content, Recording, Timeline
from reports.show import savings, sentences
from reports.step_records import Operator, Point, Roof
from reports.units import percent, si

WHOLE = 0.01  # of a row's time may lack a model, and its place under the roofs still says something


def of_recording(
    title: str,
    facts: Iterable[tuple[str, str]],
    shown: Mapping[str, Any],
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    timelines: Sequence[Timeline] = (),
    roofs: Sequence[Roof] = (),
    causes: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> Content:
    """A report on what `show` says of a recording (its JSON), with its rows by every grouping.

    `roofs` are those of the device, none where it is not known; `causes` says what causes of idle time mean;
    `remarks` are sentences to add.
    """
    meaning = causes or {}
    rows = list(groups["operator"])
    whole = sum(shown["idle"].values())
    idle = [(cause, s, s / whole, meaning.get(cause, "")) for cause, s in shown["idle"].items() if s > 0]
    recording = Recording(
        groups=tuple((by, tuple(found)) for by, found in groups.items()),
        idle=tuple(sorted(idle, key=lambda each: -each[1])),
        losses=tuple((loss["what"], loss["count"], loss["sentence"]) for loss in shown["losses"]),
        unknown=tuple((each["name"], each["time_s"], each["share"]) for each in shown["unknown_kernels"]),
        timelines=tuple(timelines),
        point=Point(
            "recording",
            "",
            0.0,
            None,
            None,
            tuple(map(_operator, _modelled(rows) if roofs else ())),
            tuple(roofs),
        ),
    )
    return Content(
        title=title,
        facts=tuple(facts),
        points=(),
        fidelity="datasheet",
        reference="",
        cards=(),
        sentences=(*sentences(shown), *savings(rows), *_warnings(rows), *remarks),
        recording=recording,
        measured=True,
    )


def _modelled(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["flops"] and row["bytes"] and row["modelled_share"] >= 1 - WHOLE]


def _operator(row: Mapping[str, Any]) -> Operator:
    """A row as a mark under the roofs: work and time of the mean kernel."""
    count, phase = row["count"], f" · {row['phase']}" if row["phase"] else ""
    bound_s = row["time_s"] * row["attained"] / count if row["attained"] else None
    return Operator(
        name=f"{row['name']} · {row['kind']}{phase}",
        kind=str(row["kind"]),
        count=count,
        flops=row["flops"] / count,
        bytes=row["bytes"] / count,
        bound=str(row["bound"]),
        predicted_s=0.0,
        bound_s=bound_s,
        measured_s=row["time_s"] / count,
        attained=row["attained"],
        above_ceiling=bool(row["warning"]),
    )


def _warnings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{row['name']}: {row['warning']}" for row in rows if row["warning"]]


def cell(row: Mapping[str, Any], key: str) -> str:
    """A value of a row as it is read."""
    value = row[key]
    if value is None:
        return "–"
    units = {"time_s": "s", "saving_s": "s", "flops": "FLOP", "bytes": "B"}
    if key in units:
        return si(value, units[key])
    if key in ("share", "attained"):
        return percent(value)
    return f"{value:.2f}" if key == "waves" else str(value)
