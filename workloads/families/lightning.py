"""MiniMax-01 and M1 (arXiv:2501.08313, 2506.13585): lightning attention, attention in some layers, experts.

Constant factors of the residual stream are taken along by the additions.
"""

from __future__ import annotations

from workloads.blocks import AttentionBlock, Block, LightningBlock
from workloads.config import Config
from workloads.families.common import activation, decoder_of, head_dim_of, kv_heads_of, rotated
from workloads.families.experts import in_each
from workloads.families.hybrid import QWEN as KINDS
from workloads.layer import Layer
from workloads.model import Model

LIGHTNING, FULL = KINDS


def _minimax(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    if config.count("shared_intermediate_size", 0):
        raise config.wrong("shared_intermediate_size", "0: a shared expert is not known")
    heads = config.size("num_attention_heads")
    width, kv_heads = head_dim_of(config, hidden, heads), kv_heads_of(config, heads, 8)
    window = config.optional_size("sliding_window")
    chunk, act = config.size("block_size", default=256), activation(config, "hidden_act", default="silu")
    mixers: dict[str, Block] = {
        LIGHTNING: LightningBlock(heads, width, chunk, act),
        FULL: AttentionBlock(heads, kv_heads, width, rotated(config, width), window),
    }
    kinds = _kinds(config, count) if config.kind == "minimax" else _listed(config, count)
    wide = in_each("num_local_experts", 8)(config, count)
    layers = [Layer((mixers[kind], block)) for kind, block in zip(kinds, wide, strict=True)]
    return decoder_of(config, hidden, layers, positions=131072)


def _kinds(config: Config, layers: int) -> list[str]:
    """As transformers writes them; by default in turn, full attention first."""
    return config.per_layer("layer_types", layers, KINDS) or [KINDS[i % 2 == 0] for i in range(layers)]


def _listed(config: Config, layers: int) -> list[str]:
    """As the authors write them: 1 for full attention."""
    listed = config.flags("attn_type_list", layers)
    if listed is None:
        raise config.wrong("attn_type_list", "0 or 1 per layer")
    return [KINDS[full] for full in listed]


FAMILY = dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), _minimax)
