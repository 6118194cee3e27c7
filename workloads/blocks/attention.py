"""Self-attention with a cache of keys and values: multi-head, grouped or with one KV head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from specfiles.frozen import dataclass
from workloads.arrays import minimum
from workloads.blocks.base import Block, NormShape, Part, Place
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Attention, KvAppend, Rope
from workloads.step import Setting


@dataclass(frozen=True)
class AttentionBlock(Block):
    """Heads, what their projections carry, and how far they see."""

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int = 0  # rotated elements of each head; 0 where positions enter otherwise
    window: int | None = None
    qkv_bias: bool = False
    key_bias: bool = True  # where queries and values have one
    out_bias: bool = False
    qk_norm: NormShape | None = None  # of each query and key head
    # Of all heads at once instead, or with weights for each head.
    qk_norm_whole: Literal["", "heads", "weights"] = ""
    fused_qkv: bool = False  # one matrix in the checkpoint
    chunk: int | None = None  # positions see their own chunk only
    alibi: bool = False
    softcap: bool = False
    sinks: bool = False
    values: int = 0  # elements of a value head where they are not those of a key
    borrows: bool = False  # keys and values are those of a layer before it
    out_norm: NormShape | None = None  # of the result of all heads, before the way back (BitNet)

    @property
    def value_dim(self) -> int:
        """Elements of a value head."""
        return self.values or self.head_dim

    @property
    def core_name(self) -> str:
        """The range of the core: attention that sees less is another operator."""
        if self.chunk:
            return f"core.chunk{self.chunk}"
        return f"core.window{self.window}" if self.window else "core"

    def parts(self, place: Place) -> Iterator[Part]:
        """Projections, norms of heads, rotation, the cache's append, the core, the way back."""
        heads, kv_heads = self._heads(place.setting.tensor_parallel)
        made = 0 if self.borrows else kv_heads
        yield from self._inputs(place, heads, made)
        precision, fused = place.setting.precision, place.fused
        if self.rotary_dim:
            rope = Rope(place.tokens, heads + made, self.rotary_dim, precision.wide, fused)
            yield "rope", (heads, made, self.rotary_dim), rope
        if made:
            mean = self.head_dim if self.value_dim == self.head_dim else (self.head_dim + self.value_dim) / 2
            append = KvAppend(place.tokens, made, mean, precision.wide, precision.kv, fused)
            yield "kv_append", (made, mean), append
        kind = (heads, kv_heads, self.head_dim, self.values, self.alibi, self.softcap, self.sinks)
        yield self.core_name, kind, self._core(place, heads, kv_heads)
        width = heads * self.value_dim
        if self.out_norm is not None:
            yield from place.squares("out_norm")
            yield "out_norm", width, place.norm(place.tokens, width, self.out_norm)
        yield "o_proj", (width, self.out_bias), place.linear(place.hidden, width, self.out_bias)

    def _inputs(self, place: Place, heads: int, kv_heads: int) -> Iterator[Part]:
        q_width, k_width, v_width = (
            heads * self.head_dim,
            kv_heads * self.head_dim,
            kv_heads * self.value_dim,
        )
        if self.fused_qkv:
            width = q_width + k_width + v_width
            yield "qkv_proj", (width, self.qkv_bias), place.linear(width, place.hidden, self.qkv_bias)
        else:
            for name, width in (("q_proj", q_width), ("k_proj", k_width), ("v_proj", v_width)):
                if width:
                    bias = self.qkv_bias and (self.key_bias or name != "k_proj")
                    yield name, (width, bias), place.linear(width, place.hidden, bias)
        if self.qk_norm is not None:
            if self.qk_norm_whole == "heads":
                yield from place.squares("qk_norm", 1 + bool(kv_heads))
            for name, n in (("q_norm", heads), ("k_norm", kv_heads)):
                rows, width = (1, n * self.head_dim) if self.qk_norm_whole else (n, self.head_dim)
                if n:
                    yield name, (rows, width), place.norm(place.tokens * rows, width, self.qk_norm)

    def _core(self, place: Place, heads: int, kv_heads: int) -> Attention:
        step, precision, convention = place.step, place.setting.precision, place.setting.convention
        sizes = step.batch, step.q_len, step.kv_len, heads, kv_heads, self.head_dim
        return Attention(
            *sizes,
            dtype=precision.wide,
            kv_dtype=precision.kv,
            window=self.window,
            causal_exact=convention.causal_exact,
            fused=convention.scores_on_chip,
            chunk=self.chunk,
            alibi=self.alibi,
            softcap=self.softcap,
            sinks=self.sinks,
            value_dim=self.values or None,
            weights=precision.wide,
        )

    def _heads(self, devices: int) -> tuple[int, int]:
        """Query and KV heads of one device; where there are fewer KV heads than devices they are copied."""
        return self.heads // devices, max(1, self.kv_heads // devices)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys and values of every position; a window or chunk keeps only its own, a borrower none."""
        if self.borrows:
            return 0
        most = self.window or self.chunk
        kept = tokens if most is None else minimum(tokens, most)
        _, kv_heads = self._heads(setting.tensor_parallel)
        return kept * kv_heads * (self.head_dim + self.value_dim) * bytes_per_element(setting.precision.kv)

    def unsplit(self, devices: int) -> Iterator[str]:
        """Heads are shared out evenly; KV heads shared or copied evenly."""
        yield from super().unsplit(devices)
        if self.kv_heads % devices and devices % self.kv_heads:
            yield f"has {self.kv_heads} KV heads, which {devices} devices can neither share nor copy evenly"
