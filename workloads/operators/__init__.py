"""One small class per operator kind; each knows its work and its parameters."""

from workloads.operators.attention import Attention
from workloads.operators.base import Operator
from workloads.operators.collective import AllReduce
from workloads.operators.elementwise import Activation, Norm, Residual, Rope
from workloads.operators.gemm import Gemm
from workloads.operators.memory import Embedding, KvAppend
from workloads.operators.sampling import Sampling

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
)

__all__ = [
    "KINDS",
    "Activation",
    "AllReduce",
    "Attention",
    "Embedding",
    "Gemm",
    "KvAppend",
    "Norm",
    "Operator",
    "Residual",
    "Rope",
    "Sampling",
]
