"""Attention that is no decoder's: over all positions of a sequence at once, or over an encoder's result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import Block, Part, Place
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Attention, KvAppend, Operator, RelativeBias, Rope, SparseAttention
from workloads.step import Setting


@dataclass(frozen=True)
class Sparsity:
    """Which keys a query sees besides its own block (see SparseAttention)."""

    block: int
    side: int
    global_blocks: int
    random_blocks: int = 0


def unmasked(place: Place, keys: Size, heads: int, head_dim: int, cached: bool = False) -> Attention:
    """New positions that all see `keys` keys: of this step, or of a cache."""
    step, p = place.step, place.setting.precision
    sizes = step.batch, step.q_len, keys, heads, heads, head_dim
    return Attention(
        *sizes,
        dtype=p.wide,
        kv_dtype=p.kv if cached else p.wide,
        causal=False,
        fused=place.setting.convention.scores_on_chip,
        cached=cached,
    )


@dataclass(frozen=True)
class EncoderAttentionBlock(Block):
    """Every position sees every other, or a sparse choice of them; nothing is cached."""

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    head_dim: int
    bias: bool = False
    key_bias: bool = True  # where the others have one
    out_bias: bool | None = None  # as `bias` where it is not said
    rotary_dim: int = 0
    fused_qkv: bool = False
    sparsity: Sparsity | None = None
    global_projections: bool = False  # global positions have projections of their own (Longformer)

    def parts(self, place: Place) -> Iterator[Part]:
        """Projections, rotation, the core, the way back."""
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        n = 3 * width if self.fused_qkv else width
        for name in ("qkv_proj",) if self.fused_qkv else ("q_proj", "k_proj", "v_proj"):
            yield name, self, place.linear(n, place.hidden, _biased(self, name))
        if self.global_projections and self.sparsity:
            yield from self._of_global_positions(place, width)
        if self.rotary_dim:
            wide = place.setting.precision.wide
            yield "rope", self, Rope(place.tokens, 2 * heads, self.rotary_dim, wide, place.fused)
        yield "core", self, self._core(place, heads)
        out_bias = self.bias if self.out_bias is None else self.out_bias
        yield "o_proj", self, place.linear(place.hidden, width, out_bias)

    def _of_global_positions(self, place: Place, width: int) -> Iterator[Part]:
        """Queries of the global positions, keys and values of all (arXiv:2004.05150)."""
        assert self.sparsity is not None
        rows = place.step.batch * self.sparsity.global_blocks * self.sparsity.block
        yield "global_q_proj", self, place.linear(width, place.hidden, self.bias, rows)
        for name in ("global_k_proj", "global_v_proj"):
            yield name, self, place.linear(width, place.hidden, self.bias)

    def _core(self, place: Place, heads: int) -> Operator:
        step, p, s = place.step, place.setting.precision, self.sparsity
        if s is None:
            return unmasked(place, step.kv_len, heads, self.head_dim)
        blocks = s.side, s.global_blocks, s.random_blocks, s.block
        return SparseAttention(step.batch, step.q_len, heads, self.head_dim, *blocks, p.wide)


@dataclass(frozen=True)
class CrossAttentionBlock(Block):
    """A decoder's queries on an encoder's result, whose keys and values are made once and kept."""

    branch: ClassVar[str] = "cross_attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    head_dim: int
    bias: bool = False
    key_bias: bool = True  # where the others have one

    def parts(self, place: Place) -> Iterator[Part]:
        """Keys and values of the memory where the sequence begins; then queries, the core, the way back."""
        step, p = place.step, place.setting.precision
        heads = self.heads // place.setting.tensor_parallel
        width = heads * self.head_dim
        if step.begins:
            rows = step.batch * step.memory
            for name in ("k_proj", "v_proj"):
                yield name, self, place.linear(width, place.hidden, _biased(self, name), rows)
            yield "kv_append", self, KvAppend(rows, heads, self.head_dim, p.wide, p.kv, place.fused)
        yield "q_proj", self, place.linear(width, place.hidden, self.bias)
        yield "core", self, unmasked(place, step.memory, heads, self.head_dim, cached=True)
        yield "o_proj", self, place.linear(place.hidden, width, self.bias)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys and values of `tokens` positions of the memory."""
        heads = self.heads // setting.tensor_parallel
        return 2 * tokens * heads * self.head_dim * bytes_per_element(setting.precision.kv)


def _biased(block: EncoderAttentionBlock | CrossAttentionBlock, name: str) -> bool:
    return block.bias and (block.key_bias or name != "k_proj")


@dataclass(frozen=True)
class RelativePositions(Block):
    """T5's bias on scores, which all layers of a stack share."""

    heads: int
    buckets: int

    def parts(self, place: Place) -> Iterator[Part]:
        """Once per step."""
        step, p = place.step, place.setting.precision
        heads = self.heads // place.setting.tensor_parallel
        bias = RelativeBias(step.q_len, step.kv_len, heads, self.buckets, p.wide, p.wide, place.fused)
        yield "relative_bias", None, bias
