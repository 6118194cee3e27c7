"""What is true of every technique, and the limits of each that are known on paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Device, load_device
from reports.techniques import book
from roofline.ceilings import ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from roofline.whatif import whatif
from specfiles.errors import InputError
from workloads.blocks import AttentionBlock
from workloads.catalogue import load_model
from workloads.convention import CONVENTIONS
from workloads.step import Setting
from workloads.techniques.base import Technique
from workloads.techniques.decoding import expected_tokens
from workloads.techniques.registry import known, parse

MODEL = load_model("Llama-3.1-8B").model
DEVICE = load_device("h100_sxm")
SCENARIO = Scenario(MODEL, batch=4, prompt=3000, output=100)
EAGER = replace(SCENARIO, setting=Setting(convention=CONVENTIONS["llm-viewer"]))


def predicted(*words: str, scenario: Scenario = SCENARIO) -> Prediction:
    return predict(replace(scenario, techniques=tuple(map(parse, words))), DEVICE)


BASE = predicted()


def numbers(prediction: Prediction) -> dict[str, Any]:
    return prediction.totals()


@pytest.mark.parametrize("technique", known().values(), ids=list(known()))
def test_every_technique_says_what_it_is(technique: type[Technique]) -> None:
    for fact in ("category", "paper", "removes", "adds", "needs", "slot"):
        assert getattr(technique, fact).strip()
    assert technique.level in ("algorithm", "model", "system")
    assert technique.quality in ("exact", "lossy", "retrained")
    assert technique.__doc__
    for option in fields(technique):  # type: ignore[arg-type]
        assert option.default is not MISSING
        assert option.metadata["why"]
        low, high, among = (option.metadata[key] for key in ("low", "high", "among"))
        if among:
            assert option.default in among
        elif low is not None:
            assert low <= option.default <= high


def test_names_and_aliases_are_of_one_technique_each() -> None:
    names = [name for t in known().values() for name in (t.name, *t.aliases)]
    assert len({name.casefold() for name in names}) == len(names)


@pytest.mark.parametrize("name", known())
def test_what_a_technique_says_of_itself_makes_it_again(name: str) -> None:
    technique = parse(name)
    assert parse(technique.told()) == technique


@pytest.mark.parametrize("name", known())
def test_a_technique_applies_or_says_why_not(name: str) -> None:
    for scenario in (SCENARIO, EAGER, replace(SCENARIO, phase="prefill"), replace(SCENARIO, phase="decode")):
        try:
            found = numbers(predicted(name, scenario=scenario))
        except InputError as error:
            said = str(error)
        else:
            assert found["time_s"] > 0
            assert found["memory_bytes"] > 0
            continue
        assert said.startswith(f"{parse(name).name} is not applicable: ")


# Parameters at which a technique does nothing: the prediction is that without it.
NEUTRAL = [
    "prompt-compression:ratio=1",
    "prefix-caching:hit=0",
    "weight-only-quantisation:format=bf16",
    "weight-activation-quantisation:format=bf16",
    "kv-quantisation:format=bf16",
    "streaming-llm:sinks=0,window=5000",
    "early-exit:layers=1",
    "grouped-query-attention:kv_heads=8",
    "window-attention:window=5000",
    "layer-sharing:shared=1",
    "structured-pruning:ratio=0",
    "layer-pruning:ratio=0",
    "low-rank:ratio=1",
    "unstructured-sparsity:stored=dense",
    "unstructured-sparsity:sparsity=0",
    "block-sparsity:sparsity=0",
    "h2o:share=1",
    "mixture-of-attention:span=1",
    "weight-offloading:share=0",
    "kv-offloading:share=0",
    "mixture-of-depths:capacity=1",
    "bigbird:window=3000,first=50,random=50",
    "state-space:attention=1",
    "gist-tokens:ratio=1",
    "summaries:ratio=1",
    "skeleton-of-thought:skeleton=1,points=1,instruction=0,longest=1",
    "apar:head=0,branches=1,longest=1",
    "skeleton-graph-decoding:points=3,levels=3,instruction=0",
    "blockwise:k=1,accepted=1",
    "next-k-tokens:k=1",
]


@pytest.mark.parametrize("words", NEUTRAL)
def test_at_its_neutral_parameters_a_technique_changes_nothing(words: str) -> None:
    assert numbers(predicted(words)) == pytest.approx(numbers(BASE), rel=1e-12)


def test_a_window_as_long_as_the_context_is_full_attention() -> None:
    full, cut = predicted("streaming-llm:sinks=4,window=3096"), predicted("streaming-llm:sinks=4,window=1020")
    assert full.total("kv_bytes") == pytest.approx(BASE.total("kv_bytes"))
    assert cut.total("kv_bytes") < 0.4 * BASE.total("kv_bytes")


@given(st.floats(0.0, 0.999), st.integers(1, 30))
def test_expected_tokens_are_those_of_the_paper(accept: float, drafted: int) -> None:
    """(1 - a^(k+1)) / (1 - a), arXiv:2211.17192, equation 1."""
    assert expected_tokens(accept, drafted) == pytest.approx((1 - accept ** (drafted + 1)) / (1 - accept))


def decode_counts(prediction: Prediction, name: str) -> float:
    return sum(row.count for row in prediction.rows if row.phase == "decode" and row.name == name)


def test_with_no_draft_accepted_every_token_costs_a_verification() -> None:
    never = predicted("speculative-decoding:k=4,accept=0,draft=Llama-3.2-1B")
    assert decode_counts(never, "lm_head") == 99
    assert decode_counts(never, "draft.lm_head") == 4 * 99
    assert never.time_s("decode") > BASE.time_s("decode")


def test_with_every_draft_accepted_a_verification_yields_all_and_one_more() -> None:
    always = predicted("speculative-decoding:k=4,accept=1,draft=Llama-3.2-1B")
    assert decode_counts(always, "lm_head") == pytest.approx(99 / 5)
    assert decode_counts(always, "draft.lm_head") == pytest.approx(4 * 99 / 5)
    # Weights are read once for five tokens; five positions at batch 4 are far from compute-bound.
    main = sum(r.total_s for r in always.rows if r.phase == "decode" and not r.name.startswith("draft."))
    assert main == pytest.approx(BASE.time_s("decode") / 5, rel=0.02)


def test_verification_projects_every_drafted_position() -> None:
    rows = {row.name: row for row in predicted("speculative-decoding:k=3,draft=Llama-3.2-1B").rows}
    decoded = [
        r for r in predicted("speculative-decoding:k=3,draft=Llama-3.2-1B").rows if r.name == "lm_head"
    ]
    assert rows["lm_head"].phase == "decode"
    assert decoded[-1].work.matrix_flops == 4 * 4 * 2 * MODEL.hidden * MODEL.vocabulary


def test_speculation_where_decode_is_compute_bound_does_not_gain() -> None:
    crowded = replace(SCENARIO, batch=512, prompt=64)
    gain = predicted(scenario=crowded).time_s("decode") / predicted(
        "speculative-decoding:k=4,accept=0.7,draft=Llama-3.2-1B", scenario=crowded
    ).time_s("decode")
    assert gain < 1


def test_the_draft_model_stays_in_memory() -> None:
    draft = load_model("Llama-3.2-1B")
    more = numbers(predicted("speculative-decoding:draft=Llama-3.2-1B"))["weights_bytes"]
    assert more - numbers(BASE)["weights_bytes"] == 2 * 1_235_814_400
    assert draft.file is not None
    assert draft.file.published.params == 1_235_814_400


def test_drafting_with_all_layers_is_decoding() -> None:
    """Every draft kept: k steps and a verification yield k + 1 tokens; nothing is gained."""
    drafted = predicted("self-speculative-decoding:k=4,layers=1,accept=1")
    assert drafted.time_s("decode") == pytest.approx(BASE.time_s("decode"), rel=0.02)


def test_drafting_with_no_layers_leaves_the_verification() -> None:
    drafted = predicted("self-speculative-decoding:k=4,layers=0,accept=1")
    verified = sum(r.total_s for r in drafted.rows if r.phase == "decode" and "draft." not in r.name)
    assert verified == pytest.approx(BASE.time_s("decode") / 5, rel=0.02)


@pytest.mark.parametrize(
    "words", ["medusa:accepted=1", "eagle:accepted=1", "lookahead:accepted=1", "blockwise:accepted=1,k=4"]
)
def test_a_pass_that_yields_one_token_gains_nothing(words: str) -> None:
    assert predicted(words).time_s("decode") > BASE.time_s("decode")


def test_medusa_heads_are_its_own_weights() -> None:
    """Each head: a layer h x h with a bias and a projection to the vocabulary (arXiv:2401.10774, 2.1.1)."""
    more = predicted("medusa:heads=3").memory()["weights_bytes"] - BASE.memory()["weights_bytes"]
    h, v = MODEL.hidden, MODEL.vocabulary
    assert more == 2 * 3 * (h * h + h + h * v)


def test_the_draft_of_eagle_is_a_layer_and_a_projection() -> None:
    """Embedding and vocabulary projection are shared with the model (arXiv:2401.15077, section 3.1)."""
    more = predicted("eagle").memory()["weights_bytes"] - BASE.memory()["weights_bytes"]
    layer = (8_030_261_248 - 2 * MODEL.vocabulary * MODEL.hidden - MODEL.hidden) // 32
    assert more == 2 * (layer + 2 * MODEL.hidden * MODEL.hidden + MODEL.hidden)


def test_lookahead_computes_its_window_and_its_guesses() -> None:
    """(W + G)(N - 1) positions beside the current token (arXiv:2402.02057, section 3.3)."""
    found = predicted("lookahead:window=7,n=4,guesses=3,accepted=2")
    up = next(r for r in found.rows if r.phase == "decode" and r.name.endswith("up_proj"))
    assert up.work.outputs == 4 * (1 + 10 * 3) * 14336
    assert up.count == pytest.approx(32 * 99 / 2)


def test_more_tokens_than_were_proposed_are_refused() -> None:
    for words in ("medusa:heads=2,accepted=4", "eagle:depth=2,accepted=4", "blockwise:k=3,accepted=4"):
        with pytest.raises(InputError, match="not applicable: 4 tokens cannot"):
            predicted(words)


def test_a_compressed_prompt_is_a_shorter_one_after_scoring() -> None:
    short = predict(replace(SCENARIO, prompt=750), DEVICE)
    found = predicted("prompt-compression:ratio=4,scorer=GPT-2")
    scored = sum(r.total_s for r in found.rows if r.name.startswith("scorer."))
    assert scored > 0
    assert found.time_s() - scored == pytest.approx(short.time_s(), rel=1e-9)
    assert found.memory()["kv_cache_bytes"] == short.memory()["kv_cache_bytes"]


def test_a_gist_costs_its_share_of_reading_the_prompt_once() -> None:
    short = predict(replace(SCENARIO, prompt=300), DEVICE)
    found = predicted("gist-tokens:ratio=10,requests=50")
    expected = short.time_s() + BASE.time_s("prefill") / 50
    assert found.time_s() == pytest.approx(expected, rel=1e-9)


def test_a_summariser_reads_all_and_writes_what_is_kept() -> None:
    found = predicted("summaries:ratio=10,summariser=GPT-2-large")  # 3,300 tokens in 4 pieces of 1,024
    rows = [r for r in found.rows if r.name == "summariser.layers.mlp.up_proj"]
    reading, writing = rows
    assert reading.work.outputs == 4 * 4 * 750 * 5120
    assert writing.count == 36 * (75 - 1)


def test_retrieval_reads_every_vector_of_the_index() -> None:
    found = predicted("retrieval:passages=5,words=100,question=50,vectors=1e6,width=768")
    search = next(r for r in found.rows if r.name.endswith("search"))
    assert search.work.weight_bytes == 1e6 * 768 * 4
    assert found.time_s("decode") == pytest.approx(
        predict(replace(SCENARIO, prompt=550), DEVICE).time_s("decode")
    )


def test_summary_vectors_stand_for_all_segments_but_the_last() -> None:
    found = predicted("autocompressor:segment=1000,summary=50")
    tokens = [r.work.outputs / 14336 / 4 for r in found.rows if r.name == "layers.mlp.up_proj"]
    assert tokens == [1050, 1050, 1000, 1]
    assert (
        found.memory()["kv_cache_bytes"]
        == predict(replace(SCENARIO, prompt=1100), DEVICE).memory()["kv_cache_bytes"]
    )


def test_branches_share_the_weights_and_write_as_many_tokens() -> None:
    """100 tokens one by one, or 20 and then 4 x 20 at once: 40 steps read the weights."""
    asked = replace(SCENARIO, output=101)
    found = predicted("apar:head=20,branches=4,longest=1", scenario=asked)
    assert decode_counts(found, "lm_head") == 40
    tokens = sum(r.count * r.work.outputs for r in found.rows if r.phase == "decode" and r.name == "lm_head")
    assert tokens == 4 * 100 * MODEL.vocabulary


def test_a_cached_prefix_is_not_computed_again() -> None:
    half, most = predicted("prefix-caching:hit=0.5"), predicted("prefix-caching:hit=1")
    assert half.total("matrix_flops", "prefill") < 0.8 * BASE.total("matrix_flops", "prefill")
    # One position is always computed: a step of decode at the same context.
    step = predict(Scenario(MODEL, "decode", batch=4, context=3000), DEVICE)
    assert most.time_s("prefill") == pytest.approx(step.time_s(), rel=1e-9)
    assert half.time_s("decode") == BASE.time_s("decode")


def test_four_bits_with_scales_are_four_bits_with_scales() -> None:
    """A group of 128: 4 bits each, a 16-bit scale, a 4-bit zero point (arXiv:2306.00978)."""
    plain, narrow = (p.memory()["weights_bytes"] for p in (BASE, predicted("awq:format=int4_g128")))
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + (2 * 32 + 1) * MODEL.hidden)
    assert narrow == pytest.approx(outside + (plain - outside) * (4 + 20 / 128) / 16)


def test_sparse_weights_are_half_and_their_indices() -> None:
    """Mishra et al. arXiv:2104.08378, section 3: half the values and 2 bits for each that stays."""
    sparse = predicted("sparsity-2:4")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + (2 * 32 + 1) * MODEL.hidden)
    plain = BASE.memory()["weights_bytes"]
    assert sparse.memory()["weights_bytes"] == pytest.approx(outside + (plain - outside) * (0.5 + 1 / 16))
    projections = BASE.total("matrix_flops", "prefill") - sparse.total("matrix_flops", "prefill")
    layers = sum(
        row.count * row.work.matrix_flops
        for row in BASE.rows
        if row.phase == "prefill" and row.kind == "gemm" and row.name != "lm_head"
    )
    assert projections == pytest.approx(layers / 2)


def test_without_sparse_units_zeros_gain_nothing() -> None:
    scenario = replace(SCENARIO, techniques=(parse("sparsity-2:4"),))
    with pytest.raises(InputError, match=r"not applicable: V100.* has no matrix units for 2:4 sparsity"):
        predict(scenario, load_device("v100_pcie"))


def test_a_format_that_the_units_do_not_know_is_refused() -> None:
    scenario = replace(SCENARIO, techniques=(parse("w8a8:format=fp8"),))
    with pytest.raises(InputError, match="has no matrix peak for fp8"):
        predict(scenario, load_device("a100_sxm"))


def test_quest_reads_its_budget_and_two_bounds_per_page() -> None:
    """Arithmetic of arXiv:2406.10774, section 3.4: 1 / page + budget / context of the reads."""
    one = replace(SCENARIO, phase="decode", context=32_000)
    full, chosen = predicted(scenario=one), predicted("quest:budget=2000,page=16", scenario=one)

    def reads(prediction: Prediction) -> float:
        return prediction.total("kv_bytes") - sum(
            r.count * r.work.kv_bytes for r in prediction.rows if r.name.endswith("kv_append")
        )

    assert reads(chosen) / reads(full) == pytest.approx(1 / 16 + 2000 / 32_000, rel=1e-3)
    assert chosen.memory()["kv_cache_bytes"] == pytest.approx(full.memory()["kv_cache_bytes"] * 17 / 16)


def test_flash_attention_takes_the_scores_off_the_memory() -> None:
    fused, written = predicted("flash-attention", scenario=EAGER), predicted(scenario=EAGER)
    scores = [r for r in written.rows if r.name.endswith("core") and r.phase == "prefill"]
    assert fused.total("activation_bytes", "prefill") < written.total("activation_bytes", "prefill")
    assert scores[0].work.activation_bytes > 10 * next(
        r.work.activation_bytes for r in fused.rows if r.name == scores[0].name and r.phase == "prefill"
    )


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


def test_half_the_layers_are_half_the_layers() -> None:
    found = predicted("distillation:student=half")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + MODEL.hidden)
    whole = BASE.memory()["weights_bytes"] - outside
    assert found.memory()["weights_bytes"] == outside + whole / 2
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


def test_thin_matrices_keep_their_share_of_parameters() -> None:
    found = predicted("low-rank:ratio=0.5")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + (2 * 32 + 1) * MODEL.hidden)
    plain = BASE.memory()["weights_bytes"] - outside
    assert found.memory()["weights_bytes"] - outside == pytest.approx(plain / 2, rel=1e-3)


def test_single_zeros_save_bytes_and_no_products() -> None:
    found = predicted("unstructured-sparsity:sparsity=0.5")
    assert found.total("matrix_flops") == BASE.total("matrix_flops")
    outside = 2 * (2 * MODEL.vocabulary * MODEL.hidden + (2 * 32 + 1) * MODEL.hidden)
    plain = BASE.memory()["weights_bytes"]
    assert found.memory()["weights_bytes"] == pytest.approx(outside + (plain - outside) * (0.5 + 1 / 16))


def test_few_zeros_are_not_worth_a_bitmap() -> None:
    few = predicted("unstructured-sparsity:sparsity=0.05")
    assert few.memory()["weights_bytes"] == pytest.approx(BASE.memory()["weights_bytes"])


def test_eviction_keeps_its_budget_in_memory_and_in_every_step() -> None:
    found = predicted("h2o:share=0.2")
    assert found.memory()["kv_cache_bytes"] == pytest.approx(BASE.memory()["kv_cache_bytes"] * 600 / 3099)
    assert found.time_s("prefill") == BASE.time_s("prefill")
    core = next(r for r in found.rows if r.phase == "decode" and r.name.endswith("core"))
    assert core.work.kv_bytes == 2 * 2 * 4 * 600 * 8 * 128


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


def test_a_step_per_token_without_a_cache_is_a_prefill_per_token() -> None:
    """LLaDA (arXiv:2502.09992): every pass over prompt and answer, every position seen by all."""
    found = predicted("diffusion-generation:steps=1")
    passes = [r for r in found.rows if r.name == "layers.mlp.up_proj"]
    assert sum(r.count for r in passes) == 32 * 100
    assert passes[0].work.outputs == 4 * 3100 * 14336
    core = next(r for r in found.rows if r.name.endswith("core"))
    assert core.work.matrix_flops == 4 * 4 * 32 * 128 * 3100**2  # nothing is masked
    assert found.memory()["kv_cache_bytes"] == 0


def test_a_block_cache_leaves_one_whole_pass_per_block() -> None:
    found = predicted("diffusion-generation:steps=1,block=20")
    rows = [r for r in found.rows if r.name == "layers.mlp.up_proj"]
    whole = sum(r.count for r in rows if r.work.outputs == 4 * 3100 * 14336)
    parts = sum(r.count for r in rows if r.work.outputs == 4 * 20 * 14336)
    assert (whole, parts) == (32 * 5, 32 * 95)


def test_drafts_of_a_diffusion_model_see_context_and_window() -> None:
    found = predicted("speculative-diffusion:k=7,steps=2,accept=1,draft=Llama-3.2-1B")
    drafts = next(r for r in found.rows if r.name == "draft.layers.mlp.up_proj")
    assert drafts.count == pytest.approx(16 * 2 * 99 / 8)
    assert drafts.work.outputs == 4 * (3050 + 7) * 8192


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


def test_half_a_pair_of_waves_is_refused() -> None:
    with pytest.raises(InputError, match="7 features are no pairs of a sine and a cosine"):
        predicted("linear-attention:function=trigonometric,features=7")


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


def test_only_chosen_experts_pass_the_link() -> None:
    mixtral = replace(SCENARIO, model=load_model("Mixtral-8x7B").model, phase="decode", batch=1, context=100)
    found = predicted("expert-offloading", scenario=mixtral)
    assert found.total("host_bytes") == pytest.approx(2 * 32 * 2 * 3 * 4096 * 14336)  # 2 experts of 8
    cached = predicted("expert-offloading:cached=0.5", scenario=mixtral)
    assert cached.total("host_bytes") == pytest.approx(found.total("host_bytes") / 2)


def test_four_bit_weights_multiply_in_eight() -> None:
    w4a8, w4, w8 = (predicted(words) for words in ("w4a8", "awq:format=int4_g128", "w8a8:format=int8"))
    assert w4a8.memory()["weights_bytes"] == w4.memory()["weights_bytes"]
    assert w4a8.time_s("prefill") == pytest.approx(w8.time_s("prefill"), rel=0.02)


def test_training_for_it_changes_nothing_in_inference() -> None:
    assert numbers(predicted("qat:format=fp8")) == numbers(predicted("w8a8:format=fp8"))


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


def test_latencies_that_nobody_measured_are_not_guessed() -> None:
    with pytest.raises(InputError, match="launch latency with and without graphs was not measured on H100"):
        predicted("cuda-graphs")


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


def test_fusing_what_is_eager_gives_the_fused_convention() -> None:
    eager = replace(SCENARIO, setting=Setting(convention=CONVENTIONS["eager"]))
    assert numbers(predicted("fused-elementwise", scenario=eager)) == pytest.approx(numbers(BASE))


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


PAIRS = [
    pair for pair in itertools.combinations(known(), 2) if known()[pair[0]].slot != known()[pair[1]].slot
]


ONE_STEP = replace(SCENARIO, phase="decode", context=3000)


def asked(*words: str) -> Any:
    """The totals, or the reason why there are none."""
    try:
        return numbers(predicted(*words, scenario=ONE_STEP))
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", known())
def test_the_order_of_the_question_does_not_matter(name: str) -> None:
    for one, other in PAIRS:
        if one == name:
            assert asked(one, other) == asked(other, one)


def test_techniques_that_decide_the_same_are_refused_together() -> None:
    with pytest.raises(InputError, match="combined: each decides the format of weights; choose one"):
        predicted("awq", "smoothquant")
    with pytest.raises(InputError, match="cannot be combined"):
        predicted("awq", "awq:format=int8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("awk", "no technique named 'awk'; did you mean awq|no technique named 'awk'"),
        ("quest:budgets=3", "no parameter of quest named 'budgets'; did you mean budget"),
        ("quest:budget=few", "quest:budget is 'few'; expected int from 1 to 1e\\+07"),
        ("quest:budget=0", "quest:budget is '0'; expected int from 1"),
        ("speculative:accept=1.5", "speculative-decoding:accept is '1.5'; expected float from 0 to 1"),
        ("speculative:accept=nan", "accept is 'nan'"),
        ("awq:format=int5", "format is 'int5'; expected one of int4_g128"),
        ("speculative:draft=Lama", "no model named 'Lama'"),
    ],
)
def test_wrong_words_are_said(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        predicted(words)


def test_the_documentation_is_what_the_techniques_say() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "techniques.md"
    assert page.read_text(encoding="utf-8") == book(list(known().values()))


def test_whatif_tries_all_and_ranks_them() -> None:
    found = whatif(SCENARIO, DEVICE)
    singles = {o.techniques[0].name for o in found.outcomes if len(o.techniques) == 1}
    assert singles | set(found.refused) == set(known())
    assert not singles & set(found.refused)
    speedups = [outcome.speedup for outcome in found.outcomes]
    assert speedups == sorted(speedups, reverse=True)
    for outcome in found.outcomes:
        assert outcome.after.time_s() == predicted(*(t.name for t in outcome.techniques)).time_s()


@pytest.mark.parametrize(
    "name", ["t5-small", "bert-base-uncased", "llada-8b", "mamba-2-2.7b", "jamba-v0.1", "deepseek-v3"]
)
def test_every_architecture_takes_what_applies_and_is_told_why_the_rest_does_not(name: str) -> None:
    model = load_model(name).model
    for phase in model.phases:
        found = whatif(Scenario(model, phase, batch=2, prompt=300, output=20), DEVICE)
        assert "weight-only-quantisation" not in found.refused
        assert all(outcome.why() and outcome.record()["bound_after"] for outcome in found.outcomes)
        assert all(found.refused.values())
