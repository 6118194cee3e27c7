"""Predicted against measured times."""

from __future__ import annotations

from collections.abc import Iterable

from reports.escaping import plotly_text
from reports.figures.style import COLOURS, GREY, MUTED, SYMBOLS, Figure, framed, log_axis, spread
from reports.records import Comparison, Pair
from reports.units import si
from reports.wording import signed


def accuracy_figure(comparison: Comparison, span: tuple[float, float]) -> Figure:
    """Predicted against measured time of every operator; on the line they are equal."""
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    identity = {
        "type": "scatter",
        "mode": "lines",
        "x": list(span),
        "y": list(span),
        "line": line,
        "name": "equal",
    }
    traces: list[Figure] = [identity | {"hoverinfo": "skip"}]
    for bound in dict.fromkeys(pair.bound for pair in comparison.pairs):
        here = [pair for pair in comparison.pairs if pair.bound == bound]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [pair.measured_s for pair in here],
                "y": [pair.predicted_s for pair in here],
                "name": plotly_text(bound),
                "hoverinfo": "text",
                "hovertext": [_pair_hover(pair) for pair in here],
                "marker": {
                    "symbol": SYMBOLS.get(bound, "circle"),
                    "size": 8,
                    "color": COLOURS.get(bound, GREY),
                    "opacity": 0.75,
                },
            }
        )
    layout = framed(height=360)
    layout["xaxis"] |= log_axis("Measured [s]", span, "~s")
    layout["yaxis"] |= log_axis("Predicted [s]", span, "~s")
    return {"data": traces, "layout": layout}


def accuracy_span(comparisons: Iterable[Comparison]) -> tuple[float, float]:
    """One range for all fidelities, so that their scatter can be compared by eye."""
    return spread([s for c in comparisons for p in c.pairs for s in (p.predicted_s, p.measured_s)], 1.6)


def _pair_hover(pair: Pair) -> str:
    return "<br>".join(
        (
            f"<b>{plotly_text(pair.name)}</b>",
            plotly_text(f"{pair.phase}, {pair.sizes}"),
            f"measured {si(pair.measured_s, 's')}, predicted {si(pair.predicted_s, 's')} "
            f"({signed(pair.predicted_s / pair.measured_s - 1)})",
        )
    )
