"""Figures hold what the records hold, and nothing that JSON or a logarithm cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hwspecs import Device
from reports.content import of_predictions
from reports.figures import (
    accuracy_figure,
    accuracy_span,
    plot_roofline,
    plot_time,
    roofline_figure,
    time_figure,
)
from reports.figures.style import short
from reports.records import Content
from reports.step_records import Operator, Point
from roofline.predict import predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model


@pytest.fixture
def predicted(toy: Device) -> Content:
    return of_predictions([predict(Scenario(load_model("llama-3.2-1b").model), toy)])


def _named(figure: dict, start: str) -> list[dict]:
    return [trace for trace in figure["data"] if trace["name"].startswith(start)]


def test_every_figure_is_json_without_gaps(content: Content, predicted: Content) -> None:
    figures = [f(p) for c in (content, predicted) for p in c.points for f in (roofline_figure, time_figure)]
    span = accuracy_span(content.comparisons)
    figures += [accuracy_figure(c, span) for c in content.comparisons]
    for figure in figures:
        assert "null" not in json.dumps(figure, allow_nan=False)


def test_a_point_per_operator_filled_when_measured_hollow_when_predicted(content: Content) -> None:
    for point in content.points:
        figure = roofline_figure(point)
        drawn = sum(o.drawable for o in point.operators)
        measured, predicted = _named(figure, "measured"), _named(figure, "predicted")
        assert sum(len(t["x"]) for t in measured) == drawn
        assert sum(len(t["x"]) for t in predicted) == drawn
        assert all(t["marker"]["symbol"].endswith("-open") for t in predicted)
        assert not any(t["marker"]["symbol"].endswith("-open") for t in measured)


def test_measured_points_lie_below_their_predictions_by_the_known_factor(content: Content) -> None:
    point = content.points[0]
    figure = roofline_figure(
        replace(point, operators=tuple(o for o in point.operators if o.kind == "rmsnorm"))
    )
    (measured,), (predicted,) = _named(figure, "measured, bound"), _named(figure, "predicted, bound")
    for below, above in zip(measured["y"], predicted["y"], strict=True):
        assert above / below == pytest.approx(1.25)


def test_marks_of_one_place_share_a_label_and_short_ones_have_none(content: Content) -> None:
    """Two equal operators, one far away with a tenth of the time, one with a hundredth."""
    base = replace(
        next(o for o in content.points[0].operators if o.drawable),
        count=1, flops=1e12, bytes=1e9, predicted_s=9.0, measured_s=9.0,
    )  # fmt: skip
    far = {"bytes": 1e11, "predicted_s": 2.0, "measured_s": 2.0}
    operators = (
        replace(base, name="layers.one"),
        replace(base, name="layers.other"),
        replace(base, name="far", **far),
        replace(base, name="short", bytes=1e6, predicted_s=0.2, measured_s=0.2),
    )
    figure = roofline_figure(replace(content.points[0], operators=operators))
    labels = [text for t in _named(figure, "measured") for text in t["text"] if text]
    assert sorted(labels) == ["far", "one<br>other"]
    assert not any(text for t in _named(figure, "predicted") for text in t["text"])


def test_a_label_stands_where_it_covers_no_other_mark(content: Content) -> None:
    """Marks below and beside it are too short for labels of their own; one far off makes the plot large."""
    base = replace(
        next(o for o in content.points[0].operators if o.drawable),
        count=1, flops=1e12, bytes=1e11, predicted_s=9.0, measured_s=9.0,
    )  # fmt: skip
    low = replace(base, name="low", bytes=1e14, count=1e-6, predicted_s=9e3, measured_s=9e3)

    def side(*others: Operator) -> str:
        operators = (replace(base, name="one"), low, *others)
        cloud, *_ = _named(roofline_figure(replace(content.points[0], operators=operators)), "measured")
        return str(cloud["textposition"][cloud["text"].index("one")])

    assert side() == "bottom center"
    below = replace(base, name="below", flops=3e11, bytes=3e10, predicted_s=8.0, measured_s=8.0, count=0.01)
    assert side(below) == "middle right"
    right = replace(base, name="right", bytes=4e10, count=0.01)
    assert side(below, right) == "middle left"
    small = replace(base, name="large", flops=6e10, bytes=6e9, count=0.01)
    assert side(small) == "bottom center"  # far enough below, as long as its mark is small
    assert side(replace(small, count=2)) == "middle right"


def test_a_label_stands_clear_of_the_roof_that_its_mark_lies_on(content: Content) -> None:
    """On the slope a label below or beside the mark would lie on the line."""
    base = next(o for o in content.points[0].operators if o.drawable)
    on = replace(base, name="on", count=1, flops=1e12, bytes=1e11, predicted_s=0.1, measured_s=0.1)
    point = replace(content.points[0], operators=(on,))
    cloud, *_ = _named(roofline_figure(point), "measured")
    assert cloud["textposition"] == ["bottom right"]


def test_a_long_label_in_print_stays_inside_its_axes(content: Content) -> None:
    """Below its mark, or beside it towards the middle, where a mark at the edge has others below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = "layers.moe.experts_gate_up_proj"
    base = next(o for o in content.points[0].operators if o.drawable)
    last = replace(base, name=name, count=1, flops=1e14, bytes=1e11, predicted_s=1e3, measured_s=1e3)
    lower = [replace(last, name=f"at{i}", count=1e-4, measured_s=s) for i, s in enumerate((1.5e3, 2e3, 3e3))]
    for others in ([], lower):
        figure = Figure((5.5, 3.5))
        FigureCanvasAgg(figure)
        ax = plot_roofline(figure.subplots(), replace(content.points[0], operators=(last, *others)))
        figure.draw_without_rendering()
        (label,) = (text.get_window_extent() for text in ax.texts)
        assert ax.bbox.x0 <= label.x0 < label.x1 <= ax.bbox.x1


def test_roofs_meet_at_the_ridge(content: Content) -> None:
    traces = {t["name"]: t for t in roofline_figure(content.points[0])["data"]}
    slope = traces["memory 1.00 TB/s, data sheet"]
    level = traces["bf16 matrix 100 TFLOP/s, data sheet"]
    assert slope["x"][-1] == level["x"][0] == pytest.approx(100)  # FLOP/B
    assert slope["y"][-1] == level["y"][0] == pytest.approx(100e12)


def test_time_bars_and_the_rest_make_the_step(content: Content) -> None:
    point = content.points[0]
    figure = time_figure(point)
    bars = [t for t in figure["data"] if t.get("offsetgroup") == "measured"]
    assert sum(sum(t["x"]) for t in bars) == pytest.approx(point.measured_s)
    assert figure["layout"]["yaxis"]["ticktext"][-1] == "unattributed"


def test_predicted_time_bars_make_the_predicted_step(predicted: Content) -> None:
    point = predicted.points[0]
    assert sum(sum(t["x"]) for t in time_figure(point)["data"]) == pytest.approx(point.predicted_s)


def test_many_operators_are_folded_into_a_last_bar(content: Content) -> None:
    one = content.points[0].operators[0]
    many = tuple(replace(one, name=f"op{i}") for i in range(60))
    figure = time_figure(replace(content.points[0], operators=many, measured_s=None))
    assert figure["layout"]["yaxis"]["ticktext"][-1] == "20 more operators"


def test_a_step_without_operators_or_roofs_still_draws() -> None:
    from matplotlib.figure import Figure

    empty = Point(phase="decode", sizes="batch 1", tokens=1, predicted_s=None, roof_s=None)
    assert not any(trace.get("x") for f in (roofline_figure, time_figure) for trace in f(empty)["data"])
    for plot in (plot_roofline, plot_time):
        ax = plot(Figure().subplots(), empty)
        assert not ax.lines
        assert not ax.patches


def test_an_operator_inside_a_neighbours_kernel_has_no_predicted_speed(predicted: Content) -> None:
    fused = [o for o in predicted.points[0].operators if o.fused]
    assert fused
    assert not any(o.drawable for o in fused)


def test_names_with_markup_are_escaped_in_every_text(content: Content) -> None:
    point = content.points[0]
    drawable = next(o for o in point.operators if o.drawable)
    hostile = replace(drawable, name='<a href="javascript:alert(1)">x</a>', bound="<b>", kind="<i>")
    for figure in (roofline_figure, time_figure):
        text = json.dumps(figure(replace(point, operators=(hostile,))))
        assert "<a" not in text
        assert "&lt;a href" in text
        assert text.count("<b>") == text.count("</b>")  # ours: they close what they open


def test_matplotlib_draws_every_roof_and_bar(content: Content, predicted: Content) -> None:
    from matplotlib.figure import Figure

    for point in (content.points[0], predicted.points[0]):
        ax, other = Figure().subplots(2)
        assert plot_roofline(ax, point) is ax
        assert ax.get_xscale() == "log"
        assert len(ax.lines) == len(point.roofs)
        assert plot_time(other, point) is other
        *bars, rest = (label.get_text() for label in other.get_yticklabels())
        assert len(bars) + int(rest.removesuffix(" more")) == len(point.operators)


def test_a_label_keeps_what_tells_operators_of_one_name_apart() -> None:
    name = "layers.attention_norm + mlp_residual + embedding"
    labels = [short(f"{name} · {phase}") for phase in ("prefill", "decode")]
    assert labels == ["attention_norm + mlp_… · prefill", "attention_norm + mlp_r… · decode"]
    assert short(name) == "attention_norm + mlp_residual +…"
    assert len(short(f"{name} · {'x' * 40}")) == 32
