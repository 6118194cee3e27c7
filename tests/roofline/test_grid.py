"""A grid is its points predicted one by one: totals, rows, errors, and the file of all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs import Device, load_device
from roofline import predict_grid as module
from roofline.contexts import SMOOTH
from roofline.engines import find_engine, run_by
from roofline.grid import Grid
from roofline.gridfile import write_rows
from roofline.predict import predict
from roofline.predict_grid import ROWS, grid_limits, grid_rows, predict_grid
from roofline.scenario import Scenario
from roofline.tables import record
from specfiles.errors import InputError
from workloads.catalogue import MODELS, load_model
from workloads.config import Config
from workloads.convention import CONVENTIONS
from workloads.dtypes import Precision
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting
from workloads.techniques.base import Technique
from workloads.techniques.registry import offered, parse

ROUNDING = 1e-12
NAMES = ("h100_sxm", "a100_sxm", "b200_sxm", "l40s", "mi300x", "MI300X-8GPU", "dgx_h100")
DEVICES = [load_device(name) for name in NAMES]
FIELDS = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 100, "num_attention_heads": 4}
FIELDS |= {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "sliding_window": 50}
FIELDS |= {"sliding_window_pattern": 2, "max_position_embeddings": 100_000}
GEMMA = build(Config({"model_type": "gemma3_text", **FIELDS}, "small"), "small")
LLAMA = load_model("Llama-3.1-8B").model

SETTINGS = st.builds(
    lambda weights, kv, devices, convention: Setting(
        Precision.of(weights, None, kv), CONVENTIONS[convention], devices
    ),
    st.sampled_from(["bf16", "fp16", "int8", "int4"]),
    st.sampled_from([None, "fp8", "bf16"]),
    st.sampled_from([1, 2]),
    st.sampled_from(list(CONVENTIONS)),
)


def scenarios(model: Model, phase: str) -> st.SearchStrategy[Scenario]:
    size = st.integers(1, 400)
    return st.builds(
        lambda batch, prompt, context, output, setting: Scenario(
            model, phase, batch, prompt, context if phase == "decode" else None, output, setting
        ),
        size,
        size,
        size,
        size,
        SETTINGS,
    )


def test_a_point_is_bound_by_what_binds_its_prediction() -> None:
    """On both sides of the ridge, and where links are slower than either."""
    points = [(1, 8, 1), (1, 4096, 1), (512, 64, 1), (64, 1024, 8)]
    found = [Scenario(LLAMA, "generate", b, p, setting=Setting(tensor_parallel=tp)) for b, p, tp in points]
    device = load_device("pcie-l40s-8")
    bounds, _ = grid_limits(LLAMA, Grid.of(found, [device] * len(found)))
    alone = [predict(scenario, device) for scenario in found]
    assert bounds == [{phase: one.bound(phase) for phase in one.phases} for one in alone]
    assert {bound for point in bounds for bound in point.values()} == {"memory", "compute", "communication"}


def assert_is_one_by_one(
    found: list[Scenario], devices: list[Device], fidelity: str = "datasheet", tolerance: float = ROUNDING
) -> None:
    totals = predict_grid(found[0].model, Grid.of(found, devices), fidelity)
    for i, (scenario, device) in enumerate(zip(found, devices, strict=True)):
        for name, expected in predict(scenario, device, fidelity).totals().items():
            value = totals[name][i]
            if expected is None:
                assert np.isnan(value), name
            else:
                assert value == pytest.approx(expected, rel=tolerance, abs=0), name


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
@pytest.mark.parametrize("model", [GEMMA, LLAMA], ids=["windows", "Llama"])
@given(data=st.data())
def test_a_grid_is_its_points(model: Model, phase: str, data: st.DataObject) -> None:
    found = data.draw(st.lists(scenarios(model, phase), min_size=1, max_size=6))
    devices = [data.draw(st.sampled_from(DEVICES)) for _ in found]
    assert_is_one_by_one(found, devices)


# Times of kernel models are curves, whose sums over a growing context are near, not equal.
@pytest.mark.parametrize(("fidelity", "tolerance"), [("measured", ROUNDING), ("calibrated", 2 * SMOOTH)])
@settings(max_examples=4)
@given(data=st.data())
def test_a_grid_with_what_was_measured(fidelity: str, tolerance: float, data: st.DataObject) -> None:
    """Caches by device, floors, kernel models: also where a batch of one runs other kernels."""
    sizes = st.sampled_from([1, 2, 40])
    found = [
        Scenario(LLAMA, "generate", data.draw(sizes), data.draw(sizes), output=data.draw(sizes))
        for _ in range(3)
    ]
    devices = [data.draw(st.sampled_from(DEVICES[:3])) for _ in found]
    assert_is_one_by_one(found, devices, fidelity, tolerance)


@given(
    phase=st.sampled_from(["prefill", "decode", "generate"]),
    vector=st.sampled_from([1e9, 1e10, 1e13]),
    special=st.sampled_from([1e8, 1e10, 1e13]),
    data=st.data(),
)
def test_a_grid_of_generations_bends_where_each_of_them_does(
    paper_device: Callable[..., Device], phase: str, vector: float, special: float, data: st.DataObject
) -> None:
    """Windows fill up and other limits take over at different steps of different points."""
    found = data.draw(st.lists(scenarios(GEMMA, phase), min_size=2, max_size=4))
    kinds = [paper_device(vector=vector, special=special), paper_device(vector=None, special=None)]
    assert_is_one_by_one(found, [data.draw(st.sampled_from(kinds)) for _ in found])


@pytest.mark.parametrize("path", MODELS.paths(), ids=lambda path: path.stem)
def test_every_model_can_be_a_grid(path: Path) -> None:
    """No operator of any family takes arrays for numbers in the wrong place."""
    model = load_model(path).model
    for phase in model.phases:
        found = [
            Scenario(
                model,
                phase,
                batch,
                model.audio_window or prompt,
                None,
                9,
                Setting(Precision.of("bf16", None, kv)),
            )
            for batch, prompt, kv in ((1, 7, None), (5, 30, "fp8"))
        ]
        assert_is_one_by_one(found, DEVICES[:2])


def test_a_grid_of_diffusion_has_steps_of_its_own() -> None:
    model = load_model("LLaDA-8B").model
    sizes = [(1, 100, 32, None), (4, 30, 64, 8), (2, 30, 64, 1)]
    found = [Scenario(model, "generate", b, p, output=o, steps=s) for b, p, o, s in sizes]
    assert_is_one_by_one(found, DEVICES[:3])


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_a_grid_of_prompts_with_images(phase: str) -> None:
    model = load_model("Qwen3.5-27B").model
    taken = model.image_tokens
    found = [Scenario(model, phase, b, 2 * taken + b, output=5, images=2) for b in (1, 3, 8)]
    assert_is_one_by_one(found, DEVICES[:3])
    with pytest.raises(InputError, match="same images"):
        Grid.of([*found, Scenario(model, phase, images=1)], DEVICES[:1])


def test_a_step_that_sees_only_itself_expands_its_latent_in_a_grid_too() -> None:
    model = load_model("DeepSeek-V2-Lite").model
    found = [Scenario(model, "decode", b, 1, n, 1) for b in (1, 7) for n in (1, 2, 900)]
    assert_is_one_by_one(found, DEVICES[:1] * len(found))


def test_steps_that_no_point_has_hold_no_activations() -> None:
    """Absorbed, latents are wider: a point of one token, whose prompt yields it, never decodes."""
    model = load_model("DeepSeek-V3").model
    found = [Scenario(model, "generate", 16, 1, output=output) for output in (1, 3)]
    assert_is_one_by_one(found, DEVICES[:1] * 2)


def test_contexts_of_a_grid_go_on_behind_the_memory() -> None:
    """The longest prompt and the shortest context may stand at different points: their difference counts."""
    model = load_model("T5-small").model
    grid = Grid.of([Scenario(model, "decode", 1, p, c) for p, c in ((10, 12), (40, 90))], DEVICES[:1])
    short = Grid(**{**vars(grid), "prompt": np.array([10.0, 95.0])})
    with pytest.raises(InputError, match="context is 90"):
        predict_grid(model, short)


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_rows_of_a_grid_are_rows_of_its_points(phase: str) -> None:
    found = [Scenario(LLAMA, phase, batch, 200, output=30) for batch in (1, 3, 64)]
    tables = list(grid_rows(LLAMA, Grid.of(found, DEVICES[:1])))
    for i, scenario in enumerate(found):
        expected = [record(row) for row in predict(scenario, DEVICES[0]).rows]
        assert [(t["phase"][0], t["name"][0]) for t in tables] == [(r["phase"], r["name"]) for r in expected]
        for table, row in zip(tables, expected, strict=True):
            for name in ("count", *ROWS):
                assert table[name][i] == pytest.approx(row[name], rel=ROUNDING, abs=0), (row["name"], name)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = [Scenario(LLAMA, "decode", batch, context=100 + batch) for batch in range(1, 30)]
    grid = Grid.of(found, [DEVICES[i % 3] for i in range(29)])
    whole = predict_grid(LLAMA, grid)
    write_rows(LLAMA, grid, tmp_path / "whole.parquet")
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr("roofline.gridfile.ROW_GROUP", 50)
    parts = predict_grid(LLAMA, grid)
    written = write_rows(LLAMA, grid, tmp_path / "parts.parquet")
    assert all(np.array_equal(whole[name], parts[name], equal_nan=True) for name in whole)
    one, many = (
        pq.read_table(tmp_path / f"{name}.parquet").to_pandas().sort_values(["name", "point"])
        for name in ("whole", "parts")
    )
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups > 5
    assert len(one) == len(many) == written == 29 * len(predict(found[0], DEVICES[0]).rows)
    assert (one.reset_index(drop=True) == many.reset_index(drop=True)).drop(columns="node").all().all()
    times = (many["count"] * many["time_s"]).groupby(many["point"]).sum()
    np.testing.assert_allclose(times, whole["time_s"], rtol=ROUNDING)
    assert list(many.loc[many["point"] == 4, "hardware"].unique()) == [DEVICES[1].name]
    assert set(many["experts"]) == set(many["expert_activations"]) == {"bf16"}


@pytest.mark.parametrize(
    ("change", "device", "said"),
    [
        (
            {"setting": Setting(Precision.of("fp8", "fp8"))},
            "a100_sxm",
            "A100-SXM4-80GB has no dense peak for fp8",
        ),
        ({"setting": Setting(tensor_parallel=16)}, "dgx_h100", "DGX-H100 has 8 devices, --tp 16"),
    ],
)
def test_a_point_is_refused_as_it_would_be_alone(change: dict[str, Any], device: str, said: str) -> None:
    model = load_model("Llama-3.1-405B").model
    found = [Scenario(model, "decode"), Scenario(model, "decode", 2, **change)]
    with pytest.raises(InputError, match=said):
        predict_grid(model, Grid.of(found, [load_device(device)]))


def test_a_grid_built_by_hand_is_checked() -> None:
    grid = Grid.of([Scenario(LLAMA, "decode", context=n) for n in (10, 20)], DEVICES[:1])
    far = Grid(**{**vars(grid), "context": np.array([10.0, 131_073.0])})
    with pytest.raises(InputError, match="131073 were asked for"):
        predict_grid(LLAMA, far)
    none = Grid(**{**vars(grid), "batch": np.array([0.0, 1.0])})
    with pytest.raises(InputError, match="batch is 0"):
        predict_grid(LLAMA, none)


@pytest.mark.parametrize(
    "how", [{"expert_parallel": 8, "pipeline_parallel": 3}, {"tensor_parallel": 8, "expert_parallel": 4}]
)
@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
def test_shared_experts_and_stages_are_the_same_one_by_one(phase: str, how: dict[str, int]) -> None:
    """Latent attention, experts in several formats, stages: memory and time of each point."""
    model, device = load_model("DeepSeek-V3").model, load_device("h200_sxm")
    asked = [
        Scenario(model, phase, b, p, None, 20, Setting(Precision.of("fp8", "fp8", experts=e), **how))  # type: ignore[arg-type]
        for b in (8, 64)
        for p in (1, 100, 3000)
        for e in ("fp8", "mxfp4", "int4_g128")
    ]
    table = predict_grid(model, Grid.of(asked, [device]), "datasheet")
    for place, scenario in enumerate(asked):
        for name, value in predict(scenario, device).totals().items():
            if value is not None:
                assert table[name][place] == pytest.approx(value, rel=1e-9), (scenario, name)


def test_rows_are_streamed_and_totals_are_linear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight times the points: the file grows by as much, memory by no more than the totals."""
    import tracemalloc

    import pyarrow as pa

    monkeypatch.setattr(module, "CHUNK", 512)
    monkeypatch.setattr("roofline.gridfile.ROW_GROUP", 4096)
    device, per_point = DEVICES[0], len(predict(Scenario(LLAMA, "decode"), DEVICES[0]).rows)

    def peaks(points: int) -> tuple[int, int, int]:
        sizes = np.arange(1.0, points + 1)
        one = (Setting(),), np.zeros(points, dtype=int), (device,), np.zeros(points, dtype=int)
        grid = Grid("decode", sizes, sizes, sizes + 1, sizes, *one)
        found = []
        for run in (
            lambda: write_rows(LLAMA, grid, tmp_path / f"{points}.parquet"),
            lambda: len(predict_grid(LLAMA, grid)["time_s"]),
        ):
            tracemalloc.start()
            before = pa.total_allocated_bytes()
            count = run()
            found.append(tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before)
            tracemalloc.stop()
            assert count == points * (per_point if not found[1:] else 1)
        return found[0], found[1], (tmp_path / f"{points}.parquet").stat().st_size

    peaks(100)  # what is imported and kept the first time
    few, many = peaks(2_000), peaks(16_000)
    assert many[0] < 1.5 * few[0]
    assert many[1] - few[1] < 8 * (14 + 8) * 14_000  # fourteen totals, and less than as much beside them
    assert many[2] > 4 * few[2]


KV4 = parse("kv4")
MODELS_OF_ALL_KINDS = [LLAMA, *(load_model(name).model for name in ("Qwen3-30B-A3B", "BERT-base-uncased"))]
PHASES = ("prefill", "decode", "generate")
SIZES: dict[str, list[tuple[int, int, int | None, int]]] = {
    "prefill": [(1, 130, None, 1), (7, 500, None, 1)],
    "decode": [(1, 10, 1, 1), (3, 10, 500, 1), (64, 10, 5000, 1)],
    "generate": [(1, 130, None, 40), (7, 3000, None, 1), (64, 1, None, 300)],
}
ON_ARRAYS = [one for one in offered() if one.on_arrays]


@pytest.mark.parametrize("fidelity", ["datasheet", "calibrated"])
@pytest.mark.parametrize("technique", ON_ARRAYS, ids=lambda one: one.called())
def test_techniques_that_apply_to_arrays(technique: Technique, fidelity: str) -> None:
    b200, tolerance = DEVICES[2], ROUNDING if fidelity == "datasheet" else SMOOTH
    compared = 0
    for model, phase, chosen in product(MODELS_OF_ALL_KINDS, PHASES, ((technique,), (technique, KV4))):
        if phase in model.phases or (phase == "generate" and "decode" in model.phases):
            found = [Scenario(model, phase, *size, techniques=chosen) for size in SIZES[phase]]
            applies = [one for one in found if not refused(one, b200)]
            compared += len(applies)
            if applies:
                assert_is_one_by_one(applies, [b200] * len(applies), fidelity, tolerance)
    assert compared > 1


def refused(one: Scenario, device: Device) -> bool:
    try:
        one.schedule(device)
    except InputError:
        return True
    return False


def test_formats_beside_a_technique_stay_names() -> None:
    formats = [Setting(Precision.of(weights, None, None)) for weights in ("bf16", "fp8", "int8")]
    wide = parse("awq")
    found = [Scenario(LLAMA, "decode", b, 100, 100, 1, s, (wide,)) for s in formats for b in (1, 9)]
    assert_is_one_by_one(found, [DEVICES[0]] * len(found))


def test_a_file_of_rows_names_its_techniques(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = [Scenario(LLAMA, "generate", b, 100, None, 9, techniques=(parse("awq"), KV4)) for b in (1, 9)]
    write_rows(LLAMA, Grid.of(found, DEVICES[:1]), tmp_path / "rows.parquet")
    rows = pq.read_table(tmp_path / "rows.parquet").to_pandas()
    said = " ".join(one.called() for one in found[0].techniques)
    assert set(rows["techniques"]) == {said}
    times = (rows["count"] * rows["time_s"]).groupby(rows["point"]).sum()
    np.testing.assert_allclose(times, [predict(s, DEVICES[0]).totals()["time_s"] for s in found], ROUNDING)


def test_launches_that_an_engine_counts_are_no_obstacle_to_a_grid() -> None:
    engine = find_engine("eager")
    assert engine is not None
    found = [run_by(Scenario(LLAMA, "generate", b, p, None, 9), engine) for b, p in ((1, 5), (40, 3000))]
    totals = predict_grid(LLAMA, Grid.of(found, DEVICES[:1], engine), engine=engine)
    alone = [predict(one, DEVICES[0], engine=engine).totals()["time_s"] for one in found]
    np.testing.assert_allclose(totals["time_s"], alone, ROUNDING)
    with pytest.raises(InputError, match="predict them one by one"):
        Grid.of(found, DEVICES[:1])


def test_a_technique_refused_on_a_device_or_for_a_format_is_refused_in_a_grid() -> None:
    nvfp4 = Scenario(LLAMA, "decode", 1, 100, 100, 1, techniques=(parse("nvfp4"),))
    assert predict_grid(LLAMA, Grid.of([nvfp4, nvfp4], [load_device("b200_sxm")]))["fits"].all()
    with pytest.raises(InputError, match="no matrix peak for fp4"):
        predict_grid(LLAMA, Grid.of([nvfp4, nvfp4], [load_device("b200_sxm"), DEVICES[0]]))
    narrow = replace(nvfp4, setting=Setting(Precision.of("int4", None, None)), techniques=(parse("fp8"),))
    with pytest.raises(InputError, match="weights in int4 are narrower than fp8"):
        predict_grid(LLAMA, Grid.of([replace(narrow, setting=Setting()), narrow], [DEVICES[0]]))
