"""What Gemma 3n and Gemma 4 do otherwise: norms of values, a sparse activation, experts beside an MLP."""

from __future__ import annotations

from collections.abc import Iterator

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, UNSCALED, NormShape, Part, Place
from workloads.blocks.mlp import MlpBlock
from workloads.blocks.moe import MoeBlock

STATISTICS = NormShape(center=True, scale=False)


@dataclass(frozen=True)
class GemmaAttentionBlock(AttentionBlock):
    """Values are normalised, too; they may be the keys before their norm and rotation."""

    one_projection: bool = False  # of keys and values

    def _inputs(self, place: Place, heads: int, kv_heads: int) -> Iterator[Part]:
        for part in super()._inputs(place, heads, kv_heads):
            if part[0] != "v_proj" or not self.one_projection:
                yield part
        if kv_heads:
            rows, width = place.tokens * kv_heads, self.head_dim
            yield "v_norm", (kv_heads, width), place.norm(rows, width, UNSCALED)


@dataclass(frozen=True)
class CutMlpBlock(MlpBlock):
    """Of each token's gates only those far above their mean are kept (Gemma 3n); products stay dense."""

    def parts(self, place: Place) -> Iterator[Part]:
        """Mean and deviation of the gates and the cut, about what a LayerNorm does, before the activation."""
        for name, key, operator in super().parts(place):
            if name == "act_mul":
                width = self.width // place.setting.tensor_parallel
                yield "gate_cut", self, place.norm(place.tokens, width, STATISTICS)
            yield name, key, operator


@dataclass(frozen=True)
class GemmaMoeBlock(MoeBlock):
    """Routed experts beside a shared MLP, each with norms around it (Gemma 4)."""

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of any experts; the two results are normalised, so each is summed over devices first."""
        norm = place.norm(place.tokens, place.hidden, RMS_NORM)
        yield "router_norm", None, norm
        yield "experts_norm", None, norm
        for part in super().parts(place):
            if part[0] == "shared_sum":
                yield from place.sum_over_devices("shared", place.hidden)
                yield "shared_post_norm", None, norm
                yield "experts_post_norm", None, norm
            yield part
