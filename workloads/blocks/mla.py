"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one small latent cached for all heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import anywhere, minimum
from workloads.blocks.base import RMS_NORM, Block, NormShape, Part, Place
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Attention, Compression, GroupedGemm, IndexScores, KvAppend, Rope, TopK
from workloads.step import Setting, Step


@dataclass(frozen=True)
class Indexer:
    """The small attention that picks which positions the large one sees (DeepSeek-V3.2, GLM-5).

    With a `pool` it picks runs of so many positions, each by one key that is a sum of theirs (GLM-5.3-Flash).
    Positions behind the last whole run are seen in any case.
    """

    heads: int
    head_dim: int
    chosen: int
    borrowed: bool = False  # another layer's: only its picks are read
    pool: int = 1
    scaled: bool = False  # queries are of a normalised input, scaled by their position (Mistral Large 4)

    @property
    def seen(self) -> int:
        """Positions that a query sees at most, on average where runs are picked."""
        return self.chosen + self.pool // 2

    def pooled(self, step: Step, setting: Setting) -> Compression:
        """The keys of runs."""
        wide = setting.precision.wide
        return Compression(*step.sizes, self.head_dim, self.pool, 1, wide, wide)


@dataclass(frozen=True)
class MlaBlock(Block):
    """Queries from a latent of their own or directly, keys and values from the cached one.

    Absorbed (decode): W_UK moves to the query side and W_UV behind the attention, so that the cache is
    read as one key-value head. Otherwise keys and values of all visible positions are expanded first, as
    PyTorch code does in every phase.
    """

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads"}

    heads: int
    q_latent: int | None  # None projects queries directly
    kv_latent: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: bool = False  # of the projections into latents and the last one
    indexer: Indexer | None = None
    rotates: bool = True  # else the elements that all heads share are plain ones, too (Kimi Linear)
    sinks: bool = False
    gated: bool = False  # by a sigmoid of one more projection, as wide as the result (Kimi K3)
    scaled: bool = False  # queries are scaled by their position (Mistral Large 4)
    borrows: bool = False  # the latents are those of a layer before it
    gate_in_queries: bool = (
        False  # made with the queries, of their latent before and behind its norm (A.X K2)
    )
    gate_by_head: bool = False  # which has one column a head instead (Ling 3)
    window: int | None = None  # positions that a query sees and the cache keeps (Dots 3)
    rope_norm: bool = False  # also of the key that all heads share (Dots 3)

    @property
    def qk_dim(self) -> int:
        """Elements of a query or an expanded key."""
        return self.nope_dim + self.rope_dim

    @property
    def cached_dim(self) -> int:
        """Elements cached per position: the latent and the rotated key that all heads share."""
        return self.kv_latent + self.rope_dim

    @property
    def _attends(self) -> MlaBlock:
        """How it attends, which is the same whose indexer ever picks what it sees."""
        return self if self.indexer is None else replace(self, indexer=replace(self.indexer, borrowed=False))

    def parts(self, place: Place) -> Iterator[Part]:
        """Down to latents, queries up, rotation, append; the core; the way back."""
        heads, p = self.heads // place.setting.tensor_parallel, place.setting.precision
        yield from self._queries(place, heads)
        if self.scaled:
            yield "position_scale", heads, place.position_scale(heads * self.qk_dim, heads)
        if not self.borrows:
            shape = self.cached_dim, self.bias
            yield "kv_a_proj", shape, place.linear(self.cached_dim, place.hidden, self.bias)
            yield "kv_a_norm", self.kv_latent, place.norm(place.tokens, self.kv_latent, RMS_NORM)
            if self.rope_norm:
                yield "k_rope_norm", self.rope_dim, place.norm(place.tokens, self.rope_dim, RMS_NORM)
        if self.rotates:
            rope = Rope(place.tokens, heads + (not self.borrows), self.rope_dim, p.wide, place.fused)
            yield "rope", (heads, self.rope_dim, self.borrows), rope
        if not self.borrows:
            append = KvAppend(place.tokens, 1, self.cached_dim, p.wide, p.kv, place.fused, latent=True)
            yield "kv_append", self.cached_dim, append
        if self.indexer is not None and not self.indexer.borrowed:
            yield from self._index(place, self.indexer)
        yield from self._absorbed(place, heads) if self._absorbs(place) else self._expanded(place, heads)
        width = heads * self.value_dim
        if self.gated:
            columns = heads if self.gate_by_head else width
            if not self.gate_in_queries:
                yield "output_gate", columns, place.linear(columns, place.hidden)
            yield "gate_mul", (width, columns), place.gate(width, columns)
        yield "o_proj", (width, self.bias), place.linear(place.hidden, width, self.bias)

    def _queries(self, place: Place, heads: int) -> Iterator[Part]:
        width = heads * self.qk_dim
        if self.q_latent is None:
            yield "q_proj", width, place.linear(width, place.hidden)
            return
        yield "q_a_proj", (self.q_latent, self.bias), place.linear(self.q_latent, place.hidden, self.bias)
        yield "q_a_norm", self.q_latent, place.norm(place.tokens, self.q_latent, RMS_NORM)
        latent = self.q_latent
        if self.gate_in_queries:
            width, latent = width + heads * self.value_dim, 2 * latent
        yield "q_b_proj", (width, latent), place.linear(width, latent)

    def _absorbs(self, place: Place) -> bool:
        """Where that needs fewer FLOP: few new positions that see many. Sparse attention always does.

        Absorbed, each query is projected up and down and meets wider keys; expanded, each key is.
        """
        if not place.setting.convention.absorbs_latents or self.indexer is not None:
            return place.setting.convention.absorbs_latents
        queries, keys = place.step.q_len, self._visible(place.step)
        if not isinstance(queries, int):  # a grid of prompts
            return False
        if queries == 1:
            return not anywhere(keys <= 1)  # a grid has these in a group of their own
        fewest = keys if isinstance(keys, int | float) else keys.min()
        projection = self.kv_latent * (self.nope_dim + self.value_dim)
        wider = 2 * self.kv_latent - self.nope_dim - self.value_dim
        return bool(queries * (projection + fewest * wider) < fewest * projection)

    def _absorbed(self, place: Place, heads: int) -> Iterator[Part]:
        p, rows = place.setting.precision, place.tokens * heads
        formats = (p.activations, p.weights, p.wide)
        up = GroupedGemm(rows, self.kv_latent, self.nope_dim, heads, heads, *formats)
        yield "q_absorb", (heads, self._attends), up
        core = self._core(place, heads, 1, self.cached_dim, self.kv_latent, values_in_keys=True)
        yield self.core_name, self._attends, core
        down = GroupedGemm(rows, self.value_dim, self.kv_latent, heads, heads, *formats)
        yield "v_up", (heads, self._attends), down

    def _expanded(self, place: Place, heads: int) -> Iterator[Part]:
        visible = place.step.batch * self._visible(place.step)
        width = heads * (self.nope_dim + self.value_dim)
        yield "kv_b_proj", width, place.linear(width, self.kv_latent, rows=visible)
        core = self._core(place, heads, heads, self.qk_dim, self.value_dim, cached=False)
        yield self.core_name, self._attends, core

    def _visible(self, step: Step) -> Size:
        """Positions that the new ones see between them."""
        return step.kv_len if self.window is None else minimum(step.kv_len, self.window + step.q_len - 1)

    @property
    def core_name(self) -> str:
        """The range of the core: attention that sees less, or what an indexer picks, is another operator."""
        if self.window is not None:
            return f"core.window{self.window}"
        return f"core.top{self.indexer.chosen}" if self.indexer else "core"

    def _core(self, place: Place, heads: int, kv_heads: int, qk: int, v: int, **how: Any) -> Attention:
        step, p, convention = place.step, place.setting.precision, place.setting.convention
        sizes = step.batch, step.q_len, step.kv_len, heads, kv_heads, qk
        return Attention(
            *sizes,
            dtype=p.wide,
            kv_dtype=p.kv,
            window=self._seen(place),
            scattered=self.indexer is not None,
            causal_exact=convention.causal_exact,
            fused=convention.scores_on_chip,
            value_dim=v,
            sinks=self.sinks,
            weights=p.wide,
            **how,
        )

    def _seen(self, place: Place) -> int | None:
        """Positions that a query sees: all, a window, or what the indexer picked; model code masks others."""
        if self.window is not None:
            return self.window
        if self.indexer is None or not place.setting.convention.absorbs_latents:
            return None
        return self.indexer.seen

    def _index(self, place: Place, index: Indexer) -> Iterator[Part]:
        """Its own queries and keys, a score of every visible position, the choice (DeepSeek-V3.2, 2.1)."""
        step, p, convention = place.step, place.setting.precision, place.setting.convention
        width, norm = index.heads * index.head_dim, NormShape(center=True, bias=True)
        if index.scaled:
            yield "indexer_q_norm", index, place.norm(place.tokens, place.hidden, norm)
        yield "indexer_q_proj", index, place.linear(width, self.q_latent or place.hidden)
        if index.scaled:
            yield "indexer_position_scale", index, place.position_scale(width, index.heads)
        yield "indexer_k_proj", index, place.linear(index.head_dim, place.hidden)
        yield "indexer_k_norm", index, place.norm(place.tokens, index.head_dim, norm)
        yield "indexer_weights_proj", index, place.linear(index.heads, place.hidden)
        if self.rotates:
            rope = Rope(place.tokens, index.heads + 1, self.rope_dim, p.wide, place.fused)
            yield "indexer_rope", index, rope
        keys, seen = place.tokens, step.kv_len
        if index.pool > 1:
            yield "indexer_gate_proj", index, place.linear(index.head_dim, place.hidden)
            yield "indexer_pool", index, index.pooled(step, place.setting)
            keys, seen = keys / index.pool, seen / index.pool
        kept = place.setting.index_keys
        append = KvAppend(keys, 1, index.head_dim, p.wide, kept, place.fused, latent=True)
        yield "indexer_append", index, append
        sizes = step.batch, step.q_len, step.kv_len, index.heads, index.head_dim
        exact = convention.causal_exact
        yield "indexer_scores", index, IndexScores(*sizes, p.wide, kept, exact, stride=index.pool)
        # The scores' kernel hands them over on the chip where kernels are fused.
        chosen = minimum(seen, index.chosen // index.pool)
        pick = TopK(place.tokens, seen, chosen, p.wide, place.fused, normalised=False)
        yield "indexer_topk", index, pick

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """One latent per position, whatever the heads; every device that shares them holds a copy."""
        kept = tokens if self.window is None else minimum(tokens, self.window)
        latents = 0 if self.borrows else kept * self.cached_dim * bytes_per_element(setting.precision.kv)
        index = self.indexer
        if index is None or index.borrowed:
            return latents
        keys = tokens * index.head_dim if index.pool == 1 else tokens / index.pool * index.head_dim
        begun = index.pooled(Step(1, 1, 1), setting).state_bytes() if index.pool > 1 else 0
        return latents + keys * bytes_per_element(setting.index_keys) + begun
