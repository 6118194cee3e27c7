"""The transformer that hybrid layers of Zamba2 share (arXiv:2411.15242), each with adapters of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.mlp import MlpBlock
from workloads.dtypes import bytes_per_element
from workloads.operators import Copy, Residual

SHARED = (
    *(f"attention.{name}" for name in ("norm", "q_proj", "k_proj", "v_proj", "o_proj")),
    *("mlp_norm", "mlp.gate_up_proj", "mlp.down_proj"),
)


@dataclass(frozen=True)
class SharedAttentionBlock(AttentionBlock):
    """It reads the stream and the embeddings side by side; what it makes goes to the MLP alone."""

    normalises: ClassVar[bool] = True
    adds: ClassVar[bool] = False

    adapter_rank: int = 0  # of a second way to queries, keys and values; 0 without

    def parts(self, place: Place) -> Iterator[Part]:
        """Both inputs joined and normalised, projections with adapters, the core, the way back."""
        both, wide = replace(place, hidden=2 * place.hidden), place.setting.precision.wide
        if not place.fused:  # a norm's kernel reads them where they are
            yield "concat", None, Copy(place.tokens * both.hidden * bytes_per_element(wide))
        yield "norm", both.hidden, place.norm(place.tokens, both.hidden, RMS_NORM)
        for name, key, operator in super().parts(both):
            if name != "o_proj":
                yield name, key, operator
                continue
            width = operator.k  # type: ignore[attr-defined]
            yield name, key, place.linear(place.hidden, width)

    def _inputs(self, place: Place, heads: int, kv_heads: int) -> Iterator[Part]:
        yield from super()._inputs(place, heads, kv_heads)
        if self.adapter_rank:
            for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                yield from adapted(place, f"{name}_adapter", self.adapter_rank, n * self.head_dim)


@dataclass(frozen=True)
class SharedMlpBlock(MlpBlock):
    """With an adapter beside its first matrix, and a matrix of the layer's own behind the last."""

    adapter_rank: int = 128

    def parts(self, place: Place) -> Iterator[Part]:
        """Gate and up with the adapter, the activation, down, out."""
        first, *others = super().parts(place)
        yield first
        width = 2 * self.width // place.setting.tensor_parallel
        yield from adapted(place, "adapter", self.adapter_rank, width)
        yield from others
        yield "out_proj", None, place.linear(place.hidden, place.hidden)


def adapted(place: Place, name: str, rank: int, width: int) -> Iterator[Part]:
    """A product of two narrow matrices that is added to another's result."""
    yield f"{name}_down", rank, place.linear(rank, place.hidden)
    yield f"{name}_up", width, place.linear(width, rank)
    yield f"{name}_sum", width, Residual(place.tokens, width, place.setting.precision.wide, place.fused)
