"""Feature maps of kernel attention: what makes a query or key of `head_dim` elements one of `features`."""

from __future__ import annotations

from typing import ClassVar, Literal

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size
from workloads.operators.base import Operator
from workloads.operators.elementwise import streamed
from workloads.work import Work

FeatureKind = Literal["elu", "positive", "trigonometric"]
FEATURE_KINDS: tuple[FeatureKind, ...] = ("elu", "positive", "trigonometric")


@dataclass(frozen=True)
class FeatureMap(Operator):
    """elu(x) + 1 (arXiv:2006.16236), exp(W x - |x|^2 / 2) (Performer, arXiv:2009.14794), or the sine and
    cosine of W x (RFA, arXiv:2103.02143), of x[rows, head_dim]; W x[rows, projected] is a Gemm before it.
    """

    kind: ClassVar[str] = "feature_map"

    rows: Size  # query and key heads of all tokens
    head_dim: Size
    features: Size
    function: FeatureKind = "elu"
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """ELU: an exponential and 2 FLOP per element. Positive: an exponential and 2 FLOP (subtract, scale)
        per feature, 2 per element of x for its square. Trigonometric: a sine or cosine and 1 FLOP (scale)
        per feature. The squares need x beside W x.
        """
        made, own = self.rows * self.features, self.rows * self.head_dim
        read = {"elu": own, "positive": made + own, "trigonometric": made / 2}[self.function]
        around = {"elu": 2 * made, "positive": 2 * made + 2 * own, "trigonometric": made}[self.function]
        return streamed(self.dtype, self.fused, read, made, vector_flops=around, special_ops=made)
