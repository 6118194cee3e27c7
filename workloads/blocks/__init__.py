"""What layers are made of: one file per kind of block, each a record of shapes that knows its operators."""

from typing import TYPE_CHECKING

from specfiles.lazy import exported, names_of

if TYPE_CHECKING:
    from workloads.blocks.altup import AltUpCorrection as AltUpCorrection
    from workloads.blocks.altup import AltUpPrediction as AltUpPrediction
    from workloads.blocks.altup import LaurelBlock as LaurelBlock
    from workloads.blocks.altup import StreamsIn as StreamsIn
    from workloads.blocks.altup import StreamsOut as StreamsOut
    from workloads.blocks.attention import AttentionBlock as AttentionBlock
    from workloads.blocks.audio import FrameEmbedding as FrameEmbedding
    from workloads.blocks.base import RMS_NORM as RMS_NORM
    from workloads.blocks.base import UNSCALED as UNSCALED
    from workloads.blocks.base import Block as Block
    from workloads.blocks.base import NormShape as NormShape
    from workloads.blocks.base import Part as Part
    from workloads.blocks.base import Place as Place
    from workloads.blocks.block_sparse import BlockSparseAttentionBlock as BlockSparseAttentionBlock
    from workloads.blocks.compressed import CompressedAttentionBlock as CompressedAttentionBlock
    from workloads.blocks.compressed import EntryIndex as EntryIndex
    from workloads.blocks.condition import FinalModulation as FinalModulation
    from workloads.blocks.condition import NoiseLevel as NoiseLevel
    from workloads.blocks.cycles import CycleStart as CycleStart
    from workloads.blocks.delta import DeltaBlock as DeltaBlock
    from workloads.blocks.delta import GatedAttentionBlock as GatedAttentionBlock
    from workloads.blocks.differential import DifferentialAttentionBlock as DifferentialAttentionBlock
    from workloads.blocks.encoder import CrossAttentionBlock as CrossAttentionBlock
    from workloads.blocks.encoder import EncoderAttentionBlock as EncoderAttentionBlock
    from workloads.blocks.encoder import RelativePositions as RelativePositions
    from workloads.blocks.encoder import Sparsity as Sparsity
    from workloads.blocks.ends import EmbeddingNorm as EmbeddingNorm
    from workloads.blocks.ends import FinalNorm as FinalNorm
    from workloads.blocks.ends import Head as Head
    from workloads.blocks.ends import Pooler as Pooler
    from workloads.blocks.ends import PositionTable as PositionTable
    from workloads.blocks.ends import TokenTable as TokenTable
    from workloads.blocks.ends import TypeTable as TypeTable
    from workloads.blocks.gated import OutputGateBlock as OutputGateBlock
    from workloads.blocks.gemma import CutMlpBlock as CutMlpBlock
    from workloads.blocks.gemma import GemmaAttentionBlock as GemmaAttentionBlock
    from workloads.blocks.gemma import GemmaMoeBlock as GemmaMoeBlock
    from workloads.blocks.hyper import GatedStreams as GatedStreams
    from workloads.blocks.hyper import LastStreams as LastStreams
    from workloads.blocks.hyper import StreamCopies as StreamCopies
    from workloads.blocks.hyper import StreamMean as StreamMean
    from workloads.blocks.hyper import Streams as Streams
    from workloads.blocks.hyper import StreamSum as StreamSum
    from workloads.blocks.inkling import DistanceAttentionBlock as DistanceAttentionBlock
    from workloads.blocks.inkling import MlpConvBlock as MlpConvBlock
    from workloads.blocks.inkling import ResultConvBlock as ResultConvBlock
    from workloads.blocks.inkling import ScaledMlpBlock as ScaledMlpBlock
    from workloads.blocks.inkling import ScaledMoeBlock as ScaledMoeBlock
    from workloads.blocks.kda import KdaBlock as KdaBlock
    from workloads.blocks.kernel import KernelAttentionBlock as KernelAttentionBlock
    from workloads.blocks.lightning import LightningBlock as LightningBlock
    from workloads.blocks.linformer import LinformerBlock as LinformerBlock
    from workloads.blocks.mamba import Mamba2Block as Mamba2Block
    from workloads.blocks.mamba import MambaBlock as MambaBlock
    from workloads.blocks.mla import Indexer as Indexer
    from workloads.blocks.mla import MlaBlock as MlaBlock
    from workloads.blocks.mlp import ConditionedMlpBlock as ConditionedMlpBlock
    from workloads.blocks.mlp import MlpBlock as MlpBlock
    from workloads.blocks.moe import MoeBlock as MoeBlock
    from workloads.blocks.moe import ShortcutMoeBlock as ShortcutMoeBlock
    from workloads.blocks.ngram import NgramBlock as NgramBlock
    from workloads.blocks.past import LastChoice as LastChoice
    from workloads.blocks.past import PastSums as PastSums
    from workloads.blocks.per_layer import PerLayerBlock as PerLayerBlock
    from workloads.blocks.per_layer import PerLayerTable as PerLayerTable
    from workloads.blocks.qsa import PickedAttentionBlock as PickedAttentionBlock
    from workloads.blocks.rwkv import ChannelMixBlock as ChannelMixBlock
    from workloads.blocks.rwkv import TimeMixBlock as TimeMixBlock
    from workloads.blocks.rwkv_heads import EagleBlock as EagleBlock
    from workloads.blocks.rwkv_heads import FinchBlock as FinchBlock
    from workloads.blocks.rwkv_heads import GooseBlock as GooseBlock
    from workloads.blocks.shared import SHARED as SHARED
    from workloads.blocks.shared import SharedAttentionBlock as SharedAttentionBlock
    from workloads.blocks.shared import SharedMlpBlock as SharedMlpBlock
    from workloads.blocks.short_conv import ShortConvBlock as ShortConvBlock
    from workloads.blocks.vision import ClassToken as ClassToken
    from workloads.blocks.vision import PatchEmbedding as PatchEmbedding
    from workloads.blocks.vision import PatchMerger as PatchMerger
    from workloads.blocks.zaya import CarriedMoeBlock as CarriedMoeBlock
    from workloads.blocks.zaya import ConvolvedAttentionBlock as ConvolvedAttentionBlock
    from workloads.blocks.zaya import ScaledInput as ScaledInput

NAMES = exported(__name__)
__getattr__ = names_of(__name__, NAMES)
