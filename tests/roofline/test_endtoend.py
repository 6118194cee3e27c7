"""TTFT and TPOT are what their steps say on paper; rows that cannot be predicted are told, not dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from hwspecs import load_device
from hwspecs.serving import Overheads, overheads_for
from reports.end_to_end import as_text
from roofline import api
from roofline.ceilings import Fidelity, ceilings
from roofline.endtoend import (
    EndToEnd,
    applied,
    composed,
    each_load,
    is_end_to_end,
    score_end_to_end,
)
from roofline.engine_kernels import EngineKernels
from roofline.engines import KIND, as_engines_run
from roofline.predict import predict
from roofline.rollback import IN_TURN, INDEXED
from roofline.scenario import Scenario
from roofline.serve.step_times import StepTimes
from roofline.serving import ROUNDS, Load, Steps, Users, steps, waits
from roofline.serving_fit import (
    ASSUMED,
    BOUNDS,
    UNDER_LOAD,
    across_settings,
    as_unmeasured,
    assumed,
    fit,
    fit_all,
)
from roofline.tablefiles import read_table
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.phases import Setting
from workloads.techniques.registry import parse

close = partial(pytest.approx, rel=1e-9)
PAPER = Steps(prefill_s=0.1, prefill_kernels=500, decode_s=0.02, decode_kernels=400, full_s=0.1)
SCRIPT = Users(1, 500, 10, static=True)
LAUNCHED = Users(1, 500, 10, static=True, graphs=False)
ROW: dict[str, Any] = {
    "model": "Llama-3.1-8B",
    "gpu": "h100_sxm",
    "dtype": "bf16",
    "tp": 1,
    "prompt": 512,
    "output": 128,
    "concurrency": 4,
    "ttft_ms": 30.0,
    "tpot_ms": 8.0,
}


def test_without_overheads_a_step_is_the_sum_of_its_operators() -> None:
    model, device = load_model("Llama-3.1-8B").model, load_device("h100_sxm")
    found = steps(Load(model, Setting(), 512, 128, 4, static=True), device, "datasheet")
    one = {"techniques": (EngineKernels(graphs=False),)}
    prefill = predict(Scenario(model, "prefill", batch=4, prompt=512, **one), device)
    decode = predict(Scenario(model, "decode", batch=4, prompt=512, context=512 + 64, **one), device)
    assert found.prefill_s == close(sum(row.total_s for row in prefill.rows))
    assert found.decode_s == close(sum(row.total_s for row in decode.rows))
    ttft, tpot = waits(found, Users(4, 512, 128, static=True), Overheads())
    assert (float(ttft), float(tpot)) == (close(found.prefill_s), close(found.decode_s))


def test_the_host_works_once_per_step() -> None:
    alone = waits(PAPER, SCRIPT, Overheads())
    ttft, tpot = waits(PAPER, SCRIPT, Overheads(step_s=0.003))
    assert (ttft - alone[0], tpot - alone[1]) == (close(0.003), close(0.003))


def test_launches_count_where_the_host_is_slower_and_no_graph_replays_them() -> None:
    slow = Overheads(launch_s=1e-4)
    assert waits(PAPER, LAUNCHED, slow)[1] == close(400 * 1e-4)
    assert waits(PAPER, SCRIPT, slow)[1] == close(0.02)
    assert waits(PAPER, LAUNCHED, Overheads(launch_s=1e-5))[1] == close(0.02)


def test_other_users_prompts_are_read_between_tokens() -> None:
    """Five users, one prompt a step: the first round waits for three prompts on average, later ones queue.

    Who comes during a step finds the next one launched.
    """
    users = Users(5, 1000, 100)
    ttft, tpot = waits(PAPER, users, Overheads(request_s=0.01, token_s=1e-5))
    assert tpot == close(0.02 + 4 * 0.1 / 100)
    busy = 4 * 0.1 / 100 / float(tpot)
    later = 0.1 * (1 + busy / (1 - busy) / 2) + 0.02
    assert ttft == close(0.01 + 1000e-5 + 0.02 * (1 / 2 + 1) + 3 * 0.1 / ROUNDS + later * (1 - 1 / ROUNDS))


def test_prompts_in_steps_of_their_own_yield_their_token_when_the_step_ends() -> None:
    """Other tokens come with the step that decodes beside; what is not launched ahead is not waited for."""
    usual, alone, neither = (
        waits(PAPER, Users(5, 1000, 100, **how), Overheads())[0]
        for how in ({}, {"alone": True}, {"alone": True, "ahead": 0})
    )
    assert (usual - alone, alone - neither) == (close((1 - 1 / ROUNDS) * 0.02), close(0.02))


def test_a_user_alone_waits_for_nobody() -> None:
    often, seldom = (waits(PAPER, Users(1, 500, 100, poll_steps=n), Overheads()) for n in (1, 30))
    assert often == seldom == (close(0.1), close(0.02))


def test_prompts_that_come_together_are_read_together() -> None:
    """The first comer is read alone, in 0.1 s, the four others in 0.175 s together or in four steps."""
    full = replace(PAPER, full_s=0.2, full=5)
    apart, together = (waits(each, Users(5, 1000, 1e9), Overheads())[0] for each in (PAPER, full))
    saved = 4 / 5 * ((1 + 2 + 3 + 4) / 4 * 0.1 - 0.175)
    assert apart - together == pytest.approx(saved / ROUNDS, rel=1e-6)


def test_an_engine_that_looks_seldom_keeps_arrivals_waiting_and_reads_them_together() -> None:
    often, seldom = (waits(PAPER, Users(2, 500, 1e6, poll_steps=n), Overheads()) for n in (1, 31))
    assert seldom[0] - often[0] == pytest.approx(15 * 0.02, rel=1e-3)
    full = replace(PAPER, full_s=0.2, full=5)
    one, lumps = (waits(full, Users(5, 500, 100, poll_steps=n), Overheads())[1] for n in (1e-9, 50))
    assert lumps < one  # four others, half of an answer between looks: three prompts in each step


def test_a_step_that_verifies_drafts_is_shared_by_the_tokens_that_it_yields() -> None:
    """Steps and what the host does for each; prompts are read as often for each token as without."""
    host = Overheads(step_s=0.01)
    drafts = replace(PAPER, tokens=3)
    assert waits(drafts, Users(1, 500, 100), host)[1] == close((0.02 + 0.01) / 3)
    one, many = (waits(drafts, Users(n, 500, 100), Overheads())[1] for n in (1, 5))
    assert many - one == close(4 * 0.1 / 100)


def test_only_a_worker_that_drafts_launches_no_step_ahead() -> None:
    """SGLang overlaps steps but for its first worker with drafts (SGLANG_ENABLE_SPEC_V2 is off in 0.5.9)."""
    users = {"concurrency": 5, "prompt": 500, "output": 100, "static": False, "poll_steps": 1.0}
    rows = pd.DataFrame(
        {**vars(PAPER), **users, "backend": "sglang", "tokens": tokens, "release": release}
        for tokens in (1, 3)
        for release in ("", IN_TURN[0])
    )
    later, early, drafts, in_turn = applied(rows, Overheads())[0]
    assert early == later
    assert in_turn < drafts


def test_steps_with_drafts_are_those_that_are_predicted() -> None:
    model, device = load_model("Qwen3.5-27B").model, load_device("h100_sxm")
    used = (parse("mtp:steps=2,accept=0.5"),)
    found = steps(Load(model, Setting(), 512, 128, 4, techniques=used), device, "datasheet")
    asked = Scenario(model, batch=4, prompt=512, techniques=(*used, EngineKernels()))
    decode = predict(replace(asked, phase="decode", context=512 + 64), device)
    assert found.tokens == close(1.75)
    assert found.decode_s / found.tokens == close(decode.time_s())
    assert found.prefill_s == close(predict(replace(asked, batch=1, output=2), device).time_s("prefill"))


def test_states_of_kept_drafts_are_gathered_and_scattered_where_the_worker_indexes_them() -> None:
    """GLM-4.5 has no such state; Qwen3-Next 36 layers x 8 of 32 heads x 128 x 128 on one of four devices."""
    device = load_device("b200_sxm")
    used = (parse("mtp:steps=3,accept=0.9"),)

    def decode_s(name: str, release: str, fidelity: str = "calibrated") -> float:
        setting = Setting(tensor_parallel=4)
        load = Load(load_model(name).model, setting, 512, 128, 8, techniques=used, release=release)
        return float(steps(load, device, fidelity).decode_s)

    copied, plain = (decode_s("Qwen3-Next-80B-A3B", by) for by in (IN_TURN[0], ""))
    states = 36 * 8 * 8 * 128 * 128
    windows = 36 * 8 * 3 * (2 * 16 * 128 + 32 * 128) / 4  # the last inputs of convolutions
    assert copied - plain == pytest.approx(2 * (states + windows) / (INDEXED * 148 * 1.965e9), rel=1e-3)
    assert decode_s("GLM-4.5-Air", IN_TURN[0]) == decode_s("GLM-4.5-Air", "")
    floors = (decode_s("Qwen3-Next-80B-A3B", by, "datasheet") for by in (IN_TURN[0], ""))
    assert len(set(floors)) == 1


def test_a_table_says_how_many_tokens_are_drafted_and_how_often_one_is_kept() -> None:
    drafted = {"drafted": [0, 3, 3, 1.5, 3], "accept": [0.9, 1, 0, 1, 1.5]}
    rows, left_out = composed(pd.DataFrame([ROW] * 5).assign(**drafted), "datasheet")
    assert rows["tokens"].tolist() == [1, close(4), 1]
    assert sorted(left_out) == [
        "multi-token-prediction:accept is '1.5'; expected a number from 0 to 1.",
        "without a whole drafted.",
    ]


def test_rows_with_drafts_are_cells_of_their_own() -> None:
    found = score_end_to_end(pd.DataFrame([ROW] * 3).assign(drafted=[0, 3, 3], accept=0.9), "datasheet")
    rows = found.summary().groupby("drafted")["rows"].agg(set)
    assert rows.to_dict() == {0: {1}, 3: {2}}
    assert "tp 1 3 drafted" in as_text([found])


def test_no_constant_learns_from_rows_with_drafts() -> None:
    """How many of those were kept is assumed; they are scored with constants of the others."""
    truth = Overheads(launch_s=1e-5, step_s=0.001, request_s=0.1, token_s=2e-6)
    rows = timed(truth, [1, 16, 64]).assign(engine="one", dtype="bf16", tp=1)
    odd = rows.assign(tokens=2.0, tpot_s=rows["tpot_s"] * 7)
    both = pd.concat([rows, odd], ignore_index=True)
    assert fit_all(both, "paper") == fit_all(rows, "paper")
    scored = across_settings(both)
    assert (len(scored), set(scored["tokens"])) == (len(odd), {2.0})  # the others have no second setting
    assert scored["predicted_tpot_s"].max() < rows["tpot_s"].max()


def test_a_host_that_waits_for_the_device_hides_nothing() -> None:
    """500 launches of 0.1 ms beside 0.1 s of kernels: hidden, or added where the two take turns."""
    host, users = Overheads(launch_s=1e-4), Users(5, 500, 100)
    assert waits(PAPER, users, host)[1] == close(0.02 + 4 * 0.1 / 100)
    assert waits(replace(PAPER, turns=True), users, host)[1] == close(0.02 + 4 * 0.15 / 100)


def test_rows_that_cannot_be_predicted_are_listed_with_the_reason() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model": "no such model"},
        {"gpu": "no such device"},
        {"mode": "disagg"},
        {"tpot_ms": None},
        {"concurrency": 2.5},
        {"prompt": "many"},
        {"output": float("inf")},
        {"tp": 3},
        {"pp": 2},
        {"dp": 2},
        {"tp": 2, "moe_tp_size": 2, "ep": 2},
    ]
    table = pd.DataFrame([{"mode": "agg", **ROW, **change} for change in changes])
    assert is_end_to_end(table)
    result = score_end_to_end(table, "datasheet")
    assert len(result.rows) == 1
    assert sum(result.left_out.values()) == len(changes) - 1
    for said in (
        "no such model",
        "no such device",
        "disaggregated",
        "TPOT",
        "whole concurrency",
        "whole prompt",
        "whole output",
        "--tp",
        "pipeline stages",
        "attention on parts of the batch, other than",
        "moe_tp x moe_ep",
    ):
        assert any(said in reason for reason in result.left_out), said


def test_a_table_without_any_predictable_row_says_why() -> None:
    with pytest.raises(InputError, match="1 measured on another device than A100"):
        score_end_to_end(pd.DataFrame([ROW]), "datasheet", load_device("a100_sxm"))


def test_errors_by_hand() -> None:
    """A table that holds the prediction itself, and one of 1.3 times the time per token."""
    first = score_end_to_end(pd.DataFrame([ROW]), "datasheet").rows.iloc[0]
    exact = {"ttft_ms": first["predicted_ttft_s"] * 1e3, "tpot_ms": first["predicted_tpot_s"] * 1e3}
    table = pd.DataFrame([{**ROW, **exact, "tpot_ms": exact["tpot_ms"] * 1.3}])
    totals = score_end_to_end(table, "datasheet").totals().set_index("quantity")
    assert totals["median_ape"].to_dict() == {"TTFT": pytest.approx(0, abs=1e-9), "TPOT": close(0.3 / 1.3)}
    assert totals.loc["TPOT", "bias"] == close(-0.3 / 1.3)
    assert totals["within"].to_dict() == {"TTFT": 1, "TPOT": 0}  # of a fifth


def test_formats_of_a_table_are_those_of_the_experts_too() -> None:
    """On a GPU without 4-bit units experts of 4 bits stand beside 16; tiles of 128 x 128 have a scale."""
    oss, qwen = ({**ROW, "model": name, "concurrency": 1} for name in ("gpt-oss-20b", "Qwen3-30B-A3B"))
    asked = [{**oss, "dtype": "bf16"}, {**oss, "dtype": "fp4"}]
    asked += [{**qwen, "dtype": "fp8", "moe_quant_mode": mode} for mode in ("", "fp8_block")]
    table = pd.DataFrame([{"moe_quant_mode": "", **each} for each in asked])
    wide, narrow, plain, tiles = score_end_to_end(table, "datasheet").rows["predicted_tpot_s"]
    assert narrow < 0.7 * wide
    assert plain < tiles <= plain * (1 + 4 / 128**2)


@pytest.mark.parametrize("engine", ["", "vllm", "sglang", "eager", "never measured"])
def test_an_engine_has_its_own_overheads_or_what_is_assumed_of_any(engine: str) -> None:
    found = overheads_for(engine)
    assert found.backend in ("", engine)
    assert len(overheads_for("never measured").models) >= len(found.models)


def test_an_engine_that_nobody_measured_takes_nothing_from_others() -> None:
    truth = Overheads(launch_s=1e-5, step_s=0.001, request_s=0.1, token_s=2e-6)
    rows = timed(truth, [1, 4, 16, 64, 256]).assign(engine="another")
    scored = as_unmeasured(rows)
    ttft, tpot = applied(rows, ASSUMED)
    assert (scored["predicted_ttft_s"] == ttft).all()
    assert (scored["predicted_tpot_s"] == tpot).all()


def test_an_engine_that_nobody_measured_has_graphs_as_others_have() -> None:
    """Of the others' operators of a graph the geometric mean; a script has none."""
    others = [Overheads(graph_s=graph_s, launch_s=1e-4) for graph_s in (1e-6, 4e-6, 0.0)]
    assert assumed(others) == msgspec.structs.replace(ASSUMED, graph_s=2e-6)
    assert assumed([]) == ASSUMED


def test_an_engine_is_scored_as_unmeasured_by_the_graphs_of_others_alone() -> None:
    one, other = (
        timed(Overheads(launch_s=6e-5, graph_s=graph_s, step_s=5e-5), [1, 4, 16, 64] * 5).assign(engine=name)
        for name, graph_s in (("one", 2e-6), ("other", 4e-6))
    )
    other = other.assign(ttft_s=other["ttft_s"] * 1.5)  # whatever its own times are
    scored = as_unmeasured(pd.concat([one, other], ignore_index=True))
    expected = applied(other, assumed([fit(one)]))[1]
    assert scored.loc[scored["engine"] == "other", "predicted_tpot_s"].to_numpy() == pytest.approx(expected)


def test_a_fit_finds_the_overheads_that_made_the_times() -> None:
    truth = Overheads(launch_s=6e-5, step_s=0.002, request_s=0.03, token_s=2e-5)
    found = fit(timed(truth, [1, 4, 16, 64]))
    for name in ("request_s", "token_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.05), name
    # Steps of one model have as many operators in every row: what they add is to be seen, hardly its parts.
    for name in ("launch_s", "graph_s"):
        per_step = [one.step_s + PAPER.decode_kernels * getattr(one, name) for one in (found, truth)]
        assert per_step[0] == pytest.approx(per_step[1], rel=0.1), name
    assert found.launch_s == pytest.approx(truth.launch_s, rel=0.1)


def test_a_batch_by_hand_tells_nothing_of_load_and_graphs() -> None:
    truth = Overheads(launch_s=6e-5, step_s=0.01, request_s=0.03)
    found = fit(timed(truth, [4]))
    per_step = [one.step_s + PAPER.decode_kernels * one.launch_s for one in (found, truth)]
    assert per_step[0] == pytest.approx(per_step[1], rel=0.05)
    neutral = {name: getattr(Overheads(), name) for name in UNDER_LOAD}
    assert {name: getattr(found, name) for name in UNDER_LOAD} == neutral


def test_ranges_hold_what_was_fitted() -> None:
    for engine in ("", "vllm", "sglang", "eager"):
        found = overheads_for(engine)
        for name in BOUNDS:
            low, value, high = (getattr(o, name) for o in (found.low, found.overheads, found.high))
            assert low <= value <= high, (engine, name)


def timed(truth: Overheads, concurrencies: list[int]) -> pd.DataFrame:
    """Rows of one model whose measured times are those of known overheads."""
    rows = pd.DataFrame(
        {
            "model": "one",
            "concurrency": c,
            "prompt": prompt,
            "output": 100,
            "static": c == 4,
            "poll_steps": 1.0,
            "backend": "",
            "release": "",
            **vars(PAPER),
            "prefill_s": p,
            "full_s": p,
        }
        for c in concurrencies
        for p in (0.01, 0.03, 0.2, 0.5)
        for prompt in (500, 4000)
    )
    ttft, tpot = applied(rows, truth)
    return rows.assign(ttft_s=ttft, tpot_s=tpot)


def test_splits_that_no_constant_was_fitted_to(shared: Callable[[str], Path]) -> None:
    """Llama-2-70B on two, four and eight A100, one prompt at a time, each by constants of the others."""
    table = read_table(shared("data/splitwise_e2e.parquet"))
    one = table[(table["batch_size"] == 1) & (table["token_size"] == 128) & (table["prompt_size"] <= 2048)]
    found = across_settings(composed(one, "calibrated")[0])
    for name in ("ttft", "tpot"):
        error = (found[f"predicted_{name}_s"] / found[f"{name}_s"] - 1).abs()
        assert error.median() < 0.1, name


def test_the_bias_is_a_geometric_mean() -> None:
    """Twice, half and four times as long as measured: 4^(1/3), of which the median is 2."""
    ratio = pd.Series([2.0, 0.5, 4.0])
    times = {f"{name}_s": [1.0] * 3 for name in ("ttft", "tpot")}
    rows = pd.DataFrame(times).assign(
        **{f"predicted_{name}_s": ratio for name in ("ttft", "tpot")},
        **{f"{name}_error": ratio - 1 for name in ("ttft", "tpot")},
    )
    found = EndToEnd(Fidelity.DATASHEET, rows, {}).totals()
    assert found["bias"].tolist() == close([4 ** (1 / 3) - 1] * 2)
    assert found["median_ape"].tolist() == close([1.0] * 2)
    assert found["mape"].tolist() == close([4.5 / 3] * 2)


def loads_of(*changes: dict[str, Any]) -> list[Load]:
    """What rows are read as."""
    found: list[Load] = []

    def keep(row: dict[str, Any], load: Load) -> dict[str, Any]:
        found.append(load)
        return {}

    _, left_out = each_load(pd.DataFrame([ROW | change for change in changes]), keep)
    assert not left_out
    return found


def test_what_a_device_cannot_multiply_in_is_only_stored() -> None:
    """fp8 on A100, 4 bits on Hopper: weights are widened on the way, as Marlin's kernels do."""
    devices = [("a100_sxm", "fp8"), ("h100_sxm", "fp8"), ("h100_sxm", "fp4"), ("b200_sxm", "fp4")]
    formats = [one.setting.precision for one in loads_of(*({"gpu": g, "dtype": d} for g, d in devices))]
    assert [p.weights for p in formats] == ["fp8", "fp8", "nvfp4", "nvfp4"]
    assert [p.activations for p in formats] == ["bf16", "fp8", "bf16", "nvfp4"]


def test_only_the_experts_of_gpt_oss_are_narrow() -> None:
    """Whatever a table calls it: they multiply in 16 bits on Hopper and in 8 on Blackwell."""
    gpus = ["h100_sxm", "b200_sxm"]
    asked = [{"model": "openai/gpt-oss-120b", "gpu": g, "dtype": d} for g in gpus for d in ("fp4", "fp8")]
    formats = [one.setting.precision for one in loads_of(*asked)]
    assert {(p.weights, p.activations, p.expert_weights) for p in formats} == {("bf16", "bf16", "mxfp4")}
    assert [p.expert_activations for p in formats] == ["bf16", "bf16", "fp8", "fp8"]


def test_in_four_bits_experts_alone_are_narrow_where_there_are_some() -> None:
    """They multiply in four bits where the device does; integers are weights only."""
    asked = [
        {"model": model, "gpu": gpu, "dtype": dtype}
        for model in ("Qwen3-235B-A22B", "Llama-3.3-70B")
        for gpu, dtype in (("b200_sxm", "fp4"), ("h200_sxm", "fp4"), ("b200_sxm", "int4"))
    ]
    found = [one.setting.precision for one in loads_of(*asked)]
    formats = [(p.weights, p.activations, p.expert_weights, p.expert_activations) for p in found]
    assert formats == [
        ("bf16", "bf16", "nvfp4", "nvfp4"),
        ("bf16", "bf16", "nvfp4", "bf16"),
        ("bf16", "bf16", "int4", "bf16"),
        ("nvfp4", "nvfp4", "nvfp4", "nvfp4"),
        ("nvfp4", "bf16", "nvfp4", "bf16"),
        ("int4", "bf16", "int4", "bf16"),
    ]


def test_engines_and_formats_are_read_by_other_names() -> None:
    usual, other = loads_of({"backend": "trtllm", "dtype": "fp8"}, {"backend": "TRT", "dtype": "FP8"})
    assert usual == other


def test_attention_on_parts_of_the_batch_has_whole_experts_on_as_many_devices() -> None:
    """Tables name the devices of attention alone as tp, or all; a batch is waited for where it is largest."""
    deep = {"model": "DeepSeek-V3", "gpu": "h200_sxm", "dtype": "fp8", "dp": 8, "ep": 8}
    one, all_of_them = loads_of(deep, deep | {"tp": 8})
    assert one.setting == all_of_them.setting
    assert (one.setting.replicas, one.setting.devices) == (8, 8)
    device = load_device("h200_sxm")
    few, eight, nine = (steps(replace(one, concurrency=n), device, "datasheet").decode_s for n in (1, 8, 9))
    assert few == eight < nine
    refused = pd.DataFrame([ROW | deep | {"ep": 1, "moe_tp_size": 8}])
    _, left_out = composed(refused, "datasheet")
    assert "whole experts" in next(iter(left_out))


def test_one_prompt_of_parts_of_the_batch_is_read_as_in_a_simulation() -> None:
    """All wait for it in attention, and each device's experts have their share of its tokens."""
    setting, device = Setting(expert_parallel=4), load_device("dgx_h100")
    load = Load(load_model("Mixtral-8x7B").model, setting, 1000, 100, 6)
    asked = as_engines_run(Scenario(load.model, "generate", 4, 1000, output=100, setting=setting))
    simulated = StepTimes(asked.schedule(device), ceilings(device, "datasheet"))
    found = steps(load, device, "datasheet")
    assert found.full == 6
    for prompts, read_s in ((1, found.prefill_s), (6, found.full_s)):
        assert read_s == pytest.approx(simulated.mixed_s(0, 0.0, [(1000, 0)] * prompts, prompts), rel=0.01)
    four = steps(replace(load, concurrency=4), device, "datasheet")
    assert four.full_s == pytest.approx(simulated.mixed_s(0, 0.0, [(1000, 0)] * 4, 4), rel=0.01)
    assert found.prefill_s < 0.5 * four.full_s


def test_rows_name_checkpoints_by_whoever_tuned_or_quantised_them() -> None:
    names = ["nvidia/DeepSeek-R1-0528-NVFP4-v2", "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8"]
    found = loads_of(*({"model": name, "gpu": "b200_sxm", "tp": 4, "dtype": "fp8"} for name in names))
    assert [one.model.name for one in found] == ["DeepSeek-R1", "Qwen3-235B-A22B"]


def test_a_row_says_by_whose_kernels_experts_run() -> None:
    oss = {"model": "openai/gpt-oss-120b", "gpu": "h100_sxm", "dtype": "fp4", "backend": "sglang"}
    assert [one.named for one in loads_of(oss, oss | {"experts_by": "own"})] == [{}, {"moe": "own"}]


@pytest.mark.parametrize("backend", ["sglang", "vllm", "trtllm"])
@pytest.mark.parametrize(
    ("model", "gpu", "stored"),
    [
        ("gpt-oss-120b", "h100_sxm", {"expert_weights": "mxfp4"}),
        ("DeepSeek-V3", "h200_sxm", {"expert_weights": "nvfp4"}),
    ],
)
def test_a_rows_decode_step_is_that_of_predict(
    backend: str, model: str, gpu: str, stored: dict[str, str]
) -> None:
    """Formats, kernels and libraries of a row are those of `predict --engine`."""
    load = loads_of({"model": model, "gpu": gpu, "dtype": "fp4", "backend": backend, "tp": 4})[0]
    row = steps(load, load_device(gpu), "calibrated")
    context, skew = load.prompt + load.output // 2, load.setting.expert_skew
    sizes = {"batch": load.concurrency, "context": context, "tp": 4, "expert_skew": skew}
    asked = api.predict(model, gpu, "calibrated", engine=backend, phase="decode", **sizes, **stored)
    assert row.decode_s == close(sum(one.total_s for one in asked.rows if one.kind != KIND))
