"""DeepSeek-V4 and GLM-5.3-Flash against transformers: parameters and products without tolerance, and bytes.

Numbers of entries are means over positions, so that steps that end with an entry are compared. transformers
sums the index's heads elementwise, which no counter of products sees.
"""

from __future__ import annotations

from operator import sub
from typing import Any

import pytest

from tests.workloads.products import ours
from tests.workloads.tensors import moved, rows, size
from workloads.blocks import CompressedAttentionBlock, MoeBlock
from workloads.catalogue import load_model
from workloads.checkpoint import other_formats, resolved
from workloads.convention import CONVENTIONS
from workloads.descriptor import Dtypes
from workloads.dtypes import Precision
from workloads.operators import CompressedAttention, Compression, IndexScores, StreamCollapse, StreamSpread
from workloads.phases import Setting, Step, decode, operators, parameters, prefill
from workloads.work import Role

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, TOKENS, WIDTH = 2, 48, 24
STEPS = {"prefill": prefill(BATCH, TOKENS), "decode": decode(BATCH, 64), "chunk": Step(BATCH, 8, 40)}
KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
SMALL = {
    "hidden_size": 60,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "layer_types": [*KINDS, KINDS[1]],
    "compress_rates": {KINDS[1]: 4, KINDS[2]: 8},
    "head_dim": 20,
    "partial_rotary_factor": 0.4,
    "q_lora_rank": 21,
    "o_groups": 3,
    "o_lora_rank": 11,
    "index_n_heads": 3,
    "index_head_dim": 18,
    "index_topk": 7,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 35,
    "sliding_window": 16,
    "hc_mult": 3,
    "num_hash_layers": 1,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_hash_layers": 0, "tie_word_embeddings": True},
    {"layer_types": None, "compress_rate_csa": 4, "compress_rate_hca": 8, "hc_mult": 4},
    {"mlp_layer_types": ["moe", "hash_moe", "moe", "hash_moe"], "mlp_bias": True},
]
COMPARED = {"deepseek_v4", "glm5_next_text"}


def reference(device: str, **changes: Any) -> Any:
    config = transformers.AutoConfig.for_model("deepseek_v4", **{**SMALL, **changes})
    config._experts_implementation = "batched_mm"
    with torch.device(device):
        network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes) or "default")
def test_parameters_and_products(changes: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from tests.workloads.products import COUNTER

    network, model = reference("meta", **changes), ours("deepseek_v4", {**SMALL, **changes})
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    for name, step in STEPS.items():
        cache = transformers.DynamicCache(config=network.config)
        before, new = int(step.past), int(step.q_len)

        def run(length: int, cache: Any = cache) -> None:
            tokens = torch.zeros(BATCH, length, dtype=torch.long, device="meta")
            network(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)

        if before:
            run(before)
        with FlopCounterMode(display=False) as counter:
            run(new)
        found = [(row.count, row.operator) for row in operators(model, step, COUNTER)]
        sums = sum(
            count * 2 * BATCH * op.pairs() * op.heads for count, op in found if isinstance(op, IndexScores)
        )
        products = sum(count * op.work().matrix_flops for count, op in found)
        assert counter.get_total_flops() == products - sums, name


def test_a_cache_holds_what_the_reference_keeps() -> None:
    """But for the window's oldest position, which no later query sees, and for rows of complete entries:
    transformers keeps those that the next entry overlaps with, vLLM all that an entry needs, as we count.
    """
    network, model = reference("cpu"), ours("deepseek_v4", SMALL)
    cache = transformers.DynamicCache(config=network.config)
    network(input_ids=torch.zeros(BATCH, TOKENS, dtype=torch.long), past_key_values=cache, use_cache=True)
    tensors: dict[int, Any] = {}
    overlaps = 0
    for layer in cache.layers:
        for name, value in vars(layer).items():
            if name in ("values", "_sliding_window_tensor"):  # the keys once more, and a number
                continue
            found = value.values() if isinstance(value, dict) else (value,)
            kept = {id(t): t for t in found if isinstance(t, torch.Tensor)}
            overlaps += size(*kept.values()) if name.startswith("overlap") else 0
            tensors |= kept
    setting = Setting(Precision.of("fp32"))
    blocks = [layer.find(CompressedAttentionBlock) for layer in model.layers]
    states = sum(s.state_bytes() for block in blocks for s in block.states(Step(BATCH, 1, 1), setting))
    oldest = len(blocks) * BATCH * 20 * 4
    assert overlaps == 2 * BATCH * 2 * 4 * (20 + 18) * 4  # of two layers values and gates of 4 positions
    ours_of_it = model.cache_bytes(BATCH, TOKENS, setting) - states
    assert size(*tensors.values()) - overlaps == ours_of_it - oldest


def test_streams() -> None:
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection

    config = transformers.AutoConfig.for_model("deepseek_v4", **{**SMALL, "hidden_size": WIDTH})
    mixer = DeepseekV4HyperConnection(config)
    streams, made = rows(1, TOKENS, 3, WIDTH), rows(1, TOKENS, WIDTH)
    given = rows(1, TOKENS, mixer.fn.shape[0])  # the projection's result
    with torch.no_grad():
        torch.nn.init.zeros_(mixer.fn)
        post, comb, one = (t.bfloat16() for t in mixer(streams))
    op = StreamCollapse(TOKENS, 3, WIDTH, config.hc_sinkhorn_iters)
    assert op.parameters() == mixer.base.numel() + mixer.scale.numel()
    assert moved(op) == {
        Role.INPUT: size(streams, given),
        Role.WEIGHT: op.parameters() * 2,
        Role.OUTPUT: size(post, comb, one),
    }
    mixed = post.unsqueeze(-1) * made.unsqueeze(-2) + comb.mT @ streams
    assert moved(StreamSpread(TOKENS, 3, WIDTH)) == {
        Role.INPUT: size(streams, made, post, comb),
        Role.OUTPUT: mixed.nbytes,
    }
    alone = {Role.INPUT: size(streams, made, post), Role.OUTPUT: mixed.nbytes}
    assert moved(StreamSpread(TOKENS, 3, WIDTH, mixes=False)) == alone
    head = StreamCollapse(TOKENS, 3, WIDTH, rounds=0, feeds=False)
    weights = rows(1, TOKENS, 3)
    assert moved(head) == {Role.INPUT: size(streams, weights), Role.WEIGHT: 4 * 2, Role.OUTPUT: one.nbytes}


@pytest.mark.parametrize("chosen", [None, 5])
def test_attention_to_a_window_and_entries(chosen: int | None) -> None:
    """One query of a context of 48: the window's rows, 12 entries or those picked, each read once."""
    query, window, entries = rows(BATCH, 1, 6, 20), rows(BATCH, 16, 20), rows(BATCH, chosen or 12, 20)
    sinks, keys = rows(6), torch.cat([window, entries], dim=1)
    scores = torch.einsum("bqhd,bkd->bhqk", query, keys)
    output = torch.einsum("bhqk,bkd->bqhd", scores.softmax(-1), keys)
    kinds: dict[str, Any] = {"window": 16, "values_in_keys": True, "sinks": True, "stride": 4}
    op = CompressedAttention(BATCH, 1, TOKENS, 6, 1, 20, chosen=chosen, **kinds)
    assert moved(op) == {
        Role.INPUT: query.nbytes,
        Role.KV_READ: size(window, entries),
        Role.WEIGHT: sinks.nbytes,
        Role.OUTPUT: output.nbytes,
    }
    counted = CompressedAttention(BATCH, 1, TOKENS, 6, 1, 20, chosen=chosen, causal_exact=False, **kinds)
    assert counted.work().matrix_flops == 4 * scores.numel() * 20


def test_pairs_of_a_prompt_with_entries() -> None:
    """Every position by itself: whole entries behind it, of which it sees a few, and its window."""
    seen = [min((p + 1) // 4, 5) for p in range(TOKENS)]
    near = [min(p + 1, 16) for p in range(TOKENS)]
    op = CompressedAttention(1, TOKENS, TOKENS, 1, 1, 20, window=16, stride=4, chosen=5)
    assert op.pairs() == sum(seen) + sum(near)
    last = CompressedAttention(1, 4, TOKENS, 1, 1, 20, window=16, stride=4, chosen=None)
    assert last.pairs() == 11 + 11 + 11 + 12 - 0.0 + 4 * 16
    index = IndexScores(1, TOKENS, TOKENS, 3, 18, stride=4)
    assert index.pairs() == sum((p + 1) // 4 for p in range(TOKENS))


@pytest.mark.parametrize("series", [1, 2])
@pytest.mark.parametrize("past", [0, 8])
def test_compression(series: int, past: int) -> None:
    """Whole windows become entries; behind the last one stand as many rows as the next may need."""
    values, gates = rows(BATCH, 8, series * 20), rows(BATCH, 8, series * 20)
    bias, entries = rows(4, series * 20), rows(BATCH, 2, 20)
    kept = rows(BATCH, series * 4, 2 * series * 20, dtype="float32")
    op = Compression(BATCH, 8, past, 20, 4, series)
    assert op.parameters() == bias.numel()
    assert op.state_bytes() == kept.nbytes
    assert moved(op) == {
        Role.INPUT: size(values, gates),
        Role.WEIGHT: bias.nbytes,
        Role.OUTPUT: entries.nbytes,
        Role.KV_WRITE: kept.nbytes,
        **({Role.KV_READ: kept.nbytes} if past else {}),
    }


def test_the_experts_that_a_table_names_are_not_chosen() -> None:
    first, second = (layer.find(MoeBlock) for layer in ours("deepseek_v4", SMALL).layers[:2])
    assert (first.listed, second.listed) == (True, False)
    rows = operators(ours("deepseek_v4", SMALL), decode(1, 64))
    counts = {row.name: row.count for row in rows}
    routers = counts["layers.moe.router"], counts["layers.moe.router.2"]  # that of the first weights only
    assert (*routers, counts["layers.moe.topk"]) == (1, 3, 3)


def test_published_formats_are_those_of_the_checkpoint() -> None:
    """Experts in FP4 with a scale for 32, all else in FP8 (huggingface.co/deepseek-ai/DeepSeek-V4-Flash)."""
    loaded = load_model("DeepSeek-V4-Flash")
    model, formats = resolved(loaded, Dtypes(weights="checkpoint"))
    assert formats == Precision.of("fp8_block", "fp8", "bf16", "mxfp4")
    (others,) = other_formats(model, formats)  # the compressors and what weighs the indexer's heads
    assert (others["weights"], len(others["operators"])) == ("bf16", 5)


GLM = {
    **{name: SMALL[name] for name in ("hidden_size", "num_attention_heads", "vocab_size", "pad_token_id")},
    **{"num_key_value_heads": 6, "intermediate_size": 77, "q_lora_rank": 21, "kv_lora_rank": 23},
    **{"qk_nope_head_dim": 14, "qk_rope_head_dim": 0, "v_head_dim": 13},
    **{"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 35, "hc_mult": 3},
    **{"index_n_heads": 3, "index_head_dim": 18, "index_topk": 8, "index_kpool": 4},
    **{"linear_num_heads": 3, "linear_head_dim": 9, "num_hidden_layers": 5},
    "layer_types": [
        *("linear_attention", "indexed_attention", "indexed_attention"),
        *("linear_attention", "full_attention"),
    ],
    "indexer_types": ["full", "full", "shared", "shared", "full"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse"],
}


@pytest.mark.parametrize("past", [0, 47])
def test_products_of_runs_that_an_index_picks(past: int) -> None:
    """GLM-5.3-Flash on the CPU, as its index looks into its mask; but for products of the delta rule."""
    from tests.workloads.products import COUNTER, Products, counted, products
    from tests.workloads.test_transformers import Decoder

    config = transformers.AutoConfig.for_model("glm5_next_text", **GLM)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    network = Decoder(config, attn_implementation="eager", dtype=torch.float32).eval()
    model, new = ours("glm5_next_text", GLM), 1 if past else TOKENS
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    tokens = torch.arange(BATCH * TOKENS).view(BATCH, TOKENS) % 101
    inputs: dict[str, Any] = {"input_ids": tokens[:, past:], "logits_to_keep": 1, "use_cache": False}
    if past:
        with torch.no_grad():
            before = network.model(input_ids=tokens[:, :past], use_cache=True).past_key_values
        inputs |= {"past_key_values": before, "use_cache": True}
    seen, step = products(network, **inputs), Step(BATCH, new, TOKENS)
    expected = counted(model, step)
    for row in operators(model, step, COUNTER):
        if row.operator.kind in ("stream_spread", "index_scores"):
            expected.activations += int(row.count * row.operator.work().matrix_flops)
    assert seen == Products(expected.weights, expected.activations, seen.scans)


def test_a_cache_of_runs_keeps_their_keys() -> None:
    """A latent per position, a key per run, the begun run, and the states of the other layers."""
    model, setting = ours("glm5_next_text", GLM), Setting(Precision.of("fp32"))
    latents, keys = 3 * 23 * TOKENS, 2 * 18 * TOKENS / 4
    begun, states = 2 * 4 * 2 * 18, 2 * (3 * 9 * 9 + 3 * 3 * 27)
    assert model.cache_bytes(1, TOKENS, setting) == 4 * (latents + keys + begun + states)


@pytest.mark.parametrize("sources", [[0, 1, 2, 3], [0, 0, 0, 3]])
def test_a_layer_that_reads_anothers_latents_keeps_the_keys_of_its_index_alone(sources: list[int]) -> None:
    """Mistral Large 4; its fourth layer has no positions, and a shared index keeps nothing."""
    from tests.workloads.test_transformers import small

    more = {"num_hidden_layers": 4, "indexer_types": ["full", "full", "shared", "full"]}
    fields = small("mistral_large4_text", kv_source_layers=sources, **more)
    del fields["model_type"]
    config = transformers.AutoConfig.for_model("mistral_large4_text", **fields)
    config._experts_implementation = "eager"
    network = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    cache = transformers.DynamicCache(config=config)
    network(input_ids=torch.zeros(BATCH, TOKENS, dtype=torch.long), past_key_values=cache, use_cache=True)
    kept = [t for layer in cache.layers for t in vars(layer).values() if isinstance(t, torch.Tensor)]
    model = ours("mistral_large4_text", fields)
    assert size(*kept) == model.cache_bytes(BATCH, TOKENS, Setting(Precision.of("fp32")))


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
@pytest.mark.parametrize(
    ("name", "layers", "stride"), [("DeepSeek-V3.2", 61, 1), ("DeepSeek-V4-Flash", 21, 4)]
)
def test_keys_of_an_index_are_fp8_with_a_scale_in_engines(
    name: str, layers: int, stride: int, kv: str
) -> None:
    """132 bytes a key, read as they are kept: head_dim of vLLM's DeepseekV32IndexerCache, in bytes."""
    model, positions = load_model(name).model, 4096
    setting = Setting(Precision.of("bf16", kv=kv))
    rows = [
        row for row in operators(model, decode(1, positions), setting) if row.operator.kind == "index_scores"
    ]
    assert sum(row.count for row in rows) == layers
    assert {row.operator.work().kv_bytes for row in rows} == {132 * positions / stride}
    eager = Setting(setting.precision, CONVENTIONS["eager"])
    less = (model.cache_bytes(1, positions, each) for each in (eager, setting))
    kept = 128 * {"bf16": 2, "fp8": 1}[kv]
    assert -sub(*less) == layers * positions / stride * (132 - kept)
