"""Vision towers: the stack that turns an image's patches into prompt tokens."""

from __future__ import annotations

from dataclasses import fields

from workloads.architectures import Seeing
from workloads.blocks import (
    EncoderAttentionBlock,
    MlpBlock,
    NormShape,
    PatchEmbedding,
    PatchMerger,
    PositionTable,
)
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import Model, Stack

TOWERS = ("qwen3_5_text", "qwen3_5_moe_text")  # families whose tower is counted
LAYER_NORM = NormShape(center=True, bias=True)


def behind_tower(model: Model, config: Config) -> Model:
    """The decoder behind the tower that the `vision_config` of its Qwen3.5 config describes."""
    hidden, heads = config.size("hidden_size"), config.size("num_heads")
    config.divides("hidden_size", hidden, "num_heads", heads)
    patches, merge = config.size("num_position_embeddings"), config.size("spatial_merge_size", default=2)
    size, frames = config.size("patch_size"), config.size("temporal_patch_size", default=1)
    head_dim = hidden // heads
    block = EncoderAttentionBlock(heads, head_dim, bias=True, rotary_dim=head_dim, fused_qkv=True)
    activation = {"gelu_pytorch_tanh": "gelu_tanh"}.get(
        given := config.text("hidden_act", default="gelu"), given
    )
    mlp = MlpBlock(config.size("intermediate_size"), activation, gated=False, bias=True)
    tower = Stack(
        hidden,
        (Layer((block, mlp), LAYER_NORM),) * config.layers("depth"),
        (PatchEmbedding(config.size("in_channels", default=3) * frames * size**2), PositionTable(patches)),
        (PatchMerger(merge**2, config.size("out_hidden_size"), LAYER_NORM),),
        scope="vision.",
    )
    shared = {field.name: getattr(model, field.name) for field in fields(model)}
    return Seeing(**shared, vision=tower, patches=patches, merged=merge**2)
