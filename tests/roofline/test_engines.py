"""What an engine adds is named, ranged and summed; without one nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Constants, load_device
from hwspecs.serving import Overheads
from roofline.ceilings import ceilings
from roofline.engine_kernels import EngineKernels
from roofline.engines import (
    KIND,
    Engine,
    as_engines_run,
    find_engine,
    gaps_s,
    on_device,
    request_s,
    run_by,
    step_s,
    with_engine,
)
from roofline.launches import assumed
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from roofline.serve.step_times import StepTimes
from roofline.serving import Load, Users, steps, waits
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.dtypes import Precision
from workloads.families import build
from workloads.phases import Setting
from workloads.techniques.base import Technique
from workloads.techniques.counted import lacking
from workloads.techniques.registry import parse
from workloads.work import Role

close = partial(pytest.approx, rel=1e-9)
DEVICE = load_device("h100_sxm")
LIMITS = ceilings(DEVICE, "calibrated")
MODEL = load_model("Llama-3.1-8B").model
ENGINES = ["vllm", "sglang", "trtllm", "other", "eager"]
TIME = st.floats(0, 1)


def engine_named(name: str) -> Engine:
    found = find_engine(name)
    assert found is not None
    return found


def predicted(engine: Engine | None, phase: str = "generate", **more: Any) -> Prediction:
    sizes = {"batch": 4, "prompt": 500, "output": 100, **more}
    scenario = as_engines_run(Scenario(MODEL, phase, **sizes))
    return predict(scenario, DEVICE, limits=LIMITS, engine=engine)


PLAIN = predicted(None)


def test_without_an_engine_there_are_operators_alone() -> None:
    assert find_engine("none") is None
    assert PLAIN.served is None
    assert all(row.kind != KIND for row in PLAIN.rows)


@pytest.mark.parametrize("name", ENGINES)
def test_operators_stay_and_the_total_is_the_sum_of_all_rows(name: str) -> None:
    found = predicted(engine_named(name))
    operators = [row for row in found.rows if row.kind != KIND]
    assert [(r.name, r.count, r.times.time_s) for r in operators] == [
        (r.name, r.count, r.times.time_s) for r in PLAIN.rows
    ]
    added = [row for row in found.rows if row.kind == KIND]
    assert found.totals()["time_s"] == close(PLAIN.totals()["time_s"] + sum(r.total_s for r in added))
    for quantity in ("flops", "bytes"):
        assert found.total(quantity) == PLAIN.total(quantity)
    counts = {(row.name, row.phase): row.count for row in added}
    assert counts["engine.step", "decode"] == 99
    assert counts["engine.step", "prefill"] == counts["engine.request", "prefill"] == 1
    assert ("engine.request", "decode") not in counts


@pytest.mark.parametrize("name", ENGINES)
def test_every_row_lies_in_its_range_and_says_what_it_is(name: str) -> None:
    served = predicted(engine_named(name)).served
    assert served is not None
    for row in served.record()["rows"]:
        assert 0 <= row["lower_s"] <= row["time_s"] <= row["upper_s"], row["name"]
        assert row["why"]
    assert "aic_e2e_silicon" in served.engine.source


def test_replayed_graphs_have_less_overhead_than_launches_one_by_one() -> None:
    """At batch 1 the host is slower than the device; a long prompt hides it."""
    eager = engine_named("eager")
    graphs = Engine("the same", replace_overheads(eager, graph_s=1e-6), graphs=True)
    slow, fast = (predicted(e, batch=1).totals()["tpot_s"] for e in (eager, graphs))
    assert fast < slow
    assert slow >= launched(predicted(eager, batch=1)) * eager.fit.overheads.launch_s
    long = predicted(eager, "prefill", batch=4, prompt=8000)
    assert gap(long, "prefill") == 0


def replace_overheads(engine: Engine, **fields: float) -> Any:
    import msgspec

    overheads = msgspec.structs.replace(engine.fit.overheads, **fields)
    return msgspec.structs.replace(engine.fit, overheads=overheads)


def launched(found: Prediction) -> float:
    rows = [row for row in found.rows if row.phase == "decode" and row.kind != KIND]
    return sum(row.count for row in rows if not row.work.fused) / 99


def gap(found: Prediction, phase: str) -> float:
    (row,) = (row for row in found.rows if (row.name, row.phase) == ("engine.launch_gaps", phase))
    return float(row.times.time_s)


def test_a_technique_that_replays_graphs_does_so_in_an_eager_engine() -> None:
    plain, eager = predicted(None, "decode", batch=1, context=500), engine_named("eager")
    eager = Engine("eager", replace_overheads(eager, graph_s=1e-6), graphs=False, eager=True)

    def at(how: str) -> float:
        schedule = plain.schedule.each(None, lambda p: replace(p, launch=how))
        return gap(with_engine(replace(plain, schedule=schedule), eager), "decode")

    assert at("each") > at("graph") > at("none") == 0


@given(device=TIME, operators=st.integers(0, 2000), launch=st.floats(0, 1e-3))
def test_a_step_takes_the_slower_of_host_and_device(device: float, operators: int, launch: float) -> None:
    overheads = Overheads(launch_s=launch, graph_s=1e-6, step_s=0.001)
    assert step_s(device, operators, False, overheads) == close(max(device, operators * launch) + 0.001)
    assert step_s(device, operators, True, overheads) == close(device + operators * 1e-6 + 0.001)
    both = gaps_s(np.full(2, device), np.full(2, operators), np.array([False, True]), overheads)
    assert both == close([gaps_s(device, operators, graphs, overheads) for graphs in (False, True)])


def test_one_request_alone_waits_as_long_as_predicted() -> None:
    """Loads and predictions share their formulas: a concurrency of 1 is a batch of 1."""
    engine = engine_named("vllm")
    load = Load(MODEL, Setting(), 500, 200, 1)
    ttft, tpot = waits(steps(load, DEVICE, "calibrated"), Users(1, 500, 200), engine.fit.overheads)
    prefill = predicted(engine, "prefill", batch=1).totals()["time_s"]
    decode = predicted(engine, "decode", batch=1, context=600).totals()["time_s"]
    assert (float(ttft), float(tpot)) == (close(prefill), close(decode))


@pytest.mark.parametrize("name", ENGINES)
def test_simulated_steps_are_those_that_are_predicted(name: str) -> None:
    engine = engine_named(name)
    scenario = as_engines_run(Scenario(MODEL, "generate", 1, 1000, output=100))
    times = StepTimes(scenario.schedule(DEVICE), LIMITS, engine)
    prompt = predicted(engine, "prefill", batch=1, prompt=1024).time_s()
    prompt -= request_s(1024, engine.fit.overheads)
    assert times.mixed_s(0, 0.0, [(1024, 0)], 1) == pytest.approx(prompt, rel=0.03)
    token = predicted(engine, "decode", batch=16, context=1500)
    assert times.decode_s(16, np.array([1500.0]))[0] == pytest.approx(token.time_s(), rel=0.03)


def test_times_of_ones_own_machine_hold_its_launches_already() -> None:
    own = replace(LIMITS, constants={("gemm", "bf16"): Constants(dtype="bf16", points=9, median_error=0.1)})
    with pytest.raises(InputError, match="its own host's launches"):
        with_engine(replace(PLAIN, ceilings=own), engine_named("vllm"))


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match="vllm"):
        find_engine("vlm")


def test_a_scan_is_a_chain_of_kernels_in_prompts_and_one_in_decode() -> None:
    """As many as SGLang's source launches for the gated delta rule of each of Qwen3-Next's 36 layers."""
    model = load_model("Qwen3-Next-80B-A3B").model
    for phase, each in (("prefill", 9 + 1), ("decode", 1)):
        rows = predict(Scenario(model, phase, batch=1, prompt=1000), DEVICE).rows
        one_each = sum(row.count for row in rows if not row.work.fused)
        assert on_device(rows)[1] == one_each + 36 * (each - 1), phase


@pytest.mark.parametrize(("dtype", "each"), [("bf16", 10), ("fp8", 14)])
def test_eager_code_launches_every_kernel(dtype: str, each: int) -> None:
    """Of a layer: norm, projection, rotation, cache, attention, output, norm, two products, activation.

    In fp8 what each of the four products reads is quantised first; beside layers there are the embedding, the
    last norm, the projection to the vocabulary and the sampling.
    """
    scenario = as_engines_run(
        Scenario(MODEL, "decode", 1, context=500, setting=Setting(Precision.of(dtype, dtype)))
    )
    rows = predict(scenario, DEVICE).rows
    (head,) = (row for row in rows if row.name == "lm_head")
    beside = 4 + (head.work.dtype == "fp8")
    assert on_device(rows, eager=True)[1] == 32 * each + beside
    assert on_device(rows)[1] < on_device(rows, eager=True)[1]


@pytest.mark.parametrize(("name", "reads", "decodes"), [("sglang", 1, 0), ("vllm", 0, 0), ("eager", 1, 1)])
def test_engines_whose_prompts_are_python_launch_every_kernel(name: str, reads: bool, decodes: bool) -> None:
    engine = engine_named(name)
    passes = Scenario(MODEL, "generate", 1, 100, output=10).schedule(DEVICE).passes
    assert [engine.launches_each(one) for one in passes] == [reads, decodes]


@pytest.mark.parametrize("name", ["vllm", "eager"])
def test_an_engine_told_to_leave_graphs_out_says_that_it_has_none(name: str) -> None:
    setting = Setting(Precision.of("bf16"), lacking(convention("fused"), ["cuda-graphs"]))
    for phase in ("prefill", "generate"):
        schedule = Scenario(MODEL, phase, 1, 100, output=10, setting=setting).schedule(DEVICE)
        assert not engine_named(name).graphs_in(schedule)
        assert "no CUDA graphs" in engine_named(name).told(schedule)


@pytest.mark.parametrize("technique", ["cuda-graphs", "persistent-kernel"])
def test_a_script_gains_by_what_engines_have(technique: str) -> None:
    """It launches each kernel: graphs are nothing that it has already, and a step with them waits less."""
    eager = engine_named("eager")
    asked = Scenario(MODEL, "decode", 1, context=500)
    before, after = (
        predict(run_by(replace(asked, techniques=added), eager), DEVICE, limits=LIMITS, engine=eager)
        for added in ((), (parse(technique),))
    )
    assert before.scenario.setting.convention.launches
    graphs = [one.served.record()["graphs"] for one in (before, after) if one.served]
    assert graphs == [False, technique == "cuda-graphs"]
    assert after.totals()["tpot_s"] < before.totals()["tpot_s"]
    served = [
        StepTimes(
            run_by(Scenario(MODEL, "generate", 1, 500, output=2, techniques=added), eager).schedule(DEVICE),
            LIMITS,
            eager,
        ).decode_s(1, np.array([500.0]))[0]
        for added in ((), (parse(technique),))
    ]
    assert served[1] < served[0]


def test_an_early_release_does_not_join_the_products_of_the_delta_rule() -> None:
    asked = Scenario(load_model("Qwen3.5-397B-A17B").model, "decode", 1, context=500)
    early, late = (
        {row.name for row in predict(as_engines_run(asked, release=name), DEVICE).rows}
        for name in ("sglang 0.5.9", "")
    )
    assert early - late == {f"layers.delta.in_proj_{name}" for name in ("qkv", "z", "b", "a")}
    assert late - early == {"layers.delta.in_proj_qkvz", "layers.delta.in_proj_ba"}


def test_projections_are_fused_once() -> None:
    scenario = Scenario(MODEL, "decode", 1, 100, techniques=(parse("fused-projections"),))
    assert as_engines_run(scenario) == as_engines_run(replace(scenario, techniques=()))
    (one,) = as_engines_run(scenario).techniques
    assert one.told() == "fused-projections"


def test_without_cuda_graphs_an_engine_launches_every_step() -> None:
    """The same rows as the convention's own, and counted once."""
    engine = engine_named("vllm")
    lacks = lacking(Setting().convention, ["cuda-graphs"])
    scenario = as_engines_run(Scenario(MODEL, "decode", 1, context=500))
    eager = replace(scenario, setting=replace(scenario.setting, convention=lacks))
    graphs, each = (predict(one, DEVICE, limits=LIMITS, engine=engine) for one in (scenario, eager))
    assert gap(each, "decode") > gap(graphs, "decode")
    assert "launches" not in {row.name for row in each.rows}
    host = replace_overheads(engine, launch_s=assumed().each_s)
    (waits_row,) = (r for r in predict(eager, DEVICE, limits=LIMITS).rows if r.name == "launches")
    same = predict(eager, DEVICE, limits=LIMITS, engine=Engine("same", host, graphs=True, eager=True))
    assert gap(same, "decode") == close(waits_row.times.time_s)


def test_only_gpus_have_engines_around_them() -> None:
    cpu = replace(LIMITS, processors=None)
    with pytest.raises(InputError, match="is no GPU"):
        with_engine(replace(PLAIN, ceilings=cpu), engine_named("vllm"))


Published = Callable[[str], list[dict[str, str]]]


def test_published_decode_rates_of_gpt_fast(published: Published) -> None:
    """Dense models in bf16 on 1 to 8 A100, replayed as graphs: an engine that no fit has seen."""
    device = load_device("a100_sxm")
    limits = ceilings(device, "calibrated")
    errors = []
    for row in published("D_gptfast"):
        if row["metric"] != "decode_throughput" or (row["dtype"], row["gpu"]) != ("bf16", "A100-SXM4-80GB"):
            continue
        if row["model"] not in ("Llama-2-7B", "Llama-3.1-8B", "Llama-2-70B"):
            continue
        setting = Setting(tensor_parallel=int(row["tp"]))
        model = load_model(row["model"]).model
        scenario = as_engines_run(Scenario(model, "decode", 1, context=105, setting=setting))
        found = predict(scenario, device, limits=limits, engine=engine_named("other"))
        errors.append(found.totals()["tpot_s"] * float(row["value"]) - 1)
    assert len(errors) == 11
    assert np.median(np.abs(errors)) < 0.06


def test_published_generations_of_faster_transformer(published: Published) -> None:
    """GPT-20B on 1 to 8 A100, launched one by one: nearer with the host that is assumed than without."""
    device = load_device("a100_sxm")
    limits = ceilings(device, "calibrated")
    other = engine_named("other")
    by_hand = Engine("eager", replace_overheads(other, request_s=0.0, token_s=0.0), graphs=False)
    fields = {"model_type": "gpt2", "n_embd": 48 * 128, "n_head": 48, "n_layer": 44}
    model = build(Config({**fields, "vocab_size": 51200, "n_positions": 1024}, "note"), "GPT")
    alone, whole = [], []
    for row in published("C_ft_gpt"):
        if (row["model"], row["metric"], row["osl"]) != ("GPT-20B", "request_latency", "20"):
            continue
        if (row["isl"], row["batch"] in ("1", "8", "64")) != ("60", True):
            continue
        tp = {"1": 1, "tp2pp1": 2, "tp4pp1": 4, "tp8pp1": 8}.get(row["tp"])
        if tp is None:
            continue
        setting = Setting(Precision.of("fp16"), tensor_parallel=tp)
        scenario = Scenario(model, "generate", int(row["batch"]), 60, output=20, setting=setting)
        found = predict(as_engines_run(scenario), device, limits=limits)
        measured = float(row["value"]) * 1e-3
        alone.append(abs(found.time_s() / measured - 1))
        whole.append(abs(with_engine(found, by_hand).time_s() / measured - 1))
    assert len(whole) >= 9
    assert np.median(whole) < 0.2
    assert np.median(whole) < np.median(alone)


def test_published_first_tokens_of_dense_models(published: Published) -> None:
    """TensorRT-LLM's on A100 and H100, two lengths, one to eight devices."""
    errors = []
    bare = replace_overheads(engine_named("trtllm"), request_s=0.0, token_s=0.0)  # no server, no words
    for row in published("B_trtllm_ttft"):
        device = load_device(row["gpu"])
        precision = Precision.of("fp8", "fp8", "fp8") if row["dtype"] == "fp8" else Precision.of(row["dtype"])
        setting = Setting(precision, tensor_parallel=int(row["tp"]))
        model, prompt = load_model(row["model"]).model, int(float(row["isl"]))
        scenario = as_engines_run(Scenario(model, "prefill", 1, prompt, setting=setting))
        found = predict(scenario, device, "calibrated", "trtllm", engine=Engine("bare", bare, graphs=True))
        errors.append(found.time_s() * 1e3 / float(row["value"]) - 1)
    assert len(errors) == 20
    assert np.median(np.abs(errors)) < 0.2


def test_elementwise_kernels_of_prompts_stream_their_tensors_through_memory() -> None:
    """A norm adds what a block returned to the residual stream: it reads and writes both."""
    engine = engine_named("vllm")
    alone, served = (predicted(one, "prefill", batch=1, prompt=2000).rows for one in (None, engine))
    bare = predict(Scenario(MODEL, "prefill", 1, 2000), DEVICE, limits=LIMITS).rows
    named = [{row.name: row for row in rows} for rows in (bare, alone, served)]
    norm = [rows["layers.mlp_norm"].work.activation_bytes for rows in named]
    assert norm == [0, 2000 * 4096 * 2 * 4, 2000 * 4096 * 2 * 4]
    decode = predicted(engine, "decode", batch=1, context=500)
    (fused,) = (row for row in decode.rows if row.name == "layers.mlp_norm")
    assert fused.work.fused
    by_hand = Scenario(MODEL, "decode", 1, context=500)
    each = predict(as_engines_run(by_hand, graphs=False), DEVICE, limits=LIMITS)
    (own,) = (row for row in each.rows if row.name == "layers.mlp_norm")
    assert own.times.time_s > 0


def test_verified_positions_each_write_their_recurrent_state() -> None:
    """Any may be the last that is kept; keys and values are appended once."""
    model, drafts = load_model("Qwen/Qwen3.5-397B-A17B").model, parse("mtp:steps=3,accept=0.9")

    def written(*techniques: Technique) -> dict[str, float]:
        asked = Scenario(model, "decode", prompt=512, context=512, techniques=techniques)
        steps = (each for each in asked.schedule(load_device("b200_sxm")).passes if not each.scope)
        rows = (row for each in steps for row in each.operators(each.last))
        return {row.name: float(row.operator.work().bytes_as(Role.KV_WRITE)) for row in rows}

    plain, once, kept = written(), written(drafts), written(drafts, EngineKernels())
    rule, append = "layers.delta.rule", "layers.attention.kv_append"
    assert (once[rule], kept[rule]) == (plain[rule], 4 * plain[rule])
    assert (once[append], kept[append]) == (4 * plain[append], 4 * plain[append])


def test_experts_keep_what_their_kernels_were_measured_with() -> None:
    scenario = as_engines_run(Scenario(load_model("Mixtral-8x7B").model, "prefill", 1, 2000))
    rows = {row.name: row for row in predict(scenario, DEVICE, limits=LIMITS).rows}
    assert all(rows[f"layers.moe.{name}"].work.fused for name in ("topk", "permute", "experts_act_mul"))


def test_host_and_device_take_turns_where_prompts_are_read_back() -> None:
    """The delta rule's prompts in eager code; not its decode steps, and not compiled prompts."""
    model = load_model("Qwen3-Next-80B-A3B").model
    for name, turns in (("sglang", True), ("vllm", False)):
        engine = engine_named(name)
        scenario = as_engines_run(Scenario(model, "prefill", 1, 8000))
        found = predict(scenario, DEVICE, limits=LIMITS, engine=engine)
        busy = sum(row.total_s for row in found.rows if row.kind != KIND)
        own = [row for row in found.rows if row.kind != KIND]
        host = on_device(own, eager=engine.eager)[1] * engine.fit.overheads.launch_s
        assert gap(found, "prefill") == close(host if turns else max(0.0, host - busy)), name
