"""What is true of every technique, and the limits of each that are known on paper."""

from __future__ import annotations

import itertools
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from roofline.whatif import whatif
from specfiles.errors import InputError
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


PAIRS = [
    pair for pair in itertools.combinations(known(), 2) if known()[pair[0]].slot != known()[pair[1]].slot
]


@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_the_order_of_the_question_does_not_matter(pair: tuple[str, str]) -> None:
    def ask(*words: str) -> Any:
        try:
            return numbers(predicted(*words))
        except InputError as error:
            return str(error)

    assert ask(*pair) == ask(*reversed(pair))


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


def test_whatif_tries_all_and_ranks_them() -> None:
    found = whatif(SCENARIO, DEVICE)
    singles = {o.techniques[0].name for o in found.outcomes if len(o.techniques) == 1}
    assert singles | set(found.refused) == set(known())
    assert not singles & set(found.refused)
    speedups = [outcome.speedup for outcome in found.outcomes]
    assert speedups == sorted(speedups, reverse=True)
    for outcome in found.outcomes:
        assert outcome.after.time_s() == predicted(*(t.name for t in outcome.techniques)).time_s()
