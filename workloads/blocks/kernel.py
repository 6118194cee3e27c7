"""Kernel attention: softmax replaced by features of queries and keys, so that sums take the cache's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place, indivisible
from workloads.blocks.mamba import single_step
from workloads.dtypes import Size
from workloads.operators import FeatureMap, Gemm, LinearAttention
from workloads.operators.features import FeatureKind
from workloads.step import Setting, Step


@dataclass(frozen=True)
class KernelAttentionBlock(Block):
    """Multi-head attention with a feature map: Linear Transformer, Performer or RFA (see FeatureMap).

    The projections of Performer and RFA are drawn, not learned: they cost work and count no parameter.
    """

    branch: ClassVar[str] = "attention"

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
        yield "core", self, self._core(place.step, place.setting)
        yield "o_proj", self, place.linear(place.hidden, width, self.out_bias)

    def _core(self, step: Step, setting: Setting) -> LinearAttention:
        p = setting.precision
        return LinearAttention(
            step.batch,
            step.q_len,
            step.past,
            self.heads // setting.tensor_parallel,
            self.features,
            self.head_dim,
            dtype=p.wide,
            state_dtype=p.wide,
            causal=self.causal,
        )

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The sums, whatever the number of positions; none where they are taken over all at once."""
        return self._core(single_step(), setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Heads are shared out evenly."""
        yield from indivisible("attention heads", self.heads, devices)
