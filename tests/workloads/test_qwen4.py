"""Qwen4-Exp against transformers: parameters and products without tolerance, and what its cache holds.

Small models run on the CPU, because the index looks into its mask. It scores each query's whole runs in a
loop and sums its heads elementwise, which no counter of products sees.
"""

from __future__ import annotations

from typing import Any

import pytest

from specfiles.errors import InputError
from tests.workloads.products import Products, counted, ours, products
from tests.workloads.tensors import size
from workloads.blocks import PickedAttentionBlock
from workloads.dtypes import Precision
from workloads.operators import IndexScores
from workloads.phases import Setting, Step, active_parameters, operators, parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FAMILY = "qwen4_exp_text"
BATCH, TOKENS = 2, 48
SMALL = {
    **{"hidden_size": 60, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2},
    **{"head_dim": 16, "vocab_size": 101, "eos_token_id": 1, "pad_token_id": 0},
    **{"linear_num_value_heads": 6, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 9, "linear_value_head_dim": 11},
    **{"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 22},
    **{"shared_expert_intermediate_size": 26, "hc_count": 3, "hc_lowrank": 13},
    **{"indexer_n_heads": 3, "indexer_kv_heads": 1, "indexer_head_dim": 18},
    **{"indexer_budget": 8, "indexer_compress_ratio": 4},
    **{"ple_layer_ids": [3, 1], "ple_embed_dim": 24, "ngram_size": 3, "heads_per_ngram": 2},
    **{"ngram_vocab_size_base": 89, "make_ngram_vocab_size_divisible_by": 8},
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"ple_layer_ids": None, "hc_count": 4, "tie_word_embeddings": True},
    {"ple_embed_dim": None, "ngram_size": 4, "ple_conv_kernel_size": 3},
    {"layer_types": ["linear_attention", "full_attention", "linear_attention", "indexed_attention"]},
]


def reference(fields: dict[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(FAMILY, **fields)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes) or "default")
@pytest.mark.parametrize("past", [0, 47])
def test_parameters_and_products(changes: dict[str, Any], past: int) -> None:
    fields = {**SMALL, **changes}
    network, model = reference(fields), ours(FAMILY, fields)
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    tokens = torch.arange(BATCH * TOKENS).view(BATCH, TOKENS) % 101
    inputs: dict[str, Any] = {"input_ids": tokens[:, past:], "logits_to_keep": 1, "use_cache": False}
    if past:
        with torch.no_grad():
            before = network.model(input_ids=tokens[:, :past], use_cache=True).past_key_values
        inputs |= {"past_key_values": before, "use_cache": True}
    seen, step = products(network, **inputs), Step(BATCH, TOKENS - past, TOKENS)
    expected = counted(model, step)
    picked = sum(isinstance(block, PickedAttentionBlock) for layer in model.layers for block in layer.blocks)
    runs = sum((position + 1) // 4 for position in range(past, TOKENS))
    expected.activations += picked * BATCH * 2 * runs * 3 * 18
    assert seen == Products(expected.weights, expected.activations, seen.scans)


def test_queries_score_whole_runs() -> None:
    """On average over positions where a step ends with a run."""
    rows = operators(ours(FAMILY, SMALL), Step(BATCH, TOKENS, TOKENS))
    (index,) = (row.operator for row in rows if isinstance(row.operator, IndexScores))
    assert index.pairs() == sum((position + 1) // 4 for position in range(TOKENS))


def test_tables_of_ngrams_are_input_embeddings() -> None:
    """A token reads four rows of each, whose lengths are the eight primes from 89, in multiples of 8."""
    model = ours(FAMILY, SMALL)
    tables = sum(-(-sum(primes) // 8) * 8 * 6 for primes in ((89, 97, 101, 103), (107, 109, 113, 127)))
    left = active_parameters(model) - active_parameters(model, "without input embedding")
    assert left == tables + 101 * 60


def test_a_cache_holds_keys_of_runs_and_states() -> None:
    """As vLLM keeps them (models/qwen4_exp/common/qsa_cache.py): transformers has a key of every position.

    It pads a state that it has of tokens, and keeps all taps of convolutions.
    """
    network, model = reference(SMALL), ours(FAMILY, SMALL)
    cache = transformers.DynamicCache(config=network.config)
    tokens = torch.arange(BATCH * TOKENS).view(BATCH, TOKENS) % 101
    network(input_ids=tokens, past_key_values=cache, use_cache=True)
    keys = cache.layers[3]
    kv = size(keys.keys, keys.values)
    runs = BATCH * (TOKENS / 4 + 4) * 18 * 4
    delta = 3 * BATCH * (6 * 9 * 11 + (2 * 2 * 9 + 6 * 11) * 3) * 4
    ngrams = 2 * BATCH * 3 * 60 * 3 * 3 * 4
    held = model.cache_bytes(BATCH, TOKENS, Setting(Precision.of("fp32")))
    assert held == kv + runs + delta + ngrams


@pytest.mark.parametrize("listed", [[0], [5], "1", [True]])
def test_layers_that_are_none_are_refused(listed: Any) -> None:
    with pytest.raises(InputError, match="ple_layer_ids"):
        ours(FAMILY, {**SMALL, "ple_layer_ids": listed})
