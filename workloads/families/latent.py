"""DeepSeek V2 to V3.2, Kimi K2 and GLM-5: latent attention, and experts behind dense layers.

The layers of multi-token prediction (`num_nextn_predict_layers`) are no part of a step and not counted.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks import Block, Indexer, MlaBlock
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.experts import deepseek
from workloads.layer import Layer
from workloads.model import Model

INDEX_HEADS = {"deepseek_v32": 64, "glm_moe_dsa": 32}  # whose attention sees what an indexer picks
INDEXER_TYPES = ("full", "shared")


def _model(config: Config, kind: str) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    pairs = zip(_attention(config, kind, count), deepseek(config, count), strict=True)
    return decoder_of(config, kind, hidden, [Layer(pair) for pair in pairs])


def _attention(config: Config, kind: str, count: int) -> list[Block]:
    latent = config.fields.get("q_lora_rank", 1536)  # null means that queries have none

    def block(indexer: Indexer | None) -> Block:
        return MlaBlock(
            heads=config.size("num_attention_heads"),
            q_latent=None if latent in (None, 0) else config.size("q_lora_rank", default=1536),
            kv_latent=config.size("kv_lora_rank", default=512),
            nope_dim=config.size("qk_nope_head_dim", default=192 if kind == "glm_moe_dsa" else 128),
            rope_dim=config.size("qk_rope_head_dim", default=64),
            value_dim=config.size("v_head_dim", default=256 if kind == "glm_moe_dsa" else 128),
            bias=config.flag("attention_bias", False),
            indexer=indexer,
        )

    if kind not in INDEX_HEADS:
        return [block(None)] * count
    index = Indexer(
        config.size("index_n_heads", default=INDEX_HEADS[kind]),
        config.size("index_head_dim", default=128),
        config.size("index_topk", default=2048),
    )
    if config.per_layer("indexer_types", count, INDEXER_TYPES) or "index_topk_freq" in config.fields:
        raise config.wrong("index_topk_freq", "no shared picks: layers that share an index are not known")
    return [block(index)] * count


KINDS = ("deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa")
FAMILY = {kind: partial(_model, kind=kind) for kind in KINDS}
