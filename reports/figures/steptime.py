"""Where the time of a step goes, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

from reports.escaping import plotly_text
from reports.figures.style import CLEAR, COLOURS, GREY, INK, MUTED, Figure, framed, short
from reports.step_records import Operator, Point
from reports.units import percent, si
from reports.wording import signed

MOST_BARS = 40
ROOM = 1.09  # of the longest bar: the time behind it needs a place


def time_figure(point: Point, axis: str = "Time per step") -> Figure:
    """Where a step's time goes: measured beside predicted, the ceiling as a tick, and what is left over."""
    ranked = sorted(point.operators, key=lambda o: -max(o.total_s, o.count * o.predicted_s))
    bars = [o for o in ranked if o.total_s or o.predicted_s][:MOST_BARS]
    rest = _leftovers(point, ranked[MOST_BARS:])
    rows = len(bars) + len(rest)
    traces = []
    if point.measured:
        traces += _bars_by_bound(bars, predicted=False)
        traces += [_plain_bars(rest, len(bars))] if rest else []
        traces += [_predicted_outline(bars)] if any(o.predicted_s for o in bars) else []
        traces += [_ceiling_ticks(bars)] if any(o.bound_s is not None for o in bars) else []
    else:
        traces += _bars_by_bound(bars, predicted=True)
    labels = [short(o.name) for o in bars] + [label for label, _ in rest]
    layout = framed(height=110 + 30 * max(rows, 3))
    layout["barmode"] = "group"
    layout["bargap"] = 0.3
    drawn = [s for o in bars for s in (o.total_s, o.count * o.predicted_s, o.count * (o.bound_s or 0.0))]
    longest = max([*drawn, *(seconds for _, seconds in rest)], default=0.0)
    layout["xaxis"] |= {"title": {"text": axis}, "range": [0, ROOM * longest or 1]}
    layout["xaxis"] |= {"tickformat": "~s", "ticksuffix": "s"}
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
    """Bars without a predicted operator."""
    bars = [(short(s.name), s.seconds or 0.0) for s in point.measured_strays[:MOST_BARS]]
    if unshown:
        bars.append((f"{len(unshown)} more operators", sum(o.total_s for o in unshown)))
    if point.remainder_s is not None and point.remainder_s > 0:
        bars.append(("unattributed", point.remainder_s))
    return bars


def _bars_by_bound(operators: Sequence[Operator], *, predicted: bool) -> list[Figure]:
    traces = []
    places = list(enumerate(operators))
    for bound in dict.fromkeys(o.bound for o in operators):
        here = [(i, o) for i, o in places if o.bound == bound]
        colour = COLOURS.get(bound, GREY)
        side = "predicted" if predicted else "measured"
        traces.append(
            _bars([i for i, _ in here], [o.total_s for _, o in here], [_bar_hover(o) for _, o in here])
            | _ends([o.total_s for _, o in here])
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
        [f"<b>{label}</b><br>measured {si(seconds, 's')}" for label, seconds in rest],
    )
    bars |= _ends([seconds for _, seconds in rest])
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
        "hovertext": [f"at the ceiling {si(seconds, 's')}" for _, seconds in known],
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


def _ends(seconds: Sequence[float]) -> Figure:
    """The times of bars, behind their ends."""
    return {"text": [si(s, "s") for s in seconds], "textposition": "outside", "cliponaxis": False}


def _bar_hover(operator: Operator) -> str:
    lines = [f"<b>{plotly_text(operator.name)}</b> × {operator.count:g}"]
    if operator.measured_s is not None:
        lines.append(f"measured {si(operator.total_s, 's')}")
    if operator.predicted_s or operator.measured_s is None:
        lines.append(f"predicted {si(operator.count * operator.predicted_s, 's')}")
    if operator.error is not None:
        lines.append(f"error {signed(operator.error)}")
    if operator.attained is not None:
        lines.append(f"{percent(operator.attained)} of its ceiling")
    return "<br>".join([*lines, f"bound: {plotly_text(operator.bound)}"])
