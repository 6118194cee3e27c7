"""What layers are made of: one file per kind of block, each a record of shapes that knows its operators."""

from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Block, NormShape, Part, Place
from workloads.blocks.ends import FinalNorm, Head, PositionTable, TokenTable
from workloads.blocks.mlp import MlpBlock

__all__ = [
    "RMS_NORM",
    "AttentionBlock",
    "Block",
    "FinalNorm",
    "Head",
    "MlpBlock",
    "NormShape",
    "Part",
    "Place",
    "PositionTable",
    "TokenTable",
]
