"""Techniques on models with experts and with layers of several kinds: nothing vanishes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import DEVICE, EAGER, SCENARIO, predicted
from workloads.catalogue import load_model
from workloads.dtypes import Precision, bytes_per_element
from workloads.phases import owners
from workloads.step import Setting
from workloads.techniques.registry import parse
from workloads.techniques.speculative import smallest_alike

MIXTRAL = replace(SCENARIO, model=load_model("Mixtral-8x7B").model, batch=16, prompt=300, output=20)
EXPERTS = 32 * 8 * 3 * 4096 * 14336  # layers, experts, matrices
ATTENTION = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)


def stored(*words: str) -> float:
    return float(predicted(*words, scenario=MIXTRAL).memory()["weights_bytes"])


# Bytes that each element of a projection takes, over those of bf16.
SHARES = {
    "awq": (4 + 20 / 128) / 16,
    "w4a8": (4 + 20 / 128) / 16,
    "w8a8": 1 / 2,
    "fp8": 1 / 2,
    "llm-int8": 1 / 2,
    "sparsity-2:4": 0.5 + 1 / 16,
    "unstructured-sparsity:sparsity=0.5": 0.5 + 1 / 16,
    "block-sparsity:sparsity=0.5,block=64": 0.5 * (1 + 4 / (64 * 64 * 2)),
}


@pytest.mark.parametrize("words", SHARES)
def test_formats_and_sparsity_reach_the_experts(words: str) -> None:
    """Router, norms, embedding and vocabulary projection keep their 16 bits, all else is in few."""
    saved = stored() - stored(words)
    assert saved == pytest.approx(2 * (EXPERTS + ATTENTION) * (1 - SHARES[words]), rel=1e-9)


def test_what_chooses_experts_keeps_its_format() -> None:
    found = predicted("w8a8", scenario=MIXTRAL)
    router = next(row for row in found.rows if row.name.endswith("router"))
    assert router.work.dtype == "bf16"
    assert router.work.weight_bytes == 2 * 8 * 4096


def test_experts_in_fewer_bits_are_not_widened() -> None:
    """The experts of gpt-oss are in MXFP4: eight bits for all else leave them alone."""
    setting = Setting(Precision.of("bf16", experts="mxfp4"))
    asked = replace(SCENARIO, model=load_model("gpt-oss-20b").model, setting=setting)
    before, after = (predicted(*words, scenario=asked) for words in ((), ("w8a8",)))
    for one, other in zip(experts(before), experts(after), strict=True):
        assert one.work == other.work
    assert after.memory()["weights_bytes"] < before.memory()["weights_bytes"]


def experts(prediction: Prediction) -> list:  # type: ignore[type-arg]
    return [row for row in prediction.rows if row.kind == "grouped_gemm"]


def test_thin_experts_keep_their_share_of_parameters() -> None:
    saved = stored() - stored("low-rank:ratio=0.5")
    assert saved == pytest.approx((EXPERTS + ATTENTION), rel=1e-3)


def test_channels_of_experts_are_pruned() -> None:
    """A quarter of each expert and of the groups of heads."""
    saved = stored() - stored("structured-pruning:ratio=0.25")
    assert saved == pytest.approx(2 * (EXPERTS + ATTENTION) / 4, rel=1e-9)


def test_pruned_heads_that_devices_cannot_share_are_refused() -> None:
    over_eight = replace(SCENARIO, setting=Setting(tensor_parallel=8))
    with pytest.raises(
        InputError, match=r"structured-pruning is not applicable: with it .* 6 KV heads, which 8"
    ):
        predicted("structured-pruning:ratio=0.25", scenario=over_eight)


def test_a_small_second_model_runs_whole_on_each_device() -> None:
    """GPT-2 has 12 heads, which 8 devices do not share: each scores the whole prompt."""
    over_eight = replace(SCENARIO, setting=Setting(tensor_parallel=8))
    scorer = predict(Scenario(load_model("GPT-2").model, "prefill", batch=4, prompt=750), DEVICE)
    found = predicted("prompt-compression:scorer=GPT-2", scenario=over_eight)
    rows = {row.name: row for row in found.rows}
    alone = next(row for row in scorer.rows if row.name == "layers.mlp.up_proj")
    # 3,000 tokens in pieces of 1,024: the same matrices, longer pieces
    shared = rows["scorer.layers.mlp.up_proj"].work
    assert shared.weight_bytes == alone.work.weight_bytes
    assert shared.matrix_flops == pytest.approx(alone.work.matrix_flops * 1024 / 750)


JAMBA = load_model("Jamba-v0.1").model


@pytest.mark.parametrize("words", ["distillation", "layer-pruning:ratio=0.5"])
def test_half_the_layers_are_half_of_each_kind(words: str) -> None:
    """One layer in eight of Jamba attends, every second has experts: none of these kinds disappears."""
    asked = Scenario(JAMBA, batch=1, prompt=100, output=10, techniques=(parse(words),))
    kept = predict(asked, DEVICE).schedule.main.model.layers
    assert {layer: 2 * n for layer, n in Counter(kept).items()} == dict(Counter(JAMBA.layers))


def test_layers_of_different_kinds_do_not_share_weights() -> None:
    """Neighbours in Jamba differ: one has experts, the other has none. All weights stay."""
    asked = Scenario(JAMBA, batch=1, prompt=100, output=10)
    before, after = (predicted(*words, scenario=asked) for words in ((), ("layer-sharing:shared=2",)))
    assert before.memory()["weights_bytes"] == after.memory()["weights_bytes"]


def test_the_layer_of_a_universal_transformer_is_the_usual_one() -> None:
    """DeepSeek-V3 begins with three dense layers; the one that is repeated has experts."""
    asked = Scenario(load_model("DeepSeek-V3").model, batch=1, prompt=100, output=10)
    found = predicted("universal-transformer", scenario=asked)
    assert any(row.name.endswith("experts_down_proj") for row in found.rows)


def test_skipped_layers_keep_their_keys_where_projections_are_fused() -> None:
    """Queries of half the layers, keys and values of all: one product cannot hold both."""
    alone, fused = (
        predicted(*words, scenario=EAGER)
        for words in (("early-exit:layers=0.5",), ("early-exit:layers=0.5", "fused-projections"))
    )
    assert fused.total("matrix_flops", "decode") == pytest.approx(alone.total("matrix_flops", "decode"))
    assert fused.total("weight_bytes", "decode") == pytest.approx(alone.total("weight_bytes", "decode"))


def test_every_matrix_of_layers_is_one_that_techniques_know() -> None:
    """Families with recurrent mixers, too: three quarters of their weights or more shrink."""
    for name in ("Mamba-2-2.7B", "Jamba-v0.1", "DeepSeek-V3", "T5-small", "LLaDA-8B"):
        model = load_model(name).model
        asked = Scenario(model, model.usual_phase, batch=1, prompt=100, output=10)
        found = (predicted(*words, scenario=asked) for words in ((), ("w8a16",)))
        before, after = (each.memory()["weights_bytes"] for each in found)
        outside = sum(row.parameters() for row in owners(model) if "layers." not in row.name)
        inside = before - outside * bytes_per_element("bf16")
        assert 0.75 * inside / 2 <= before - after <= inside / 2, name


@pytest.mark.parametrize("words", ["medusa", "eagle-1", "lookahead-decoding"])
@pytest.mark.parametrize("name", ["Mamba-2-2.7B", "Jamba-v0.1", "RWKV-6-1.6B"])
def test_recurrent_states_do_not_follow_the_branches_of_a_tree(name: str, words: str) -> None:
    asked = Scenario(load_model(name).model, batch=1, prompt=100, output=10, techniques=(parse(words),))
    with pytest.raises(InputError, match="a recurrent state follows one sequence"):
        predict(asked, DEVICE)


@pytest.mark.parametrize("name", ["Mamba-2-2.7B", "Jamba-v0.1"])
def test_recurrent_states_follow_a_drafted_chain(name: str) -> None:
    chain = (parse("eagle:depth=3,nodes=4"),)
    asked = Scenario(load_model(name).model, batch=1, prompt=100, output=10, techniques=chain)
    assert any(row.name.startswith("draft.") for row in predict(asked, DEVICE).rows)


def test_an_encoder_reads_no_prefix_alone() -> None:
    """Its positions see all others: what it makes of a prefix depends on what follows."""
    asked = Scenario(load_model("T5-small").model, batch=1, prompt=100, output=10)
    with pytest.raises(InputError, match="depends on all that follows"):
        predicted("prefix-caching", scenario=asked)


def test_further_heads_of_an_encoder_decoder_are_layers_of_the_decoder() -> None:
    asked = Scenario(load_model("T5-small").model, batch=1, prompt=100, output=10)
    both = (predicted(*words, scenario=asked) for words in ((), ("next-k-tokens:k=3",)))
    before, after = (each.memory()["weights_bytes"] for each in both)
    # T5-small: 8 heads of 64 and 2,048 channels on 512; a decoder layer attends twice and has three norms
    layer = 2 * 4 * 512 * 512 + 2 * 512 * 2048 + 3 * 512
    assert after - before == pytest.approx(2 * 2 * layer, rel=2e-3)  # beside the table of relative positions


@pytest.mark.parametrize(
    ("name", "draft"),
    [
        ("Llama-3.1-70B", "Llama-3.2-1B"),
        ("Llama-2-7B", "MobileLLM-125M"),
        ("GPT-3-175B", "GPT-2"),
        ("Mixtral-8x7B", "Mistral-7B-v0.1"),  # 32,000 tokens as Llama 2 has, and others
        ("Jamba-v0.1", None),  # 65,536, as RWKV has
        ("DeepSeek-V3.2", "DeepSeek-V4-Flash"),  # a third of its work for a token
        ("Kimi-K2", "Kimi-Linear-48B-A3B"),
        ("DeepSeek-V4-Flash", None),  # the others with its vocabulary are larger
    ],
)
def test_a_draft_has_the_vocabulary_and_is_small(name: str, draft: str | None) -> None:
    found = smallest_alike(load_model(name).model)
    assert (found and found.name) == draft


def test_depth_replaces_width_at_equal_parameters() -> None:
    """MobileLLM-125M (arXiv:2402.14905, section 2.2.2): 30 layers of 576 where 12 had been wider."""
    asked = Scenario(load_model("MobileLLM-125M").model, "decode", batch=1, context=500)
    deep = predict(asked, DEVICE)
    wide = predicted("deep-and-thin:depth=0.4", scenario=asked)

    def layers(found: Prediction) -> float:
        return sum(r.count * r.work.weight_bytes for r in found.rows if "layers." in r.name)

    def count(found: Prediction) -> float:
        return sum(r.count for r in found.rows if r.name.endswith("down_proj"))

    assert (count(deep), count(wide)) == (30, 12)
    assert layers(wide) == pytest.approx(layers(deep), rel=0.1)
    assert wide.schedule.main.model.hidden == round(576 / 0.4**0.5)


def test_only_layers_whose_width_is_known_get_thinner() -> None:
    with pytest.raises(InputError, match="besides attention and dense feed-forward"):
        predicted("deep-and-thin", scenario=MIXTRAL)
