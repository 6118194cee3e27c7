"""Latent attention, mostly with experts.

DeepSeek V2 to V3.2, Kimi K2, GLM-4.7-Flash and 5, Mistral 4 and Large 4, Youtu, MiniCPM3, A.X K1; and HY-V4,
which gates its attention and has several residual streams (transformers, models/hy_v4). The layers of
multi-token prediction (`num_nextn_predict_layers`) are no part of a step; the technique of that name counts
them.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from workloads.blocks import Block, Indexer, MlaBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import decoder_of, gated_mlp, rotating, with_streams
from workloads.families.experts import deepseek
from workloads.layer import Layer
from workloads.model import Model

LARGE_4 = "mistral_large4_text"
DEFAULTS = {  # q_lora_rank, kv_lora_rank, qk_nope_head_dim, v_head_dim
    "glm_moe_dsa": (2048, 512, 192, 256),
    "glm4_moe_lite": (768, 512, 192, 256),
    "mistral4": (1024, 256, 64, 128),
    "minicpm3": (768, 256, 64, 0),
    "hy_v4": (1536, 512, 192, 256),
    LARGE_4: (0, 512, 64, 128),
    "axk2": (384, 128, 64, 64),
}
DENSE = ("youtu", "minicpm3")  # without experts, with a head that is the embedding
# Families whose attention sees what an indexer picks, and its heads by default.
INDEX_HEADS = {"deepseek_v32": 64, "glm_moe_dsa": 32, "hy_v4": 16, LARGE_4: 32, "axk2": 16}
INDEXER_TYPES = ("full", "shared")


def _model(config: Config) -> Model:
    if not config.flag("use_mla", True):  # DeepSeek-VL2 and DeepSeek-OCR
        return import_module("workloads.families.multimodal").without_latents(config)  # type: ignore[no-any-return]
    hidden, count = config.size("hidden_size"), config.layers("num_hidden_layers")
    dense = config.kind in DENSE
    wide = [gated_mlp(config, config.flag("mlp_bias", False))] * count if dense else deepseek(config, count)
    pairs = zip(_attention(config, count), wide, strict=True)
    layers = [_layer(config, pair) for pair in pairs]
    if config.kind == "hy_v4":
        return with_streams(config, decoder_of(config, hidden, layers, positions=262_144), mixed=False)
    return decoder_of(config, hidden, layers, tied=dense)


def _layer(config: Config, pair: tuple[Block, Block]) -> Layer:
    """A.X K1 normalises what experts return, A.X K2 has gates on norms before all but dense MLPs."""
    mixer, wide = pair
    sparse = not isinstance(wide, MlpBlock)
    if config.kind == "axk2":
        gated = (mixer.branch, wide.branch) if sparse else (mixer.branch,)
        return Layer(pair, norm_rank=config.size("gated_norm_rank", default=16), gated_norms=gated)
    return Layer(pair, post_norms=wide.branch if config.kind == "axk1" and sparse else "")


def _attention(config: Config, count: int) -> list[Block]:
    kind = config.kind
    q_latent, kv_latent, nope, value = DEFAULTS.get(kind, (1536, 512, 128, 128))
    if not value:  # an equal share of the width
        value = config.size("hidden_size") // config.size("num_attention_heads")
    latent = config.fields.get("q_lora_rank", q_latent) if q_latent else None  # null: queries have none

    def block(indexer: Indexer | None) -> MlaBlock:
        return MlaBlock(
            heads=config.size("num_attention_heads"),
            q_latent=None if latent in (None, 0) else config.size("q_lora_rank", default=q_latent),
            kv_latent=config.size("kv_lora_rank", default=kv_latent),
            nope_dim=config.size("qk_nope_head_dim", default=nope),
            rope_dim=config.size("qk_rope_head_dim", default=32 if kind in ("minicpm3", "axk2") else 64),
            value_dim=config.size("v_head_dim", default=value),
            bias=config.flag("attention_bias", False),
            indexer=indexer,
            sinks=kind == "hy_v4",
            gated=kind in ("hy_v4", "axk2"),
            gate_in_queries=kind == "axk2",
        )

    if kind not in INDEX_HEADS:
        return [block(None)] * count
    index = Indexer(
        config.size("index_n_heads", default=INDEX_HEADS[kind]),
        config.size("index_head_dim", default=128),
        config.size("index_topk", default=2048),
        scaled=kind == LARGE_4,
    )
    own, picked = block(index), block(replace(index, borrowed=True))
    found = [own if word == "full" else picked for word in indexers(config, count)]
    return _large_4(config, found) if kind == LARGE_4 else list[Block](found)


def _large_4(config: Config, attention: list[MlaBlock]) -> list[Block]:
    """Mistral Large 4: every fourth layer without positions, layers that read others' latents."""
    count = len(attention)
    sources = config.indices("kv_source_layers", count) or list(range(count))
    if len(sources) != count or any(of > i or sources[of] != of for i, of in enumerate(sources)):
        raise config.wrong("kv_source_layers", "per layer itself or an earlier one that is its own")
    return [
        replace(
            block,
            scaled=True,
            borrows=sources[i] != i,
            nope_dim=block.nope_dim if rotates else block.qk_dim,
            rope_dim=block.rope_dim if rotates else 0,
            rotates=rotates,
        )
        for i, (block, rotates) in enumerate(zip(attention, rotating(config, count), strict=True))
    ]


def indexers(config: Config, count: int) -> list[str]:
    """Which layers have an indexer, and which share the picks of the last one before them (GLM-5.2)."""
    listed = config.per_layer("indexer_types", count, INDEXER_TYPES)
    if listed is None and (pattern := config.text("index_topk_pattern", default="")):
        if len(pattern) != count or set(pattern) - {"F", "S"}:
            raise config.wrong("index_topk_pattern", f"F or S for each of {count} layers")
        listed = [INDEXER_TYPES[letter == "S"] for letter in pattern]
    if listed is None:
        default = (4, 2) if config.kind == "hy_v4" else (1, 2)
        every = config.size("index_topk_freq", default=default[0])
        first = config.count("index_skip_topk_offset", default[1])
        listed = [INDEXER_TYPES[max(i - first + 1, 0) % every != 0] for i in range(count)]
    if listed[0] == "shared":
        raise config.wrong("indexer_types", "full in the first layer, for others to share")
    return listed


KINDS = (
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
    "deepseek_v32",
    "glm_moe_dsa",
    "glm4_moe_lite",
    "mistral4",
    "youtu",
    "minicpm3",
    "hy_v4",
    "axk1",
    "axk2",
    LARGE_4,
)
FAMILY = dict.fromkeys(KINDS, _model)
