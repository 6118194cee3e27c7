"""Mechanisms as their papers state them: sizes of what is added, bytes of what is read, measured bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwspecs import Device, load_device
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from tests.workloads.techniques.asking import BASE, DEVICE, SCENARIO, predicted, with_links
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.phases import parameters
from workloads.step import Setting
from workloads.techniques.registry import parse
from workloads.work import Role, Traffic, Work


def asked(model: str, *words: str, device: str = "h100_sxm", **sizes: object) -> Prediction:
    longer = replace(load_model(model).model, max_position=100_000)  # as trained on for long contexts
    scenario = Scenario(longer, **sizes)  # type: ignore[arg-type]
    return predicted(*words, scenario=scenario, device=load_device(device))


def added(model: str, words: str) -> float:
    """Parameters that a technique brings into memory, in 16 bits."""
    sizes = {"prompt": 100, "output": 10}
    found = asked(model, words, **sizes).memory()["weights_bytes"]
    return float(found - asked(model, **sizes).memory()["weights_bytes"]) / 2


@pytest.mark.parametrize(
    ("model", "billions"),
    [("Llama-2-7B", 0.24), ("Llama-2-13B", 0.37), ("Llama-2-70B", 0.99), ("Llama-3.1-8B", 0.25)],
)
def test_drafts_of_eagle_are_as_large_as_its_authors_say(model: str, billions: float) -> None:
    """EAGLE, arXiv:2401.15077, section 4: parameters that are trained; Vicuna has the shapes of Llama 2."""
    assert added(model, "eagle") / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_layer_that_predicts_a_token_more_is_as_large_as_published() -> None:
    """DeepSeek-V3, README_WEIGHTS: 11.5e9 of its own, beside a shared embedding and vocabulary projection."""
    assert added("DeepSeek-V3", "mtp") / 1e9 == pytest.approx(11.5, abs=0.15)


@pytest.mark.parametrize(("model", "billions"), [("GLM-4.5", 358), ("GLM-4.5-Air", 110)])
def test_models_with_the_layer_that_predicts_are_as_large_as_their_files(model: str, billions: int) -> None:
    """What Hugging Face shows; these files hold embedding and projection for it once more."""
    found = load_model(model).model
    copies = 2 * found.vocabulary * found.hidden
    assert (parameters(found) + added(model, "mtp") + copies) / 1e9 == pytest.approx(billions, abs=0.5)


def test_a_second_token_makes_deepseek_faster_as_published() -> None:
    """arXiv:2412.19437, section 5.4.3: kept in 85 to 90 %, and 1.8 times as many tokens per second."""
    base, *kept = (
        asked("DeepSeek-V3", *words, batch=256, prompt=1000, output=100).time_s("decode")
        for words in ((), ("mtp:accept=0.85",), ("mtp:accept=0.9",))
    )
    assert [base / each for each in kept] == pytest.approx([1.8, 1.8], rel=0.03)


def test_the_draft_of_whole_experts_is_as_wide_as_one() -> None:
    """EAGLE, arXiv:2401.15077, section 4: 0.28e9 for Mixtral 8x7B, a layer of Llama 2's with one head of keys
    and values for each of queries. Ours has the model's own 8 heads: 3/4 less of these two matrices.
    """
    fewer_heads = 2 * 4096 * (4096 - 1024)
    assert (added("Mixtral-8x7B", "eagle") + fewer_heads) / 1e9 == pytest.approx(0.28, abs=0.005)


@pytest.mark.parametrize(("model", "width"), [("DeepSeek-V3", 18432), ("Qwen3-30B-A3B", 6144)])
def test_drafts_of_experts_are_as_wide_as_the_dense_layers_of_their_family(model: str, width: int) -> None:
    """`intermediate_size` of their configs, the width of dense layers: the experts of a token together."""
    found = asked(model, "eagle", batch=2, prompt=100, output=10)
    draft = next(row for row in found.rows if row.name == "draft.layers.mlp.up_proj")
    assert draft.work.outputs == 2 * 100 * width
    assert not any("experts" in row.name for row in found.rows if row.name.startswith("draft."))


@pytest.mark.parametrize("model", ["Llama-2-7B", "Falcon-7B", "Gemma-3-12B"])
def test_layers_that_share_keys_and_values_halve_the_cache_and_read_as_much(model: str) -> None:
    """CLA2, arXiv:2405.12981: another factor of 2, with many heads as with one (Falcon), and in each kind of
    layer (Gemma: five of six have a window). Every layer still attends: its reads and FLOP stay.
    """
    before, after = (asked(model, *words, prompt=1500, output=2) for words in ((), ("cla",)))
    assert after.memory()["kv_cache_bytes"] == before.memory()["kv_cache_bytes"] / 2

    def cores(found: Prediction) -> list[tuple[str, float, Work]]:
        return [(r.name, r.count, r.work) for r in found.rows if "attention.core" in r.name]

    assert sorted(cores(after), key=lambda core: core[0]) == sorted(cores(before), key=lambda core: core[0])


def test_layers_that_borrow_have_no_matrices_for_keys_and_values() -> None:
    """Llama-2-7B: 16 of 32 layers lose two matrices of 4096 x 4096."""
    assert added("Llama-2-7B", "cla") == -16 * 2 * 4096 * 4096


def test_the_models_of_papers_are_in_memory() -> None:
    """DPR embeds with BERT base, RECOMP writes with T5-large: their published parameters are in memory."""
    bert, t5 = 109_482_240, 737_668_096
    assert parameters(load_model("BERT-base-uncased").model) == bert
    assert parameters(load_model("T5-large").model) == t5
    index = 1e6 * 768 * 4
    assert 2 * added("Llama-3.1-8B", "summaries") == pytest.approx(2 * t5)
    found = predicted("retrieval").memory()["weights_bytes"] - BASE.memory()["weights_bytes"]
    assert found == pytest.approx(2 * bert + index)


def test_a_summary_is_read_by_an_encoder_and_written_by_a_decoder() -> None:
    found = predicted("summaries:ratio=10")
    rows = [r for r in found.rows if r.name.startswith("summariser.")]
    read = next(r for r in rows if r.name == "summariser.encoder.layers.mlp.up_proj")
    assert read.work.outputs == 4 * 3000 * 4096
    written = [r for r in rows if r.name.endswith("lm_head")]
    assert sum(r.count for r in written) == 300
    assert {r.phase for r in rows} == {"prefill"}  # all of it comes before the first token


@pytest.mark.parametrize("context", [8192, 32768])
def test_quest_reads_one_part_in_sixteen_of_the_keys_and_its_budget(context: int) -> None:
    """1 / page + budget / context of the cache (arXiv:2406.10774, section 3.4), beside two whole layers."""
    whole, found = (
        asked("Llama-2-7B", *words, phase="decode", context=context)
        for words in ((), ("quest:budget=2048,page=16",))
    )
    share = 2 / 32 + (30 / 32) * (1 / 16 + 2048 / context)
    # The token that is appended moves in both.
    assert found.total("kv_bytes") / whole.total("kv_bytes") == pytest.approx(share, rel=2e-3)
    held, before = (p.memory()["kv_cache_bytes"] for p in (found, whole))
    assert held / before == pytest.approx(1 + (30 / 32) / 16)


def test_quest_gains_no_less_than_was_measured() -> None:
    """Self-attention 7.03 times as fast at 32k tokens (abstract), where it selects: in all layers here."""
    times = [
        sum(r.total_s for r in found.rows if ".attention.core" in r.name)
        for words in ((), ("quest:budget=2048,dense=0",))
        for found in [asked("Llama-2-7B", *words, phase="decode", context=32768, device="rtx4090")]
    ]
    assert 7.03 <= times[0] / times[1] <= 8


def test_windows_within_the_budget_are_read_whole() -> None:
    """Every second layer of Gemma 2 sees 4,096 positions: with a budget of as many it scores no pages."""
    sizes = {"phase": "decode", "context": 8000}
    found = asked("Gemma-2-9B", "quest:budget=4096,dense=0", **sizes)
    scores = sum(row.count for row in found.rows if row.name.endswith(".page_scores"))
    assert scores == len(load_model("Gemma-2-9B").model.layers) / 2


def test_two_bits_in_groups_take_three() -> None:
    """KIVI, arXiv:2402.02750: groups of 32 with a scale and a smallest value of 16 bits each."""
    kept = predicted("kivi").memory()["kv_cache_bytes"]
    assert kept / BASE.memory()["kv_cache_bytes"] == 3 / 16


def test_layers_that_are_left_early_make_keys_and_values_however_they_are_stored() -> None:
    """CALM, section 3.4. GPT-2 makes queries, keys and values by one product: two thirds of it are left."""
    found = asked("GPT-2", "early-exit:layers=0", phase="decode", context=100)
    left = {row.name: row for row in found.rows if "layers." in row.name and row.work.matrix_flops}
    keys = left.pop("layers.attention.qkv_proj.keys")
    assert keys.work.matrix_flops == 2 * 768 * 2 * 768
    assert keys.count == 12
    assert not any(row.count for row in left.values())


def test_keys_of_projections_apart_and_of_one_are_the_same_work() -> None:
    """Half of the layers of GPT-2 and of a model with three projections: K and V of all of them."""
    for model, names in (("GPT-2", (".qkv_proj", ".keys")), ("OPT-125M", (".k_proj", ".v_proj", ".q_proj"))):
        found = asked(model, "early-exit:layers=0.5", phase="decode", context=100)
        flops = sum(r.count * r.work.matrix_flops for r in found.rows if r.name.endswith(names))
        assert flops == 12 * 2 * 768 * 768 * (0.5 * 3 + 0.5 * 2), model


def test_heads_of_later_tokens_read_the_prompt_and_cache_it() -> None:
    """Gloeckle et al., section 2: each further token has a transformer layer of its own."""
    found = predicted("next-k-tokens:k=5")
    flops = {
        scope: sum(
            r.count * r.work.matrix_flops
            for r in found.rows
            if r.phase == "prefill" and r.name.startswith(scope)
        )
        for scope in ("heads.layers.", "layers.")
    }
    assert flops["heads.layers."] / flops["layers."] == pytest.approx(4 / 32)
    longer = BASE.memory()["kv_cache_bytes"] * (3000 + 100 - 1 + 4) / (3000 + 100 - 1)
    assert found.memory()["kv_cache_bytes"] == pytest.approx(longer * 36 / 32)


def test_every_point_of_a_graph_reads_its_instruction() -> None:
    """6 points in 2 levels: twice 3 instructions for each of 4 sequences, and as many tokens in the cache."""
    words = "skeleton-graph-decoding:points=6,levels=2,instruction=100"
    without, found = (predicted(each) for each in (words.replace("=100", "=0"), words))
    reading = [r for r in found.rows if r.name == "layers.mlp.up_proj" and r.phase == "decode"]
    assert any(r.work.outputs == 4 * 3 * 100 * 14336 and r.count == 2 * 32 for r in reading)
    more = found.memory()["kv_cache_bytes"] - without.memory()["kv_cache_bytes"]
    assert more == 600 * BASE.memory()["kv_cache_bytes"] / (3000 + 100 - 1)


def test_tokens_that_pass_a_layer_by_are_told_by_a_router() -> None:
    """Mixture-of-Depths, section 3.4: a projection to one number in every second layer, for all tokens."""
    found = predicted("mixture-of-depths")
    routers = [r for r in found.rows if r.name.endswith("depth_router")]
    assert {(r.phase, r.work.outputs) for r in routers} >= {("prefill", 4 * 3000), ("decode", 4)}
    assert next(r.count for r in routers if r.phase == "prefill") == 16


# Decode of DeepSeek-V3 in 4 bits (q4_k_m) on an RTX 4090D beside Xeon Gold 6454S, 8 channels of DDR5-4800 a
# socket: sockets, experts of a token, tokens/s. KTransformers, DeepseekR1_V3_tutorial.md, V0.2.
HOST_EXPERTS = [(1, 8, 8.73), (1, 6, 10.303), (2, 8, 12.208), (2, 6, 13.69)]
SOCKET_BYTE_PER_S = 8 * 8 * 4.8e9


def with_host(sockets: int) -> Device:
    return with_links(load_device("rtx4090"), host_memory=sockets * SOCKET_BYTE_PER_S)


def on_host(sockets: int, experts: int) -> float:
    """Tokens per second with all experts in the host's memory and computed there, in 4.5 bits."""
    model = load_model("DeepSeek-V3").model
    layers = tuple(
        replace(
            layer, blocks=tuple(replace(b, top_k=experts) if hasattr(b, "top_k") else b for b in layer.blocks)
        )
        for layer in model.layers
    )
    fewer = replace(model, stack=replace(model.stack, layers=layers))
    scenario = Scenario(
        fewer,
        "decode",
        context=500,
        setting=Setting(Precision.of("nvfp4", "bf16")),  # 4.5 bits a weight, as q4_k
        techniques=(parse("cpu-experts"),),
    )
    return float(predict(scenario, with_host(sockets)).totals()["tokens_per_s"])


@pytest.mark.parametrize(("sockets", "experts", "measured"), HOST_EXPERTS)
def test_experts_on_the_host_are_no_faster_than_its_memory(
    sockets: int, experts: int, measured: float
) -> None:
    bound = on_host(sockets, experts)
    assert measured <= bound <= 4 * measured
    touched = 58 * experts * 3 * 7168 * 2048 * 4.5 / 8
    assert bound <= sockets * SOCKET_BYTE_PER_S / touched


def test_what_stays_with_the_host_passes_no_device_memory() -> None:
    """Neither experts that the host computes nor what comes from its disks is traffic of the device."""
    mixtral = Scenario(load_model("Mixtral-8x7B").model, "decode", context=500)
    found = predicted("cpu-experts", scenario=mixtral, device=with_host(1))
    for row in found.rows:
        if "experts_" in row.name and "_proj" in row.name:
            assert row.work.host_memory_bytes > 0
            assert row.work.bytes == row.times.memory_s == 0
            assert row.times.bound == "communication"
    tensors = (Traffic("cold", Role.DISK, 5.0), Traffic("experts", Role.HOST_MEMORY, 7.0))
    work = Work("bf16", tensors)
    assert (work.bytes, work.activation_bytes, work.disk_bytes, work.host_memory_bytes) == (0, 0, 5.0, 7.0)


def test_fewer_experts_on_the_host_gain_what_was_measured() -> None:
    """6 instead of 8: 10.303 over 8.73 tokens/s on one socket; the bound is the ratio of what is read."""
    gain = on_host(1, 6) / on_host(1, 8)
    assert 10.303 / 8.73 <= gain <= 8 / 6


def test_a_host_whose_memory_nobody_stated_computes_no_experts() -> None:
    mixtral = replace(SCENARIO, model=load_model("Mixtral-8x7B").model, techniques=(parse("cpu-experts"),))
    with pytest.raises(InputError, match=r"has no host memory in its file; add `links.host_memory`"):
        predict(mixtral, DEVICE)
