"""Kimi Linear (arXiv:2510.26692): Kimi delta attention, latent attention without positions in some layers.

Kimi K3 gates all attention, routes experts in a latent, and chooses among sums of earlier layers (vLLM,
models/kimi_k3).
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import Block, KdaBlock, LastChoice, MlaBlock, MoeBlock, PastSums
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.experts import deepseek
from workloads.families.hybrid import QWEN as KINDS
from workloads.layer import Layer
from workloads.model import Model

DELTA, FULL = KINDS


def _kimi(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    inside = config.nested("linear_attn_config")
    latent = config.optional_size("q_lora_rank")
    mixers: dict[str, Block] = {
        DELTA: replace(
            delta_attention(config, heads=32), full_rank_gate=inside.flag("use_full_rank_gate", False)
        ),
        FULL: MlaBlock(
            heads=config.size("num_attention_heads"),
            q_latent=latent,
            kv_latent=config.size("kv_lora_rank", default=512),
            nope_dim=config.size("qk_nope_head_dim", default=128),
            rope_dim=config.size("qk_rope_head_dim", default=64),
            value_dim=config.size("v_head_dim", default=128),
            bias=config.flag("attention_bias", False),
            rotates=not config.flag("mla_use_nope", True),
            gated=config.flag("mla_use_output_gate", False),
        ),
    }
    size = config.optional_size("attn_res_block_size")  # layers of a block
    pairs = zip(_kinds(config, inside, count), _wide(config, count), strict=True)
    layers = [
        Layer((mixers[kind], wide), streams=PastSums(-(-i // size), i % size == 0) if size else None)
        for i, (kind, wide) in enumerate(pairs)
    ]
    longest = ("max_position_embeddings", "model_max_length")
    model = decoder_of(config, hidden, layers, longest=longest, positions=1_048_576)
    if not size:
        return model
    outputs = (LastChoice(-(-count // size)), *model.stack.outputs)
    return replace(model, stack=replace(model.stack, outputs=outputs))


def delta_attention(config: Config, heads: int) -> KdaBlock:
    """As its authors state it, in a field of its own, or transformers; `heads` by default."""
    inside = config.nested("linear_attn_config")
    return KdaBlock(
        inside.size("num_heads", default=config.size("linear_num_heads", default=heads)),
        inside.size("head_dim", default=config.size("linear_head_dim", default=128)),
        inside.size("short_conv_kernel_size", default=config.size("linear_conv_kernel_dim", default=4)),
    )


def _wide(config: Config, layers: int) -> list[Block]:
    latent = config.optional_size("routed_expert_hidden_size") or 0
    norm = config.flag("latent_moe_use_norm", False)
    return [
        replace(block, latent=latent, latent_norm=norm) if latent and isinstance(block, MoeBlock) else block
        for block in deepseek(config, layers)
    ]


def _kinds(config: Config, inside: Config, layers: int) -> list[str]:
    """As transformers writes them; authors number the layers of each kind from 1."""
    if listed := config.per_layer("layer_types", layers, KINDS):
        return listed
    numbers = {
        kind: inside.fields.get(name) for kind, name in ((FULL, "full_attn_layers"), (DELTA, "kda_layers"))
    }
    if all(found is None for found in numbers.values()):
        return [FULL if i and i % 4 == 0 else DELTA for i in range(layers)]
    listed_in = [(i, kind) for kind, found in numbers.items() if isinstance(found, list) for i in found]
    kinds = {i: kind for i, kind in listed_in if isinstance(i, int)}
    if len(kinds) != len(listed_in) or set(kinds) != set(range(1, layers + 1)):
        raise config.wrong("linear_attn_config", f"each of the layers 1 to {layers} in one of its lists")
    return [kinds[i] for i in range(1, layers + 1)]


FAMILY = {"kimi_linear": _kimi}
