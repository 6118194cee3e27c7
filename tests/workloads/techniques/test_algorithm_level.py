"""Limits known on paper: how tokens are made, what of the prompt is read, how answers are organised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, DEVICE, DRAFTING, MODEL, SCENARIO, numbers, predicted
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.phases import Setting
from workloads.techniques.registry import parse


def decode_counts(prediction: Prediction, name: str) -> float:
    return sum(row.count for row in prediction.rows if row.phase == "decode" and row.name == name)


EACH_DRAFT = pytest.mark.parametrize(
    ("words", "k"),
    [("speculative-decoding:draft=Llama-3.2-1B,k=4", 4), ("multi-token-prediction:steps=3", 3)],
)


@EACH_DRAFT
def test_with_no_draft_accepted_every_token_costs_a_verification(words: str, k: int) -> None:
    never = predicted(f"{words},accept=0", scenario=DRAFTING)
    assert decode_counts(never, "lm_head") == 99
    assert decode_counts(never, "draft.lm_head") == k * 99
    assert never.time_s("decode") > BASE.time_s("decode")


@EACH_DRAFT
def test_with_every_draft_accepted_a_verification_yields_all_and_one_more(words: str, k: int) -> None:
    always = predicted(f"{words},accept=1", scenario=DRAFTING)
    assert decode_counts(always, "lm_head") == pytest.approx(99 / (k + 1))
    # Weights are read once for these tokens; five positions at batch 4 are far from compute-bound.
    main = sum(r.total_s for r in always.rows if r.phase == "decode" and not r.name.startswith("draft."))
    assert main == pytest.approx(BASE.time_s("decode") / (k + 1), rel=0.02)


def test_a_draft_model_is_in_memory_too_with_a_cache_of_its_own() -> None:
    """Keys and values of 3,099 tokens, and of four positions beyond them that are drafted or verified."""
    held = predicted("speculative-decoding:draft=Llama-3.2-1B,k=4").memory()
    small = predict(replace(SCENARIO, model=load_model("Llama-3.2-1B").model), DEVICE).memory()
    assert held["weights_bytes"] == BASE.memory()["weights_bytes"] + small["weights_bytes"]
    per_token = 2 * 2 * (32 * 8 * 128 + 16 * 8 * 64)
    assert held["kv_cache_bytes"] == 4 * (3099 + 4) * per_token


def test_verification_projects_every_drafted_position() -> None:
    rows = predicted("speculative-decoding:k=3,draft=Llama-3.2-1B").rows
    (verified,) = (r for r in rows if r.name == "lm_head" and r.phase == "decode")
    assert verified.work.matrix_flops == 4 * 4 * 2 * MODEL.hidden * MODEL.vocabulary


def test_speculation_where_decode_is_compute_bound_does_not_gain() -> None:
    crowded = replace(SCENARIO, batch=512, prompt=64)
    gain = predicted(scenario=crowded).time_s("decode") / predicted(
        "speculative-decoding:k=4,accept=0.7,draft=Llama-3.2-1B", scenario=crowded
    ).time_s("decode")
    assert gain < 1


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


def test_prediction_of_no_further_token_is_decoding() -> None:
    assert numbers(predicted("multi-token-prediction:steps=0", scenario=DRAFTING)) == numbers(BASE)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_first_draft_reads_what_was_verified_and_later_ones_a_token_each(steps: int) -> None:
    """Features of verified positions are new: steps + 1 of each of 4 sequences, one of them projected."""
    found = predicted(f"multi-token-prediction:steps={steps},accept=0", scenario=DRAFTING).rows
    drafted = [row for row in found if row.phase == "decode" and row.name.startswith("draft.")]
    by_name = {name: [r for r in drafted if r.name == f"draft.{name}"] for name in ("join_proj", "lm_head")}
    positions = sum(r.count * r.work.outputs for r in by_name["join_proj"]) / (99 * 4 * MODEL.hidden)
    assert positions == pytest.approx(steps + 1 + steps - 1)
    projected = sum(r.count * r.work.outputs for r in by_name["lm_head"]) / (99 * 4 * MODEL.vocabulary)
    assert projected == pytest.approx(steps)


def test_the_layer_that_predicts_is_one_of_the_model_with_its_experts() -> None:
    for name, attends in (("DeepSeek-V3", "attention.kv_a_proj"), ("Qwen3.5-27B", "attention.gate_mul")):
        asked = Scenario(load_model(name).model, prompt=100, output=10, techniques=(parse("mtp"),))
        drafted = {row.name for row in predict(asked, DEVICE).rows if row.name.startswith("draft.")}
        assert f"draft.layers.{attends}" in drafted
        assert any("experts" in row for row in drafted) == (name == "DeepSeek-V3")
        assert not any("delta" in row for row in drafted)  # hybrids' drafts attend


def test_what_joins_the_inputs_of_a_draft_is_not_quantised() -> None:
    model, setting = load_model("DeepSeek-V3").model, Setting(Precision.of("fp8_block", "fp8"))
    asked = Scenario(model, prompt=100, output=10, setting=setting, techniques=(parse("mtp"),))
    joins = [row for row in predict(asked, DEVICE).rows if row.name == "draft.join_proj"]
    assert {row.work.weight_bytes for row in joins} == {2 * 2 * model.hidden**2}


def test_only_published_layers_predict_further_tokens() -> None:
    with pytest.raises(InputError, match="no such layer is published with Llama"):
        predicted("mtp")


def test_every_published_layer_is_in_memory_and_reads_the_prompt() -> None:
    model = DRAFTING.model
    two = replace(DRAFTING, model=replace(model, stack=replace(model.stack, drafts=2)))
    none, once, twice = (
        predicted(*words, scenario=scenario)
        for words, scenario in (((), DRAFTING), (("mtp",), DRAFTING), (("mtp",), two))
    )
    weights = [found.memory()["weights_bytes"] for found in (none, once, twice)]
    assert weights[2] - weights[1] == weights[1] - weights[0] > 0
    joined = [
        [row.count for row in found.rows if row.name == "draft.join_proj" and row.phase == "prefill"]
        for found in (once, twice)
    ]
    assert joined == [[1], [2]]


def test_a_layer_of_single_blocks_drafts_with_attention_and_experts() -> None:
    """Nemotron 3 Super: `mtp_hybrid_override_pattern` is "*E"."""
    nano = load_model("Nemotron-3-Nano-30B-A3B").model
    asked = Scenario(replace(nano, stack=replace(nano.stack, drafts=1)), prompt=100, output=10)
    rows = predicted("mtp", scenario=asked).rows
    drafted = {row.name for row in rows if row.name.startswith("draft.layers.")}
    assert {name.split(".")[2] for name in drafted} >= {"attention", "moe"}
    assert not any("mamba" in name or "ssm" in name for name in drafted)


@pytest.mark.parametrize("output", [1, 2])
def test_an_answer_of_one_decode_step_has_no_parts(output: int) -> None:
    with pytest.raises(InputError, match="one decode step has no parts"):
        predicted("apar", scenario=replace(SCENARIO, output=output))


def test_lookahead_computes_its_window_and_its_guesses() -> None:
    """(W + G)(N - 1) positions beside the current token (arXiv:2402.02057, section 3.3)."""
    found = predicted("lookahead:window=7,n=4,guesses=3,accepted=2")
    up = next(r for r in found.rows if r.phase == "decode" and r.name.endswith("up_proj"))
    assert up.work.outputs == 4 * (1 + 10 * 3) * 14336
    assert up.count == pytest.approx(32 * 99 / 2)
    head = next(r for r in found.rows if r.phase == "decode" and r.name == "lm_head")
    assert head.work.outputs == 4 * (1 + 7 + 3 * 3) * MODEL.vocabulary  # old trajectories yield nothing new


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
    assert tokens == [1050, 1100, 1100, 1]  # summaries are inputs again of every later segment
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


def test_a_block_is_no_longer_than_the_answer() -> None:
    whole, beyond = (predicted(f"diffusion-generation:block={block}").totals() for block in (100, 10**6))
    assert beyond["time_s"] == whole["time_s"]
    assert beyond["memory_bytes"] == whole["memory_bytes"]


def test_drafts_of_a_diffusion_model_see_context_and_window() -> None:
    found = predicted("speculative-diffusion:k=7,steps=2,accept=1,draft=Llama-3.2-1B")
    drafts = next(r for r in found.rows if r.name == "draft.layers.mlp.up_proj")
    assert drafts.count == pytest.approx(16 * 2 * 99 / 8)
    assert drafts.work.outputs == 4 * (3050 + 7) * 8192


@pytest.mark.parametrize(
    "words", ["gist-tokens:ratio=4", "prompt-compression:ratio=4", "varlen-packing:mean=0.25"]
)
def test_an_encoder_reads_the_shorter_prompt_too(words: str) -> None:
    """What is left of a prompt is all that decode steps see of it."""
    asked = Scenario(load_model("T5-small").model, batch=4, prompt=400, output=16)
    short = predict(replace(asked, prompt=100), DEVICE)
    found = predicted(words, scenario=asked)
    assert found.time_s("decode") == pytest.approx(short.time_s("decode"))
    assert found.memory()["kv_cache_bytes"] == short.memory()["kv_cache_bytes"]
