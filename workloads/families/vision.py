"""Vision towers: the stack that turns an image's patches into prompt tokens.

A tower is known by its decoder's family; images are of the size whose positions it has learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from specfiles.errors import InputError
from specfiles.frozen import dataclass
from workloads.architectures import VisionLanguage
from workloads.blocks import (
    Block,
    ClassToken,
    EmbeddingNorm,
    EncoderAttentionBlock,
    PatchEmbedding,
    PatchMerger,
    PositionTable,
)
from workloads.config import Config
from workloads.families.common import LAYER_NORM, plain_mlp, width_and_heads
from workloads.layer import Layer
from workloads.model import Model, Stack


@dataclass(frozen=True)
class Tower:
    """A stack, the patches of one image, how many become a token, and positions that are no patch."""

    stack: Stack
    patches: int
    merged: int
    others: int = 0


def _qwen(config: Config, width: int) -> Tower:
    """Qwen3.5: patches of two frames, one matrix for q, k and v, four neighbours through an MLP."""
    hidden, merge = config.size("hidden_size"), config.size("spatial_merge_size", default=2)
    patches, frames = config.size("num_position_embeddings"), config.size("temporal_patch_size", default=1)
    config.divides("num_position_embeddings", patches, "merged patches", merge**2)
    elements = config.size("in_channels", default=3) * frames * config.size("patch_size") ** 2
    merger = PatchMerger(merge**2, (hidden * merge**2, config.size("out_hidden_size")), LAYER_NORM)
    layer = _layer(config, "num_heads", fused_qkv=True)
    inputs = (PatchEmbedding(elements), PositionTable(patches))
    return Tower(_stack(config, "depth", layer, inputs, merger), patches, merge**2)


def _llama4(config: Config, width: int) -> Tower:
    """Llama 4: a class token beside the patches, pixels shuffled into channels, three matrices."""
    hidden, side = config.size("hidden_size"), config.size("image_size") // config.size("patch_size")
    config.within("patch_size", config.size("patch_size"), "image_size", config.size("image_size"))
    ratio = config.fraction("pixel_shuffle_ratio", 0.5)
    if side * ratio < 1:
        raise config.wrong("pixel_shuffle_ratio", f"at least 1 / {side}, one over the patches of a side")
    merged = round(ratio**-2)
    if hidden * merged != config.size("intermediate_size"):
        raise config.wrong("intermediate_size", f"hidden_size x {merged} shuffled patches, {hidden * merged}")
    inner = config.size("projector_input_dim")
    for name in ("projector_output_dim", "vision_output_dim"):
        if config.size(name, default=inner) != inner:
            raise config.wrong(name, f"projector_input_dim, {inner}")
    elements = config.size("num_channels", default=3) * config.size("patch_size") ** 2
    inputs = (
        PatchEmbedding(elements, bias=False, others=1),
        ClassToken(),
        PositionTable(side**2 + 1),
        EmbeddingNorm(LAYER_NORM),
    )
    merger = PatchMerger(merged, (inner, inner, width), LAYER_NORM, activated=2, bias=False)
    layer = _layer(config, "num_attention_heads")
    return Tower(_stack(config, "num_hidden_layers", layer, inputs, merger), side**2, merged, others=1)


def _kimi(config: Config, width: int) -> Tower:
    """Kimi K2.5 and Kimi-VL: MoonViT, whose learned positions are a grid, and an MLP over 2 x 2 patches.

    Its authors' configs put `vt_` before most fields, those of transformers do not.
    """
    config = Config({name.removeprefix("vt_"): value for name, value in config.fields.items()}, config.origin)
    hidden, merge = config.size("hidden_size"), config.fields.get("merge_kernel_size", [2, 2])
    if not isinstance(merge, list | tuple) or len(merge) != 2:
        raise config.wrong("merge_kernel_size", "a list of two whole numbers")
    sides = [
        Config({"merge_kernel_size": n}, config.origin).size("merge_kernel_size", most=64) for n in merge
    ]
    merged = sides[0] * sides[1]
    names = (("pos_emb_height", "init_pos_emb_height"), ("pos_emb_width", "init_pos_emb_width"))
    height, length = (config.size(*pair, default=64) for pair in names)
    inputs = (PatchEmbedding(3 * config.size("patch_size") ** 2), PositionTable(height * length))
    merger = PatchMerger(merged, (hidden * merged, width), LAYER_NORM, norms=2)
    layer = _layer(config, "num_attention_heads")
    return Tower(_stack(config, "num_hidden_layers", layer, inputs, merger), height * length, merged)


def _layer(config: Config, heads_field: str, fused_qkv: bool = False) -> Layer:
    hidden, heads = width_and_heads(config, heads=(heads_field,))
    dim = hidden // heads
    attention = EncoderAttentionBlock(heads, dim, bias=True, rotary_dim=dim, fused_qkv=fused_qkv)
    return Layer((attention, plain_mlp(config, "gelu")), LAYER_NORM)


def _stack(
    config: Config, count_field: str, layer: Layer, inputs: tuple[Block, ...], merger: PatchMerger
) -> Stack:
    layers = (layer,) * config.layers(count_field)
    return Stack(config.size("hidden_size"), layers, inputs, (merger,), scope="vision.", wide=True)


TOWERS: dict[str, tuple[str, Callable[[Config, int], Tower]]] = {  # and how models that have one are called
    "qwen3_5_text": ("qwen3_5", _qwen),
    "qwen3_5_moe_text": ("qwen3_5", _qwen),
    "llama4_text": ("llama4", _llama4),
    "deepseek_v3": ("kimi", _kimi),
    "kimi_k2": ("kimi", _kimi),
}


def reads_tower(whole: str, decoder: str) -> bool:
    """Whether the tower of a model of these types is known.

    Its decoder stands behind others, too: Qwen3.5's in MiniCPM-V 4.6, DeepSeek's in Mistral Large 3.
    """
    known = TOWERS.get(decoder)
    return known is not None and (whole in ("", decoder) or whole.startswith(known[0]))


def behind_tower(model: Model, config: Config) -> Model:
    """The decoder behind the tower that a `vision_config` describes.

    Raises InputError for missing or contradictory fields, and where the tower's rows are not as wide as the
    decoder's.
    """
    tower = TOWERS[model.family][1](config, model.hidden)
    *_, merger = tower.stack.outputs
    assert isinstance(merger, PatchMerger)
    if merger.widths[-1] != model.hidden:
        raise InputError(
            f"{config.origin}: out_hidden_size is {merger.widths[-1]}; expected the decoder's width, "
            f"{model.hidden}."
        )
    shared = {field.name: getattr(model, field.name) for field in fields(model)}
    return VisionLanguage(
        **shared, vision=tower.stack, patches=tower.patches, merged=tower.merged, others=tower.others
    )
