"""Samples over the time of a recording."""

from __future__ import annotations

from reports.escaping import plotly_text
from reports.figures.style import COLOURS, Figure, framed
from reports.records import Timeline


def timeline_figure(timeline: Timeline) -> Figure:
    """Each curve as steps: a sample holds until the next."""
    layout = framed(height=260)
    layout["xaxis"] |= {"title": {"text": "time", "standoff": 8}, "tickformat": "~s", "ticksuffix": "s"}
    title = {"text": plotly_text(timeline.axis), "standoff": 8}
    layout["yaxis"] |= {"title": title, "rangemode": "tozero", "tickformat": "~s"}
    colours = list(COLOURS.values())
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(times),
            "y": list(values),
            "name": plotly_text(name),
            "line": {"shape": "hv", "width": 1.5, "color": colours[at % len(colours)]},
        }
        for at, (name, times, values) in enumerate(timeline.curves)
    ]
    return {"data": data, "layout": layout}
