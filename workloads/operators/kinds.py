"""Every kind of operator, for those who must know them all: readers of ranges, and tests."""

from workloads.operators.attention import Attention
from workloads.operators.base import Operator
from workloads.operators.bias import RelativeBias
from workloads.operators.collective import AllReduce, AllToAll, Collective, Send
from workloads.operators.elementwise import Activation, Norm, Residual, Rope
from workloads.operators.features import FeatureMap
from workloads.operators.gemm import Gemm, GroupedGemm
from workloads.operators.index import IndexScores
from workloads.operators.linear import GatedDelta, LinearAttention
from workloads.operators.memory import Copy, Embedding, KvAppend
from workloads.operators.modulation import Modulation
from workloads.operators.positions import PositionProjection
from workloads.operators.routed import RoutedExperts
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
