"""`roofline import` and `show`: a run of traces, read back, validated and reported like a measured one."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profiler.traces.reading import read_traces
from profiler.traces.runs import load
from profiler.traces.tables import Trace
from profiler.traces.totals import totals
from roofline.run import open_run
from roofline.validate import scenario_of
from tests.profiler.traces.test_attribution import ALONE, graph_decode
from workloads.catalogue import load_model

Write = Callable[..., Path]
TOTALS = {
    "kernels",
    "kernel_time_s",
    "gpu_busy_s",
    "gpu_span_s",
    "gpu_idle_s",
    "unattributed_s",
    "dropped_events",
    "repaired_events",
}
ROW = {"name", "kind", "phase", "layer", "count", "time_s", "share", "flops", "bytes", "attained"}


@pytest.fixture
def decode(made: Any, write: Write) -> Path:
    graph_decode(made, layers=16, steps=3, annotation=ALONE)
    return write(made.text(deviceProperties=[{"id": 0, "name": "NVIDIA H100 80GB HBM3", "numSms": 132}]))


def test_a_run_keeps_what_the_trace_said(roofline: Any, decode: Path, tmp_path: Path) -> None:
    code, out, err = roofline("import", decode, "-o", tmp_path / "run")
    assert (code, out) == (0, ""), err
    kept = load(open_run(tmp_path / "run"))
    assert totals(kept) == totals(read_traces([decode]))
    code, shown, _ = roofline("show", tmp_path / "run", "--format", "json")
    data = json.loads(shown)
    assert code == 0
    assert set(data["totals"]) >= TOTALS
    assert all(set(row) >= ROW for row in data["rows"])
    assert data["schema"] == 1
    assert data["devices"][0]["name"] == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("by", ["operator", "kernel", "layer", "phase", "stream", "kind"])
def test_a_run_and_its_trace_show_the_same(roofline: Any, decode: Path, tmp_path: Path, by: str) -> None:
    roofline("import", decode, "-o", tmp_path / "run")
    of_run, of_trace = (
        json.loads(roofline("show", subject, "--by", by, "--format", "json")[1])["rows"]
        for subject in (tmp_path / "run", decode)
    )
    assert [(r["name"], r["count"], r["time_s"]) for r in of_run] == [
        (r["name"], r["count"], r["time_s"]) for r in of_trace
    ]
    rows = list(csv.DictReader(io.StringIO(roofline("show", decode, "--by", by, "--format", "csv")[1])))
    assert len(rows) == len(of_trace)


def test_with_its_model_a_run_is_validated_and_reported(roofline: Any, decode: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert roofline("import", decode, "-o", run, "--model", "Llama-3.2-1B", "--hw", "h100_sxm")[0] == 0
    operators = open_run(run).table("operators")
    assert set(operators["batch"]) == {8}
    assert set(operators["kv_len"]) == {1024}
    one = operators.set_index("name")
    assert one.loc["layers.mlp.down_proj", "count"] == 16
    assert one.loc["layers.mlp.down_proj", "median_s"] == pytest.approx(20e-6)  # with its split-K reduction
    code, text, _ = roofline(
        "validate", run, "--hw", "h100_sxm", "--fidelity", "datasheet", "--format", "json"
    )
    assert code == 0
    (result,) = json.loads(text)["fidelities"]
    matched = pd.DataFrame(result["matched"]).set_index("name")
    assert "layers.attention.q_proj + k_proj + v_proj" in matched.index
    assert {row["name"] for row in result["unmatched"]} <= {
        "layers.attention_residual",
        "layers.mlp_residual",
    }
    code, _, err = roofline("report", run, "-o", tmp_path / "r.html", "--hw", "h100_sxm", "--others", "")
    assert code == 0, err
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Llama-3.2-1B" in page
    assert "Where the recorded time went" in page


def test_validation_predicts_in_the_formats_of_the_import(
    roofline: Any, decode: Path, tmp_path: Path
) -> None:
    model = ["--model", "Llama-3.2-1B", "--hw", "h100_sxm"]
    formats = ["--weights", "int4", "--activations", "fp8", "--kv", "fp8"]
    bytes_moved = []
    for name, more in (("plain", []), ("narrow", formats)):
        assert roofline("import", decode, "-o", tmp_path / name, *model, *more)[0] == 0
        asked = ["--hw", "h100_sxm", "--fidelity", "datasheet", "--format", "json"]
        (result,) = json.loads(roofline("validate", tmp_path / name, *asked)[1])["fidelities"]
        matched = pd.DataFrame(result["matched"]).set_index("name")
        bytes_moved.append(matched.loc[["layers.attention.core", "layers.mlp.down_proj"], "bytes"])
    setting = scenario_of(open_run(tmp_path / "narrow")).setting.precision
    assert (setting.weights, setting.activations, setting.kv) == ("int4", "fp8", "fp8")
    plain, narrow = bytes_moved
    # The cache is most of its bytes.
    assert (narrow / plain)["layers.attention.core"] == pytest.approx(0.5, abs=0.01)
    assert (narrow / plain)["layers.mlp.down_proj"] < 0.3


def test_an_import_keeps_the_formats_of_a_checkpoint_that_mixes_some(
    roofline: Any, decode: Path, tmp_path: Path
) -> None:
    """Attention left in 16 bits; what is given beside the checkpoint wins when the run is read, too."""
    eight = {"num_bits": 8, "type": "float"}
    quantised = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": eight, "input_activations": eight}},
        "ignore": ["lm_head", "re:.*self_attn.*"],
    }
    config = {**load_model("Llama-3.2-1B").config, "quantization_config": quantised}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = ("--model", tmp_path / "config.json", "--weights", "checkpoint", "--kv", "fp8")
    code, _, err = roofline("import", decode, "-o", tmp_path / "run", *asked, "--hw", "h100_sxm")
    assert code == 0, err
    scenario = scenario_of(open_run(tmp_path / "run"))
    precision = scenario.setting.precision
    assert (precision.weights, precision.activations, precision.kv) == ("fp8", "fp8", "fp8")
    (others,) = scenario.other_formats()
    assert (others["weights"], len(others["operators"])) == ("bf16", 4)


def test_formats_other_than_the_published_are_said(roofline: Any, decode: Path, tmp_path: Path) -> None:
    """Only the experts of gpt-oss are in mxfp4."""
    for option, told in (("--weights", True), ("--expert-weights", False)):
        asked = ("--model", "gpt-oss-20b", option, "mxfp4")
        code, _, err = roofline("import", decode, "-o", tmp_path / option, *asked)
        assert code == 0
        assert ("note: gpt-oss-20b is predicted with all weights in mxfp4" in err) == told


def test_without_a_model_validation_says_what_to_do(roofline: Any, decode: Path, tmp_path: Path) -> None:
    roofline("import", decode, "-o", tmp_path / "run")
    code, _, err = roofline("validate", tmp_path / "run", "--hw", "h100_sxm")
    assert code == 2
    assert "--model" in err


def test_several_ranks_make_one_run(roofline: Any, made: Any, write: Write, tmp_path: Path) -> None:
    graph_decode(made, layers=4)
    files = [write(made.text(distributedInfo={"rank": rank}), f"rank{rank}.json") for rank in (0, 1)]
    roofline("import", *files, "-o", tmp_path / "both")
    roofline("import", files[0], "-o", tmp_path / "one")
    both, one = (
        json.loads(roofline("show", tmp_path / name, "--format", "json")[1]) for name in ("both", "one")
    )
    assert len(both["devices"]) == 2
    assert both["totals"]["gpu_busy_s"] == pytest.approx(2 * one["totals"]["gpu_busy_s"])
    assert [o.rank for o in open_run(tmp_path / "both").head.imported.origins] == [0, 1]  # type: ignore[union-attr]
    assert json.loads(roofline("show", *files, "--format", "json")[1])["rows"] == both["rows"]
    code, _, err = roofline("show", tmp_path / "both", files[0])
    assert (code, "both: is a run" in err) == (2, True)


def test_secrets_of_a_trace_stay_in_it(roofline: Any, made: Any, write: Write, tmp_path: Path) -> None:
    made.kernel("k", 0.0, 1.0)
    trace = write(made.text(metadata={"env": {"TOKEN": "very-secret-word"}}, cmdline="very-secret-word"))
    roofline("import", trace, "-o", tmp_path / "run")
    for file in (tmp_path / "run").iterdir():
        assert b"very-secret-word" not in file.read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["import", "absent.json", "-o", "run"], "no such file"),
        (["show", "absent"], "no such run folder"),
        (["import", "TRACE", "-o", "run", "--model", "Llama-9"], "no model named"),
        (["import", "TRACE", "-o", "run", "--hw", "h1000"], "no device named"),
        (["show", "TRACE", "--by", "colour"], "no grouping named 'colour'"),
        (["show", "TRACE", "--format", "xml"], "no format named"),
    ],
)
def test_wrong_input_is_one_sentence(
    roofline: Any, decode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = roofline(*(decode if word == "TRACE" else word for word in words))
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([("kernel", -5.0)], "(1 dropped: events of negative duration)"),
        ([("kernel", -5.0), ("kernel", 7.2e9)], "longer than an hour; 1 dropped: events of negative"),
        ([("user_annotation", 5.0)], "(none was recorded)"),
    ],
)
def test_a_trace_without_activities_is_refused_with_what_was_dropped(
    roofline: Any, write: Write, tmp_path: Path, events: list[tuple[str, float]], says: str
) -> None:
    place = {"ph": "X", "ts": 1, "pid": 0, "tid": 7, "args": {"device": 0, "stream": 7}}
    found = [{**place, "cat": kind, "name": "k", "dur": length_us} for kind, length_us in events]
    code, out, err = roofline("import", write(json.dumps({"traceEvents": found})), "-o", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "trace.json: no kernel, copy or operator to import " in err
    assert says in err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(roofline: Any, decode: Path, tmp_path: Path) -> None:
    roofline("import", decode, "-o", tmp_path / "run")
    code, _, err = roofline("import", decode, "-o", tmp_path / "run")
    assert code == 2
    assert "already there" in err


def test_an_interrupt_before_the_run_is_whole_leaves_no_folder(
    roofline: Any, decode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, _: str) -> None:
        file.parent.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("roofline.run.write_new", interrupted)
    assert roofline("import", decode, "-o", tmp_path / "run").code == 130
    assert not (tmp_path / "run").exists()


def test_an_interrupt_that_reading_swallows_ends_the_import(
    roofline: Any, decode: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallowing(trace: Trace) -> Trace:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return trace

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("profiler.traces.attribution.counted", swallowing)
    try:
        assert roofline("import", decode, "-o", tmp_path / "run").code == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["show", "report"])
def test_an_import_that_was_stopped_is_refused(
    roofline: Any, decode: Path, tmp_path: Path, command: str
) -> None:
    """As by Ctrl-C between two tables: what is there would be taken for the whole."""
    roofline("import", decode, "-o", tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.write_head(status="running")
    (tmp_path / "run" / "activities.parquet").unlink()
    code, _, err = roofline(command, tmp_path / "run")
    assert code == 2
    assert "its import did not end; remove it and import the traces again." in err


def test_a_broken_table_is_named(roofline: Any, decode: Path, tmp_path: Path) -> None:
    roofline("import", decode, "-o", tmp_path / "run")
    (tmp_path / "run" / "activities.parquet").write_bytes(b"PAR1 no")
    code, _, err = roofline("show", tmp_path / "run")
    assert code == 2
    assert "activities.parquet" in err
