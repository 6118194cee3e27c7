"""Operators of a step under the roofs of its device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from reports.escaping import plotly_text
from reports.figures.style import COLOURS, DASHES, GREY, INK, MUTED, SYMBOLS, Figure, framed, log_axis, spread
from reports.step_records import Operator, Point, Roof
from reports.units import percent, si

WORTH_A_LABEL = 0.05  # minimum share of the time
MOST_LINES = 3  # per label
APART = (1.2, 0.5)  # decades of intensity and of speed at which labels do not touch, also in print
LONGEST = 20  # characters of a name in a label
SIZE = (0.1, 0.14)  # of a label, in shares of the plot; a long one is wider
CHARACTER = 0.006  # width of one in a label, likewise
RADIUS = (0.02, 0.05)  # of the mark of all of the time, likewise
SIDES = {"bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0), "top center": (0, 1)}
SIDES |= {"bottom right": (1, -1)}  # clear of a slope on which the mark itself lies
SAMPLES = 100  # points of a roof that a label may cover


def roofline_figure(point: Point) -> Figure:
    """Operators of a step under the roofs of the device, on logarithmic axes."""
    drawn = [o for o in point.operators if o.drawable]
    x_range, y_range = window(drawn, point.roofs)
    traces = roof_traces(point.roofs, x_range)
    shares = share_of(drawn)
    measured = any(o.measured_s is not None for o in drawn)
    labels = labels_of(drawn, shares)
    sides = sides_of(drawn, labels, shares, (x_range, y_range), traces)
    if measured:
        traces += _cloud(drawn, shares, labels, sides, measured=True)
    traces += _cloud(drawn, shares, {} if measured else labels, sides, measured=False)
    layout = framed(height=500)
    layout["xaxis"] |= log_axis("Arithmetic intensity [FLOP/B]", x_range, "~g")
    layout["yaxis"] |= log_axis("Performance [FLOP/s]", y_range, "~s")
    return {"data": traces, "layout": layout}


def share_of(operators: Iterable[Operator]) -> dict[str, float]:
    """Share of the total time, by name."""
    total = sum(o.total_s for o in operators)
    return {o.name: o.total_s / total if total else 0.0 for o in operators}


def window(
    operators: Sequence[Operator], roofs: Sequence[Roof]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The range of the axes that shows every operator and the ridge, with a margin."""
    peaks = [r.per_s for r in roofs if r.kind != "memory"]
    slopes = [r.per_s for r in roofs if r.kind == "memory"]
    ridges = [max(peaks) / slope for slope in slopes] if peaks else []
    xs = [o.flops / o.bytes for o in operators] + ridges
    predicted = [o.flops / o.predicted_s for o in operators if o.predicted_s and not o.fused]
    ys = [*predicted, *(o.flops / o.measured_s for o in operators if o.measured_s), *peaks]
    return spread(xs, 4.0), spread(ys, 2.5)


def roof_traces(roofs: Sequence[Roof], x_range: tuple[float, float]) -> list[Figure]:
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
    """A roof's bandwidth, and the highest peak of its own origin, else of any."""

    def best(*kinds: str) -> float:
        found = [r for r in roofs if r.kind in kinds]
        own = [r for r in found if r.origin == roof.origin] or found
        return max((r.per_s for r in own), default=0.0)

    return best("memory"), best("matrix", "vector")


def _roof_trace(roof: Roof, xs: tuple[float, float], ys: tuple[float, float]) -> Figure:
    unit = "B/s" if roof.kind == "memory" else "FLOP/s"
    name = f"{roof.label} {si(roof.per_s, unit)}, {roof.origin}"
    middle = math.sqrt(xs[0] * xs[1])  # a third point to hover over
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


def labels_of(operators: Sequence[Operator], shares: dict[str, float]) -> dict[str, str]:
    """Labels by operator name: its own name and those of nearby marks."""
    placed: list[tuple[Operator, list[str]]] = []
    for operator in sorted(operators, key=lambda o: -shares[o.name]):
        if shares[operator.name] < WORTH_A_LABEL:
            break
        near = next((names for other, names in placed if _touch(operator, other)), None)
        if near is None:
            placed.append((operator, near := []))
        near.append(plotly_text(operator.name.removeprefix("layers."), LONGEST))
    return {
        operator.name: "<br>".join(
            names if len(names) <= MOST_LINES else [*names[:2], f"{len(names) - 2} more"]
        )
        for operator, names in placed
    }


def _touch(one: Operator, other: Operator) -> bool:
    """Whether two marks are so close that their labels would overlap."""
    places = ((o.flops / o.bytes, o.flops / o.time_s) for o in (one, other))
    return all(abs(math.log10(a / b)) < apart for a, b, apart in zip(*places, APART, strict=True))


def sides_of(
    operators: Sequence[Operator],
    labels: dict[str, str],
    shares: dict[str, float],
    window: tuple[tuple[float, float], ...],
    roofs: Sequence[Figure],
    character: float = CHARACTER,
) -> dict[str, str]:
    """By labelled operator, the side of its mark on which the label covers the fewest other marks, and roofs.

    A label stays inside the plot if it can. `roofs` are the lines of `roof_traces`, `character` is the width
    of one in shares of the plot.
    """

    def place(operator: Operator, seconds: float) -> list[float]:
        return shares_of((operator.flops / operator.bytes, operator.flops / seconds))

    def shares_of(at: Iterable[float]) -> list[float]:
        """In shares of the plot."""
        return [
            math.log(value / low) / math.log(high / low)
            for value, (low, high) in zip(at, window, strict=True)
        ]

    marks = [
        (place(o, s), [radius * math.sqrt(shares[o.name]) for radius in RADIUS])
        for o in operators
        for s in (o.measured_s, None if o.fused else o.predicted_s)
        if s
    ]

    ends = [[shares_of(point) for point in zip(r["x"], r["y"], strict=True)] for r in roofs]
    lines = [
        [[a + (b - a) * i / SAMPLES for a, b in zip(end[0], end[-1], strict=True)] for i in range(SAMPLES)]
        for end in ends
    ]

    def covered(middle: list[float], box: tuple[float, float], own: list[float]) -> tuple[int, int]:
        outside = not all(size / 2 <= at <= 1 - size / 2 for at, size in zip(middle, box, strict=True))
        hit = (
            all(abs(a - b) < size / 2 + r for a, b, size, r in zip(mark, middle, box, radii, strict=True))
            for mark, radii in marks
            if mark != own
        )
        crossed = (
            any(all(abs(a - b) < size / 2 for a, b, size in zip(at, middle, box, strict=True)) for at in line)
            for line in lines
        )
        return sum(hit) + outside * len(marks), sum(crossed)

    found = {}
    for operator in (o for o in operators if o.name in labels):
        x, y = own = place(operator, operator.time_s)
        longest = max(map(len, labels[operator.name].split("<br>")))
        width, height = max(SIZE[0], character * longest), SIZE[1]
        right, up = width / 2 + RADIUS[0], 0.7 * height  # from the middle of the mark to that of the label
        hidden = {
            side: covered([x + dx * right, y + dy * up], (width, height), own)
            for side, (dx, dy) in SIDES.items()
        }
        found[operator.name] = min(hidden, key=hidden.__getitem__)
    return found


def _cloud(
    operators: Sequence[Operator],
    shares: dict[str, float],
    labels: dict[str, str],
    sides: dict[str, str],
    *,
    measured: bool,
) -> list[Figure]:
    """Operators as markers, a trace per bound: filled at their measured, hollow at their predicted speed."""
    traces = []
    for bound in dict.fromkeys(o.bound for o in operators):
        seconds = [(o, o.measured_s if measured else o.predicted_s) for o in operators if o.bound == bound]
        here = [(o, s) for o, s in seconds if s and (measured or not o.fused)]
        colour = COLOURS.get(bound, GREY)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if labels else "markers",
                "text": [labels.get(o.name, "") for o, _ in here],
                "textposition": [sides.get(o.name, "bottom center") for o, _ in here],
                "textfont": {"size": 10, "color": INK},
                "cliponaxis": False,
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
