"""Kernel attention: softmax replaced by features of queries and keys, so that sums take the cache's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Part, Place
from workloads.blocks.recurrent import RecurrentBlock
from workloads.operators import FeatureMap, Gemm, LinearAttention
from workloads.operators.features import FeatureKind
from workloads.step import Setting, Step


@dataclass(frozen=True)
class KernelAttentionBlock(RecurrentBlock):
    """Multi-head attention with a feature map: Linear Transformer, Performer or RFA (see FeatureMap).

    The projections of Performer and RFA are drawn, not learned: they cost work and count no parameter.
    """

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    head_dim: int
    features: int
    function: FeatureKind = "elu"
    bias: bool = False  # of queries, keys and values
    out_bias: bool = False
    causal: bool = True

    @property
    def drawn(self) -> int:
        """Rows of the drawn projection: none for ELU; each gives RFA a sine and a cosine."""
        return {"elu": 0, "positive": self.features, "trigonometric": self.features // 2}[self.function]

    def parts(self, place: Place) -> Iterator[Part]:
        """Projections, features of queries and keys, the sums, the way back."""
        heads, p = self.heads // place.setting.tensor_parallel, place.setting.precision
        width, rows = heads * self.head_dim, 2 * place.tokens * heads
        for name in ("q_proj", "k_proj", "v_proj"):
            yield name, self, place.linear(width, place.hidden, self.bias)
        if self.drawn:
            drawn = Gemm(rows, self.drawn, self.head_dim, p.wide, p.wide, p.wide, tied=True)
            yield "feature_proj", self, drawn
        features = FeatureMap(rows, self.head_dim, self.features, self.function, p.wide, place.fused)
        yield "features", self, features
        yield "core", self, *self.states(place.step, place.setting)
        yield "o_proj", self, place.linear(place.hidden, width, self.out_bias)

    def states(self, step: Step, setting: Setting) -> tuple[LinearAttention]:
        """The sums; none are kept where they are taken over all positions at once."""
        heads, wide = self.heads // setting.tensor_parallel, setting.precision.wide
        how: dict[str, Any] = {"dtype": wide, "state_dtype": wide, "causal": self.causal}
        return (LinearAttention(*step.sizes, heads, self.features, self.head_dim, **how),)
