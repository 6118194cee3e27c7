"""GLM-5.3-Flash: Kimi delta attention, in each fourth layer sparse latent attention; residual streams.

By the code of transformers, models/glm5_next.
"""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import Block, Indexer, MlaBlock
from workloads.config import Config
from workloads.families.common import decoder_of, with_streams
from workloads.families.experts import deepseek
from workloads.families.kimi import delta_attention
from workloads.families.latent import indexers
from workloads.layer import Layer
from workloads.model import Model

DELTA = "linear_attention"
KINDS = (DELTA, "indexed_attention", "full_attention")  # the last two are one


def _glm5_next(config: Config) -> Model:
    """No layer has positions; indexes pick runs of positions."""
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    if config.count("qk_rope_head_dim", 0):
        raise config.wrong("qk_rope_head_dim", "0: this family with positions is not known")
    delta = delta_attention(config, heads=64)
    index = Indexer(
        config.size("index_n_heads", default=32),
        config.size("index_head_dim", default=128),
        config.size("index_topk", default=2048),
        pool=config.size("index_kpool", default=16),
    )
    config.divides("index_topk", index.chosen, "index_kpool", index.pool)
    latent = MlaBlock(
        heads=config.size("num_attention_heads"),
        q_latent=config.size("q_lora_rank", default=1536),
        kv_latent=config.size("kv_lora_rank", default=512),
        nope_dim=config.size("qk_nope_head_dim", default=256),
        rope_dim=0,
        value_dim=config.size("v_head_dim", default=256),
        bias=config.flag("attention_bias", False),
        indexer=index,
        rotates=False,
    )
    shared = replace(latent, indexer=replace(index, borrowed=True))
    default = [KINDS[i % 4 == 3] for i in range(count)]
    kinds = config.per_layer("layer_types", count, KINDS) or default
    mixers: list[Block] = [
        delta if kind == DELTA else latent if own == "full" else shared
        for kind, own in zip(kinds, indexers(config, count), strict=True)
    ]
    pairs = zip(mixers, deepseek(config, count), strict=True)
    layers = [Layer(pair) for pair in pairs]
    return with_streams(config, decoder_of(config, hidden, layers, positions=1_048_576), mean=True)


FAMILY = {"glm5_next_text": _glm5_next}
