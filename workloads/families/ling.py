"""Ling and Ring 2.5, 2.6 (arXiv:2606.15079) and 3: linear attention, latent in some layers, experts.

Version 3 has Kimi delta attention and gates behind latent attention (transformers, models/bailing_hybrid),
earlier ones lightning attention (vLLM, models/bailing_moe_linear.py).
"""

from __future__ import annotations

from workloads.blocks import RMS_NORM, Block, KdaBlock, LightningBlock, MlaBlock
from workloads.config import Config
from workloads.families.common import decoder_of, head_dim_of, rotated
from workloads.families.experts import bailing
from workloads.families.hybrid import QWEN as KINDS
from workloads.layer import Layer
from workloads.model import Model

LINEAR, FULL = KINDS
LIGHTNING = ("group_norm_size", "linear_silu", "use_linear_silu")  # fields of lightning attention alone
GATES = {"head_wise": True, "element_wise": False}
CHUNK = 256  # positions of a block in vLLM's kernel (layers/lightning_attn.py)


def _bailing_hybrid(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    version = str(config.fields.get("architectures"))
    lightning = "V2_5" in version or any(name in config.fields for name in LIGHTNING)
    gate = config.text("gated_attention_proj_granularity_type", default="head_wise")
    if gate not in GATES:
        raise config.wrong("gated_attention_proj_granularity_type", f"one of {', '.join(GATES)}")
    mixers: dict[str, Block] = {
        LINEAR: _lightning(config, hidden) if lightning else _delta(config),
        FULL: MlaBlock(
            heads=config.size("num_attention_heads"),
            q_latent=config.optional_size("q_lora_rank"),
            kv_latent=config.size("kv_lora_rank", default=512),
            nope_dim=config.size("qk_nope_head_dim", default=128),
            rope_dim=config.size("qk_rope_head_dim", default=64),
            value_dim=config.size("v_head_dim", default=128),
            gated=not lightning,
            gate_by_head=not lightning and GATES[gate],
        ),
    }
    group = config.size("layer_group_size", default=6)
    default = [KINDS[(i + 1) % group == 0] for i in range(count)]
    kinds = config.per_layer("layer_types", count, KINDS) or default
    layers = [Layer((mixers[kind], wide)) for kind, wide in zip(kinds, bailing(config, count), strict=True)]
    longest = ("max_position_embeddings", "model_max_length")
    return decoder_of(config, hidden, layers, longest=longest, positions=262_144)


def _delta(config: Config) -> KdaBlock:
    return KdaBlock(
        config.size("num_attention_heads"),
        config.size("head_dim", default=128),
        config.size("short_conv_kernel_size", default=4),
        full_rank_gate=True,
        full_rank_decay=True,
    )


def _lightning(config: Config, hidden: int) -> LightningBlock:
    heads = config.size("num_attention_heads")
    width = head_dim_of(config, hidden, heads)
    silu = config.flag("use_linear_silu", config.flag("linear_silu", False))
    return LightningBlock(
        heads,
        width,
        CHUNK,
        "silu" if silu else "",
        rotated(config, width) if config.flag("linear_rope", True) else 0,
        RMS_NORM if config.flag("use_qk_norm", False) else None,
        config.size("group_norm_size", default=1),
    )


FAMILY = {"bailing_hybrid": _bailing_hybrid}
