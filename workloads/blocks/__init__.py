"""What layers are made of: one file per kind of block, each a record of shapes that knows its operators."""

from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Block, NormShape, Part, Place
from workloads.blocks.condition import FinalModulation, NoiseLevel
from workloads.blocks.delta import DeltaBlock, GatedAttentionBlock
from workloads.blocks.encoder import CrossAttentionBlock, EncoderAttentionBlock, RelativePositions, Sparsity
from workloads.blocks.ends import EmbeddingNorm, FinalNorm, Head, Pooler, PositionTable, TokenTable, TypeTable
from workloads.blocks.kernel import KernelAttentionBlock
from workloads.blocks.linformer import LinformerBlock
from workloads.blocks.mamba import Mamba2Block, MambaBlock
from workloads.blocks.mla import Indexer, MlaBlock
from workloads.blocks.mlp import MlpBlock
from workloads.blocks.moe import MoeBlock
from workloads.blocks.rwkv import ChannelMixBlock, TimeMixBlock
from workloads.blocks.rwkv_heads import EagleBlock, FinchBlock, GooseBlock
from workloads.blocks.vision import ClassToken, PatchEmbedding, PatchMerger

__all__ = [
    "RMS_NORM",
    "AttentionBlock",
    "Block",
    "ChannelMixBlock",
    "ClassToken",
    "CrossAttentionBlock",
    "DeltaBlock",
    "EagleBlock",
    "EmbeddingNorm",
    "EncoderAttentionBlock",
    "FinalModulation",
    "FinalNorm",
    "FinchBlock",
    "GatedAttentionBlock",
    "GooseBlock",
    "Head",
    "Indexer",
    "KernelAttentionBlock",
    "LinformerBlock",
    "Mamba2Block",
    "MambaBlock",
    "MlaBlock",
    "MlpBlock",
    "MoeBlock",
    "NoiseLevel",
    "NormShape",
    "Part",
    "PatchEmbedding",
    "PatchMerger",
    "Place",
    "Pooler",
    "PositionTable",
    "RelativePositions",
    "Sparsity",
    "TimeMixBlock",
    "TokenTable",
    "TypeTable",
]
