"""One small class per operator kind; each knows its work and its parameters."""

from workloads.operators.attention import Attention
from workloads.operators.base import Operator
from workloads.operators.bias import RelativeBias
from workloads.operators.changed import Changed
from workloads.operators.collective import AllReduce, AllToAll, Collective, Send
from workloads.operators.elementwise import Activation, Norm, Residual, Rope
from workloads.operators.features import FeatureMap
from workloads.operators.gemm import Gemm, GroupedGemm
from workloads.operators.index import IndexScores
from workloads.operators.linear import GatedDelta, LinearAttention
from workloads.operators.memory import Copy, Embedding, KvAppend
from workloads.operators.modulation import Modulation
from workloads.operators.positions import PositionProjection
from workloads.operators.routed import RoutedExperts, RoutedLayer
from workloads.operators.routing import Combine, Permute, TopK
from workloads.operators.rwkv import TokenShift, Wkv
from workloads.operators.rwkv_heads import DeltaWkv, MatrixWkv
from workloads.operators.sampling import Sampling
from workloads.operators.sparse import SparseAttention
from workloads.operators.ssm import CausalConv, SelectiveScan, Ssd

KINDS: tuple[type[Operator], ...] = (
    Gemm,
    Attention,
    Norm,
    Rope,
    Activation,
    Residual,
    Embedding,
    KvAppend,
    Sampling,
    AllReduce,
    CausalConv,
    SelectiveScan,
    Ssd,
    LinearAttention,
    GatedDelta,
    TokenShift,
    Wkv,
    MatrixWkv,
    DeltaWkv,
    SparseAttention,
    RelativeBias,
    AllToAll,
    Send,
    GroupedGemm,
    TopK,
    Permute,
    Combine,
    IndexScores,
    Collective,
    RoutedExperts,
    Modulation,
    FeatureMap,
    PositionProjection,
    Copy,
)

__all__ = [
    "KINDS",
    "Activation",
    "AllReduce",
    "AllToAll",
    "Attention",
    "CausalConv",
    "Changed",
    "Collective",
    "Combine",
    "Copy",
    "DeltaWkv",
    "Embedding",
    "FeatureMap",
    "GatedDelta",
    "Gemm",
    "GroupedGemm",
    "IndexScores",
    "KvAppend",
    "LinearAttention",
    "MatrixWkv",
    "Modulation",
    "Norm",
    "Operator",
    "Permute",
    "PositionProjection",
    "RelativeBias",
    "Residual",
    "Rope",
    "RoutedExperts",
    "RoutedLayer",
    "Sampling",
    "SelectiveScan",
    "Send",
    "SparseAttention",
    "Ssd",
    "TokenShift",
    "TopK",
    "Wkv",
]
