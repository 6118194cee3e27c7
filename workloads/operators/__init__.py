"""One small class per operator kind; each knows its work and its parameters."""

from workloads.operators.attention import Attention
from workloads.operators.base import Operator
from workloads.operators.bias import RelativeBias
from workloads.operators.collective import AllReduce
from workloads.operators.elementwise import Activation, Norm, Residual, Rope
from workloads.operators.gemm import Gemm
from workloads.operators.linear import GatedDelta, LinearAttention
from workloads.operators.memory import Embedding, KvAppend
from workloads.operators.rwkv import TokenShift, Wkv
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
    SparseAttention,
    RelativeBias,
)

__all__ = [
    "KINDS",
    "Activation",
    "AllReduce",
    "Attention",
    "CausalConv",
    "Embedding",
    "GatedDelta",
    "Gemm",
    "KvAppend",
    "LinearAttention",
    "Norm",
    "Operator",
    "RelativeBias",
    "Residual",
    "Rope",
    "Sampling",
    "SelectiveScan",
    "SparseAttention",
    "Ssd",
    "TokenShift",
    "Wkv",
]
