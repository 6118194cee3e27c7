"""What Python is given is what the commands print, whether models and devices are names or objects."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from hwspecs import load_device
from profiler.cli.serve import command as serve_command
from roofline import api
from roofline.asked import Asked
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.serve.asked import Served
from specfiles.errors import InputError
from workloads.catalogue import MODELS, load_model
from workloads.dtypes import Precision
from workloads.operators import Gemm
from workloads.phases import Setting
from workloads.techniques.registry import parse

LLAMA = "Llama-3.1-8B"


@pytest.mark.parametrize("load", [str, load_model, lambda name: load_model(name).model])
def test_names_and_objects_are_the_same(load: object) -> None:
    setting = Setting(Precision.of("fp8"), tensor_parallel=2)
    scenario = Scenario(
        load_model(LLAMA).model, "decode", 16, context=2048, setting=setting, techniques=(parse("kv8"),)
    )
    expected = predict(scenario, load_device("h100")).totals()
    asked = {"phase": "decode", "batch": 16, "context": 2048, "weights": "fp8", "tp": 2, "techniques": "kv8"}
    assert api.predict(load(LLAMA), "h100", **asked).totals() == expected  # type: ignore[operator]
    assert api.predict(scenario, load_device("h100")).totals() == expected


def test_every_option_is_described() -> None:
    said = set(re.findall(r"\w+", api.scenario.__doc__ or ""))
    assert {field.name for field in fields(Asked)} <= said


def test_sizes_are_whole_numbers_of_python_or_numpy() -> None:
    plain = api.predict(LLAMA, "h100", batch=4, prompt=64, output=2).totals()
    counted = {"batch": np.int64(4), "prompt": np.array(64), "output": 2, "techniques": None, "tp": None}
    assert api.predict(LLAMA, "h100", **counted).totals() == plain
    for wrong in ("4", 2.5, float("nan")):
        with pytest.raises(InputError, match=r"batch is .*; expected a whole number"):
            api.predict(LLAMA, "h100", batch=wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weights", 8), ("kv", ["fp8"]), ("phase", 3), ("convention", ["fused"]), ("without", [5]),
        ("engine", None), ("expert_skew", "1"), ("tp", [1, 2]), ("batch", []), ("prompt", [64, "128"]),
        ("steps", True),
    ],
)  # fmt: skip
def test_an_option_of_another_kind_is_named_in_a_sentence(name: str, wrong: object) -> None:
    with pytest.raises(InputError, match=f"{name} is .*; expected (text|a number|a whole number)"):
        api.predict(LLAMA, "h100", **{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rate", "2"), ("rate", [1, None]), ("users", 2.5), ("users", [4, "8"]), ("requests", 2.5),
        ("seed", "1"), ("batching", None), ("slo", 5), ("engine", 5), ("max_batch", 2.5), ("budget", "512"),
        ("engines", None), ("readers", 1.5), ("poll_steps", True), ("step_overhead", "1"), ("price", [1]),
        ("workload", 5), ("trace", 5),
    ],
)  # fmt: skip
def test_an_option_of_serving_of_another_kind_is_named_in_a_sentence(name: str, wrong: object) -> None:
    load = {} if name in ("users", "trace") else {"rate": 1.0}
    with pytest.raises(InputError, match=r"(the trace|\w+) is .*; expected (text|a )"):
        api.serve(LLAMA, "h100", **{"prompt": 9, "output": 2, **load, name: wrong})


def test_the_kind_of_every_option_is_known() -> None:
    known = set().union(*(names for names, _, _ in api.KINDS))
    apart = {"techniques", "model", "scenario", "trace", "rates"}  # looked at where they are read
    assert {field.name for kind in (Asked, Served) for field in fields(kind)} - apart <= known


def test_what_is_no_technique_or_table_is_said_to_be_none() -> None:
    with pytest.raises(InputError, match="5 is no technique"):
        api.predict(LLAMA, "h100", techniques=[5])
    with pytest.raises(InputError, match="None is no technique"):
        api.whatif(LLAMA, "h100", only=[None])  # type: ignore[list-item]
    with pytest.raises(InputError, match="expected a table"):
        api.ops(5, "h100")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no model named '5'"):
        api.sweep(5, "h100")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="operator is 5; expected text"):
        api.explain(LLAMA, "h100", 5)  # type: ignore[arg-type]


def test_a_backend_is_one_whose_kernels_were_measured() -> None:
    with pytest.raises(InputError, match="no backend named 'vLLM'; did you mean vllm"):
        api.predict(LLAMA, "h100", "calibrated", backend="vLLM")
    with pytest.raises(InputError, match="fidelity datasheet has none"):
        api.time_of(Gemm(1, 8, 8), "h100", backend="vllm")


def test_time_of_an_engine_s_own_is_not_negative() -> None:
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InputError, match=r"step-overhead is .*; expected at least 0"):
            api.serve(LLAMA, "h100", rate=1, requests=10, prompt=9, output=2, step_overhead=wrong)


def test_a_table_adds_up_to_its_totals() -> None:
    one = api.predict(LLAMA, "h100", batch=4, prompt=512, output=64)
    table = one.table()
    for column in ("flops", "bytes", "time_s"):
        assert (table["count"] * table[column]).sum() == pytest.approx(one.totals()[column])


def test_options_override_a_workload_file() -> None:
    assert api.scenario("chat", batch=7, phase="prefill").batch == 7
    with pytest.raises(InputError, match="asks for 4 points"):
        api.scenario("batch-offline")
    assert api.scenario("batch-offline", batch=3).batch == 3


def test_each_row_of_a_sweep_is_a_prediction() -> None:
    axes = {"batch": range(1, 3), "context": np.array([128, 4096]), "techniques": [[], ["awq"]]}
    table = api.sweep(LLAMA, ["h100", "a100"], phase="decode", **axes)
    assert len(table) == 2 * 2 * 2 * 2
    for row in table.itertuples():
        words = tuple(row.techniques.split())
        alone = api.predict(
            LLAMA, row.hardware, phase="decode", batch=row.batch, context=row.context, techniques=words
        )
        assert row.tpot_s == pytest.approx(alone.totals()["tpot_s"], rel=1e-12)


def test_shapes_are_timed_alike_in_a_table_and_alone() -> None:
    m = np.array([1, 64, 4096])
    table = api.ops(pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "m": m, "n": 4096, "k": 4096}), "h100")
    alone = api.time_of(Gemm(m, 4096, 4096), "h100")
    np.testing.assert_allclose(table["predicted_us"], alone.time_s * 1e6)
    assert list(table["bound"]) == list(alone.bound)


def test_the_terms_of_an_operator_are_its_time() -> None:
    asked = {"batch": 4, "prompt": 512, "output": 2}
    table = api.explain(LLAMA, "h100", "q_proj", **asked)
    rows = api.predict(LLAMA, "h100", "calibrated", **asked).table()
    rows = rows[rows["name"] == "layers.attention.q_proj"].set_index("phase")
    assert set(table["phase"]) == {"prefill", "decode"} == set(rows.index)
    for phase, terms in table.groupby("phase"):
        assert terms["time_s"].sum() == pytest.approx(rows.loc[phase, "time_s"], rel=1e-9)


def test_serving_is_the_same_for_a_name_an_object_and_the_command() -> None:
    asked = {"prompt": 200, "output": 20, "weights": "fp8"}
    words = {"rate": [1, 5], "requests": 40, "batching": "continuous,chunked"}
    table = api.serve(LLAMA, "h100", **asked, **words).table()
    assert list(table["batching"]) == ["continuous"] * 2 + ["chunked"] * 2
    for model in (load_model(LLAMA).model, api.scenario(LLAMA, **asked)):
        own = {} if isinstance(model, Scenario) else asked
        pd.testing.assert_frame_equal(api.serve(model, "h100", **own, **words).table(), table)
    options = ["--prompt", "200", "--output", "20", "--weights", "fp8", "--rate", "1,5", "--requests", "40"]
    told = CliRunner().invoke(
        serve_command, [LLAMA, "--hw", "h100", *options, "--batching", words["batching"], "--format", "json"]
    )
    pd.testing.assert_frame_equal(pd.DataFrame(json.loads(told.output)["rows"]), table)


def test_recorded_requests_are_a_file_or_a_table(tmp_path: Path) -> None:
    """Requests so far apart that none waits: each has the TTFT of a prefill of its own."""
    trace = pd.DataFrame({"arrival_s": [0.0, 100.0], "prompt": 512, "output": 4})
    trace.to_csv(tmp_path / "trace.csv", index=False)
    (ttft,) = api.serve(LLAMA, "h100", trace=trace).table()["ttft_p50_s"]
    assert list(api.serve(LLAMA, "h100", trace=str(tmp_path / "trace.csv")).table()["ttft_p50_s"]) == [ttft]
    alone = api.predict(LLAMA, "h100", phase="prefill", prompt=512)
    assert ttft == pytest.approx(alone.totals()["ttft_s"], rel=0.01)
    with pytest.raises(InputError, match="the trace: has no column 'arrival_s'"):
        api.serve(LLAMA, "h100", trace=trace[["prompt", "output"]])


def test_whatif_is_ranked() -> None:
    table = api.whatif(LLAMA, "l4", phase="decode", batch=8, context=4096).table()
    assert table["speedup"].is_monotonic_decreasing
    assert "weight-only-quantisation" in set(table["names"].str.join(" "))


def test_what_does_not_exist_is_said_in_a_sentence(tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"model": "Llama-9"}, "no model named"),
        ({"hw": "h1000"}, "no device named"),
        ({"fidelity": "exact"}, "no fidelity named 'exact'; .*datasheet"),
        ({"weights": "fp7"}, "no dtype named"),
        ({"engine": "tgi"}, "no engine named"),
    ):
        with pytest.raises(InputError, match=sentence):
            api.predict(**{"model": LLAMA, "hw": "h100", **wrong})
    with pytest.raises(InputError, match="unknown key 'bacth'; did you mean 'batch'"):
        api.sweep(LLAMA, "h100", bacth=[1])
    with pytest.raises(InputError, match="no option named 'bacth'; did you mean batch"):
        api.scenario(LLAMA, bacth=1)
    with pytest.raises(InputError, match="no option named 'batchin'"):
        api.serve(LLAMA, "h100", rate=1, batchin="static")
    with pytest.raises(InputError, match=r"dataclasses\.replace"):
        api.scenario(api.scenario(LLAMA), batch=2)
    with pytest.raises(InputError, match="no such run folder"):
        api.validate(tmp_path / "run", "h100")


def test_a_model_is_shown_in_a_few_lines() -> None:
    assert [path.stem for path in MODELS if len(repr(load_model(path))) > 500] == []


def test_predictions_and_devices_are_shown_in_a_line() -> None:
    one = api.predict(LLAMA, "h100")
    assert "\n" not in repr(one)
    assert max(len(repr(one)), len(repr(one.device))) < 160


def test_techniques_are_names_or_objects_one_or_several() -> None:
    step = {"phase": "decode", "batch": 8, "context": 4096}
    named = api.predict(LLAMA, "l4", techniques=["kv8"], **step)
    for given in ("kv8", parse("kv8"), [parse("kv8")]):
        assert api.predict(LLAMA, "l4", techniques=given, **step).scenario == named.scenario
    (tried,) = api.whatif(LLAMA, "l4", only=parse("kv8"), **step).outcomes
    assert tried.after.time_s() == named.time_s()
