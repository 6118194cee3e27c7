"""A comparison of two runs as text, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from operator import eq

from reports import terminal
from reports.units import percent, seconds, si, text
from reports.wording import short
from roofline.diff import Diff
from roofline.tables import csv_text, plain_records

LEAST_S = 1e-12  # of a change: less is rounding, as no timer reads a picosecond


def _relative(change: float | None) -> str:
    """A change as a percentage, above tenfold as a factor."""
    if change is None:
        return "–"
    if abs(change) < 5e-4:
        return percent(0)
    return f"{1 + change:.3g} times" if change > 9 else ("+" if change > 0 else "") + percent(change)


COLUMNS: terminal.Columns = {
    "phase": ("phase", text),
    "name": ("name", lambda v: short(text(v), 60)),
    "layer": ("layer", lambda v: "–" if v is None or v < 0 else str(v)),
    "count_a": ("count before", text),
    "count_b": ("after", text),
    "time_a_s": ("time before", seconds),
    "time_b_s": ("after", seconds),
    "change_s": ("change", lambda v: "0 s" if abs(v) < LEAST_S else ("+" if v > 0 else "") + si(v, "s")),
    "ratio": ("", _relative),
    "why": ("what else changed", text),
}
SUMS = {key: COLUMNS[key] for key in ("phase", "time_a_s", "time_b_s", "change_s", "ratio")}
MOST_ROWS = 40
WIDTH = 60  # characters of a kernel's or shape's name


def as_text(found: Diff, regressions: Sequence[str], above: float | None, notes: Sequence[str] = ()) -> str:
    """The sums, the largest changes, new and removed kernels, and the verdict."""
    rows = plain_records(found.rows)
    moved = [row for row in rows if abs(row["change_s"]) >= LEAST_S or row["why"]]
    shown = {
        key: value
        for key, value in COLUMNS.items()
        if key not in ("phase", "layer") or len({row[key] for row in rows}) > 1
    }
    whole = {"phase": "all", "time_a_s": found.total_a_s, "time_b_s": found.total_b_s, "ratio": found.ratio}
    whole["change_s"] = found.total_b_s - found.total_a_s
    parts = [terminal.table([*plain_records(found.phases), whole], SUMS, "time before and after")]
    parts.append(
        terminal.table(moved[:MOST_ROWS], shown, "the largest changes") if moved else "nothing changed."
    )
    if len(moved) > MOST_ROWS:
        parts.append(f"{len(moved) - MOST_ROWS} smaller changes; --format json lists all.")
    for row in moved[:MOST_ROWS]:
        for what in ("kernels", "shapes"):
            gone, new = row[f"{what}_gone"], row[f"{what}_new"]
            if gone or new:
                parts.append(f"{row['name']}: {what} {_listed(gone, new)} -> {_listed(new, gone)}")
    return "\n".join([*parts, *notes, *_verdict(regressions, above)]) + "\n"


def as_csv(found: Diff) -> str:
    """Every row."""
    return csv_text(plain_records(found.rows), list(found.rows))


def as_json(found: Diff, regressions: Sequence[str], above: float | None, notes: Sequence[str] = ()) -> str:
    """Every row, in the documented schema."""
    return json.dumps(
        {
            "schema": 1,
            "totals": {
                "time_a_s": found.total_a_s,
                "time_b_s": found.total_b_s,
                "change_s": found.total_b_s - found.total_a_s,
                "ratio": found.ratio,
            },
            "fail_above": above,
            "regressions": list(regressions),
            "notes": list(notes),
            "phases": plain_records(found.phases),
            "rows": plain_records(found.rows),
        },
        indent=1,
        allow_nan=False,
    )


def _verdict(regressions: Sequence[str], above: float | None) -> list[str]:
    if above is None:
        return []
    limit = f"more than {percent(above)} slower"
    return [f"REGRESSION, {limit}: {'; '.join(regressions)}" if regressions else f"nothing is {limit}."]


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    shown = ", ".join(_short(name, others) for name in names[:3])
    return (shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


def _short(name: str, others: Sequence[str]) -> str:
    """A name cut to its beginning; to where it differs from the others', if one of these begins so, too."""
    begin = short(name, WIDTH)
    if begin == name or begin not in (short(other, WIDTH) for other in others):
        return begin
    same = max(sum(takewhile(bool, map(eq, name, other))) for other in others)
    return short("…" + name[same - WIDTH // 3 :], WIDTH)
