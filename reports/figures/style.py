"""What all figures share: colours, shapes, axes, room around points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reports import wording
from reports.escaping import plotly_text
from reports.wording import APART

Figure = dict[str, Any]

# By bound the colour and the mark, in plotly's and in matplotlib's words. The colours are Okabe and Ito's,
# distinguishable with all common kinds of colour blindness.
LOOKS = {
    "compute": ("#0072B2", "circle", "o"),
    "memory": ("#E69F00", "square", "s"),
    "communication": ("#009E73", "diamond", "D"),
    "launch": ("#CC79A7", "triangle-up", "^"),
    "fused": ("#8A939C", "x", "x"),
}
COLOURS, SYMBOLS, MARKERS = ({bound: look[i] for bound, look in LOOKS.items()} for i in range(3))
INK, MUTED, GRID, GREY, CLEAR = "#1C2128", "#57606A", "#E1E6EB", "#8A939C", "rgba(0,0,0,0)"
DARK = {
    INK: "#E3E8EE",
    MUTED: "#9AA4AF",
    GRID: "#2B333C",
    GREY: "#77818B",
    "#0072B2": "#3D9BDC",
}  # light -> dark
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LABEL, LEAST_NAME = 32, 12  # characters of an axis label, and of the name in it
DASHES = {"data sheet": "solid", "measured": "dash"}


def spread(values: Sequence[float], air: float) -> tuple[float, float]:
    """Limits of a logarithmic axis: the positive values with a factor of `air` around them."""
    known = [v for v in values if v > 0]
    return (min(known) / air, max(known) * air) if known else (0.1, 1000.0)


def short(name: str) -> str:
    """A name shortened for an axis, before the kind and phase behind it; the hover box shows it in full."""
    name, apart, behind = name.removeprefix("layers.").partition(APART)
    room = max(LABEL - len(apart + behind), LEAST_NAME)
    return plotly_text(wording.short(name, room) + apart + behind, LABEL)


def framed(height: int) -> Figure:
    """The layout that all figures begin with; `height` in pixels."""
    axis = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zerolinecolor": GRID,
        "tickcolor": GRID,
        "ticks": "outside",
    }
    return {
        "height": height,
        "autosize": True,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 12, "color": INK},
        "margin": {"l": 60, "r": 12, "t": 8, "b": 48},
        "hovermode": "closest",
        "showlegend": True,
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
        "legend": {
            "orientation": "h",
            "y": 1,
            "yanchor": "bottom",
            "x": 0,
            "font": {"size": 11, "color": INK},
        },
        "xaxis": {**axis},
        "yaxis": {**axis, "automargin": True},
    }


def log_axis(title: str, span: tuple[float, float], tickformat: str) -> Figure:
    """A logarithmic axis over `span`, a tick per decade."""
    low, high = (math.log10(edge) for edge in span)
    return {
        "type": "log",
        "title": {"text": title, "standoff": 8},
        "range": [low, high],
        "tickformat": tickformat,
        "dtick": 1,
    }
