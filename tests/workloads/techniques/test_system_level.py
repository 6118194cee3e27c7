"""Limits known on paper: kernels, launches, memory and offloading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hwspecs import Device, load_device
from roofline.ceilings import ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, DEVICE, EAGER, MODEL, SCENARIO, numbers, predicted
from workloads.catalogue import load_model
from workloads.convention import CONVENTIONS
from workloads.step import Setting
from workloads.techniques.registry import parse


def test_a_cached_prefix_is_not_computed_again() -> None:
    half, most = predicted("prefix-caching:hit=0.5"), predicted("prefix-caching:hit=1")
    assert half.total("matrix_flops", "prefill") < 0.8 * BASE.total("matrix_flops", "prefill")
    # One position is always computed: a step of decode at the same context.
    step = predict(Scenario(MODEL, "decode", batch=4, context=3000), DEVICE)
    assert most.time_s("prefill") == pytest.approx(step.time_s(), rel=1e-9)
    assert half.time_s("decode") == BASE.time_s("decode")


@pytest.mark.parametrize(("hit", "looked_at"), [(0.25, 3), (0.35, 2), (0.9, 0)])
def test_images_of_a_cached_prefix_are_not_looked_at_again(hit: float, looked_at: int) -> None:
    """Three images of 576 positions begin a prompt of 2000: one is cached where all its positions are."""
    seen = Scenario(load_model("Qwen3.5-27B").model, "prefill", 1, 2000, images=3)
    whole = predict(seen, load_device("h100"))
    part = predict(replace(seen, techniques=(parse(f"prefix-caching:hit={hit}"),)), whole.device)

    def tower(found: Prediction) -> float:
        return sum(row.count * row.work.matrix_flops for row in found.rows if row.name.startswith("vision."))

    assert tower(part) == pytest.approx(looked_at / 3 * tower(whole), rel=1e-12)


def test_flash_attention_takes_the_scores_off_the_memory() -> None:
    fused, written = predicted("flash-attention", scenario=EAGER), predicted(scenario=EAGER)
    scores = [r for r in written.rows if r.name.endswith("core") and r.phase == "prefill"]
    assert fused.total("activation_bytes", "prefill") < written.total("activation_bytes", "prefill")
    assert scores[0].work.activation_bytes > 10 * next(
        r.work.activation_bytes for r in fused.rows if r.name == scores[0].name and r.phase == "prefill"
    )


def test_offloaded_weights_pass_the_link_in_every_step() -> None:
    """A pass takes no less than the layers' weights over the link (arXiv:2303.06865)."""
    found = predicted("weight-offloading")
    layers = 2 * (8_030_261_248 - 2 * MODEL.vocabulary * MODEL.hidden - (2 * 32 + 1) * MODEL.hidden)
    link = ceilings(DEVICE).host()
    assert found.time_s("decode") / 99 == pytest.approx(layers / link, rel=0.05)
    assert found.time_s("decode") / 99 >= layers / link
    assert found.memory()["weights_bytes"] == pytest.approx(BASE.memory()["weights_bytes"] - layers)
    halved = predicted("weight-offloading:share=0.5").time_s("decode")
    assert halved == pytest.approx(found.time_s("decode") / 2, rel=0.05)


def test_an_offloaded_cache_comes_in_for_every_step_and_goes_out_once() -> None:
    found = predicted("kv-offloading")
    per_token = 2 * 2 * 32 * 8 * 128
    assert found.total("host_bytes", "prefill") == 4 * 3000 * per_token
    contexts = sum(range(3001, 3100))
    assert found.total("host_bytes", "decode") == pytest.approx(4 * (contexts + 99) * per_token)
    assert found.memory()["kv_cache_bytes"] == 0


def test_only_chosen_experts_pass_the_link() -> None:
    mixtral = replace(SCENARIO, model=load_model("Mixtral-8x7B").model, phase="decode", batch=1, context=100)
    found = predicted("expert-offloading", scenario=mixtral)
    assert found.total("host_bytes") == pytest.approx(2 * 32 * 2 * 3 * 4096 * 14336)  # 2 experts of 8
    cached = predicted("expert-offloading:cached=0.5", scenario=mixtral)
    assert cached.total("host_bytes") == pytest.approx(found.total("host_bytes") / 2)


def test_packed_prompts_count_their_own_lengths() -> None:
    assert predicted("varlen-packing:mean=0.5").time_s("prefill") == pytest.approx(
        predict(replace(SCENARIO, prompt=1500, phase="prefill"), DEVICE).time_s()
    )


def test_graphs_launch_what_was_measured_and_a_persistent_kernel_nothing(
    paper_device: Callable[..., Device],
) -> None:
    rates = {"dram_byte_per_s": 1e12, "launch_s": 5e-6, "graph_launch_s": 1e-6}
    device = paper_device(measured={k: {"value": v, "source": "sheet"} for k, v in rates.items()})
    step = replace(SCENARIO, phase="decode", setting=Setting(convention=CONVENTIONS["eager"]))
    times = {}
    for words in ((), ("cuda-graphs",), ("persistent-kernel",)):
        asked = replace(step, techniques=tuple(map(parse, words)))
        times[words] = predict(asked, device, "measured")
    launches = sum(row.count for row in times[()].rows)
    saved = [
        times[()].time_s() - times[words].time_s() for words in (("cuda-graphs",), ("persistent-kernel",))
    ]
    assert saved == pytest.approx([launches * 4e-6, launches * 5e-6])


def test_latencies_that_nobody_measured_are_counted_where_they_are_asked_for() -> None:
    with pytest.raises(InputError, match="--without cuda-graphs takes it out"):
        predicted("cuda-graphs")
    with pytest.raises(InputError, match="counts no launches; --without cuda-graphs counts them"):
        predicted("persistent-kernel")


def test_blocks_round_a_sequence_up() -> None:
    found = predicted("paged-attention:block=1000")  # 3,099 tokens
    per_token = 2 * 2 * 32 * 8 * 128
    assert found.memory()["kv_cache_bytes"] == pytest.approx(4 * (4000 * per_token + 4 * 4))
    assert any("131072 tokens a sequence" in note for note in found.schedule.notes)


def test_fused_projections_do_the_same_work_and_read_their_input_once() -> None:
    found = predicted("fused-projections")
    names = {row.name for row in found.rows}
    assert {"layers.attention.q_k_v_proj", "layers.mlp.gate_up_proj"} <= names
    assert not {"layers.attention.k_proj", "layers.mlp.up_proj"} & names
    assert found.total("matrix_flops") == BASE.total("matrix_flops")
    assert found.total("weight_bytes") == BASE.total("weight_bytes")
    saved = BASE.total("activation_bytes", "prefill") - found.total("activation_bytes", "prefill")
    assert saved == 32 * (2 + 1) * 4 * 3000 * MODEL.hidden * 2


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("DeepSeek-V3", {"q_kv_a_proj", "shared_gate_up_proj"}),
        ("Qwen3.5-397B-A17B", {"in_proj_qkvz", "in_proj_ba", "q_k_v_proj", "shared_gate_up_proj"}),
    ],
)
def test_products_of_one_input_are_joined_wherever_they_stand(model: str, names: set[str]) -> None:
    asked = Scenario(load_model(model).model, "decode", 4, context=1000)
    plain, found = (
        predict(replace(asked, techniques=used), DEVICE) for used in ((), (parse("fused-projections"),))
    )
    assert names <= {row.name.rpartition(".")[2] for row in found.rows}
    assert found.total("matrix_flops") == plain.total("matrix_flops")
    assert found.total("weight_bytes") == plain.total("weight_bytes")


def test_fusing_what_is_eager_gives_the_fused_convention() -> None:
    eager = replace(SCENARIO, setting=Setting(convention=CONVENTIONS["eager"]))
    assert numbers(predicted("fused-elementwise", scenario=eager)) == pytest.approx(numbers(BASE))
