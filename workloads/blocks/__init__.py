"""What layers are made of: one file per kind of block, each a record of shapes that knows its operators."""

from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Block, NormShape, Part, Place
from workloads.blocks.ends import FinalNorm, Head, PositionTable, TokenTable
from workloads.blocks.mla import Indexer, MlaBlock
from workloads.blocks.mlp import MlpBlock
from workloads.blocks.moe import MoeBlock

__all__ = [
    "RMS_NORM",
    "AttentionBlock",
    "Block",
    "FinalNorm",
    "Head",
    "Indexer",
    "MlaBlock",
    "MlpBlock",
    "MoeBlock",
    "NormShape",
    "Part",
    "Place",
    "PositionTable",
    "TokenTable",
]
