"""ZAYA's blocks: attention with convolutions (arXiv:2510.04476), routers that carry a state.

By the code of transformers, models/zaya.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, UNSCALED, Block, Part, Place
from workloads.blocks.moe import MoeBlock
from workloads.blocks.recurrent import convolution
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Gemm, GroupedGemm, Residual
from workloads.step import Setting


@dataclass(frozen=True)
class ConvolvedAttentionBlock(AttentionBlock):
    """A convolution of each element, then one that mixes a head; half of the values are a position late.

    Means of queries and keys are added behind the convolutions, one number scales the keys of a head.
    """

    taps: tuple[int, int] = (2, 2)  # of the first convolution, of the second

    def _inputs(self, place: Place, heads: int, kv_heads: int) -> Iterator[Part]:
        precision, dim, both = place.setting.precision, self.head_dim, heads + kv_heads
        half = kv_heads * dim // 2
        widths = (
            ("q_proj", heads * dim),
            ("k_proj", kv_heads * dim),
            ("v_proj", half),
            ("v_before_proj", half),
        )
        for name, width in widths:
            yield name, (width, self.qkv_bias), place.linear(width, place.hidden, self.qkv_bias)
        wide, fused, (first, second) = precision.wide, place.fused, self.taps
        conv = convolution(place.step, place.setting, both * dim, first, bias=True)
        yield "qk_conv1d", self, replace(conv, silu=False)
        rows, sizes = place.tokens * both, (dim, second * dim, both, both)
        formats = precision.activations, precision.weights, wide
        mixed = GroupedGemm(rows, *sizes, *formats, bias=True, read_rows=rows / second)
        yield "qk_mix", self, mixed
        yield "qk_mean", heads, Residual(place.tokens, heads * dim, wide, fused)
        yield "qk_sum", both, Residual(place.tokens, both * dim, wide, fused)
        yield "q_norm", heads, place.norm(place.tokens * heads, dim, UNSCALED)
        yield "k_norm", kv_heads, place.norm(place.tokens * kv_heads, dim, UNSCALED)
        scale = place.activation(kv_heads * dim, "identity", gated=True)
        yield "k_scale", kv_heads, replace(scale, columns=kv_heads, learned=kv_heads)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys, values, what the convolutions see again, and half of the values of the last position."""
        heads, kv_heads = self._heads(setting.tensor_parallel)
        again = (sum(self.taps) - 2) * (heads + kv_heads) * self.head_dim + kv_heads * self.head_dim // 2
        return super().cache_bytes(tokens, setting) + again * bytes_per_element(setting.precision.wide)


@dataclass(frozen=True)
class CarriedMoeBlock(MoeBlock):
    """Experts chosen by an MLP on a narrow row, to which that of the layer before is added, scaled.

    One more choice takes no expert. What balances the choice holds it back; it is counted as an expert's.
    """

    router_width: int = 0
    carries: bool = True  # else it is the first layer

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of experts, with more before the router."""
        wide, width, tokens = place.setting.precision.wide, self.router_width, place.tokens
        for name, key, operator in super().parts(place):
            if name != "router":
                yield name, key, operator
                continue
            yield "narrow_router", width, Gemm(tokens, width, place.hidden, wide, wide, wide, bias=True)
            if self.carries:
                yield "router_carry", width, Residual(tokens, width, wide, place.fused, learned=width)
            yield "router_norm", width, place.norm(tokens, width, RMS_NORM)
            for step in ("first", "second"):
                yield f"{step}_router", width, Gemm(tokens, width, width, wide, wide, wide, bias=True)
                yield f"{step}_router_act", width, place.activation(width, "gelu", gated=False)
            yield name, (width, self.experts), Gemm(tokens, self.experts + 1, width, wide, wide, wide)


@dataclass(frozen=True)
class ScaledInput(Block):
    """The embedding, shifted and scaled by vectors."""

    hidden: int

    def parts(self, place: Place) -> Iterator[Part]:
        """One pass."""
        scale = place.activation(self.hidden, "identity", gated=True)
        yield "embedding_scale", None, replace(scale, learned=2 * self.hidden)
