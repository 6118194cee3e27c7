"""A model on a device: totals are sums of rows, and a generation is its steps one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Device, load_device
from roofline.asked import Asked, scenarios_of
from roofline.ceilings import ceilings
from roofline.contexts import SMOOTH, sum_over
from roofline.predict import pass_rows, predict, step_rows
from roofline.scenario import Scenario
from roofline.tables import OPERATOR_COLUMNS, as_csv, as_json
from roofline.totals import held_bytes
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.dtypes import Precision
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting, decode, parameters
from workloads.schedule import Pass
from workloads.techniques.registry import parse

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

LLAMA = load_model("Llama-3.1-8B").model
WORK = ("flops", "matrix_flops", "vector_flops", "special_ops", "bytes", "weight_bytes", "kv_bytes")
TOTALS = {  # the documented keys
    "flops",
    "bytes",
    "time_s",
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
    "mfu",
    "mbu",
    "weights_bytes",
    "kv_cache_bytes",
    "activation_peak_bytes",
    "memory_bytes",
    "fits",
    "energy_j",
}
ROW = {"name", "kind", "count", "flops", "bytes", "weight_bytes", "activation_bytes", "kv_bytes"}
ROW |= {"comm_bytes", "intensity", "compute_s", "memory_s", "time_s", "bound"}


def windowed(window: int, layers: int = 3) -> Model:
    """A small Gemma 3, whose layers stop growing with the context at different lengths."""
    fields = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": layers, "vocab_size": 100}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96}
    fields |= {"sliding_window": window, "sliding_window_pattern": 2, "max_position_embeddings": 100_000}
    return build(Config(fields, "small"), "small")


def loop(scenario: Scenario, device: Device, fidelity: str) -> dict[str, dict[str, float]]:
    """Per operator, the sums over all decode steps, each step predicted by itself."""
    limits, sums = ceilings(device, fidelity), {}  # type: ignore[var-annotated]
    for context in range(scenario.prompt + 1, scenario.prompt + scenario.output):
        for row in step_rows(scenario, decode(scenario.batch, context), limits, "decode"):
            entry = sums.setdefault(row.name, dict.fromkeys((*WORK, "time_s", "memory_s", "compute_s"), 0.0))
            for name in WORK:
                entry[name] += row.count * getattr(row.work, name)
            for name in ("time_s", "memory_s", "compute_s"):
                entry[name] += row.count * getattr(row.times, name)
    return sums


def assert_generates_step_by_step(
    scenario: Scenario, device: Device, fidelity: str = "datasheet", rel: float = 1e-12
) -> None:
    rows = [row for row in predict(scenario, device, fidelity).rows if row.phase == "decode"]
    expected = loop(scenario, device, fidelity)
    assert [row.name for row in rows] == list(expected)
    for row in rows:
        for name in WORK:
            assert row.count * getattr(row.work, name) == close(expected[row.name][name], rel=1e-12)
        for name in ("time_s", "memory_s", "compute_s"):
            found = row.count * getattr(row.times, name)
            assert found == close(expected[row.name][name], rel=rel), (row.name, name)


@given(
    batch=st.integers(1, 64),
    prompt=st.integers(1, 300),
    output=st.integers(2, 120),
    window=st.integers(1, 400),
    vector=st.sampled_from([1e9, 1e10, 1e13]),
    special=st.sampled_from([1e8, 1e10, 1e13]),
    tensor=st.sampled_from([1e10, 3e11, 1e14]),
)
def test_a_generation_is_its_steps(
    paper_device: Callable[..., Device], batch: int, prompt: int, output: int, window: int, **peaks: float
) -> None:
    """Also where, on the way, a window fills up or another limit takes over."""
    scenario = Scenario(windowed(window), "generate", batch, prompt, output=output)
    assert_generates_step_by_step(scenario, paper_device(**peaks))


@pytest.mark.parametrize(("special", "overlap"), [(8e9, 0.0), (3e11, 0.3), (1e12, 1.0)])
def test_a_generation_is_its_steps_when_calibrated(
    paper_device: Callable[..., Device], special: float, overlap: float
) -> None:
    """A footprint leaves the cache at some step: the time jumps there."""
    entry = {"dtype": "bf16", "points": 1, "median_error": 0.0, "byte_per_s": 5e11, "overlap": overlap}
    entry |= {
        "special_op_per_s": special,
        "cache_bytes": 150_000.0,
        "cached_byte_per_s": 2e12,
        "launch_s": 1e-6,
    }
    device = paper_device(
        measured={"dram_byte_per_s": {"value": 0.9e12, "source": "sheet"}},
        calibration={"source": "paper", "operators": {"attention_decode": [entry]}},
    )
    scenario = Scenario(windowed(170), "generate", 3, 40, output=300)
    assert_generates_step_by_step(scenario, device, "calibrated")


@pytest.mark.parametrize(
    ("name", "device", "fidelity", "rel"),
    [
        ("Llama-3.1-8B", "h100_sxm", "datasheet", 1e-12),
        ("Gemma-3-1b", "rtx4090", "datasheet", 1e-12),
        ("Gemma-3-1b", "a100_sxm", "calibrated", 1e-3),  # of kernels' steps no more than their times' digits
    ],
)
def test_a_real_generation_is_its_steps(name: str, device: str, fidelity: str, rel: float) -> None:
    scenario = Scenario(load_model(name).model, "generate", 8, 450, output=130)
    assert_generates_step_by_step(scenario, load_device(device), fidelity, rel)


def test_two_equal_steps_are_summed_as_such_though_they_meet_the_line_in_the_middle() -> None:
    def stairs(i: int) -> list[float]:
        return [1 + 0.012 * (i >= 62) + 0.012 * (i >= 126)]

    (found,) = sum_over(stairs, 0, 128, SMOOTH)
    assert found == pytest.approx(sum(stairs(i)[0] for i in range(129)), rel=SMOOTH)


def test_operators_that_change_with_the_context_are_summed_apart() -> None:
    """Verifying four positions, latent attention expands few keys and absorbs its projections beside many."""
    setting, model = Setting(), load_model("DeepSeek-V3").model
    limits = ceilings(load_device("h100_sxm"), "datasheet")
    verify = Pass("decode", model, setting, batch=2, q_len=4, first=4, last=300, times=297)
    rows = pass_rows(verify, limits)
    names = [row.name for row in rows]
    assert {"layers.attention.q_absorb", "layers.attention.kv_b_proj"} <= set(names)
    assert {name for name in names if names.count(name) > 1} == {"layers.attention.core"}  # other tensors
    alone = [pass_rows(replace(verify, first=at, last=at, times=1), limits) for at in range(4, 301)]
    for total in ("matrix_flops", "bytes"):
        steps = sum(row.count * getattr(row.work, total) for step in alone for row in step)
        assert sum(row.count * getattr(row.work, total) for row in rows) == pytest.approx(steps, rel=1e-9)
    assert sum(row.total_s for row in rows) == pytest.approx(
        sum(row.total_s for step in alone for row in step), rel=1e-9
    )


def test_a_long_generation_costs_no_more_to_predict_than_a_short_one(
    paper_device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in evaluated steps: arithmetic, not a loop over 100 000 tokens."""
    from roofline import predict as module

    steps: list[int] = []
    real = module.operators
    monkeypatch.setattr(module, "operators", lambda *a, **k: steps.append(1) or real(*a, **k))
    predict(Scenario(windowed(5000), "generate", 1, 10, output=99_000), paper_device())
    assert len(steps) < 200


@pytest.mark.parametrize("phase", ["prefill", "decode", "generate"])
@pytest.mark.parametrize("tp", [1, 4])
def test_totals_are_the_sum_of_rows_times_their_count(phase: str, tp: int) -> None:
    scenario = Scenario(LLAMA, phase, 3, 700, output=50, setting=Setting(tensor_parallel=tp))
    data = as_json(predict(scenario, load_device("h100_sxm")))
    assert set(data["totals"]) >= TOTALS
    for row in data["operators"]:
        assert set(row) == set(OPERATOR_COLUMNS) >= ROW
        assert row["bytes"] == close(
            row["weight_bytes"] + row["activation_bytes"] + row["kv_bytes"], rel=1e-12
        )
        assert row["flops"] == close(row["matrix_flops"] + row["vector_flops"], rel=1e-12)
        if row["bytes"]:
            assert row["intensity"] == close(row["flops"] / row["bytes"], rel=1e-12)
        else:
            assert row["intensity"] is None
    for name in ("flops", "bytes", "time_s"):
        summed = sum(row["count"] * row[name] for row in data["operators"])
        assert data["totals"][name] == close(summed, rel=1e-12)


def test_the_documented_head_of_the_json() -> None:
    scenario = Scenario(LLAMA, "decode", 3, context=700, setting=Setting(Precision.of("int4")))
    data = as_json(predict(scenario, load_device("h100_sxm")))
    expected = {
        "schema": 1,
        "model": "Llama-3.1-8B",
        "hardware": "H100-SXM5-80GB",
        "phase": "decode",
        "batch": 3,
    }
    expected |= {"context": 700, "fidelity": "datasheet", "convention": "fused", "tensor_parallel": 1}
    assert {key: data[key] for key in expected} == expected
    dtypes = {"weights": "int4", "activations": "bf16", "kv": "bf16"}
    assert data["dtypes"] == {**dtypes, "experts": "int4", "expert_activations": "bf16"}


def test_a_generation_is_a_prefill_and_its_decode_steps() -> None:
    device = load_device("h100_sxm")
    whole = predict(Scenario(LLAMA, "generate", 2, 1000, output=100), device).totals()
    first = predict(Scenario(LLAMA, "prefill", 2, 1000), device).totals()
    steps = [predict(Scenario(LLAMA, "decode", 2, context=1000 + n), device).totals() for n in range(1, 100)]
    assert whole["ttft_s"] == close(first["time_s"], rel=1e-12)
    assert whole["tpot_s"] == close(sum(s["time_s"] for s in steps) / 99, rel=1e-12)
    assert whole["time_s"] == close(first["time_s"] + sum(s["time_s"] for s in steps), rel=1e-12)
    assert whole["tokens_per_s"] == close(2 * 100 / whole["time_s"], rel=1e-12)
    assert whole["flops"] == close(first["flops"] + sum(s["flops"] for s in steps), rel=1e-12)
    assert first["tpot_s"] is None
    assert steps[0]["ttft_s"] is None
    assert first["tokens_per_s"] == close(2 * 1000 / first["time_s"], rel=1e-12)
    assert steps[0]["tokens_per_s"] == close(2 / steps[0]["time_s"], rel=1e-12)


def test_one_token_out_is_the_prefill() -> None:
    device = load_device("h100_sxm")
    one = predict(Scenario(LLAMA, "generate", 2, 1000, output=1), device)
    assert one.time_s() == predict(Scenario(LLAMA, "prefill", 2, 1000), device).time_s()
    assert one.totals()["tpot_s"] is None


def test_by_default_decode_follows_the_prompt() -> None:
    device = load_device("h100_sxm")
    default = predict(Scenario(LLAMA, "decode", 2, 1000), device)
    assert default.time_s() == predict(Scenario(LLAMA, "decode", 2, context=1001), device).time_s()


@pytest.mark.parametrize("weights", ["bf16", "fp8", "int4"])
def test_memory_is_weights_cache_and_activations(weights: str) -> None:
    bits = {"bf16": 16, "fp8": 8, "int4": 4}[weights]
    scenario = Scenario(LLAMA, "generate", 8, 1000, output=25, setting=Setting(Precision.of(weights)))
    prediction = predict(scenario, load_device("h100_sxm"))
    memory = prediction.totals()
    wide = (2 * 32 + 1 + 2 * 128256) * 4096  # norms, the embedding and the head stay in 16 bits
    expected = (parameters(LLAMA) - wide) * bits / 8 + wide * 2
    assert memory["weights_bytes"] == expected
    assert memory["kv_cache_bytes"] == 8 * 1024 * 131072  # 25 tokens out: the last one is never read
    parts = ("weights_bytes", "kv_cache_bytes", "activation_peak_bytes")
    assert memory["memory_bytes"] == sum(memory[part] for part in parts)
    logits, residual = 8 * 128256 * 2, 8 * 1000 * 4096 * 2
    assert memory["activation_peak_bytes"] >= residual + logits


def test_what_does_not_fit_is_said() -> None:
    big, small = load_model("Llama-3.1-70B").model, load_model("Llama-3.2-1B").model
    device = load_device("h100_sxm")
    assert not predict(Scenario(big, "decode"), device).totals()["fits"]
    assert predict(Scenario(big, "decode", setting=Setting(tensor_parallel=4)), device).totals()["fits"]
    assert predict(Scenario(small, "decode"), device).totals()["fits"]
    full = Scenario(small, "decode", batch=2000, context=20_000)
    assert not predict(full, device).totals()["fits"]


def test_utilisation_is_at_most_one_and_reaches_it_where_a_limit_binds() -> None:
    device = load_device("h100_sxm")
    for phase, batch in (("prefill", 64), ("decode", 1), ("generate", 16)):
        totals = predict(Scenario(LLAMA, phase, batch, 4000), device).totals()
        assert 0 < totals["mfu"] <= 1 + 1e-12
        assert 0 < totals["mbu"] <= 1 + 1e-12
    assert predict(Scenario(LLAMA, "prefill", 64, 4000), device).totals()["mfu"] > 0.95
    assert predict(Scenario(LLAMA, "decode", 1), device).totals()["mbu"] == close(1, rel=1e-9)


@pytest.mark.parametrize("name", ["w8a8", "fp8", "w4a8", "llm-int8", "nvfp4"])
def test_utilisation_refers_to_the_formats_that_are_multiplied_in(name: str) -> None:
    """Narrow products beside attention in 16 bits: a prompt nearly fills its compute roof, never more."""
    asked = Scenario(LLAMA, "prefill", 16, 2000, techniques=(parse(name),))
    assert 0.85 < predict(asked, load_device("b200_sxm")).totals()["mfu"] <= 1 + 1e-12


def test_energy_is_power_times_time_on_every_device() -> None:
    device = load_device("h100_sxm")  # 700 W
    for tp in (1, 8):
        setting = Setting(tensor_parallel=tp)
        totals = predict(Scenario(LLAMA, "decode", setting=setting), device).totals()
        assert totals["energy_j"] == close(700 * tp * totals["time_s"], rel=1e-12)


def test_sharing_a_model_never_makes_it_more_than_that_many_times_faster() -> None:
    device = load_device("h100_sxm")
    for phase in ("prefill", "decode"):
        one = predict(Scenario(LLAMA, phase, 4, 1000), device).time_s()
        for tp in (2, 4, 8):
            shared = predict(Scenario(LLAMA, phase, 4, 1000, setting=Setting(tensor_parallel=tp)), device)
            assert one / tp <= shared.time_s() < one


def test_the_largest_share_of_time_names_the_phase() -> None:
    device = load_device("h100_sxm")
    assert predict(Scenario(LLAMA, "prefill", 8, 2000), device).bound("prefill") == "compute"
    assert predict(Scenario(LLAMA, "decode", 1), device).bound("decode") == "memory"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "train"}, r"no phase named 'train'; known: prefill, decode, generate, denoise\."),
        ({"batch": 0}, "batch is 0; expected a positive whole number"),
        ({"prompt": -1}, "prompt is -1; expected a positive whole number"),
        ({"output": 0}, "output is 0; expected a positive whole number"),
        ({"context": 0}, "context is 0; expected a positive whole number"),
        ({"prompt": 131_073, "output": 1}, "positions for 131072 tokens, 131073 were asked for"),
        ({"prompt": 131_072, "output": 2}, "positions for 131072 tokens, 131073 were asked for"),
        ({"phase": "decode", "context": 131_073}, "131073 were asked for"),
        ({"setting": Setting(tensor_parallel=3)}, "3 devices do not divide"),
    ],
)
def test_an_impossible_scenario_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Scenario(LLAMA, **changes)


def test_the_longest_scenario_is_accepted() -> None:
    assert Scenario(LLAMA, prompt=131_072, output=1).longest == 131_072
    assert Scenario(LLAMA, "decode", context=131_072).longest == 131_072


def test_csv_has_the_documented_columns_and_loses_no_digit() -> None:
    import csv
    import io

    points = [
        as_json(predict(Scenario(LLAMA, "decode", batch, context=100), load_device("h100_sxm")))
        for batch in (1, 2)
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(points))))
    assert [row["batch"] for row in rows] == ["1"] * (len(rows) // 2) + ["2"] * (len(rows) // 2)
    written = [row for point in points for row in point["operators"]]
    for text, row in zip(rows, written, strict=True):
        assert text["name"] == row["name"]
        for name in ("flops", "bytes", "time_s", "compute_s"):
            assert math.isclose(float(text[name]), row[name], rel_tol=1e-15)


def test_each_stack_of_an_encoder_decoder_counts_its_own_positions() -> None:
    model = load_model("BART-large").model  # which has 1024 for each
    Scenario(model, "decode", prompt=1024, context=1024 + 1023)
    for prompt, context in ((1025, 1026), (1024, 1024 + 1024)):
        with pytest.raises(InputError, match="positions for 1024 tokens, 1025 were"):
            Scenario(model, "decode", prompt=prompt, context=context)


def test_a_window_of_audio_has_one_length_and_the_decoder_positions_of_its_own() -> None:
    model = load_model("Whisper-large-v3").model
    (asked,) = scenarios_of(model, Asked(phase="generate", output=448))
    assert (asked.prompt, asked.longest) == (1500, 1500 + 447)
    with pytest.raises(InputError, match=r"windows of audio, which are 1500 positions; --prompt is 1024"):
        Scenario(model)
    with pytest.raises(InputError, match="positions for 448 tokens, 449 were"):
        Scenario(model, prompt=1500, output=449)


@pytest.mark.parametrize("at", [1, 50, 99])
def test_a_sum_over_steps_sees_what_differs_beside_an_end_and_in_the_middle(at: int) -> None:
    """A limit that binds in one step alone; the line between the ends is zero."""
    assert sum_over(lambda step: [1.0 * (step == at), 2.0], 0, 100) == [1.0, 202.0]


def test_memory_of_activations_is_that_of_the_widest_pass_in_any_order() -> None:
    schedule = Scenario(load_model("SmolLM2-135M").model, batch=2, prompt=100, output=10).schedule()
    backwards = replace(schedule, passes=schedule.passes[::-1])
    assert len(schedule.passes) == 2
    assert held_bytes(backwards, 0.0) == held_bytes(schedule, 0.0)
    assert held_bytes(schedule, 0.0)[2] == 2 * 100 * 576 * 2  # the stream of a prompt: hidden 576, bf16


def test_devices_with_attention_of_their_own_hold_their_part_of_the_batch() -> None:
    """Experts over eight devices, the attention of each on two of 16 sequences."""
    model = load_model("OLMoE-1B-7B").model
    asked = Scenario(model, batch=16, prompt=100, output=10, setting=Setting(expert_parallel=8))
    _, cache, stream = held_bytes(asked.schedule(), 0.0)
    assert cache == 2 * 109 * 16 * 2 * 2048 * 2  # layers, keys and values of 16 heads of 128, bf16
    assert stream == 2 * 100 * 2048 * 2


def test_what_no_option_says_is_in_the_notes() -> None:
    """Which model drafts, and that stages of a pipeline wait for each other; a plain one has none."""
    model, device = load_model("Llama-3.1-70B").model, load_device("dgx-h100")
    techniques = (parse("speculative-decoding"),)
    shared = Setting(tensor_parallel=4, pipeline_parallel=2)
    notes = predict(Scenario(model, "generate", setting=shared, techniques=techniques), device).notes
    assert any("Llama-3.2-1B" in note for note in notes)
    assert any("2 stages in turn" in note for note in notes)
    assert not predict(Scenario(model, "generate", setting=Setting(tensor_parallel=4)), device).notes
    wide, alone = Scenario(model, "decode", setting=Setting(tensor_parallel=16)), load_device("h100")
    assert any(
        "all 16 devices are taken to be in one node, each with 450 GB/s to the others" in note
        for note in predict(wide, alone).notes
    )
    assert not predict(wide, load_device("gb200-nvl72")).notes
