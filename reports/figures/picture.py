"""Roofline and time by operator on matplotlib axes, and a report's first steps as one picture of both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.escaping import visible
from reports.figures.roofline import labels_of, roof_traces, share_of, sides_of, window
from reports.figures.style import COLOURS, GREY, GRID, INK, MARKERS, MUTED
from reports.step_records import Operator, Point
from reports.units import percent, si
from specfiles.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from reports.records import Content

MOST_STEPS = 2
MOST_BARS = 10
WORTH_A_BAR = 0.005  # minimum share of the time
WIDTH, HEIGHT = 11.0, 3.5  # inches, of each step
BESIDE = {  # the offset [points] and the alignment of a label at each side of its mark
    "bottom center": ((0, -12), "center", "top"),
    "top center": ((0, 12), "center", "bottom"),
    "middle right": ((13, 0), "left", "center"),
    "bottom right": ((9, -9), "left", "top"),
    "middle left": ((-13, 0), "right", "center"),
}
CHARACTER = 4.2  # points, the mean width of one in a label
SMALL: Any = {"fontsize": 7, "color": MUTED}
ENDINGS = (".svg", ".png", ".pdf")


def picture(content: Content, ending: str) -> bytes:
    """The first step of each phase, at most MOST_STEPS, in the format of a file's ending (ENDINGS).

    Filled marks and bars are measured, hollow ones predicted. Raises InputError where no operator has a
    place under roofs: a recording of a device that no file describes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    steps = _steps(content)
    style: Any = {"font.size": 9, "text.color": INK, "axes.labelcolor": INK}
    style |= {"svg.hashsalt": "llm-roofline", "svg.fonttype": "none"}  # the same bytes each time, and few
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(steps) + 0.4), layout="constrained", dpi=120)
        figure.suptitle(_plain(content.title), fontsize=13, fontweight="bold")
        rows = figure.subplots(len(steps), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), step in zip(rows, steps, strict=True):
            plot_roofline(left, step)
            plot_time(right, step)
            left.set_title(_told(step), loc="left", fontsize=10)
        file = io.BytesIO()
        dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending)
        figure.savefig(file, format=ending.removeprefix("."), metadata=dated)
    return file.getvalue()


def _steps(content: Content) -> list[Point]:
    """The first of each phase; of a recording all that was recorded."""
    recorded = [content.recording.point] if content.recording and not content.points else []
    first = {point.phase: point for point in reversed([*content.points, *recorded])}
    points = [point for point in (*content.points, *recorded) if first[point.phase] is point]
    drawn = [point for point in points if point.roofs and any(o.drawable for o in point.operators)]
    if not drawn:
        raise InputError(
            f"{content.title}: has no operator to draw under the roofs of a device; name it with --hw."
        )
    return drawn[:MOST_STEPS]


def _told(step: Point) -> str:
    measured = f"measured {si(step.measured_s, 's')}" if step.measured_s else ""
    predicted = f"predicted {si(step.predicted_s, 's')}" if step.predicted_s else ""
    sizes = ", ".join(filter(None, (step.sizes, measured, predicted)))
    return f"{step.phase.capitalize()}: {sizes}" if sizes else step.phase.capitalize()


def plot_roofline(ax: Axes, step: Point) -> Axes:
    """Operators under the roofs, marks with areas by share of the time, the largest with names."""
    drawn = [o for o in step.operators if o.drawable]
    xs, ys = window(drawn, step.roofs)
    roofs = roof_traces(step.roofs, xs)
    for trace in roofs:
        dash = {"solid": "-", "dash": "--"}[trace["line"]["dash"]]
        ax.plot(
            trace["x"], trace["y"], dash, color=trace["line"]["color"], lw=1.2, label=trace["name"], zorder=1
        )
    shares = share_of(drawn)
    for operator in drawn:
        look: dict[str, Any] = {
            "marker": MARKERS.get(operator.bound, "o"),
            "s": 30 + 500 * shares[operator.name],
            "zorder": 2,  # above labels
        }
        colour = COLOURS.get(operator.bound, GREY)
        x = operator.flops / operator.bytes
        if operator.predicted_s and not operator.fused:
            ax.scatter(x, operator.flops / operator.predicted_s, facecolors="none", edgecolors=colour, **look)
        if operator.measured_s:
            ax.scatter(
                x, operator.flops / operator.measured_s, color=colour, alpha=0.75, linewidths=0, **look
            )
    by_name, labels = {o.name: o for o in drawn}, labels_of(drawn, shares)
    width = ax.get_window_extent().width * 72 / ax.figure.dpi  # points
    sides = sides_of(drawn, labels, shares, (xs, ys), roofs, CHARACTER / width)
    for name, label in labels.items():
        at, (place, ha, va) = by_name[name], BESIDE[sides[name]]
        ax.annotate(
            label.replace("<br>", "\n"),
            (at.flops / at.bytes, at.flops / at.time_s),
            xytext=place,
            textcoords="offset points",
            ha=ha,
            va=va,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},  # over a roof
            zorder=1.5,  # above roofs
            **SMALL,
        )
    ax.set(xscale="log", yscale="log", xlim=xs, ylim=ys)
    ax.set(xlabel="arithmetic intensity [FLOP/B]", ylabel="performance [FLOP/s]")
    if step.roofs:
        ax.legend(fontsize=7, frameon=False, loc="upper left")
    return _quiet(ax)


def plot_time(ax: Axes, step: Point) -> Axes:
    """The longest operators, the rest in one bar, coloured by what bounds them."""
    from matplotlib.ticker import MaxNLocator

    ranked = sorted(step.operators, key=lambda o: -max(o.total_s, o.count * o.predicted_s))
    whole = sum(o.total_s for o in ranked)
    seen = sum(o.total_s >= WORTH_A_BAR * whole for o in ranked[:MOST_BARS])
    bars, rest = ranked[:seen], ranked[seen:]
    measured = any(o.measured_s for o in bars)
    for at, operator in enumerate(bars):
        colour = COLOURS.get(operator.bound, GREY)
        predicted_s = operator.count * operator.predicted_s
        if measured:
            ax.barh(at, operator.total_s, 0.75, color=colour, alpha=0.75)
            ax.barh(at, predicted_s, 0.75, color="none", edgecolor=INK, lw=0.8)
        else:
            ax.barh(at, predicted_s, 0.75, color=colour, alpha=0.25)
            ax.barh(at, predicted_s, 0.75, color="none", edgecolor=colour, lw=1.2)
        if whole and operator.total_s:
            longest = max(operator.total_s, predicted_s)
            share, look = percent(operator.total_s / whole, 0), SMALL
            ax.annotate(share, (longest, at), (3, 0), textcoords="offset points", va="center", **look)
    names = [_plain(o.name.removeprefix("layers.")) for o in bars]
    if rest and (left := sum(o.total_s for o in rest)):
        ax.barh(len(bars), left, 0.75, color=GREY, alpha=0.75)
        names.append(f"{len(rest)} more")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda value, _: si(value, "s").replace(".00 ", " ").replace(".0 ", " "))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel("time per step")
    ax.margins(x=0.12)
    _bounds(ax, bars)
    return _quiet(ax)


def _bounds(ax: Axes, bars: Sequence[Operator]) -> None:
    """The legend of bound colours and outlines."""
    from matplotlib.patches import Patch

    found = dict.fromkeys(o.bound for o in bars if o.total_s)
    patches = [Patch(color=COLOURS.get(bound, GREY), label=f"{bound}-bound", alpha=0.75) for bound in found]
    if any(o.measured_s for o in bars):
        patches.append(Patch(facecolor="none", edgecolor=INK, label="outline: predicted"))
    if patches:
        beside: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(patches), "borderpad": 0}
        ax.legend(handles=patches, fontsize=7, frameon=False, **beside)


def _quiet(ax: Axes) -> Axes:
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _plain(text: str) -> str:
    """A dollar sign would start a formula."""
    return visible(text).replace("$", r"\$")
