"""What a report says, checked against runs whose every time is a known multiple of the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from hwspecs import Device, load_device
from reports.content import of_predictions, of_run
from reports.elsewhere import OTHERS, other_devices
from reports.headline import sentences
from reports.html import render
from reports.points import best_fidelity
from reports.records import Content
from reports.step_records import Point
from reports.wording import plain
from roofline.ceilings import ceilings
from roofline.predict import predict
from roofline.run import Run
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.phases import Setting

MakeRun = Callable[..., Run]
MakeDevice = Callable[..., Device]


def _point(content: Content, phase: str) -> Point:
    return next(p for p in content.points if p.phase == phase)


def test_an_operator_attains_the_inverse_of_its_slowdown(content: Content) -> None:
    operators = {o.name: o for o in _point(content, "prefill").operators}
    assert operators["layers.mlp.up_proj"].attained == pytest.approx(1 / 1.25)
    assert operators["layers.mlp.down_proj"].attained == pytest.approx(1 / 2)
    assert operators["layers.mlp.down_proj"].error == pytest.approx(1 / 2 - 1)


def test_shares_of_bounds_sum_to_one_and_prefill_computes_while_decode_moves(content: Content) -> None:
    for phase, bound in (("prefill", "compute"), ("decode", "memory")):
        shares = _point(content, phase).shares
        assert sum(shares.values()) == pytest.approx(1)
        assert next(iter(shares)) == bound


def test_the_unattributed_rest_and_the_operators_make_the_step(content: Content) -> None:
    point = _point(content, "decode")
    assert point.remainder_s is not None
    assert point.remainder_s + point.operators_s == pytest.approx(point.measured_s)
    assert point.remainder_s / point.operators_s == pytest.approx(0.2)


def test_recoverable_time_is_ranked_by_seconds_not_by_ratio(content: Content) -> None:
    above = _point(content, "prefill").above
    assert above[0].name == "layers.mlp.down_proj"  # 2 times its roof, against 5 times of the small sampling
    assert [o.excess_s for o in above] == sorted((o.excess_s for o in above), reverse=True)
    assert above[0].excess_s == pytest.approx(above[0].count * above[0].bound_s)


def test_headroom_is_the_step_over_the_bounds_of_all_executions(
    make_run: MakeRun, make_device: MakeDevice, toy: Device
) -> None:
    """Launches are no roof: a device with a latency has the same."""
    measured = {
        "tensor_flop_per_s": {"bf16": {"value": 80e12, "source": "fit"}},
        "dram_byte_per_s": {"value": 0.9e12, "source": "fit"},
        "launch_s": {"value": 1e-4, "source": "fit"},
    }
    for device in (toy, make_device(measured=measured)):
        headline = of_run(make_run(), device).headline
        assert [point.phase for point in headline] == ["prefill", "decode"]
        for point in headline:
            roof = sum(o.count * (o.bound_s or 0.0) for o in point.operators)
            assert point.roof_s == pytest.approx(roof)
            assert point.headroom == pytest.approx((point.measured_s or 0.0) / roof)


@pytest.mark.parametrize(
    ("step", "said"),
    [  # the whole step over the sum of its operators
        (1.25, "Outside its operators lies 20 % of the step"),
        (0.8, "Timed one by one, its operators sum to 125 % of the step."),
        (1.05, None),
    ],
)
def test_time_outside_operators_is_told_where_it_is_much(
    content: Content, step: float, said: str | None
) -> None:
    points = tuple(replace(p, measured_s=step * p.operators_s) for p in content.points)
    text = " ".join(sentences(replace(content, points=points)))
    outside = "Outside its operators", "Timed one by one"
    assert said in text if said else not any(words in text for words in outside)


@pytest.mark.parametrize(
    ("drift", "said"), [(1.25, "25 % slower than"), (0.8, "20 % faster than"), (1.05, None)]
)
def test_a_machine_that_drifted_is_told(content: Content, drift: float, said: str | None) -> None:
    points = tuple(replace(p, drift=drift) for p in content.points)
    text = " ".join(sentences(replace(content, points=points)))
    assert f"eside decode the machine was {said} its file says" in text if said else "machine" not in text


def test_waiting_for_other_load_is_told_where_it_is_much(content: Content) -> None:
    for share, told in ((0.2, True), (0.05, False)):
        points = tuple(replace(p, measured_s=1.0, waited_s=share) for p in content.points)
        text = " ".join(sentences(replace(content, points=points)))
        assert ("ther load let the process wait 200 ms per decode step" in text) is told


def test_the_summary_names_phases_bounds_prediction_and_the_worst_operator(content: Content) -> None:
    text = " ".join(content.sentences)
    prefill, decode = content.sentences[:2]
    assert prefill.startswith("Prefill (batch 1, 512 tokens) is compute-bound and takes ")
    assert " is memory-bound and takes " in decode
    for expected in ("Prefill (batch 1, 512 tokens)", "Compute-bound", "Memory-bound", "TTFT", "TPOT"):
        assert expected in text
    assert "layers.mlp.down_proj" in text
    assert "measured ceilings of Toy" in text
    assert len(content.sentences) == 5


def test_tokens_per_second_count_the_batch(make_run: MakeRun, toy: Device) -> None:
    content = of_run(make_run(points=(("decode", 8, 1, 513),)), toy)
    card = next(c for c in content.cards if c.label == "Decode tokens/s")
    point = content.points[0]
    assert card.value == f"{8 / point.measured_s:,.0f}"


def test_every_fidelity_is_compared_or_says_why_not(content: Content) -> None:
    by_fidelity = {c.fidelity: c for c in content.comparisons}
    assert list(by_fidelity) == ["datasheet", "measured", "calibrated"]
    assert "not calibrated" in (by_fidelity["calibrated"].missing or "")
    assert all(s.error is not None and s.error < 0 for s in by_fidelity["datasheet"].steps)  # a floor
    assert {g["bound"] for g in by_fidelity["measured"].groups} == {"all", "compute", "memory"}


def test_calibrated_is_chosen_where_the_device_has_it(make_run: MakeRun, make_device: MakeDevice) -> None:
    constants = {"dtype": "bf16", "launch_s": 1e-6, "flop_per_s": 60e12, "byte_per_s": 0.8e12}
    fit = {"points": 10, "median_error": 0.05}
    device = make_device(calibration={"source": "fit", "operators": {"gemm": [{**constants, **fit}]}})
    content = of_run(make_run(), device)
    assert content.fidelity == "calibrated"
    assert content.provenance[0].calibration[0][0] == "gemm"
    assert of_run(make_run(), device, fidelity="datasheet").fidelity == "datasheet"


def test_best_fidelity_follows_the_device_file(toy: Device, make_device: MakeDevice) -> None:
    assert best_fidelity(toy) == "measured"
    assert best_fidelity(make_device(measured={})) == "datasheet"


def test_a_renamed_operator_stands_on_both_sides_of_the_unmatched(make_run: MakeRun, toy: Device) -> None:
    content = of_run(make_run(rename={"lm_head": "head"}), toy)
    strays = {(s.name, s.side) for s in _point(content, "decode").strays}
    assert strays == {("lm_head", "predicted, not measured"), ("head", "measured, not predicted")}
    point = _point(content, "decode")
    assert point.remainder_s == pytest.approx(point.measured_s / 6)  # the stray's time is no remainder


def test_a_run_of_prefill_only(make_run: MakeRun, toy: Device) -> None:
    content = of_run(make_run(points=(("prefill", 1, 512, 512),), phase="prefill"), toy, [toy])
    assert [p.phase for p in content.points] == ["prefill"]
    assert content.elsewhere[0].ttft_s is not None
    assert content.elsewhere[0].tpot_s is None


def test_a_run_without_any_row(make_run: MakeRun, toy: Device) -> None:
    content = of_run(make_run(points=()), toy, [toy])
    assert content.points == ()
    assert content.sentences == ("Nothing was measured.",)
    assert content.elsewhere == ()


def test_steps_without_operators_still_say_how_long_they_took(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    (run.path / "operators.parquet").unlink()
    content = of_run(run, toy)
    assert all(p.measured_s and not p.operators for p in content.points)
    assert all(p.remainder_s is None for p in content.points)


def test_operators_without_steps_are_summed(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    (run.path / "steps.parquet").unlink()
    point = _point(of_run(run, toy), "decode")
    assert point.measured_s is None
    assert point.time_s == pytest.approx(point.operators_s)


def test_times_that_are_no_numbers_are_left_out(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    table = run.table("operators")
    table.loc[table["name"] == "lm_head", "median_s"] = float("nan")
    table.loc[table["name"] == "final_norm", "median_s"] = 0.0
    run.write_table("operators", table)
    operators = {o.name: o for o in _point(of_run(run, toy), "decode").operators}
    assert operators["lm_head"].measured_s is None
    assert operators["final_norm"].error is None  # predicted / 0


def test_operators_measured_alone_stand_beside_those_in_the_model(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    table = run.table("operators")
    alone = table.assign(where="alone", median_s=table["median_s"] / 2)
    run.write_table("operators", pd.concat([table, alone]))
    point = _point(of_run(run, toy), "decode")
    assert all(o.alone_s == pytest.approx(o.measured_s / 2) for o in point.operators)


def test_kernels_that_no_operator_claims_are_kept(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    row = {"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 513, "count": 3}
    kernels = [
        {**row, "operator": None, "name": "memset", "time_s": 1e-6},
        {**row, "operator": "lm_head", "name": "gemm_kernel", "time_s": 2e-6},
    ]
    run.write_table("kernels", pd.DataFrame(kernels))
    found = _point(of_run(run, toy), "decode").kernels
    assert [k.name for k in found if k.operator is None] == ["memset"]


def test_roofs_carry_their_origin_and_no_value_twice(content: Content) -> None:
    roofs = {(r.kind, r.origin): r.per_s for r in _point(content, "decode").roofs}
    assert roofs == {
        ("matrix", "data sheet"): 100e12,
        ("vector", "data sheet"): 10e12,
        ("memory", "data sheet"): 1e12,
        ("matrix", "measured"): 80e12,
        ("memory", "measured"): 0.9e12,
    }


def test_a_device_without_the_peak_gets_its_error_in_a_cell(
    make_run: MakeRun, toy: Device, toy_data: dict[str, Any], make_device: MakeDevice
) -> None:
    sheet = toy_data["datasheet"]
    old = make_device(name="Old", datasheet={**sheet, "tensor_flop_per_s": {}})
    half = {"fp16": {"value": 50e12, "source": "sheet"}}
    turing = make_device(name="Half", datasheet={**sheet, "tensor_flop_per_s": half})
    rows = {e.device: e for e in of_run(make_run(), toy, [old, turing, toy]).elsewhere}
    assert list(rows) == ["Toy", "Old", "Half"]
    assert "no dense peak for bf16" in (rows["Old"].error or "")
    assert rows["Half"].dtype == "fp16"
    assert rows["Toy"].error is None


def test_floors_say_how_many_devices_share_the_layers() -> None:
    model, h100 = load_model("Llama-3.1-8B").model, load_device("h100_sxm")
    for count, said in ((1, "one device each"), (2, "2 devices each (memory is that of one)")):
        setting = Setting(tensor_parallel=count)
        page = render(of_predictions([predict(Scenario(model, setting=setting, output=2), h100)], [h100]))
        assert f"upper bounds on rate, {said}. Formats are those asked for" in page


def test_floors_are_below_what_was_measured(make_run: MakeRun, toy: Device) -> None:
    content = of_run(make_run(), toy)
    floor = content.elsewhere[0]
    assert floor.ttft_s is not None
    assert floor.tpot_s is not None
    assert floor.ttft_s < (_point(content, "prefill").measured_s or 0)
    assert floor.tpot_s < (_point(content, "decode").measured_s or 0)
    assert floor.tokens_per_s == pytest.approx(1 / floor.tpot_s)


def test_shipped_devices_load_and_missing_ones_are_left_out() -> None:
    assert other_devices(["no such device", *OTHERS[1:2]])[0].name.startswith("H100")


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_a_predicted_step_times_its_repeats_is_the_total(toy: Device, phase: str) -> None:
    prediction = predict(Scenario(load_model("llama-3.2-1b").model, phase, output=17), toy)
    totals = prediction.totals()
    content = of_predictions([prediction])
    for point in content.points:
        assert point.predicted_s == pytest.approx(totals["ttft_s" if point.phase == "prefill" else "tpot_s"])
        assert sum(o.total_s for o in point.operators) == pytest.approx(point.predicted_s)
    assert not content.measured
    assert content.comparisons == ()


def test_without_measured_ceilings_a_calibrated_prediction_stands_beside_the_data_sheet() -> None:
    device = load_device("mi300x")
    assert device.measured.dram_byte_per_s is None
    scenario = Scenario(load_model("llama-3.2-1b").model, "decode")
    (point,) = of_predictions([predict(scenario, device, "calibrated")]).points
    assert point.roof_s == pytest.approx(predict(scenario, device).time_s())


def test_several_predictions_are_told_apart(toy: Device, make_device: MakeDevice) -> None:
    scenario = Scenario(load_model("llama-3.2-1b").model, batch=2)
    twin = make_device(name="Twin")
    content = of_predictions([predict(scenario, toy), predict(replace(scenario, batch=4), twin)])
    assert len(content.totals) == 2
    assert len({p.title for p in content.points}) == 4
    assert [p.device for p in content.provenance] == ["Toy", "Twin"]


def test_predictions_are_named_by_what_differs(toy: Device) -> None:
    model = load_model("llama-3.2-1b").model
    kinds = [Precision.of("bf16"), Precision.of("bf16", kv="fp8")]
    pair = [predict(Scenario(model, setting=Setting(kind)), toy) for kind in kinds]
    content = of_predictions(pair)
    assert content.title == f"2 predictions of {model.name} on Toy"
    assert [totals.title for totals in content.totals] == ["KV bf16", "KV fp8"]
    assert content.points[-1].title.startswith("KV fp8. Decode: batch 1, context ")
    sizes = [predict(Scenario(model, batch=batch, prompt=batch * 512), toy) for batch in (1, 2)]
    content = of_predictions(sizes)
    assert [totals.title for totals in content.totals] == ["batch 1, prompt 512", "batch 2, prompt 1,024"]
    assert content.points[0].title == "Prefill: batch 1, 512 tokens"
    twice = of_predictions([pair[0], pair[0]])
    assert [totals.title for totals in twice.totals] == ["prediction 1", "prediction 2"]


def test_no_prediction_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        of_predictions([])


def test_every_hardware_number_has_its_document(content: Content) -> None:
    sources = {s.path: s for s in content.provenance[0].sources}
    assert sources["datasheet.tensor_flop_per_s.bf16"].unit == "FLOP/s"
    assert sources["measured.dram_byte_per_s"].document == "measured on the toy"
    assert all(s.document for s in sources.values())


def test_the_environment_is_flattened(content: Content) -> None:
    environment = dict(content.provenance[0].environment)
    assert environment["gpu.driver"] == "580.1"
    assert environment["gpu.clocks"] == "1, 2"


def test_records_draw_on_the_ceilings_of_the_device_not_on_copies(content: Content, toy: Device) -> None:
    limits = ceilings(toy, "measured")
    for operator in _point(content, "decode").operators:
        if operator.kind == "gemm":
            assert operator.bytes / operator.predicted_s <= limits.dram_byte_per_s * (1 + 1e-12)


def test_layers_are_summed_by_the_validation(content: Content) -> None:
    measured = next(c for c in content.comparisons if c.fidelity == "measured")
    assert len(measured.layers) == len(content.points)
    for layers, steps in zip(measured.layers, measured.steps, strict=True):
        assert layers.predicted_s < steps.predicted_s
        assert -0.5 < (layers.error or 0) < 1 / 1.25 - 1  # between the slowest factor and the usual one


def test_a_measurement_above_its_roof_is_said_and_marked(make_run: MakeRun, toy: Device) -> None:
    run = make_run()
    table = run.table("operators")
    table.loc[table["name"] == "lm_head", "median_s"] /= 2
    run.write_table("operators", table)
    content = of_run(run, toy)
    assert "lm_head in prefill" in content.sentences[-1]
    assert "cache" in content.sentences[-1]
    assert render(content).count('class="flagged"') == len(content.points)


def test_an_energy_has_its_method_and_source_on_the_page() -> None:
    """The card is short; what is drawn, and by whose measurement, stands among the conventions."""
    scenario = Scenario(load_model("Llama-3.1-8B").model, "decode", batch=1, context=128)
    for fidelity in ("datasheet", "calibrated"):
        prediction = predict(scenario, load_device("h100_sxm"), fidelity)
        found = of_predictions([prediction])
        assert dict(found.provenance[0].conventions)["Predicted energy"] == prediction.energy_by
        assert any(card.label == "Energy" for card in found.cards)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.98765, "0.9877"), (5376.4, "5376"), (9999.6, "10,000"), (12321.4, "12,321"), (None, "–")],
)
def test_a_plain_number_has_four_digits_and_no_exponent(value: float | None, said: str) -> None:
    assert plain(value) == said
