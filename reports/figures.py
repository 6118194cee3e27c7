"""Figures from records: plotly's JSON as plain dictionaries for the page, matplotlib axes for notebooks.

One grammar in all of them: filled is measured, hollow is predicted; colour and shape say what bounds
an operator. Nothing is computed here but the place on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reports.escaping import plotly_text, visible
from reports.records import Comparison, Operator, Pair, Point, Roof
from reports.units import percent, si
from reports.wording import signed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Figure = dict[str, Any]

# Okabe-Ito: told apart by people with any of the common kinds of colour blindness.
COLOURS = {
    "compute": "#0072B2",
    "memory": "#E69F00",
    "communication": "#009E73",
    "launch": "#CC79A7",
    "fused": "#8A939C",
}
SYMBOLS = {
    "compute": "circle",
    "memory": "square",
    "communication": "diamond",
    "launch": "triangle-up",
    "fused": "x",
}
MARKERS = {
    "compute": "o",
    "memory": "s",
    "communication": "D",
    "launch": "^",
    "fused": "x",
}  # matplotlib's names
INK, MUTED, GRID, GREY, CLEAR = "#1C2128", "#57606A", "#E1E6EB", "#8A939C", "rgba(0,0,0,0)"
DARK = {
    INK: "#E3E8EE",
    MUTED: "#9AA4AF",
    GRID: "#2B333C",
    GREY: "#77818B",
    "#0072B2": "#3D9BDC",
}  # light -> dark
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MOST_BARS = 40
DASHES = {"data sheet": "solid", "measured": "dash"}


def roofline_figure(point: Point) -> Figure:
    """Operators of a step under the roofs of the device, on logarithmic axes."""
    drawn = [o for o in point.operators if o.drawable]
    x_range, y_range = _window(drawn, point.roofs)
    traces = _roof_traces(point.roofs, x_range)
    shares = _share_of(drawn)
    if any(o.measured_s is not None for o in drawn):
        traces += _cloud(drawn, shares, measured=True)
    traces += _cloud(drawn, shares, measured=False)
    layout = _layout(height=500)
    layout["xaxis"] |= _log_axis("Arithmetic intensity [FLOP/B]", x_range, "~g")
    layout["yaxis"] |= _log_axis("Performance [FLOP/s]", y_range, "~s")
    return {"data": traces, "layout": layout}


def _share_of(operators: Iterable[Operator]) -> dict[str, float]:
    total = sum(o.total_s for o in operators)
    return {o.name: o.total_s / total if total else 0.0 for o in operators}


def _window(
    operators: Sequence[Operator], roofs: Sequence[Roof]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of the plane that holds every operator and the ridge, with some air around."""
    peaks = [r.per_s for r in roofs if r.kind != "memory"]
    slopes = [r.per_s for r in roofs if r.kind == "memory"]
    ridges = [max(peaks) / slope for slope in slopes] if peaks else []
    xs = [o.flops / o.bytes for o in operators] + ridges
    predicted = [o.flops / o.predicted_s for o in operators if o.predicted_s and not o.fused]
    ys = [*predicted, *(o.flops / o.measured_s for o in operators if o.measured_s), *peaks]
    return _spread(xs, 4.0), _spread(ys, 2.5)


def _spread(values: Sequence[float], air: float) -> tuple[float, float]:
    known = [v for v in values if v > 0]
    return (min(known) / air, max(known) * air) if known else (0.1, 1000.0)


def _roof_traces(roofs: Sequence[Roof], x_range: tuple[float, float]) -> list[Figure]:
    """Slopes up to the highest peak of their origin, peaks from their ridge to the right edge."""
    traces = []
    for roof in roofs:
        slope, peak = _partners(roof, roofs)
        if roof.kind == "memory":
            xs = (x_range[0], peak / roof.per_s if peak else x_range[1])
            ys = (xs[0] * roof.per_s, xs[1] * roof.per_s)
        else:
            xs, ys = (roof.per_s / slope if slope else x_range[0], x_range[1]), (roof.per_s, roof.per_s)
        traces.append(_roof_trace(roof, xs, ys))
    return traces


def _partners(roof: Roof, roofs: Sequence[Roof]) -> tuple[float, float]:
    """The bandwidth and the highest peak that a roof meets: of its own origin, else of any."""

    def best(*kinds: str) -> float:
        found = [r for r in roofs if r.kind in kinds]
        own = [r for r in found if r.origin == roof.origin] or found
        return max((r.per_s for r in own), default=0.0)

    return best("memory"), best("matrix", "vector")


def _roof_trace(roof: Roof, xs: tuple[float, float], ys: tuple[float, float]) -> Figure:
    unit = "B/s" if roof.kind == "memory" else "FLOP/s"
    name = f"{roof.label} {si(roof.per_s, unit)}, {roof.origin}"
    middle = math.sqrt(xs[0] * xs[1])  # a third point, so that the line can be hovered over
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [xs[0], middle, xs[1]],
        "y": [ys[0], math.sqrt(ys[0] * ys[1]), ys[1]],
        "name": plotly_text(name),
        "hoverinfo": "text",
        "hovertext": plotly_text(name),
        "line": {"color": MUTED if roof.kind == "vector" else INK, "width": 1.5, "dash": DASHES[roof.origin]},
        "legendgroup": "roofs",
    }


def _cloud(operators: Sequence[Operator], shares: dict[str, float], *, measured: bool) -> list[Figure]:
    """Operators as markers, a trace per bound: filled at their measured, hollow at their predicted speed."""
    traces = []
    for bound in dict.fromkeys(o.bound for o in operators):
        seconds = [(o, o.measured_s if measured else o.predicted_s) for o in operators if o.bound == bound]
        here = [(o, s) for o, s in seconds if s and (measured or not o.fused)]
        colour = COLOURS.get(bound, GREY)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [o.intensity for o, _ in here],
                "y": [o.flops / s for o, s in here],
                "name": plotly_text(f"{'measured' if measured else 'predicted'}, bound: {bound}"),
                "hoverinfo": "text",
                "hovertext": [_hover(o, shares[o.name], measured) for o, _ in here],
                "legendgroup": "operators",
                "marker": {
                    "size": [8 + 26 * math.sqrt(shares[o.name]) for o, _ in here],
                    "symbol": SYMBOLS.get(bound, "circle") + ("" if measured else "-open"),
                    "color": colour,
                    "opacity": 0.7 if measured else 1.0,
                    "line": {"color": colour, "width": 1 if measured else 1.5},
                },
            }
        )
    return [trace for trace in traces if trace["x"]]


def _hover(operator: Operator, share: float, measured: bool) -> str:
    seconds = operator.measured_s if measured else operator.predicted_s
    each = "" if operator.count == 1 else f" × {operator.count:g}"
    lines = [
        f"<b>{plotly_text(operator.name)}</b>",
        f"{'measured' if measured else 'predicted'} {si(seconds, 's')}{each}, {percent(share)} of the time",
        f"{si(operator.flops, 'FLOP')}, {si(operator.bytes, 'B')}: {operator.intensity or 0:.3g} FLOP/B",
        f"bound: {plotly_text(operator.bound)}",
    ]
    if seconds:
        lines.insert(3, f"{si(operator.flops / seconds, 'FLOP/s')}, {si(operator.bytes / seconds, 'B/s')}")
    if measured and operator.attained is not None:
        lines.insert(4, f"{percent(operator.attained)} of its ceiling")
    return "<br>".join(lines)


def time_figure(point: Point) -> Figure:
    """Where a step's time goes: measured beside predicted, the ceiling as a tick, and what is left over."""
    ranked = sorted(point.operators, key=lambda o: -max(o.total_s, o.count * o.predicted_s))
    bars = [o for o in ranked if o.total_s or o.predicted_s][:MOST_BARS]
    rest = _leftovers(point, ranked[MOST_BARS:])
    rows = len(bars) + len(rest)
    traces = []
    if point.measured:
        traces += _bars_by_bound(bars, predicted=False)
        traces += [_plain_bars(rest, len(bars))] if rest else []
        traces.append(_predicted_outline(bars))
        traces.append(_ceiling_ticks(bars))
    else:
        traces += _bars_by_bound(bars, predicted=True)
    labels = [_short(o.name) for o in bars] + [label for label, _ in rest]
    layout = _layout(height=110 + 30 * max(rows, 3))
    layout["barmode"] = "group"
    layout["bargap"] = 0.3
    layout["xaxis"] |= {"title": {"text": "Time per step [s]"}, "rangemode": "tozero", "tickformat": "~s"}
    layout["yaxis"] |= {
        "tickmode": "array",
        "tickvals": list(range(rows)),
        "ticktext": labels,
        "range": [rows - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
        "tickfont": {"size": 11},
    }
    return {"data": traces, "layout": layout}


def _leftovers(point: Point, unshown: Sequence[Operator]) -> list[tuple[str, float]]:
    """Bars that no predicted operator owns."""
    bars = [(_short(s.name), s.seconds or 0.0) for s in point.measured_strays[:MOST_BARS]]
    if unshown:
        bars.append((f"{len(unshown)} more operators", sum(o.total_s for o in unshown)))
    if point.remainder_s is not None and point.remainder_s > 0:
        bars.append(("unattributed", point.remainder_s))
    return bars


def _short(name: str) -> str:
    """A name that fits beside an axis; the hover box has it whole."""
    return plotly_text(name.removeprefix("layers."), 32)


def _bars_by_bound(operators: Sequence[Operator], *, predicted: bool) -> list[Figure]:
    traces = []
    places = list(enumerate(operators))
    for bound in dict.fromkeys(o.bound for o in operators):
        here = [(i, o) for i, o in places if o.bound == bound]
        colour = COLOURS.get(bound, GREY)
        side = "predicted" if predicted else "measured"
        traces.append(
            _bars([i for i, _ in here], [o.total_s for _, o in here], [_bar_hover(o) for _, o in here])
            | {
                "name": plotly_text(f"{side}, bound: {bound}"),
                "offsetgroup": side,
                "marker": {
                    "color": CLEAR if predicted else colour,
                    "line": {"color": colour, "width": 2 if predicted else 0},
                },
            }
        )
    return traces


def _predicted_outline(operators: Sequence[Operator]) -> Figure:
    seconds = [o.count * o.predicted_s for o in operators]
    bars = _bars(list(range(len(operators))), seconds, [_bar_hover(o) for o in operators])
    look = {"color": CLEAR, "line": {"color": MUTED, "width": 1.5}}
    return bars | {"name": "predicted", "offsetgroup": "predicted", "marker": look}


def _plain_bars(rest: Sequence[tuple[str, float]], first: int) -> Figure:
    bars = _bars(
        list(range(first, first + len(rest))),
        [seconds for _, seconds in rest],
        [f"<b>{label}</b><br>measured {si(seconds, 's')} per step" for label, seconds in rest],
    )
    return bars | {"name": "no prediction", "offsetgroup": "measured", "marker": {"color": GREY}}


def _ceiling_ticks(operators: Sequence[Operator]) -> Figure:
    known = [(i, o.count * o.bound_s) for i, o in enumerate(operators) if o.bound_s is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [seconds for _, seconds in known],
        "y": [i for i, _ in known],
        "name": "at the ceiling",
        "hoverinfo": "text",
        "hovertext": [f"at the ceiling {si(seconds, 's')} per step" for _, seconds in known],
        "marker": {"symbol": "line-ns-open", "size": 22, "color": INK, "line": {"color": INK, "width": 2}},
    }


def _bars(places: list[int], seconds: list[float], hover: list[str]) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "x": seconds,
        "y": places,
        "hoverinfo": "text",
        "hovertext": hover,
        "textposition": "none",
    }


def _bar_hover(operator: Operator) -> str:
    lines = [f"<b>{plotly_text(operator.name)}</b> × {operator.count:g}"]
    if operator.measured_s is not None:
        lines.append(f"measured {si(operator.total_s, 's')} per step")
    lines.append(f"predicted {si(operator.count * operator.predicted_s, 's')} per step")
    if operator.error is not None:
        lines.append(f"error {signed(operator.error)}, {percent(operator.attained)} of its ceiling")
    return "<br>".join([*lines, f"bound: {plotly_text(operator.bound)}"])


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
    layout = _layout(height=360)
    layout["xaxis"] |= _log_axis("Measured [s]", span, "~s")
    layout["yaxis"] |= _log_axis("Predicted [s]", span, "~s")
    return {"data": traces, "layout": layout}


def accuracy_span(comparisons: Iterable[Comparison]) -> tuple[float, float]:
    """One range for all fidelities, so that their scatter can be compared by eye."""
    return _spread([s for c in comparisons for p in c.pairs for s in (p.predicted_s, p.measured_s)], 1.6)


def _pair_hover(pair: Pair) -> str:
    return "<br>".join(
        (
            f"<b>{plotly_text(pair.name)}</b>",
            plotly_text(f"{pair.phase}, {pair.sizes}"),
            f"measured {si(pair.measured_s, 's')}, predicted {si(pair.predicted_s, 's')} "
            f"({signed(pair.predicted_s / pair.measured_s - 1)})",
        )
    )


def _layout(height: int) -> Figure:
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


def _log_axis(title: str, span: tuple[float, float], tickformat: str) -> Figure:
    low, high = (math.log10(edge) for edge in span)
    return {
        "type": "log",
        "title": {"text": title, "standoff": 8},
        "range": [low, high],
        "tickformat": tickformat,
        "dtick": 1,
    }


def plot_roofline(ax: Axes, table: pd.DataFrame, roofs: Sequence[Roof]) -> Axes:
    """Operators (columns of `records.operator_table`) under the roofs: filled measured, hollow predicted."""
    drawn = table[(table["flops"] > 0) & (table["bytes"] > 0)]
    ridges = [r.per_s / s.per_s for r in roofs for s in roofs if s.kind == "memory" != r.kind]
    for trace in _roof_traces(roofs, _spread([*drawn["intensity"], *ridges], 4.0)):
        style = {"solid": "-", "dash": "--"}[trace["line"]["dash"]]
        ax.plot(trace["x"], trace["y"], style, color=trace["line"]["color"], lw=1.2, label=trace["name"])
    for bound, rows in drawn.groupby("bound", sort=False):
        colour, marker = COLOURS.get(str(bound), GREY), MARKERS.get(str(bound), "o")
        for column, fill in (("predicted_s", "none"), ("measured_s", colour)):
            timed = rows[(rows[column] > 0) & ((column == "measured_s") | ~rows["fused"].astype(bool))]
            speed = timed["flops"] / timed[column]
            ax.scatter(timed["intensity"], speed, marker=marker, facecolors=fill, edgecolors=colour)
    ax.set(xscale="log", yscale="log", xlabel="arithmetic intensity [FLOP/B]", ylabel="performance [FLOP/s]")
    if roofs:
        ax.legend(fontsize="small")
    return ax


def plot_time(ax: Axes, table: pd.DataFrame) -> Axes:
    """Time per step by operator (columns of `records.operator_table`): measured beside predicted."""
    rows = table.sort_values("total_s", ascending=False)
    places = range(len(rows))
    predicted = rows["count"] * rows["predicted_s"]
    if rows["measured_s"].notna().any():
        ax.barh([p - 0.2 for p in places], rows["total_s"], 0.4, label="measured", color=COLOURS["compute"])
    ax.barh([p + 0.2 for p in places], predicted, 0.4, label="predicted", color="none", edgecolor=MUTED)
    # A dollar sign would start a formula.
    names = [visible(str(name)).removeprefix("layers.").replace("$", r"\$") for name in rows["name"]]
    ax.set_yticks(list(places), names)
    ax.invert_yaxis()
    ax.set_xlabel("time per step [s]")
    ax.legend()
    return ax
