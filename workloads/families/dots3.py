"""Dots 3 Note: latent attention with a gate per head; layers with a window have latents of their own sizes.

The others see what an indexer picks (transformers, models/dots3_note).
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import Indexer, MlaBlock, MlpBlock, MoeBlock
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.experts import deepseek
from workloads.families.llama import WINDOW_TYPES
from workloads.layer import Layer
from workloads.model import Model

NEAR, FULL, PICKED = *WINDOW_TYPES, "indexed_attention"
OF_WINDOWS = {  # defaults of their layers, which authors state behind `swa_`
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}


def _dots3(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    listed = config.nested("per_layer_config")
    own = {n.lstrip("0") or "0": listed.nested(n) for n in listed.fields}  # transformers fills up with zeros
    window = config.size("sliding_window", "sliding_window_size", default=512)
    attention = [
        _attention(config, own.get(str(i)), kind, window) for i, kind in enumerate(_kinds(config, count))
    ]
    pairs = zip(attention, _wide(config, count), strict=True)
    return decoder_of(config, hidden, [Layer(pair) for pair in pairs], positions=524_288)


def _kinds(config: Config, layers: int) -> list[str]:
    """Authors call layers with an indexer full attention, unless `use_dsa` says that there is none."""
    near = config.flag("use_sliding_window", True)
    listed = config.per_layer("layer_types", layers, (NEAR, FULL, PICKED))
    default = [FULL if not near or i < 2 or i % 4 == 1 else NEAR for i in range(layers)]
    kinds = listed or default
    stated = config.fields.get("use_dsa") is not None or config.fields.get("per_layer_config") is None
    if not stated and listed:
        return kinds
    seeing = PICKED if config.flag("use_dsa", True) else FULL
    return [kind if kind == NEAR else seeing for kind in kinds]


def _attention(config: Config, own: Config | None, kind: str, window: int) -> MlaBlock:
    """That of a layer, whose sizes may be its own."""
    inside = kind == NEAR
    if inside and own is None:
        stated = {name: config.fields.get(f"swa_{name}", size) for name, size in OF_WINDOWS.items()}
        nope = Config(stated, config.origin).size("qk_nope_head_dim")
        wide = config.size("swa_head_dim", default=256)
        if nope >= wide:
            raise config.wrong("swa_qk_nope_head_dim", f"below swa_head_dim, {wide}")
        stated["qk_rope_head_dim"] = config.fields.get("swa_qk_rope_head_dim", wide - nope)
        own = Config(stated, config.origin)
    sizes = Config({**config.fields, **(own.fields if own else {})}, own.origin if own else config.origin)
    index = Indexer(
        config.size("index_n_heads", default=64),
        config.size("index_head_dim", default=128),
        config.size("index_topk", default=2048),
    )
    return MlaBlock(
        heads=sizes.size("num_attention_heads"),
        q_latent=sizes.size("q_lora_rank", default=1024),
        kv_latent=sizes.size("kv_lora_rank", default=512),
        nope_dim=sizes.size("qk_nope_head_dim", default=128),
        rope_dim=sizes.size("qk_rope_head_dim", default=64),
        value_dim=sizes.size("v_head_dim", default=128),
        bias=config.flag("attention_bias", False),
        indexer=index if kind == PICKED else None,
        gated=True,
        gate_by_head=True,
        window=window if inside else None,
        rope_norm=True,
    )


def _wide(config: Config, layers: int) -> list[MoeBlock | MlpBlock]:
    names = ("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
    shared = config.size(*names, default=1536) * config.size("n_shared_experts", default=1)
    found: list[MoeBlock | MlpBlock] = []
    for block in deepseek(config, layers):
        assert isinstance(block, MoeBlock | MlpBlock)
        own = MlpBlock(shared, block.activation)
        found.append(replace(block, shared=own) if isinstance(block, MoeBlock) else block)
    return found


FAMILY = {"dots3_note_text": _dots3}
