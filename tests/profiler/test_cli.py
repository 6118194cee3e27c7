"""The command line: results on stdout, one sentence per mistake on stderr, and nothing heavy imported."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.shell_completion import ShellComplete

from hwspecs.loader import DEVICES, HARDWARE
from profiler.cli import app
from roofline.scenario import Scenario
from roofline.sweep.run import compute_into
from tests.profiler.conftest import Finished
from workloads.catalogue import MODELS
from workloads.dtypes import Precision

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
WORKLOAD = "schema: 1\nname: mine\nmodel: Llama-2-7B\nphase: decode\nbatch: [1, 2]\nprompt: 100\n"
LISTED = """\
schema: 1
name: listed
operators:
  - {op: gemm, dtype: bf16, m: 4, n: 64, k: 32, note: first}
  - {op: attention_decode, dtype: bf16, batch: 2, kv_len: 100, n_heads: 8, n_kv_heads: 2, head_dim: 64}
"""


Roofline = Callable[..., Finished]
PREDICT = ("predict", "Llama-2-7B", "--hw", "h100_sxm")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_predict_as_json(roofline: Roofline) -> None:
    ended = roofline(*PREDICT, "--phase", "decode", "--batch", 4, "--context", 100, "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    data = ended.data
    asked = {"model": "Llama-2-7B", "hardware": "H100-SXM5-80GB", "phase": "decode", "batch": 4}
    assert {key: data[key] for key in asked} == asked
    assert data["context"] == 100
    summed = sum(row["count"] * row["time_s"] for row in data["operators"])
    assert data["totals"]["time_s"] == pytest.approx(summed, rel=1e-9, abs=0)
    assert data["totals"]["tokens_per_s"] == pytest.approx(4 / summed)


def test_an_engine_is_rows_of_its_own_and_none_is_nothing(roofline: Roofline, tmp_path: Path) -> None:
    asked = (*PREDICT, "--phase", "generate", "--output", 10, "--fidelity", "calibrated", "--format", "json")
    plain, none, served = (
        roofline(*asked, *more) for more in ((), ("--engine", "none"), ("--engine", "vllm"))
    )
    assert plain.out == none.out
    assert "engine" not in plain.data
    rows = served.data["operators"]
    summed = sum(row["count"] * row["time_s"] for row in rows)
    assert served.data["totals"]["time_s"] == pytest.approx(summed, rel=1e-9)
    told = {(row["name"], row["phase"]): row for row in served.data["engine"]["rows"]}
    assert set(told) == {(row["name"], row["phase"]) for row in rows if row["kind"] == "engine"}
    assert served.data["backend"] == "vllm"
    assert served.data["totals"]["tpot_s"] > plain.data["totals"]["tpot_s"] * 0.9  # its kernels are others
    assert "TDP" in served.data["energy_by"]
    (tmp_path / "p.json").write_text(served.out)
    assert roofline("report", tmp_path / "p.json", "-o", tmp_path / "r.html").code == 0
    assert "engine.launch_gaps" in (tmp_path / "r.html").read_text()
    table = roofline(*asked[:-2], "--engine", "eager").out
    assert "engine eager: no CUDA graphs; fitted to Llama-2-70B" in table
    assert "hidden by nothing" in table


def test_operators_are_explained_as_an_engine_runs_them(roofline: Roofline) -> None:
    """vLLM multiplies gate and up as one product."""
    inside = (*PREDICT, "--engine", "vllm", "--fidelity", "calibrated")
    assert "layers.mlp.gate_up_proj in prefill" in roofline(*inside, "--explain", "gate_up_proj").out
    assert "gate_up_proj" in roofline(*inside, "--ledger").out


def test_json_has_no_number_that_json_does_not_have(roofline: Roofline) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    for phase in ("prefill", "decode", "generate"):
        ended = roofline(*PREDICT, "--phase", phase, "--tp", 2, "--format", "json")
        json.loads(ended.out, parse_constant=refuse)


def test_predict_as_csv_and_as_table(roofline: Roofline) -> None:
    data = roofline(*PREDICT, "--phase", "prefill", "--format", "json").data
    rows = list(csv.DictReader(io.StringIO(roofline(*PREDICT, "--phase", "prefill", "--format", "csv").out)))
    assert [row["name"] for row in rows] == [row["name"] for row in data["operators"]]
    table = roofline(*PREDICT, "--phase", "prefill")
    assert table.code == 0
    assert all(row["name"] in table.out for row in data["operators"])
    assert "Llama-2-7B on H100-SXM5-80GB" in table.out
    assert "TTFT" in table.out


def test_every_flag_reaches_the_prediction(roofline: Roofline) -> None:
    flags = ("--weights", "int4", "--activations", "fp16", "--kv", "fp8", "--tp", 2, "--convention", "eager")
    sizes = ("--phase", "generate", "--batch", 3, "--prompt", 50, "--output", 7, "--fidelity", "measured")
    data = roofline(*PREDICT, *flags, *sizes, "--format", "json").data
    dtypes = {"weights": "int4", "activations": "fp16", "kv": "fp8"}
    assert data["dtypes"] == {**dtypes, "experts": "int4", "expert_activations": "fp16"}
    names = ("tensor_parallel", "convention", "batch", "prompt", "output", "phase", "fidelity")
    assert [data[name] for name in names] == [2, "eager", 3, 50, 7, "generate", "measured"]
    assert any("allreduce" in row["name"] for row in data["operators"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--expert-weights", "fp8"), "a format of experts' weights was given"),
        (("--expert-activations", "fp8"), "a format that experts multiply in was given"),
        (("--expert-skew", "1"), "an expert skew was given"),
    ],
)
def test_experts_of_a_model_without_them_are_refused(
    roofline: Roofline, flags: tuple[str, str], said: str
) -> None:
    """A technique may make some, which are then in that format."""
    asked = ("predict", "Llama-3.2-1B", "--hw", "h100", *flags)
    refused = roofline(*asked)
    assert refused.code == 2
    assert f"Llama-3.2-1B has no experts, and {said}" in refused.err
    assert roofline(*asked, "--with", "mixture-of-experts").code == 0


def test_experts_are_spread_as_asked(roofline: Roofline, tmp_path: Path) -> None:
    """And a report made from the prediction says the same."""
    flags = ("--ep", 4, "--pp", 2, "--expert-weights", "mxfp4", "--expert-skew", 1, "--batch", 8)
    asked = ("predict", "gpt-oss-20b", "--hw", "h100", "--phase", "decode", *flags, "--format", "json")
    data = roofline(*asked, "-o", tmp_path / "p.json") and json.loads((tmp_path / "p.json").read_text())
    assert (data["expert_parallel"], data["pipeline_parallel"], data["expert_skew"]) == (4, 2, 1)
    assert data["dtypes"]["experts"] == "mxfp4"
    assert {"layers.moe.dispatch_alltoall", "stage_send"} <= {row["name"] for row in data["operators"]}
    assert roofline("report", tmp_path / "p.json", "-o", tmp_path / "r.html").code == 0
    assert "Devices that experts are spread over" in (tmp_path / "r.html").read_text()
    assert "weights bf16, experts mxfp4, activations bf16" in roofline(*asked[:-2]).out


def test_experts_multiply_in_a_format_of_their_own(roofline: Roofline) -> None:
    """NVIDIA's checkpoints: experts in NVFP4, attention in bf16. B200 has four times the FLOP/s in fp4."""
    asked = ("predict", "Qwen3-30B-A3B", "--hw", "b200", "--phase", "prefill", "--expert-weights", "nvfp4")
    wide = roofline(*asked, "--format", "json").data
    narrow = roofline(*asked, "--expert-activations", "nvfp4", "--format", "json").data
    assert (wide["dtypes"]["expert_activations"], narrow["dtypes"]["expert_activations"]) == ("bf16", "nvfp4")
    both = zip(wide["operators"], narrow["operators"], strict=True)
    ratios = {a["name"]: a["compute_s"] / b["compute_s"] for a, b in both if a["matrix_flops"]}
    experts = [f"layers.moe.experts_{name}_proj" for name in ("gate_up", "down")]
    assert [ratios.pop(name) for name in experts] == pytest.approx([4, 4])
    assert set(ratios.values()) == {1}
    assert "activations bf16, experts nvfp4" in roofline(*asked, "--expert-activations", "nvfp4").out


def test_names_are_found_forgivingly(roofline: Roofline) -> None:
    data = roofline("predict", "llama 2-7b", "--hw", "H100 sxm5 80gb", "--format", "json").data
    assert (data["model"], data["hardware"]) == ("Llama-2-7B", "H100-SXM5-80GB")


@pytest.mark.parametrize("format", ["json", "csv", "table"])
def test_a_file_holds_what_the_screen_would(roofline: Roofline, tmp_path: Path, format: str) -> None:
    shown = roofline(*PREDICT, "--format", format)
    written = roofline(*PREDICT, "--format", format, "-o", tmp_path / "new" / "out.txt")
    assert (written.code, written.out) == (0, "")
    assert written.err == f"written to {tmp_path / 'new' / 'out.txt'}\n"
    assert (tmp_path / "new" / "out.txt").read_text(encoding="utf-8") == shown.out


def test_a_config_of_your_own(roofline: Roofline, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text(json.dumps(CONFIG))
    for asked in ("my-model", "my-model/config.json"):
        assert roofline("predict", asked, "--hw", "h100", "--format", "json").data["model"] == "my-model"


def test_lists_of_sizes_span_a_grid(roofline: Roofline) -> None:
    """Each point is what it is when asked for alone; sizes in which points differ are columns."""
    points = roofline(*PREDICT, "--batch", "1,8", "--output", "4,16", "--format", "json").data["points"]
    assert [(p["batch"], p["output"]) for p in points] == [(1, 4), (1, 16), (8, 4), (8, 16)]
    alone = roofline(*PREDICT, "--batch", 8, "--output", 4, "--format", "json").data
    assert points[2] == alone
    drawn = roofline(*PREDICT, "--batch", "1,8", "--output", "4,16").out
    assert re.search(r"batch +prompt +output +context", drawn)
    assert drawn.count("compute, memory") == 4
    assert "output" not in roofline(*PREDICT, "--batch", "1,8").out.splitlines()[2]


def test_a_grid_says_what_it_takes_for_granted(roofline: Roofline) -> None:
    """As a single prediction does: the engine, measured ceilings that are missing, stages that take turns."""
    asked = ("predict", "Llama-2-7B", "--hw", "dgx-h100", "--batch", "1,8", "--pp", "2")
    out = roofline(*asked, "--fidelity", "measured").out
    assert out.count("note: one batch passes the 2 stages in turn") == 1
    assert "note: not measured, data-sheet values used: fp32 vector peak, special functions\n" in out
    assert roofline(*PREDICT, "--batch", "1,8", "--engine", "vllm").out.count("engine vllm: ") == 1


def test_a_prediction_of_your_own_config_is_reported_without_it(roofline: Roofline, tmp_path: Path) -> None:
    config = tmp_path / "my-model.json"
    config.write_text(json.dumps(CONFIG))
    assert (
        roofline("predict", config, "--hw", "h100", "--format", "json", "-o", tmp_path / "p.json").code == 0
    )
    config.unlink()
    assert roofline("report", tmp_path / "p.json", "-o", tmp_path / "r.html").code == 0
    assert "my-model" in (tmp_path / "r.html").read_text()


def test_a_workload_file_is_a_grid(roofline: Roofline, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(WORKLOAD)
    points = roofline("predict", "mine.yaml", "--hw", "h100", "--format", "json").data["points"]
    assert [point["batch"] for point in points] == [1, 2]
    one = roofline("predict", "mine.yaml", "--hw", "h100", "--batch", 5, "--format", "json").data
    assert (one["batch"], one["phase"]) == (5, "decode")
    rows = list(
        csv.DictReader(io.StringIO(roofline("predict", "mine.yaml", "--hw", "h100", "--format", "csv").out))
    )
    assert {row["batch"] for row in rows} == {"1", "2"}
    assert roofline("predict", "mine.yaml", "--hw", "h100").out.count("\n") > 3


def test_a_shipped_workload(roofline: Roofline) -> None:
    data = roofline("predict", "chat", "--hw", "h100", "--format", "json").data
    assert (data["model"], data["batch"], data["prompt"], data["output"]) == ("Llama-3.1-8B", 8, 1024, 256)


def test_listed_operators(roofline: Roofline, tmp_path: Path) -> None:
    (tmp_path / "listed.yaml").write_text(LISTED)
    data = roofline("predict", "listed.yaml", "--hw", "h100", "--format", "json").data
    assert [row["op"] for row in data["operators"]] == ["gemm", "attention_decode"]
    assert [row["flops"] for row in data["operators"]] == [2 * 4 * 64 * 32, 4 * 2 * 8 * 100 * 64]
    assert data["operators"][0]["note"] == "first"


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    rows = [
        {"op": "gemm", "dtype": "bfloat16", "m": m, "n": 4096, "k": 4096, "latency_us": 9.5} for m in (1, 512)
    ]
    return pd.DataFrame([*rows, {**rows[0], "dtype": "fp8"}]).assign(note=["a", "b", None])


@pytest.mark.parametrize("read", ["csv", "parquet"])
@pytest.mark.parametrize("write", ["csv", "parquet", "json"])
def test_a_table_of_operators_in_and_out(
    roofline: Roofline, table: pd.DataFrame, tmp_path: Path, read: str, write: str
) -> None:
    table.to_csv("in.csv", index=False) if read == "csv" else table.to_parquet("in.parquet", index=False)
    ended = roofline("ops", f"in.{read}", "--hw", "h100_sxm", "-o", f"out.{write}")
    assert (ended.code, ended.out, ended.err) == (0, "", f"3 rows written to out.{write}\n")
    found = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[write](f"out.{write}")
    assert found["flops"].tolist() == [2 * m * 4096 * 4096 for m in (1, 512, 1)]
    assert found["latency_us"].tolist() == [9.5] * 3
    assert found["note"].tolist()[:2] == ["a", "b"]
    stream = (4096 * 4096 + 2 * 4096) * 2 / 3.35e12 * 1e6  # the matrix, a row in and a row out
    assert found["predicted_us"][0] == pytest.approx(stream)
    assert (found["fidelity"] == "datasheet").all()
    appended = ["flops", "bytes_moved", "compute_s", "memory_s", "predicted_us", "bound", "fidelity"]
    of_measured = ["attained", "above_ceiling"]
    assert list(found.columns) == [*table.columns, *appended, *of_measured]


def test_devices_are_listed(roofline: Roofline) -> None:
    records = roofline("hw", "list", "--format", "json").data
    assert len(records) == len(HARDWARE.paths())
    ids = {alias for record in records for alias in record["aliases"]}
    assert {"a100_sxm", "h100_sxm", "h200_sxm", "l40s", "b200_sxm", "mi300x", "v100_pcie"} <= ids
    shown = roofline("hw", "list")
    assert all(record["name"] in shown.out for record in records)


def test_a_device_is_shown_with_its_sources(roofline: Roofline) -> None:
    ended = roofline("hw", "show", "h100_sxm")
    assert ended.out == DEVICES.find("h100_sxm").read_text(encoding="utf-8")


def test_devices_are_checked(roofline: Roofline, tmp_path: Path) -> None:
    assert roofline("hw", "check").code == 0
    wrong = DEVICES.find("h100_sxm").read_text(encoding="utf-8").replace("900.0e+9", "1.0e+9")
    wrong = wrong.replace("byte_per_s: {value: 3.35e+12", "byte_per_s: {value: 6.7e+12")
    (tmp_path / "wrong.yaml").write_text(wrong)
    ended = roofline("hw", "check", "wrong.yaml")
    assert ended.code == 1
    assert "error" in ended.out


def test_models_are_listed_with_their_counts(roofline: Roofline) -> None:
    records = roofline("models", "list", "--format", "json").data
    assert len(records) == len(MODELS.paths())
    for record in records:
        assert {"name", "aliases", "params", "active_params", "published_params"} <= set(record)
        assert 0 < record["active_params"] <= record["params"]
    by_name = {record["name"]: record for record in records}
    llama = by_name["Llama-2-7B"]
    assert llama["params"] == llama["published_params"] == 6_738_415_616
    assert "Llama-2-7B" in roofline("models", "list").out


def test_models_are_checked_and_shown(roofline: Roofline) -> None:
    ended, records = roofline("models", "check"), roofline("models", "list", "--format", "json").data
    assert ended.code == 0
    exact = sum(record["published_params"] is not None for record in records)
    assert f"{exact} of {exact} models agree" in ended.out
    assert len(MODELS.paths()) == len(records)
    shown = roofline("models", "show", "gpt-2").data
    assert (shown["params"], shown["layers"], shown["hidden"]) == (124_439_808, 12, 768)
    assert shown["config"]["model_type"] == "gpt2"


@pytest.mark.parametrize("words", [("--help",), ("predict", "--help"), ("hw", "--help"), ("-h",)])
def test_help_is_help(roofline: Roofline, words: tuple[str, ...]) -> None:
    ended = roofline(*words)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Usage: ")


def test_help_states_the_defaults(roofline: Roofline) -> None:
    told = " ".join(roofline("predict", "--help").out.split())
    for name in ("batch", "prompt", "output"):
        default = Scenario.__dataclass_fields__[name].default
        assert re.search(rf"--{name} \S+ [^\[]*\[default: {default}\]", told), name
    assert f"[default: {Precision().weights}]" in told


FILES = {
    "misspelt.yaml": WORKLOAD.replace("batch", "bacth"),
    "listed.yaml": LISTED,
    "gap/config.json": json.dumps({k: v for k, v in CONFIG.items() if k != "hidden_size"}),
    "cut/config.json": '{"model_type": ',
    "empty/readme.txt": "no model",
    "device.yaml": "schema: 1\nname: mine\n",
    "good.csv": "op,dtype,m,n,k\ngemm,bf16,1,2,3\n",
    "empty.csv": "",
    "cut.parquet": "PAR1",
    "table.txt": "op",
}
H100 = ("--hw", "h100_sxm")
OPS_OUT = ("-o", "result.csv")
MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("predict", "Lama-2-7B", *H100), "no model named 'Lama-2-7B'; did you mean Llama-2-7B"),
    (("predict", "empty", *H100), "empty: is a folder"),
    (("predict", "Llama-2-7B"), "Missing option '--hw'; `roofline predict --help` lists what it takes."),
    (("predict", "--hw", "h100_sxm"), "give either MODEL or --from-module"),
    ((*PREDICT, "--batch", "8,x"), "'8,x' is no whole number, and no list of them as 8,16,32"),
    ((*PREDICT, "--batch", "8,"), "'8,' is no whole number"),
    (("whatif", "Llama-2-7B", *H100, "--batch", "1,8"), "asks for 2 points; whatif compares at one"),
    ((*PREDICT, "--from-module", "a:b"), "give either MODEL or --from-module"),
    ((*PREDICT, "--ledger", "--format", "html"), "--ledger is a table of bytes"),
    ((*PREDICT, "--ledger", "--explain", "mlp.gate_up"), "--ledger and --explain are two tables"),
    ((*PREDICT, "--context", "8"), "--context is what a decode step attends to, and the phase is generate"),
    ((*PREDICT, "--phase", "prefill", "--context", "8"), "and the phase is prefill; choose --phase decode"),
    ((*PREDICT, "--engine", "vlm"), "no engine named 'vlm'; did you mean vllm"),
    ((*PREDICT, "--engine", "vllm", "-o", "rows.parquet"), "a Parquet file holds predictions without"),
    (("predict", "--from-module", "a:b", "--engine", "vllm", *H100), "--engine is for described models"),
    (("predict", "listed.yaml", "--engine", "vllm", *H100), "the file lists operators"),
    (("predict", "--from-module", "nowhere", "--hw", "h100_sxm"), "expected module:function"),
    (("predict", "Llama-2-7B", "--hw", "h1000"), "no device named 'h1000'; did you mean "),
    (("predict", "Llama-2-7B", "--hw", "device.yaml"), "device.yaml: key "),
    ((*PREDICT, "--fidelity", "measurd"), "no fidelity named 'measurd'; did you mean measured"),
    ((*PREDICT, "--convention", "fusd"), "no convention named 'fusd'; did you mean fused"),
    ((*PREDICT, "--activations", "fp4"), "has no dense peak for fp4 (it has: "),
    ((*PREDICT, "--format", "xml"), "no format named 'xml'; did you mean html?"),
    ((*PREDICT, "--batch", "two"), "Invalid value for '--batch'"),
    ((*PREDICT, "--tp", "0"), "tp is 0; expected a positive whole number"),
    ((*PREDICT, "--btach", "3"), "No such option '--btach'"),
    ((*PREDICT, "--zzz"), "No such option '--zzz'; `roofline predict --help` lists what it takes."),
    ((*PREDICT, "surplus"), "unexpected extra argument"),
    (("predict", "misspelt.yaml", *H100), "unknown key 'bacth'; did you mean 'batch'?"),
    (("predict", "nowhere.yaml", *H100), "nowhere.yaml"),
    (("predict", "gap", *H100), "gap/config.json: field 'hidden_size' is missing"),
    (("predict", "cut/config.json", *H100), "cut/config.json: not valid JSON"),
    ((*PREDICT, "-o", "empty"), "empty: is a folder"),
    ((*PREDICT, "-o", "good.csv/below.json"), "good.csv/below.json: cannot be written"),
    (("ops", "nowhere.csv", *H100, *OPS_OUT), "nowhere.csv: no such file"),
    (("ops", "good.csv", *H100, "-o", "good.csv"), "good.csv: is read by this command; give another file"),
    (("predict", "cut/config.json", *H100, "-o", "cut/config.json"), "is read by this command"),
    (("report", "cut/config.json", "-o", "./cut/config.json"), "is read by this command"),
    (
        ("ops", "good.csv", *H100, "-o", "result.xlsx"),
        "result.xlsx: unknown ending '.xlsx'; expected .csv, .parquet or .json",
    ),
    (("ops", "empty.csv", *H100, *OPS_OUT), "empty.csv: cannot be read as a table"),
    (("ops", "cut.parquet", *H100, *OPS_OUT), "cut.parquet: cannot be read as a table"),
    (
        ("ops", "table.txt", *H100, *OPS_OUT),
        "table.txt: unknown ending '.txt'; expected .csv, .tsv, .parquet",
    ),
    (("hw", "show", "nothing"), "no device named 'nothing'"),
    (("hw", "check", "device.yaml"), "device.yaml: key "),
    (("hw", "list", "--format", "xml"), "no format named 'xml'; known: table, json, csv"),
    (("models", "show", "nothing"), "no model named 'nothing'"),
    (("models", "list", "--format", "xml"), "no format named 'xml'; known: table, json, csv"),
    (("validate", "empty", *H100), "empty: is not a run, it has no run.json"),
    (("validate", "nowhere", *H100), "nowhere: no such run folder"),
    (("prdict",), "no command named 'prdict'; did you mean predict"),
    (("hw", "lst"), "no command named 'lst'; did you mean list? (known: check, list, new, show)"),
    (("hw", "new"), "Missing argument 'NAME'; `roofline hw new --help` lists what it takes."),
]


@pytest.mark.parametrize(
    ("words", "said"), MISTAKES, ids=lambda v: None if isinstance(v, str) else " ".join(map(str, v))
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    roofline: Roofline, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ended = roofline(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert said in ended.err
    assert ended.err.startswith("roofline: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_bug_is_not_dressed_up_as_a_mistake(roofline: Roofline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is wrong input ends in a sentence; anything else keeps its traceback."""
    import roofline.predict as module

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "ceilings", explode)
    with pytest.raises(ZeroDivisionError):
        roofline(*PREDICT)


def test_an_interrupted_command_leaves_no_half_file(
    roofline: Roofline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import roofline.predict as module

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "ceilings", interrupt)
    ended = roofline(*PREDICT, "-o", "out.json")
    assert ended.code == 130
    assert list(tmp_path.iterdir()) == []


HEAVY = ["torch", "transformers", "pandas", "pyarrow", "plotly", "matplotlib", "numpy", "pydantic", "typer"]


def imported(*commands: tuple[str, ...], ends: int = 0) -> dict[str, list[str]]:
    """The heavy packages that are loaded after each command, one behind the other in one process."""
    code = f"""
import json, sys
from profiler.cli import main
found = {{}}
for words in {commands!r}:
    sys.argv = ["roofline", *words]
    try:
        main()
    except SystemExit as end:
        assert (end.code or 0) == {ends}, (words, end.code)
    found[" ".join(words)] = [name for name in {HEAVY!r} if name in sys.modules]
print("\\n" + json.dumps(found))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    found: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == len(commands)
    return found


def test_a_prediction_imports_nothing_heavy() -> None:
    formats = (("--format", "json"), ("--phase", "generate", "--format", "csv"), ())
    found = imported(("--help",), ("predict", "--help"), *((*PREDICT, *words) for words in formats))
    assert not any(found.values()), found


def test_what_is_not_there_is_told_before_anything_heavy_is_loaded() -> None:
    found = imported(
        ("import", "absent", "-o", "run"),
        *((command, "absent") for command in ("show", "report")),
        ("diff", "absent", "absent"),
        ("export", "absent", "-o", "a.json"),
        ("validate", "absent", *H100),
        ("ops", "absent", *H100, "-o", "out.csv"),
        ("calibrate", "absent", *H100, "-o", "out.yaml"),
        ends=2,
    )
    assert not any(found.values()), found


def test_a_table_does_import_pandas(tmp_path: Path) -> None:
    """The checks above see what they look for."""
    (tmp_path / "in.csv").write_text(FILES["good.csv"])
    words = ("ops", str(tmp_path / "in.csv"), "--hw", "h100_sxm", "-o", str(tmp_path / "out.csv"))
    (found,) = imported(words).values()
    assert {"numpy", "pandas"} <= set(found)
    assert "torch" not in found


@pytest.mark.parametrize("budget", ["soon", "8", "-3m", "0s", "1d"])
def test_a_campaign_needs_a_time_to_spend(roofline: Roofline, budget: str) -> None:
    done = roofline("campaign", "-o", "there", f"--budget={budget}")
    assert done.code == 2
    assert f"the budget is '{budget}'; expected a time such as 90s, 8m or 1h" in done.err
    assert not Path("there").exists()


def test_a_new_device_is_written_once(roofline: Roofline, tmp_path: Path) -> None:
    assert roofline("hw", "new", "Mine", "-o", "mine.yaml").code == 0
    written = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert roofline("hw", "new", "Mine").out == written
    again = roofline("hw", "new", "Other", "-o", "mine.yaml")
    assert again.code == 2
    assert "mine.yaml: exists already" in again.err
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == written
    used = roofline("predict", "Llama-3.1-8B", "--hw", "mine.yaml")
    assert used.code == 2
    assert "vendor is still FILL-IN" in used.err


def test_the_ledger_is_printed_in_every_format(roofline: Roofline) -> None:
    asked = ("predict", "Llama-3.1-8B", "--hw", "h100_sxm", "--phase", "decode", "--ledger")
    data = roofline(*asked, "--format", "json").data
    plain = roofline(*asked[:-1], "--format", "json").data
    assert data["totals"]["bytes"] == plain["totals"]["bytes"]
    assert sum(r["total_bytes"] for r in data["ledger"] if r["role"] != "wire") == data["totals"]["bytes"]
    lines = roofline(*asked, "--format", "csv").out.splitlines()
    assert lines[0].startswith(
        "phase,operator,kind,tensor,role,elements,bytes_per_element,bytes,count,total_bytes"
    )
    assert len(lines) == len(data["ledger"]) + 1
    shown = roofline(*asked).out
    assert f"{data['totals']['bytes']:,.0f} B" in shown
    assert "each KV head's visible positions, once" in shown


def test_a_grid_is_a_line_per_point_or_a_file_of_rows(roofline: Roofline, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(
        "schema: 1\nname: grid\nmodel: Llama-3.1-8B\nphase: decode\nbatch: [1, 8]\ncontext: [100, 900]\n"
    )
    points = roofline("predict", "grid.yaml", "--hw", "h100", "--format", "json").data["points"]
    shown = roofline("predict", "grid.yaml", "--hw", "h100").out
    assert all(f"{point['totals']['tokens_per_s']:.4g}" in shown for point in points)
    assert roofline("predict", "grid.yaml", "--hw", "h100", "-o", "rows.parquet").code == 0
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    times = (rows["count"] * rows["time_s"]).groupby(rows["point"]).sum()
    assert times.to_list() == pytest.approx([point["totals"]["time_s"] for point in points])
    many = roofline("predict", "grid.yaml", "--hw", "h100", "--ledger")
    assert many.code == 2
    assert "--ledger explains one point, and the workload file has 4" in many.err


def test_a_terminal_of_ascii_gets_the_numbers() -> None:
    """Lines and micro signs become question marks where the terminal has none."""
    command = [
        sys.executable,
        "-m",
        "profiler",
        "predict",
        "SmolLM2-135M",
        "--hw",
        "h100",
        "--phase",
        "decode",
    ]
    surroundings = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=surroundings, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"lm_head" in done.stdout
    assert b"?" in done.stdout


@pytest.mark.parametrize(
    ("words", "typed", "found"),
    [
        (["predict"], "llama-3.1-8", {("plain", "Llama-3.1-8B")}),
        (["predict", "Llama-3.1-8B", "--hw"], "dgxh1", {("plain", "DGX-H100")}),
        (["whatif", "chat", "--with"], "chunked", {("file", "chunked")}),
        (["predict", "chat", "--with"], "aw", {("plain", "awq")}),
        (["serve"], "./mine", {("file", "./mine")}),
        (["hw"], "ch", {("plain", "check")}),
    ],
)
def test_names_are_completed_however_they_are_written(
    words: list[str], typed: str, found: set[tuple[str, str]]
) -> None:
    shell = ShellComplete(app, {}, "roofline", "_ROOFLINE_COMPLETE")
    assert {(item.type, item.value) for item in shell.get_completions(words, typed)} == found


def test_a_reader_that_closes_the_pipe_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    surroundings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "profiler", "hw"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=surroundings, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupted_sweep_says_that_it_goes_on(
    roofline: Roofline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tasks: list[Any]) -> Iterator[int]:
        yield compute_into(*tasks[0])
        raise KeyboardInterrupt

    grid = "schema: 1\nname: small\nmodels: [SmolLM2-135M]\nhardware: [h100, a100]\n"
    (tmp_path / "grid.yaml").write_text(grid)
    sweep = ("sweep", tmp_path / "grid.yaml", "-o", tmp_path / "swept")
    with monkeypatch.context() as patch:
        patch.setattr("roofline.sweep.run.one_by_one", interrupted)
        ended = roofline(*sweep)
    assert (ended.code, "the same command goes on" in ended.err) == (130, True)
    assert "1 of 2 parts are there already" in roofline(*sweep).err


@pytest.mark.parametrize(
    ("compared", "told"),
    [
        ("", True),
        ("dtypes: [{weights: bf16}, {weights: fp8}]", False),  # narrow weights are among them
        ("techniques: [[weight-only-quantisation]]", False),
    ],
)
def test_a_sweep_in_wider_formats_than_a_model_s_own_says_so(
    compared: str, told: bool, roofline: Roofline, tmp_path: Path
) -> None:
    grid = f"schema: 1\nname: small\nmodels: [gpt-oss-20b]\nhardware: [h100]\n{compared}\n"
    (tmp_path / "grid.yaml").write_text(grid)
    ended = roofline("sweep", tmp_path / "grid.yaml", "-o", tmp_path / "swept")
    assert ended.code == 0, ended.err
    assert ("its published weights are narrower" in ended.err) == told
