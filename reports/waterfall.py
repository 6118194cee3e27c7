"""The terms of a time as a waterfall for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, seconds, si, text

if TYPE_CHECKING:
    from roofline.explain import Explained

WIDTH = 30  # characters of the whole time
TERMS: terminal.Columns = {
    "name": ("term", text),
    "seconds": ("time", seconds),
    "share": ("share", percent),
    "bar": ("", text),
    "why": ("why", text),
}


def as_text(found: Sequence[Explained], measured_s: Sequence[float | None] = ()) -> str:
    """Per phase the terms in order, each bar beginning where the one before ends; then what was measured."""
    parts = []
    for one, measured in zip_longest(found, measured_s):
        rows: list[dict[str, Any]] = []
        before, whole = (
            0.0,
            max(accumulate(term.seconds for term in one.terms)),
        )  # a last term may be negative
        for term in one.terms:
            begin, end = sorted(round(WIDTH * s / whole) for s in (before, before + term.seconds))
            bar = " " * begin + "#" * (end - begin) + " " * (WIDTH - end)
            share = term.seconds / one.time_s
            rows.append(
                {"name": term.name, "seconds": term.seconds, "share": share, "bar": bar, "why": term.why}
            )
            before += term.seconds
        where = f" in {one.phase}, {one.context} positions seen" if one.phase else ""
        whose = f", constants of {one.whose}" if one.whose else ""
        title = f"{one.operator}{where}: {si(one.time_s, 's')} ({one.provenance}{whose})"
        parts.append(terminal.table(rows, TERMS, title) + _beside(measured, one.time_s))
    return "\n".join(parts)


def _beside(measured_s: float | None, terms_s: float) -> str:
    """What a measured time leaves unexplained; nothing without one."""
    if measured_s is None:
        return ""
    apart = f"{seconds(abs(measured_s - terms_s))} {'more' if measured_s > terms_s else 'less'}"
    return (
        f"measured {seconds(measured_s)}: {apart} than these terms, {measured_s / terms_s:.2f} times them\n"
    )
