"""A report as one HTML file that loads nothing: styles, scripts and data stand inside it.

Names in it come from files that anyone may have written. The template escapes every value, figure text
is escaped for plotly, data is JSON that cannot leave its element, and the page's policy runs only the
scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.escaping import json_for_script, visible
from reports.figures import (
    DARK,
    Figure,
    accuracy_figure,
    accuracy_span,
    roofline_figure,
    time_figure,
    timeline_figure,
)
from reports.recording import cell
from reports.records import Content
from reports.show import COLUMNS, MOST_ROWS
from reports.units import percent, si
from reports.wording import plain, rate, signed

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
SCRIPTS = ("plotly-basic.min.js", "report.js")
MOST_KERNELS = 15  # without an operator


def render(*contents: Content) -> str:
    """One page for one or several reports."""
    scripts = {name: _asset(name) for name in SCRIPTS}
    figures = {
        key: figure for i, content in enumerate(contents) for key, figure in _figures(content, i).items()
    }
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            contents=contents,
            title=" · ".join(content.title for content in contents) or "Empty report",
            policy=_policy(scripts.values()),
            style=_markup(_asset("report.css")),
            scripts=[_markup(script) for script in scripts.values()],
            figures=figures,
            payload=_markup(json_for_script({"figures": figures, "dark": DARK})),
            most_kernels=MOST_KERNELS,
            most_rows=MOST_ROWS,
            recorded_columns=_recorded_columns,
            cell=cell,
        )
    )


def _figures(content: Content, index: int) -> dict[str, Figure]:
    """Every figure of a report under the id of its place on the page."""
    found: dict[str, Figure] = {}
    for number, point in enumerate(content.points):
        if any(o.drawable for o in point.operators):
            found[f"r{index}-roofline-{number}"] = roofline_figure(point)
        if point.operators or point.measured_strays:
            found[f"r{index}-time-{number}"] = time_figure(point)
    if content.recording is not None:
        recording = content.recording
        if any(o.drawable for o in recording.point.operators):
            found[f"r{index}-recorded"] = roofline_figure(recording.point)
        if recording.times.operators:
            found[f"r{index}-recorded-time"] = time_figure(recording.times, "Recorded time")
        for number, timeline in enumerate(recording.timelines):
            found[f"r{index}-timeline-{number}"] = timeline_figure(timeline)
    span = accuracy_span(content.comparisons)
    for comparison in content.comparisons:
        if comparison.pairs:
            found[f"r{index}-accuracy-{comparison.fidelity}"] = accuracy_figure(comparison, span)
    return found


def _recorded_columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Keys and headings of columns with a value in any row."""
    keys = [(key, label) for key, (label, _) in COLUMNS.items() if key != "name"]
    return [(key, label) for key, label in keys if any(row[key] is not None for row in rows[:MOST_ROWS])]


def _policy(scripts: Any) -> str:
    """Content security policy: these scripts and no others, no requests at all.

    plotly sets style attributes and saves pictures through blobs.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    """A file of the package, with single line feeds, as browsers hash scripts."""
    return (HERE / "assets" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"si": si, "percent": percent, "signed": signed}
    environment.filters |= {"rate": _rate, "plain": plain, "breakable": _breakable, "tight": _tight}
    return environment


def _shown(value: Any) -> Any:
    """Filter for all template values before escaping."""
    return visible(value) if type(value) is str else value


def _rate(value: float | None) -> str:
    return "–" if value is None else rate(value)


def _tight(text: str) -> Any:
    """Prose with non-breaking spaces between numbers and units; what stands in backticks is code."""
    from markupsafe import escape

    spaced = re.sub(r"(?<=\d) (?=%|[kMGTPmµn]?(?:s|B|FLOP)\b)", "\u00a0", visible(text))
    return _markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(spaced))))


def _breakable(name: str) -> Any:
    """A name that may go on in the next line after a dot; one without dots after `::` and underscores."""
    parts = re.split(r"(?<=\.)(?=.)" if "." in name else r"(?<=::)|(?<=_)(?=[^_])", visible(name))
    return _markup("<wbr>").join(parts)


def _markup(text: str) -> Any:
    """Text of ours that is markup already."""
    from markupsafe import Markup

    return Markup(text)
