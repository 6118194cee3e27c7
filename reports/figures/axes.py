"""The same figures on matplotlib axes, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.escaping import visible
from reports.figures.roofline import roof_traces
from reports.figures.style import COLOURS, GREY, MARKERS, MUTED, spread
from reports.step_records import Roof

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_roofline(ax: Axes, table: pd.DataFrame, roofs: Sequence[Roof]) -> Axes:
    """Operators (columns of `records.operator_table`) under the roofs: filled measured, hollow predicted."""
    drawn = table[(table["flops"] > 0) & (table["bytes"] > 0)]
    ridges = [r.per_s / s.per_s for r in roofs for s in roofs if s.kind == "memory" != r.kind]
    for trace in roof_traces(roofs, spread([*drawn["intensity"], *ridges], 4.0)):
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
