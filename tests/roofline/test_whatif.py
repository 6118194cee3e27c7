"""What-if: reasons say what the numbers say, and nothing is gained from nothing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from hwspecs import load_device
from reports.whatif import as_json, as_text
from roofline.engines import find_engine
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from roofline.target import Goal, answers
from roofline.whatif import Outcome, WhatIf, whatif
from workloads.catalogue import load_model
from workloads.step import Setting
from workloads.techniques.registry import parse

MODELS = ("Llama-3.1-8B", "Mixtral-8x7B", "Mamba-2-2.7B", "Jamba-v0.1", "T5-small", "LLaDA-8B")


@cache
def found(name: str, hardware: str = "h100_sxm", fidelity: str = "datasheet") -> WhatIf:
    model = load_model(name).model
    prompt = min(1000, model.max_position - 100)
    asked = Scenario(model, model.usual_phase, batch=16, prompt=prompt, output=64)
    return whatif(asked, load_device(hardware), fidelity)


def test_formats_that_a_device_multiplies_in_are_told_apart() -> None:
    asked = Scenario(load_model("Llama-3.1-8B").model, batch=16, prompt=1000, output=100)
    name = "weight-activation-quantisation"
    for device, formats in (("h100_sxm", {"int8", "fp8"}), ("b200_sxm", {"int8", "fp8", "nvfp4"})):
        result = whatif(asked, load_device(device))
        tried = {o.techniques[0].called() for o in result.outcomes if len(o.techniques) == 1}
        assert {called for called in tried if name in called} == {f"{name}:format={f}" for f in formats}
        refused = {called for called in result.refused if name in called}
        assert refused == {f"{name}:format={f}" for f in {"int8", "fp8", "nvfp4"} - formats}
        pairs = [{t.name for t in o.techniques} for o in result.outcomes if len(o.techniques) == 2]
        assert all(len(pair) == 2 for pair in pairs)


def outcome(result: WhatIf, *names: str) -> Outcome:
    return next(o for o in result.outcomes if [t.name for t in o.techniques] == list(names))


@pytest.mark.parametrize("name", MODELS)
def test_whoever_does_no_less_is_no_faster(name: str) -> None:
    """A gain has a cause: fewer FLOP, fewer bytes, faster units, or none of the launches."""
    result = found(name)
    for each in result.outcomes:
        if each.speedup <= 1 + 1e-9:
            continue
        quantities = ("matrix_flops", "vector_flops", "bytes", "comm_bytes")
        less = any(each.after.total(q) < each.before.total(q) for q in quantities)
        faster = {row.work.dtype for row in each.after.rows} != {row.work.dtype for row in each.before.rows}
        assert less or faster, each.techniques


@pytest.mark.parametrize("name", MODELS)
def test_no_prediction_beats_the_device(name: str) -> None:
    """In every outcome bytes and FLOP pass at the stated ceilings or below, and memory is taken."""
    for each in found(name).outcomes:
        limits, time = each.after.ceilings, each.after.time_s()
        assert each.after.total("bytes") <= time * limits.dram_byte_per_s * (1 + 1e-9)
        peak = max(limits.matrix_flop_per_s(row.work.dtype) for row in each.after.rows)
        assert each.after.total("matrix_flops") <= time * peak * (1 + 1e-9)
        totals = each.record()
        assert totals["memory_bytes"] > 0
        assert totals["energy_j"] > 0


@pytest.mark.parametrize("name", MODELS)
def test_pairs_save_no_byte_twice(name: str) -> None:
    """What is left of the weights' bytes is at least the product of what each leaves."""
    result = found(name)
    left = {
        o.techniques[0].name: o.after.total("weight_bytes") for o in result.outcomes if len(o.techniques) == 1
    }
    whole = result.baseline.total("weight_bytes")
    for each in result.outcomes:
        if len(each.techniques) == 2:
            one, other = (left[t.name] / whole for t in each.techniques)
            assert each.after.total("weight_bytes") >= whole * one * other * 0.98, each.techniques


LIMIT_OF = {
    "FLOP": "compute",
    "exponentials": "compute",
    "waiting": "launch",
    "link": "communication",
    "host": "communication",
}


def seconds_by_name(prediction: Prediction, phase: str, limit: str = "") -> Counter[str]:
    """Seconds of a phase by the operator's name: those bound by a limit, or all."""
    seconds: Counter[str] = Counter()
    for row in prediction.rows:
        if row.phase == phase and limit in ("", row.times.bound):
            seconds[row.name] += row.total_s
    return seconds


@pytest.mark.parametrize("name", MODELS)
def test_reasons_name_a_limit_that_bound_what_changed(name: str) -> None:
    """What hides behind another limit saves no time: where fewer FLOP are named, operators that FLOP bound
    take less, by a good part of what the phase does.
    """
    told = 0
    for each in found(name).outcomes:
        said = re.match(r"(\w+) takes .* (less|more|the) time: (.*?);", each.why())
        if said is None or "without" in said[3]:
            continue
        told += 1
        phase, limit = said[1], next((LIMIT_OF[words] for words in LIMIT_OF if words in said[3]), "memory")
        ends = (each.before, each.after) if said[2] == "less" else (each.after, each.before)
        longer, shorter = (seconds_by_name(p, phase, only) for p, only in zip(ends, (limit, ""), strict=True))
        # Passes that come beside others share their names; an operator may change its limit.
        in_all = longer.total() - seconds_by_name(ends[1], phase, limit).total()
        moved = max(in_all, sum(max(0.0, longer[name] - shorter[name]) for name in longer))
        assert moved > 0.25 * (ends[0].time_s(phase) - ends[1].time_s(phase)), each.why()
    assert told > 10


def test_a_reason_says_how_much_a_limit_binds_that_is_not_most_of_the_phase() -> None:
    """Scores in memory: a prompt that computes for most of its time waits for bytes during the rest of it."""
    scores = next(o for o in found("Llama-3.1-8B").counted if o.techniques[0].name == "flash-attention")
    share = scores.before.bounds("prefill")["memory"]
    assert 0.05 < share < 0.5
    assert f"compute-bound, but for {100 * share:.0f} % that was memory-bound" in scores.why()


def test_an_answer_that_comes_at_once_has_no_time_per_token() -> None:
    """All tokens of a diffused answer come with its last pass: what a step takes is no time per token."""
    result = found("Llama-3.1-8B")
    assert outcome(result, "diffusion-generation").record()["tpot_s"] is None
    h100 = load_device("h100_sxm")
    asked = Scenario(load_model("Llama-3.1-8B").model, prompt=500, output=64)
    met = answers(asked, [h100], Goal.parse("tpot=500us"), quality="retrained").met
    assert all(t.name != "diffusion-generation" for answer in met for t in answer.techniques)


def test_narrow_products_gain_by_faster_units_and_the_reason_says_so() -> None:
    """Prompts of many sequences are compute-bound: the FLOP stay, the units are twice as fast."""
    prompt = Scenario(load_model("Llama-3.1-8B").model, "prefill", batch=16, prompt=1000)
    result = whatif(prompt, load_device("h100_sxm"), techniques=[parse("fp8"), parse("sparsity-2:4")])
    fast, sparse = outcome(result, "weight-activation-quantisation"), outcome(result, "sparsity-2:4")
    assert "FLOP on matrix units at 2 times the rate" in fast.why()
    assert "fewer FLOP on matrix units; compute-bound" in sparse.why()


def test_what_changes_nothing_is_told_and_not_ranked() -> None:
    refused = found("Llama-3.1-8B").refused
    assert refused["grouped-query-attention"] == "grouped-query-attention:kv_heads=8 changes nothing here."
    assert "changes nothing here" in refused["window-attention"]


def test_what_nobody_can_choose_is_told_with_the_gain_and_left_out_of_pairs() -> None:
    result = found("Llama-3.1-8B")
    assert outcome(result, "prefix-caching").why().endswith("; assumed hit=0.5")
    assert outcome(result, "eagle").why().endswith("; assumed accepted=3.5")
    assert outcome(result, "speculative-diffusion").why().endswith("; assumed accept=0.8 (a guess)")
    assert "assumed" not in outcome(result, "weight-only-quantisation").why()
    paired = {t.name for o in result.outcomes if len(o.techniques) == 2 for t in o.techniques}
    assert not paired & {"prefix-caching", "varlen-packing", "gist-tokens"}


def test_memory_that_a_device_has_not_is_marked() -> None:
    asked = Scenario(load_model("Llama-3.1-70B").model, batch=1, prompt=500, output=32)
    result = whatif(asked, load_device("h100_sxm"), techniques=[parse("awq"), parse("eagle")])
    text = as_text(result)
    assert "141 GB*" in text  # 70.55e9 parameters of 2 bytes, and 0.2 GB beside
    four_bits = next(line for line in text.splitlines() if line.lstrip().startswith("weight-only"))
    assert "*" not in four_bits
    assert "* more than the 85.5 GB of a device" in text
    assert [o["fits"] for o in as_json(result)["outcomes"] if o["names"] == ["eagle"]] == [False]
    assert "It fits with weight-only-quantisation:format=int4_g128.\n" in text
    eagle = as_text(whatif(asked, load_device("h100_sxm"), techniques=[parse("eagle")]))
    assert "No technique that was tried alone makes it fit.\n" in eagle
    assert "* more than" not in as_text(found("Mamba-2-2.7B"))


def test_pairs_gain_more_than_either_alone() -> None:
    """By a per cent at least: otherwise one of them is all that a reader needs."""
    result = found("Llama-3.1-8B")
    alone = {o.techniques[0].name: o.speedup for o in result.outcomes if len(o.techniques) == 1}
    pairs = [o for o in result.outcomes if len(o.techniques) == 2]
    assert len(pairs) > 5
    for pair in pairs:
        assert pair.speedup > 1.01 * max(alone[t.name] for t in pair.techniques)


def test_a_cpu_is_its_own_host_and_launches_no_kernels() -> None:
    refused = found("Llama-3.1-8B", "xeon_8480").refused
    for name in ("weight-offloading", "kv-offloading", "flexgen"):
        assert "is the host: what it computes with is in its memory as it is" in refused[name]
    assert "is no GPU" in refused["cuda-graphs"]


def test_reasons_fit_a_diffusion_model_and_a_state() -> None:
    """LLaDA reads its prompt anew in every pass; Mamba keeps nothing for a longest sequence."""
    said = found("LLaDA-8B").refused
    assert said["prompt-compression"] == "a diffusion model has no pass of its own for the prompt."
    assert said["apar"] == "nothing is decoded."
    assert "changes nothing here" in found("Mamba-2-2.7B").refused["paged-attention"]
    assert found("T5-small").refused["paged-attention"].startswith("counted already; T5-small has no longest")


def test_what_is_counted_already_is_told_once_whatever_its_parameters() -> None:
    llama, h100 = Scenario(load_model("Llama-3.1-8B").model), load_device("h100_sxm")
    paged = whatif(llama, h100, techniques=[parse("paged-attention:block=32")])
    assert [(o.techniques[0].name, paged.refused) for o in paged.counted] == [("paged-attention", {})]
    flat = whatif(llama, h100, techniques=[parse("flat-gemm:rows=16")])
    assert flat.refused == {"flat-gemm:rows=16": "counted already, and leaving it out changes nothing here."}


def test_what_is_counted_and_worth_nothing_is_said() -> None:
    """16 sequences of 8 KV heads keep all processors busy."""
    said = found("Llama-3.1-8B").refused["flash-decoding"]
    assert said == "counted already, and leaving it out changes nothing here."


def test_every_line_says_what_bound_before_and_what_binds_now() -> None:
    text = as_text(found("Llama-3.1-8B"), top=10, every=True)
    line = next(line for line in text.splitlines() if line.lstrip().startswith("kv-offloading "))
    assert line.rstrip().endswith("compute, memory > communication")


def test_energy_is_told_with_its_source() -> None:
    """All power by the data sheet; by what is used where kernel models give the times."""
    assert as_json(found("Llama-3.1-8B"))["energy_by"] == "TDP x time, as if all power were drawn"
    asked = Scenario(load_model("Llama-3.1-8B").model, "decode", batch=1, context=1000)
    device = load_device("a100_sxm")
    by_use = predict(asked, device, "calibrated")
    assert "x MBU" in by_use.energy_by
    assert by_use.totals()["energy_j"] < by_use.time_s() * device.datasheet.tdp_w.value  # type: ignore[union-attr]


@pytest.mark.parametrize("words", ["unstructured-sparsity", "weight-offloading", "kv-offloading"])
def test_calibrated_gains_are_those_of_one_model_of_time(words: str) -> None:
    """An operator that a technique changed is timed as it was but for what changed.

    Single zeros and transfers save no FLOP: a prompt that computes is read no faster with them.
    """
    asked = Scenario(load_model("Llama-3.1-8B").model, "prefill", batch=32, prompt=1000)
    device = load_device("h100_sxm")
    before, after = (
        predict(replace(asked, techniques=techniques), device, "calibrated")
        for techniques in ((), (parse(words),))
    )
    assert after.time_s() >= before.time_s() * (1 - 1e-9)
    assert after.time_s() <= before.time_s() * 1.2


def test_halved_products_take_half_above_their_launch() -> None:
    """2:4 in a prompt at the calibrated fidelity: between all and half of the time of each projection."""
    asked = Scenario(load_model("Llama-3.1-8B").model, "prefill", batch=4, prompt=1000)
    device = load_device("h100_sxm")
    before, after = (
        predict(replace(asked, techniques=techniques), device, "calibrated")
        for techniques in ((), (parse("sparsity-2:4"),))
    )
    was = {row.name: row for row in before.rows}
    changed = [row for row in after.rows if row.kind == "changed"]
    assert changed
    for row in changed:
        assert row.times.time_s / was[row.name].times.time_s == pytest.approx(0.5, abs=0.03)


def test_devices_that_share_a_layer_keep_what_they_share() -> None:
    """Eight devices: every technique that applies leaves shapes that eight can share."""
    asked = Scenario(
        load_model("Llama-3.1-70B").model, batch=8, prompt=500, output=32, setting=Setting(tensor_parallel=8)
    )
    result = whatif(asked, load_device("h100_sxm"))
    assert "6 KV heads, which 8 devices" in result.refused["structured-pruning"]
    assert all(each.after.time_s() > 0 for each in result.outcomes)


@cache
def around(engine: str) -> WhatIf:
    asked = Scenario(load_model("Llama-3.1-8B").model, "generate", batch=1, prompt=500, output=64)
    return whatif(asked, load_device("h100_sxm"), "calibrated", engine=find_engine(engine))


def test_an_engine_is_in_every_line_and_adds_the_time_that_it_adds_to_predictions() -> None:
    result = around("vllm")
    engine, scenario = find_engine("vllm"), result.baseline.scenario
    alone = predict(scenario, load_device("h100_sxm"), "calibrated", "vllm", engine=engine)
    assert result.baseline.totals() == alone.totals()
    assert all(each.after.served and each.before.served for each in (*result.outcomes, *result.counted))
    assert as_json(result)["engine"]["name"] == "vllm"
    assert "In every line: engine vllm" in as_text(result)


def test_a_step_of_the_engine_is_saved_where_a_pass_yields_several_tokens() -> None:
    """Speculation has fewer steps of the engine; a smaller weight has as many."""
    result = around("vllm")
    fewer, smaller = (outcome(result, name) for name in ("eagle", "weight-only-quantisation"))

    def steps(prediction: Prediction) -> float:
        return sum(row.total_s for row in prediction.rows if row.name == "engine.step")

    assert steps(fewer.after) < steps(fewer.before)
    assert steps(smaller.after) == pytest.approx(steps(smaller.before), rel=1e-9)


def test_graphs_are_what_an_engine_without_them_lacks_and_what_others_have() -> None:
    eager, served = around("eager"), around("vllm")
    assert outcome(eager, "cuda-graphs").speedup > 1
    assert "cuda-graphs" not in {o.techniques[0].name for o in eager.counted}
    assert "cuda-graphs" in {o.techniques[0].name for o in served.counted}
    assert "in the baseline already" in served.refused["fused-projections"]


def test_a_target_is_met_with_the_time_of_an_engine() -> None:
    """What an engine adds can only ask for more: where bare kernels just meet a target, eager ones do not."""
    asked = Scenario(load_model("Llama-3.1-8B").model, "generate", batch=1, prompt=500, output=64)
    bare = predict(asked, load_device("h100_sxm"), "calibrated").totals()["tpot_s"]
    goal = Goal.parse(f"tpot={1.01 * bare:.6f}s")
    found = [
        answers(asked, [load_device("h100_sxm")], goal, "calibrated", "exact", engine=engine).met
        for engine in (None, find_engine("eager"))
    ]
    assert found[0][0].techniques == ()
    assert not found[1] or found[1][0].techniques or found[1][0].devices > 1


def test_of_the_sizes_of_a_technique_the_fastest_is_shown_and_a_reason_told_once() -> None:
    """At batch 1 a tree is verified for next to nothing; at batch 256 no more than a short chain gains."""
    for batch, called in (
        (1, "eagle:depth=5,nodes=26,accepted=3.5"),
        (256, "eagle:depth=2,nodes=3,accepted=2.1"),
    ):
        asked = Scenario(load_model("Llama-3.1-8B").model, "decode", batch=batch, context=1000)
        result = whatif(asked, load_device("h100_sxm"))
        drafted = [o for o in result.outcomes if [t.name for t in o.techniques] == ["eagle"]]
        assert [o.techniques[0].called() for o in drafted] == [called]
        alone = [parse(words) for words in ("eagle", "eagle-1", "eagle:depth=2,nodes=3,accepted=2.1")]
        each = whatif(asked, result.baseline.device, techniques=alone)
        assert drafted[0].speedup == max(o.speedup for o in each.outcomes if len(o.techniques) == 1)
    assert [name for name in result.refused if "multi-token" in name] == ["multi-token-prediction"]


def test_a_layer_that_predicts_tokens_gains_where_it_is_published() -> None:
    result = whatif(
        Scenario(load_model("GLM-4.5-Air").model, "decode", batch=8, context=1000), load_device("b300_sxm")
    )
    assert outcome(result, "multi-token-prediction").speedup > 1
