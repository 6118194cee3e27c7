"""Limits known on paper: structure, formats, sparsity, dynamic models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwspecs import load_device
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, DEVICE, MODEL, SCENARIO, numbers, predicted
from workloads.blocks import AttentionBlock
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.dtypes import Precision
from workloads.families import build
from workloads.phases import owners
from workloads.step import Setting


def test_a_window_as_long_as_the_context_is_full_attention() -> None:
    full, cut = predicted("streaming-llm:sinks=4,window=3096"), predicted("streaming-llm:sinks=4,window=1020")
    assert full.total("kv_bytes") == pytest.approx(BASE.total("kv_bytes"))
    assert cut.total("kv_bytes") < 0.4 * BASE.total("kv_bytes")


def test_sparse_products_have_half_the_flop() -> None:
    sparse = predicted("sparsity-2:4")
    projections = BASE.total("matrix_flops", "prefill") - sparse.total("matrix_flops", "prefill")
    layers = sum(
        row.count * row.work.matrix_flops
        for row in BASE.rows
        if row.phase == "prefill" and row.kind == "gemm" and row.name != "lm_head"
    )
    assert projections == pytest.approx(layers / 2)


@pytest.mark.parametrize(
    ("words", "device", "said"),
    [
        ("sparsity-2:4", "v100_pcie", "not applicable: V100.* has no matrix units for 2:4 sparsity"),
        ("w8a8:format=fp8", "a100_sxm", "has no matrix peak for fp8"),
        ("linformer", "h100_sxm", "not applicable: mixtures of all positions need an encoder"),
        (
            "linear-attention:function=trigonometric,features=7",
            "h100_sxm",
            "7 features are no pairs of a sine and a cosine",
        ),
    ],
)
def test_what_the_units_or_the_model_cannot_do_is_refused(words: str, device: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        predicted(words, scenario=SCENARIO, device=load_device(device))


def test_one_expert_of_one_is_the_dense_block() -> None:
    """Its router aside, which has one score to give."""
    found = predicted("mixture-of-experts:experts=1,top_k=1")
    products = sum(r.count * r.work.matrix_flops for r in found.rows if not r.name.endswith("router"))
    assert products == pytest.approx(BASE.total("matrix_flops"))


def test_experts_keep_what_they_are_said_to_keep() -> None:
    active, total = (predicted(f"moe:experts=8,top_k=2,equal={what}") for what in ("active", "total"))
    mlp = 3 * 14336 * MODEL.hidden * 32
    router = 8 * MODEL.hidden * 32
    weights = BASE.memory()["weights_bytes"]
    assert active.memory()["weights_bytes"] == weights + 2 * (3 * mlp + router)
    assert total.memory()["weights_bytes"] == weights + 2 * router
    routed = 2 * 2 * router * 3000 * 4 / 2
    assert active.total("matrix_flops", "prefill") == pytest.approx(
        BASE.total("matrix_flops", "prefill") + routed
    )


def test_fewer_key_value_heads_cache_and_read_less() -> None:
    found = predicted("grouped-query-attention:kv_heads=2")
    assert found.memory()["kv_cache_bytes"] == BASE.memory()["kv_cache_bytes"] / 4
    assert found.total("kv_bytes", "decode") == pytest.approx(BASE.total("kv_bytes", "decode") / 4)


def test_a_latent_cache_is_a_latent_and_a_key() -> None:
    """576 elements a position and layer (arXiv:2405.04434, section 2.1)."""
    found = predicted("multi-head-latent-attention")
    assert found.memory()["kv_cache_bytes"] == 2 * 4 * 3099 * 32 * (512 + 64)


def test_a_student_takes_its_own_time() -> None:
    assert predicted("distillation:student=Llama-3.2-1B").time_s() == pytest.approx(
        predict(replace(SCENARIO, model=load_model("Llama-3.2-1B").model), DEVICE).time_s()
    )


def test_shared_layers_are_stored_once_and_read_as_often() -> None:
    found = predicted("layer-sharing:shared=2")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + MODEL.hidden)
    whole = BASE.memory()["weights_bytes"] - outside
    assert found.memory()["weights_bytes"] == outside + whole / 2
    assert found.total("weight_bytes") == pytest.approx(BASE.total("weight_bytes"))
    assert found.memory()["kv_cache_bytes"] == BASE.memory()["kv_cache_bytes"]


def test_single_zeros_save_no_products_and_few_are_not_worth_a_bitmap() -> None:
    half, few = (predicted(f"unstructured-sparsity:sparsity={share}") for share in (0.5, 0.05))
    assert half.total("matrix_flops") == BASE.total("matrix_flops")
    assert few.memory()["weights_bytes"] == pytest.approx(BASE.memory()["weights_bytes"])


def test_eviction_keeps_its_budget_in_memory_and_in_every_step() -> None:
    found = predicted("h2o:share=0.2")
    assert found.memory()["kv_cache_bytes"] == pytest.approx(BASE.memory()["kv_cache_bytes"] * 600 / 3099)
    assert found.time_s("prefill") == BASE.time_s("prefill")
    core = next(r for r in found.rows if r.phase == "decode" and r.name.endswith("core"))
    assert core.work.kv_bytes == 2 * 2 * 4 * 600 * 8 * 128


def test_states_do_not_grow_with_the_context() -> None:
    short, long = (
        predicted("state-space", scenario=replace(SCENARIO, phase="decode", context=n))
        for n in (100, 100_000)
    )
    assert short.memory()["kv_cache_bytes"] == long.memory()["kv_cache_bytes"] > 0
    assert short.time_s() == pytest.approx(long.time_s())


def test_a_hybrid_caches_one_layer_in_eight() -> None:
    pure, hybrid = (predicted(f"state-space:attention={n}").memory()["kv_cache_bytes"] for n in (0, 8))
    assert hybrid - pure * 28 / 32 == pytest.approx(BASE.memory()["kv_cache_bytes"] * 4 / 32)


@pytest.mark.parametrize(
    ("words", "features"),
    [
        ("linear-attention", MODEL.layers[0].find(AttentionBlock).head_dim),
        ("linear-attention:function=positive,features=256", 256),
        ("linear-attention:function=trigonometric,features=64", 64),
    ],
)
def test_sums_take_the_place_of_the_cache(words: str, features: int) -> None:
    """A matrix and a normaliser per head, whatever the context (arXiv:2006.16236)."""
    short, long = (
        predicted(words, scenario=replace(SCENARIO, phase="decode", context=n)) for n in (100, 100_000)
    )
    heads = MODEL.layers[0].find(AttentionBlock).heads
    held = 2 * 4 * len(MODEL.layers) * heads * features * (128 + 1)
    assert short.memory()["kv_cache_bytes"] == long.memory()["kv_cache_bytes"] == held
    assert short.time_s() == pytest.approx(long.time_s())
    assert short.total("kv_bytes") == 2 * held  # read and written by the step


def test_kernel_attention_has_keys_and_values_of_every_query_head() -> None:
    """8 key-value heads of Llama-3.1 become 32; what is drawn is no weight."""
    more = 2 * 2 * len(MODEL.layers) * (32 - 8) * 128 * MODEL.hidden
    for words in ("linear-attention", "linear-attention:function=positive"):
        assert predicted(words).memory()["weights_bytes"] - BASE.memory()["weights_bytes"] == more


def test_prompts_of_kernel_attention_grow_in_proportion() -> None:
    """Per token a constant, where softmax attention pays for every earlier position: whole chunks of 256."""

    def core(words: tuple[str, ...], prompt: int) -> float:
        found = predicted(*words, scenario=replace(SCENARIO, phase="prefill", prompt=prompt))
        rows = [r for r in found.rows if r.name == "layers.attention.core"]
        return sum(r.count * r.work.matrix_flops for r in rows)

    assert core(("linear-attention",), 8192) == 4 * core(("linear-attention",), 2048)
    assert core((), 8192) == pytest.approx(16 * core((), 2048), rel=1e-3)


def test_biases_stay_where_attention_becomes_linear() -> None:
    """Qwen2.5 has biases on queries, keys and values and none on the way back: 14 heads of 64 for 2."""
    qwen = replace(SCENARIO, model=load_model("Qwen2.5-0.5B").model)
    before, after = (predicted(*words, scenario=qwen) for words in ((), ("linear-attention",)))
    more = 2 * 2 * 24 * (14 - 2) * 64 * (896 + 1)
    assert after.memory()["weights_bytes"] - before.memory()["weights_bytes"] == more


def test_a_shortened_encoder_is_linformer() -> None:
    """BERT with the technique is the family of that name with BERT's sizes: work, weights, all."""
    fields = load_model("BERT-base-uncased").config
    made = build(Config({**fields, "model_type": "linformer", "projected_length": 64}, "test"), "test")
    bert = Scenario(load_model("BERT-base-uncased").model, "prefill", batch=3, prompt=400)
    found, other = (
        predicted("linformer:rank=64", scenario=bert),
        predicted(scenario=replace(bert, model=made)),
    )
    assert numbers(found) == numbers(other)


def test_rwkv_keeps_a_state_and_its_own_feed_forward_block() -> None:
    """Five rows a layer are kept: two shifted ones and the three of WKV (arXiv:2305.13048)."""
    found = predicted("rwkv")
    rows = {r.name: r for r in found.rows}
    assert not any("attention" in name or "mlp" in name for name in rows)
    per_layer = 4 * MODEL.hidden**2 + MODEL.hidden**2 + 2 * MODEL.hidden * 14336  # time, then channel mix
    whole = sum(
        r.count * r.work.matrix_flops for r in found.rows if r.phase == "prefill" and "layers" in r.name
    )
    assert whole == 2 * 4 * 3000 * 32 * per_layer
    long = predicted("rwkv", scenario=replace(SCENARIO, phase="decode", context=100_000))
    assert found.memory()["kv_cache_bytes"] == long.memory()["kv_cache_bytes"]


@pytest.mark.parametrize("k", [2, 4])
def test_heads_beside_a_shared_layer_have_weights_of_their_own(k: int) -> None:
    """One layer's weights repeated over the depth, and k - 1 heads of one layer each."""
    sets: tuple[tuple[str, ...], ...] = (
        ("universal-transformer",),
        ("universal-transformer", f"next-k-tokens:k={k}"),
    )
    one_layer, with_heads = (predicted(*words).memory()["weights_bytes"] for words in sets)
    inside = [row for row in owners(MODEL) if row.name.startswith("layers.")]
    assert with_heads - one_layer == (k - 1) * sum(row.parameters() for row in inside) / len(MODEL.layers) * 2


def test_one_layer_again_and_again_is_stored_once() -> None:
    found = predicted("universal-transformer:iterations=1")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + MODEL.hidden)
    assert found.memory()["weights_bytes"] - outside == (BASE.memory()["weights_bytes"] - outside) / 32
    assert found.time_s() == pytest.approx(BASE.time_s())


def test_tokens_that_pass_by_are_not_processed() -> None:
    """Half the layers take an eighth of the tokens (arXiv:2404.02258): 0.5625 of the projections."""
    found = predicted("mixture-of-depths:capacity=0.125,every=2")

    def products(prediction: Prediction) -> float:
        return sum(
            r.count * r.work.matrix_flops
            for r in prediction.rows
            if r.phase == "prefill" and r.name.endswith("up_proj")
        )

    assert products(found) / products(BASE) == pytest.approx(0.5 + 0.5 / 8)


def test_four_bit_weights_multiply_in_eight() -> None:
    w4a8, w8 = predicted("w4a8"), predicted("w8a8:format=int8")
    assert w4a8.time_s("prefill") == pytest.approx(w8.time_s("prefill"), rel=0.02)


@pytest.mark.parametrize("words", ["awq", "w8a8", "w4a8", "llm-int8"])
def test_narrower_weights_are_not_widened(words: str) -> None:
    narrow = replace(SCENARIO, setting=Setting(Precision.of("int3")))
    with pytest.raises(InputError, match="weights in int3 are narrower than int"):
        predicted(words, scenario=narrow)


def test_training_for_it_changes_nothing_in_inference() -> None:
    assert numbers(predicted("qat:format=fp8")) == numbers(predicted("w8a8:format=fp8"))


def test_outliers_are_multiplied_twice() -> None:
    none, some = predicted("llm-int8:outliers=0"), predicted("llm-int8:outliers=0.01")
    assert numbers(none) == pytest.approx(numbers(predicted("w8a8:format=int8")))
    layers = none.total("matrix_flops", "prefill") - sum(
        r.count * r.work.matrix_flops
        for r in none.rows
        if r.phase == "prefill" and (r.kind != "gemm" or r.name == "lm_head")
    )
    extra = some.total("matrix_flops", "prefill") - none.total("matrix_flops", "prefill")
    assert extra == pytest.approx(0.01 * layers)
    assert some.memory()["weights_bytes"] == none.memory()["weights_bytes"]


def test_sparse_weights_in_four_bits_save_what_torchao_stores() -> None:
    """Bytes of Llama-3-8B in int4 with groups of 64, then 2:4: 3.56 and 4.92 times fewer than bf16."""
    narrow, both = predicted("awq:format=int4_g64"), predicted("awq:format=int4_g64", "sparsity-2:4")
    sizes = [p.memory()["weights_bytes"] for p in (narrow, both)]
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + (2 * 32 + 1) * MODEL.hidden)
    assert (sizes[1] - outside) / (sizes[0] - outside) == pytest.approx(0.5 * (1 + 2 / (4 + 20 / 64)))
    assert (sizes[1] - outside) / (sizes[0] - outside) == pytest.approx(3.56 / 4.92, abs=0.02)
