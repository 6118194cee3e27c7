"""A profiled run, end to end: what it holds, what can be made from it, and what a stop leaves behind."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from profiler import record, ways
from profiler.forward import Point
from profiler.record import profile
from profiler.repeats import ALL, KNOWN_FROM, NARROW, Effort
from profiler.request import Request
from profiler.subject import Subject
from reports.units import si
from roofline.run import open_run
from roofline.run_tables import TABLES
from specfiles.errors import InputError
from workloads.catalogue import load_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SIZES = ("--device", "cpu", "--prompt", 64, "--output", 4, "--repeats", 3)
POINTS = [("prefill", 1, 64, 64), ("decode", 1, 1, 65), ("decode", 1, 1, 67)]
POINT = ["phase", "batch", "q_len", "kv_len"]
Roofline = Callable[..., Any]


@pytest.fixture(scope="module")
def run_folder(
    small_llama: Path, measured_file: Path, roofline: Roofline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("profile") / "run"
    done = roofline("profile", small_llama, *SIZES, "--hw", measured_file, "--no-alone", "-o", folder)
    assert done.code == 0, done.err
    assert done.out == ""  # results are in the folder, progress on stderr
    assert f"run written to {folder}" in done.err
    return folder


def test_the_head_says_what_ran(run_folder: Path, small_llama: Path) -> None:
    head = json.loads((run_folder / "run.json").read_text())
    assert head["schema_version"] == 1
    assert head["status"] == "complete"
    assert head["command"].startswith("roofline profile ")
    assert head["model_config_fields"] == json.loads((small_llama / "config.json").read_text())
    assert (head["phase"], head["dtype"], head["convention"]) == ("prefill decode", "fp32", "eager")
    assert head["weights"].startswith("random")
    assert head["device"] == "here"
    assert head["environment"]["torch"] == torch.__version__
    assert head["environment"]["threads"] == 1
    assert sum("ranges change the step" in note for note in head["notes"]) == len(POINTS)


def test_the_device_file_goes_along(run_folder: Path, measured_file: Path) -> None:
    from hwspecs import load_device

    assert load_device(run_folder / "device.yaml") == load_device(measured_file)


def test_a_run_of_a_machine_without_a_data_sheet_is_exported(
    run_folder: Path, roofline: Roofline, tmp_path: Path
) -> None:
    done = roofline("export", run_folder, "-o", tmp_path / "steps.parquet")
    assert done.code == 0, done.err
    assert (pd.read_parquet(tmp_path / "steps.parquet")["predicted_s"] > 0).all()


def test_nothing_unfinished_lies_in_the_folder(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    traces = {f"trace-{phase}-{batch}x{q}of{kv}.json.gz" for phase, batch, q, kv in POINTS}
    tables = {f"{name}.parquet" for name in ("operators", "steps", "kernels", "references")}
    assert names - {"outliers.parquet"} == {"run.json", "device.yaml", *tables, *traces}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_documented_columns(name: str, run_folder: Path) -> None:
    assert list(open_run(run_folder).table(name)) == list(TABLES[name])


def test_every_point_has_its_steps_operators_and_kernels(run_folder: Path) -> None:
    run = open_run(run_folder)
    for name in ("steps", "operators", "kernels", "references"):
        points = run.table(name)[POINT].drop_duplicates()
        assert list(points.itertuples(index=False, name=None)) == POINTS
    assert list(run.table("steps")["instrumented"]) == [False, True] * len(POINTS)


def test_the_reference_step_was_repeated_before_between_and_after_the_rounds(run_folder: Path) -> None:
    rows = open_run(run_folder).table("references").set_index("kv_len")
    rounds = 3  # --repeats
    assert rows["repeats"].to_dict() == {64: (rounds + 1) * 1, 65: (rounds + 1) * 4, 67: (rounds + 1) * 4}
    assert rows["model"].unique().tolist() == ["yardstick-d"]
    assert (rows["layers_s"] > 0).all()
    assert rows.loc[64, "layers_s"] < rows.loc[64, "median_s"]  # all layers of a prefill are watched


def test_a_run_says_how_its_steps_were_repeated(run_folder: Path, roofline: Roofline) -> None:
    run = open_run(run_folder)
    steps = run.table("steps")
    assert set(steps["ended"]) == {"all repeats"}  # three: too few for a narrow interval
    assert (steps["warm_ups"] >= 1).all()
    assert (steps["low_s"] <= steps["median_s"]).all()
    assert (steps["median_s"] <= steps["high_s"]).all()
    outliers = run.table("outliers")
    assert len(outliers) == steps["outliers"].sum()
    assert (outliers["time_s"] > 0).all()
    assert sum("ended by: all repeats" in note for note in run.head.notes) == len(POINTS)
    show = ("show", run_folder)  # of a machine without a data sheet: its measured ceilings count
    shown = json.loads(roofline(*show, "--format", "json").out)
    assert [row["median_s"] for row in shown["steps"]] == steps["median_s"].tolist()
    assert "ended by" in roofline(*show).out


def test_rounds_end_when_time_is_up(small_llama: Path, tmp_path: Path) -> None:
    """Three are made in any case."""
    effort = Effort(repeats=1000, budget_s=1e-3)
    steps = profile(request_for(small_llama, tmp_path / "run", effort=effort)).table("steps")
    assert set(steps["ended"]) == {"budget spent"}
    assert steps.groupby("phase")["repeats"].max().to_dict() == {"prefill": 3, "decode": 3 * 4}


def test_rounds_end_when_the_median_is_known(small_llama: Path, tmp_path: Path) -> None:
    """To within a billion times itself: it is, with as few repeats as have an interval."""
    effort = Effort(repeats=1000, precision=1e9)
    steps = profile(request_for(small_llama, tmp_path / "run", effort=effort)).table("steps")
    assert set(steps["ended"]) == {"narrow interval"}
    assert steps.groupby("phase")["repeats"].max().to_dict() == {"prefill": 6, "decode": 6 * 4}


def test_the_machine_s_drift_is_told(run_folder: Path, roofline: Roofline) -> None:
    """Ratio and both errors, on the machine that both were measured on; no more is known of its value."""
    done = roofline("validate", run_folder, "--hw", run_folder / "device.yaml", "--format", "json")
    (*_, last) = json.loads(done.out)["fidelities"]
    assert [(row["phase"], row["batch"], row["q_len"], row["kv_len"]) for row in last["drift"]] == POINTS
    assert last["layers_drift_unknown"] == ""
    for name, ratio in (("layers", "layers_drift"), ("steps", "drift")):
        told = {row["kv_len"]: row[ratio] for row in last["drift"]}
        for row in last[name]:
            assert row["drift"] == told[row["kv_len"]] > 0
            assert row["error_after_drift"] == pytest.approx((1 + row["error"]) * row["drift"] - 1)


def test_quartiles_are_in_order_and_positive(run_folder: Path) -> None:
    run = open_run(run_folder)
    for name in ("steps", "operators"):
        table = run.table(name)
        assert (table["repeats"] >= 3).all()
        assert (table["q25_s"] > 0).all()
        assert (table["q25_s"] <= table["median_s"]).all()
        assert (table["median_s"] <= table["q75_s"]).all()


def read_trace(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p[0]}{p[3]}")
def test_traces_hold_the_operators_as_annotations(point: tuple[Any, ...], run_folder: Path) -> None:
    phase, batch, q_len, kv_len = point
    trace = read_trace(run_folder / f"trace-{phase}-{batch}x{q_len}of{kv_len}.json.gz")
    annotated = {e["name"] for e in trace["traceEvents"] if e.get("cat") == "user_annotation"}
    operators = open_run(run_folder).table("operators")
    assert set(operators.loc[operators["kv_len"] == kv_len, "name"]) <= annotated


def test_kernels_are_attributed_to_operators_that_were_measured(run_folder: Path) -> None:
    run = open_run(run_folder)
    kernels = run.table("kernels")
    assert set(kernels["operator"]) - {""} <= set(run.table("operators")["name"])
    prefill = kernels[kernels["phase"] == "prefill"]
    linear = prefill[prefill["name"] == "aten::linear"].set_index("operator")["count"]
    assert linear["layers.mlp.down_proj"] == linear["layers.attention.q_proj"] == 3  # layers
    assert linear["lm_head"] == 1


def test_it_can_be_validated(run_folder: Path, roofline: Roofline) -> None:
    done = roofline("validate", run_folder, "--hw", run_folder / "device.yaml", "--format", "json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    text = json.dumps(results)
    assert "measured" in text
    assert "calibrated" in text
    table = roofline("validate", run_folder)  # the file that `profile --hw` put beside the run
    assert table.code == 0
    assert "layers.mlp.down_proj" in table.out


def test_nothing_predicted_is_missing_and_nothing_measured_is_unknown(run_folder: Path) -> None:
    from hwspecs import load_device
    from roofline.validate import validate

    found = validate(open_run(run_folder), load_device(run_folder / "device.yaml"), "calibrated")
    assert found.unmatched.empty
    operators = open_run(run_folder).table("operators")
    assert len(found.matched) == (operators["where"] == "model").sum()
    beside = operators[operators["where"] == "framework"]
    assert list(beside["name"]) == ["framework.inputs"] * len(POINTS)  # positions, rotary tables, the mask


def test_it_can_be_reported(run_folder: Path, roofline: Roofline, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = roofline("report", run_folder, "-o", page, "--others", "a100_sxm")
    assert done.code == 0, done.err
    assert "layers.mlp.down_proj" in page.read_text(encoding="utf-8")


def test_on_a_machine_that_no_file_describes_the_measured_times_stand_alone(
    run_folder: Path, roofline: Roofline, tmp_path: Path
) -> None:
    """There is a page of them; a comparison needs the device."""
    bare, page = tmp_path / "bare", tmp_path / "report.html"
    shutil.copytree(run_folder, bare)
    (bare / "device.yaml").unlink()
    head = json.loads((bare / "run.json").read_text())
    (bare / "run.json").write_text(json.dumps({**head, "device": "a machine of one's own"}))
    ended = roofline("validate", str(bare))
    assert ended.code == 2
    assert "a machine of one's own, which no device file describes" in ended.err
    done = roofline("report", str(bare), "-o", page)
    assert done.code == 0, done.err
    steps = open_run(bare).table("steps")
    first = steps[~steps["instrumented"].astype(bool) & (steps["phase"] == "prefill")].iloc[0]
    text = page.read_text(encoding="utf-8")
    for shown in (si(first["median_s"], "s"), "layers.mlp.down_proj", "With --hw predictions, ceilings"):
        assert shown in text.replace("\u00a0", " ").replace("<wbr>", "")
    assert "attained" not in text[text.index("<main>") : text.index("</main>")]


def test_an_existing_run_is_never_mixed_with_another(
    run_folder: Path, small_llama: Path, roofline: Roofline
) -> None:
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    done = roofline("profile", small_llama, *SIZES, "-o", run_folder)
    assert done.code == 2
    assert "a run is already there; name another folder or remove it" in done.err
    assert done.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in run_folder.iterdir()} == before


@pytest.mark.usefixtures("no_cuda")
def test_cuda_without_a_gpu_is_one_sentence_and_writes_nothing(
    small_llama: Path, roofline: Roofline, tmp_path: Path
) -> None:
    for command in (
        ("profile", small_llama, "-o", tmp_path / "run"),
        ("ceilings", "-o", tmp_path / "a.yaml"),
    ):
        done = roofline(*command, "--device", "cuda")
        assert done.code == 2
        assert done.err == (
            "roofline: cuda was asked for, and torch sees no CUDA device; use --device cpu or auto.\n"
        )
        assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_a_gpu_is_profiled(small_llama: Path, roofline: Roofline, cuda: str, tmp_path: Path) -> None:
    done = roofline("profile", small_llama, *SIZES, "--device", cuda, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    run = open_run(tmp_path / "run")
    assert run.head.dtype == "bf16"
    kernels = run.table("kernels")
    inside = kernels[kernels["operator"] != ""]["time_s"].sum()
    assert inside >= 0.9 * kernels["time_s"].sum() > 0


def request_for(small_llama: Path, out: Path, **options: Any) -> Request:
    points = tuple(Point(*point) for point in POINTS)
    chosen = {"effort": Effort(options.pop("repeats", 1)), "alone": False, **options}
    return Request(load_model(small_llama), "cpu", "fp32", points, out, "a machine", **chosen)


def test_operators_alone_are_measured_beside_those_in_the_model(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.alone.last_level_cache_bytes", lambda _: 1 << 18)
    request = request_for(small_llama, tmp_path / "run", alone=True)
    request.points = request.points[:2]
    operators = profile(request).table("operators")
    inside, alone = (operators[operators["where"] == where] for where in ("model", "alone"))
    keys = [*POINT, "name", "kind", "count"]
    assert set(alone[keys].itertuples(index=False)) == set(inside[keys].itertuples(index=False))
    assert (alone["median_s"] > 0).all()


def test_a_device_that_an_operator_alone_loses_ends_the_run_with_what_it_has(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: Any) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("profiler.alone.last_level_cache_bytes", lambda _: 1 << 18)
    monkeypatch.setattr("profiler.kernels.Kernel.error", fault)
    monkeypatch.setattr("profiler.alone.answers", lambda _: False)
    with pytest.raises(InputError, match=r"cpu failed \(CUDA error: an illegal .* in prefill"):
        profile(request_for(small_llama, tmp_path / "run", alone=True))
    run = open_run(tmp_path / "run")
    assert run.head.status == "failed"
    assert set(run.table("steps")["kv_len"]) == {64, 65, 67}


def test_a_kernel_that_computes_something_else_is_not_timed(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.alone.last_level_cache_bytes", lambda _: 1 << 18)
    monkeypatch.setattr("profiler.kernels.Kernel.error", lambda _: float("nan"))
    told: list[str] = []
    request = request_for(small_llama, tmp_path / "run", alone=True, progress=told.append)
    request.points = request.points[1:2]
    operators = profile(request).table("operators")
    inside = operators[operators["where"] == "model"]
    assert "alone" not in set(operators["where"])
    assert sum("not measured alone: deviates by nan from fp64" in line for line in told) == len(inside)


def fail_at_second(error: BaseException) -> Callable[..., Any]:
    """As `trace_step`, but the second step ends in an error after its times were taken."""
    genuine, calls = ways.trace_step, []

    def trace(subject: Subject, *rest: Any) -> list[dict[str, Any]]:
        calls.append(0)
        if len(calls) == 2:
            raise error
        return genuine(subject, *rest)

    return trace


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (torch.OutOfMemoryError("no more"), 2, "out of memory in decode of batch 1, 1 of "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted; what was measured is in"),
    ],
    ids=["GPU memory", "CPU memory", "interrupt"],
)
def test_a_stop_keeps_what_was_measured(
    error: BaseException,
    code: int,
    sentence: str,
    small_llama: Path,
    measured_file: Path,
    roofline: Roofline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "trace_step", fail_at_second(error))
    folder = tmp_path / "run"
    done = roofline("profile", small_llama, *SIZES, "--hw", measured_file, "--no-alone", "-o", folder)
    assert done.code == code
    assert sentence in done.err
    assert "Traceback" not in done.err
    run = open_run(folder)
    assert run.head.status == "failed"
    assert list(run.table("steps")[POINT].drop_duplicates().itertuples(index=False, name=None)) == POINTS
    assert any(note.startswith(f"stopped: {type(error).__name__}") for note in run.head.notes)
    for name in ("operators", "steps", "kernels"):
        rows = run.table(name)
        assert tuple(rows[POINT].iloc[0]) == POINTS[0]
    assert "the run is not complete (status: failed)" in roofline("show", folder).out
    assert roofline("validate", folder, "--hw", measured_file).code == 0
    assert roofline("report", folder, "-o", tmp_path / "report.html").code == 0


FAULT = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
        (
            RuntimeError(f"{FAULT}\nCompile with DSA"),
            InputError,
            rf"^cpu failed \({FAULT}\) in decode of batch .*; what was .* is in",
        ),
    ],
)
def test_an_error_keeps_what_was_measured_and_is_raised(
    error: Exception, raised: type[Exception], said: str, small_llama: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ways, "trace_step", fail_at_second(error))
    with pytest.raises(raised, match=said):
        profile(request_for(small_llama, tmp_path / "run"))
    run = open_run(tmp_path / "run")
    assert run.head.status == "failed"
    (note,) = (note for note in run.head.notes if note.startswith("stopped: "))
    assert note.startswith(f"stopped: {type(error).__name__}: {error} (in decode of batch ")
    assert set(run.table("kernels")["phase"]) == {"prefill"}


def test_a_stop_among_the_rounds_keeps_the_rounds_before(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = ways.visit, []

    def visit(*args: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == len(POINTS) + 2:
            raise KeyboardInterrupt
        return genuine(*args, **options)

    monkeypatch.setattr(ways, "visit", visit)
    with pytest.raises(KeyboardInterrupt):
        profile(request_for(small_llama, tmp_path / "run", repeats=3))
    steps = open_run(tmp_path / "run").table("steps")
    plain = steps[~steps["instrumented"]].set_index("kv_len")["repeats"]
    assert plain.to_dict() == {64: 2, 65: 4, 67: 4}  # the second round ended after its first point


@pytest.mark.parametrize(("limit", "repeats"), [(None, KNOWN_FROM), (0.01, 8)])
def test_repeats_go_on_until_a_limit_of_overhead_is_decided(
    limit: float | None, repeats: int, small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it never is, while times are known as soon as they can be."""
    monkeypatch.setattr("profiler.steps.decided", lambda _, limit: limit is None)
    request = request_for(small_llama, tmp_path / "run", effort=Effort(8, precision=1e9), most_overhead=limit)
    request.points = request.points[:1]
    steps = profile(request).table("steps")
    assert set(steps["repeats"]) == {repeats}
    assert set(steps["ended"]) == {NARROW if limit is None else ALL}


def test_a_point_without_place_costs_none_that_was_ready(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points are made ready together and then measured in turn."""

    class Small(ways.Eager):
        def __init__(self, subject: Subject, point: Point) -> None:
            if point.kv_len == 67:
                raise torch.OutOfMemoryError("no more")
            super().__init__(subject, point)

    monkeypatch.setitem(ways.WAYS, "eager", Small)
    request = request_for(small_llama, tmp_path / "run")
    with pytest.raises(InputError, match="out of memory in decode of batch 1, 1 of 67 tokens"):
        profile(request)
    run = open_run(tmp_path / "run")
    assert run.head.status == "failed"
    for table in ("steps", "operators", "kernels"):
        assert set(run.table(table)["kv_len"]) == {64, 65}


def refuse_memory(*_: Any) -> Any:
    raise torch.OutOfMemoryError("no more")


NO_ENERGY = "NVML gives no energy (Not Supported)"  # as of a GPU that is shared by virtual machines


@pytest.mark.parametrize(
    ("patches", "note"),
    [
        (
            dict.fromkeys(
                ("profiler.recorders.nvtx_installed", "profiler.record.nvtx_installed"), lambda: False
            ),
            "nvtx is not installed: no NVTX ranges were made; pip install nvtx",
        ),
        (
            {
                "profiler.record.open_counter": lambda _: (None, NO_ENERGY),
                "profiler.power.open_rapl": lambda: (SimpleNamespace(power_w=lambda: 20.0), ""),
            },
            NO_ENERGY,
        ),
        ({"profiler.references.reference_steps": refuse_memory}, "no reference steps were run"),
    ],
    ids=["nvtx", "energy", "place for the reference"],
)
def test_what_a_machine_lacks_is_said_once(
    patches: dict[str, Any], note: str, small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, stand_in in patches.items():
        monkeypatch.setattr(place, stand_in)
    request = request_for(small_llama, tmp_path / "run")
    request.points = request.points[1:2]
    run = profile(request)
    assert run.head.status == "complete"
    assert sum(note in told for told in run.head.notes) == 1
    assert run.table("references").empty == ("reference" in note)


def test_points_whose_caches_find_no_place_together_are_measured_after_each_other(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(small_llama, tmp_path / "run")
    assert record._groups(request) == [list(request.points)]
    monkeypatch.setattr(record, "TOGETHER_BYTES", 0)
    assert record._groups(request) == [[point] for point in request.points]


def test_a_model_that_cannot_run_leaves_nothing(roofline: Roofline, tmp_path: Path) -> None:
    """DBRX's code needs the limit that its default config leaves null."""
    fields = {
        **{"model_type": "dbrx", "d_model": 48, "n_layers": 1, "n_heads": 6, "vocab_size": 101},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": None},
        "ffn_config": {"hidden_size": 48, "ffn_hidden_size": 24, "moe_num_experts": 5, "moe_top_k": 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    done = roofline("profile", tmp_path, *SIZES, "-o", tmp_path / "run")
    assert done.code == 2
    assert "transformers cannot run" in done.err
    assert not (tmp_path / "run").exists()


def test_a_model_that_leaves_no_memory_for_a_step_is_told_so(
    small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("profiler.forward.step", full)
    with pytest.raises(
        InputError, match="leaves too little memory of cpu to run a step; take a smaller model"
    ):
        profile(request_for(small_llama, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_built_leaves_nothing(roofline: Roofline, tmp_path: Path) -> None:
    fields = {
        **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"intermediate_size": 96, "vocab_size": 100, "hidden_act": "an activation of tomorrow"},
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    done = roofline("profile", tmp_path, *SIZES, "-o", tmp_path / "run")
    assert done.code == 2
    assert "an activation of tomorrow" in done.err
    assert not (tmp_path / "run").exists()
