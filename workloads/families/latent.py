"""DeepSeek V2 to V3.2, Kimi K2, GLM-4.7-Flash and GLM-5: latent attention, and experts behind dense layers.

The layers of multi-token prediction (`num_nextn_predict_layers`) are no part of a step; the technique of that
name counts them.
"""

from __future__ import annotations

from workloads.blocks import Block, Indexer, MlaBlock
from workloads.config import Config
from workloads.families.common import decoder_of
from workloads.families.experts import deepseek
from workloads.layer import Layer
from workloads.model import Model

DEFAULTS = {  # q_lora_rank, qk_nope_head_dim, v_head_dim
    "glm_moe_dsa": (2048, 192, 256),
    "glm4_moe_lite": (768, 192, 256),
}
INDEX_HEADS = {"deepseek_v32": 64, "glm_moe_dsa": 32}  # whose attention sees what an indexer picks
INDEXER_TYPES = ("full", "shared")
UNSHARED = "an indexer in each layer: layers that share picks are not known"


def _model(config: Config) -> Model:
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    pairs = zip(_attention(config, count), deepseek(config, count), strict=True)
    return decoder_of(config, hidden, [Layer(pair) for pair in pairs])


def _attention(config: Config, count: int) -> list[Block]:
    kind = config.kind
    q_latent, nope, value = DEFAULTS.get(kind, (1536, 128, 128))
    latent = config.fields.get("q_lora_rank", q_latent)  # null means that queries have none

    def block(indexer: Indexer | None) -> Block:
        return MlaBlock(
            heads=config.size("num_attention_heads"),
            q_latent=None if latent in (None, 0) else config.size("q_lora_rank", default=q_latent),
            kv_latent=config.size("kv_lora_rank", default=512),
            nope_dim=config.size("qk_nope_head_dim", default=nope),
            rope_dim=config.size("qk_rope_head_dim", default=64),
            value_dim=config.size("v_head_dim", default=value),
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
    listed = config.per_layer("indexer_types", count, INDEXER_TYPES)
    if listed and "shared" in listed:
        raise config.wrong("indexer_types", UNSHARED)
    if listed is None and config.fields.get("index_topk_pattern") is not None:
        raise config.wrong("index_topk_pattern", UNSHARED)
    if listed is None and config.size("index_topk_freq", default=1) > 1:
        raise config.wrong("index_topk_freq", UNSHARED)
    return [block(index)] * count


KINDS = ("deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite")
FAMILY = dict.fromkeys(KINDS, _model)
