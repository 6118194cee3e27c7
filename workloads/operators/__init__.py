"""One small class per operator kind; each knows its work and its parameters."""

from typing import TYPE_CHECKING

from specfiles.lazy import exported, names_of

if TYPE_CHECKING:
    from workloads.operators.attention import Attention as Attention
    from workloads.operators.attention import IndexScores as IndexScores
    from workloads.operators.base import Operator as Operator
    from workloads.operators.changed import Changed as Changed
    from workloads.operators.collective import AllGather as AllGather
    from workloads.operators.collective import AllReduce as AllReduce
    from workloads.operators.collective import AllToAll as AllToAll
    from workloads.operators.collective import Collective as Collective
    from workloads.operators.collective import Send as Send
    from workloads.operators.compressed import CompressedAttention as CompressedAttention
    from workloads.operators.compressed import Compression as Compression
    from workloads.operators.elementwise import Activation as Activation
    from workloads.operators.elementwise import Modulation as Modulation
    from workloads.operators.elementwise import Norm as Norm
    from workloads.operators.elementwise import RelativeBias as RelativeBias
    from workloads.operators.elementwise import Residual as Residual
    from workloads.operators.elementwise import Rope as Rope
    from workloads.operators.features import FeatureMap as FeatureMap
    from workloads.operators.gemm import Gemm as Gemm
    from workloads.operators.gemm import GroupedGemm as GroupedGemm
    from workloads.operators.linear import GatedDelta as GatedDelta
    from workloads.operators.linear import LinearAttention as LinearAttention
    from workloads.operators.memory import Copy as Copy
    from workloads.operators.memory import Embedding as Embedding
    from workloads.operators.memory import KvAppend as KvAppend
    from workloads.operators.positions import PositionProjection as PositionProjection
    from workloads.operators.positions import SequenceConv as SequenceConv
    from workloads.operators.routed import RoutedExperts as RoutedExperts
    from workloads.operators.routed import RoutedLayer as RoutedLayer
    from workloads.operators.routing import Combine as Combine
    from workloads.operators.routing import Permute as Permute
    from workloads.operators.routing import TopK as TopK
    from workloads.operators.rwkv import TokenShift as TokenShift
    from workloads.operators.rwkv import Wkv as Wkv
    from workloads.operators.rwkv_heads import DeltaWkv as DeltaWkv
    from workloads.operators.rwkv_heads import MatrixWkv as MatrixWkv
    from workloads.operators.sampling import Sampling as Sampling
    from workloads.operators.sparse import SparseAttention as SparseAttention
    from workloads.operators.ssm import CausalConv as CausalConv
    from workloads.operators.ssm import SelectiveScan as SelectiveScan
    from workloads.operators.ssm import Ssd as Ssd
    from workloads.operators.streams import ResidualChoice as ResidualChoice
    from workloads.operators.streams import StreamCollapse as StreamCollapse
    from workloads.operators.streams import StreamMix as StreamMix
    from workloads.operators.streams import StreamSpread as StreamSpread
    from workloads.operators.streams import StreamUpdate as StreamUpdate

NAMES = exported(__name__)
__getattr__ = names_of(__name__, NAMES)
