"""Attention to blocks of positions that a small attention picks (MiniMax-M3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from specfiles.frozen import dataclass
from workloads.arrays import minimum
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Attention, IndexScores, KvAppend, Rope, TopK
from workloads.step import Setting


@dataclass(frozen=True)
class BlockSparseAttentionBlock(AttentionBlock):
    """Each group of query heads sees the blocks whose best key its index head scores highest.

    A query's own block is among them. Model code in PyTorch computes all scores and masks them.
    """

    index_heads: int = 4  # one for each KV head
    index_dim: int = 128
    size: int = 128  # positions of a block
    blocks: int = 16  # that a query sees

    @property
    def core_name(self) -> str:
        """The range of the core: attention that sees less is another operator."""
        return f"core.top{self.blocks}x{self.size}"

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, with the index before the core."""
        for name, key, operator in super().parts(place):
            if name == self.core_name:
                yield from self._index(place)
            yield name, (self.size, self.blocks, key), operator

    def _index(self, place: Place) -> Iterator[Part]:
        """Its own queries and keys, a score of every visible position and head, the best blocks."""
        step, p, convention = place.step, place.setting.precision, place.setting.convention
        heads, width = self._index_heads(place.setting), self.index_dim
        yield "indexer_q_proj", self, place.linear(heads * width, place.hidden)
        yield "indexer_k_proj", self, place.linear(width, place.hidden)
        yield "indexer_q_norm", self, place.norm(place.tokens * heads, width, RMS_NORM)
        yield "indexer_k_norm", self, place.norm(place.tokens, width, RMS_NORM)
        rotated = min(self.rotary_dim, width)
        yield "indexer_rope", self, Rope(place.tokens, heads + 1, rotated, p.wide, place.fused)
        append = KvAppend(place.tokens, 1, width, p.wide, p.kv, place.fused, latent=True)
        yield "indexer_append", self, append
        sizes = step.batch, step.q_len, step.kv_len, heads, width
        scores = IndexScores(*sizes, p.wide, p.kv, convention.causal_exact, summed=False)
        yield "indexer_scores", self, scores
        found = (step.kv_len + self.size - 1) / self.size  # blocks; a mean over positions, not a whole number
        chosen = minimum(found, self.blocks)
        pick = TopK(place.tokens * heads, found, chosen, p.wide, place.fused, normalised=False)
        yield "indexer_topk", self, pick

    def _core(self, place: Place, heads: int, kv_heads: int) -> Attention:
        core = super()._core(place, heads, kv_heads)
        if not place.setting.convention.absorbs_latents:  # model code
            return core
        # On average half of its own block lies behind a query.
        return replace(core, window=self.size * self.blocks - self.size // 2, scattered=True)

    def _index_heads(self, setting: Setting) -> int:
        """Index heads of one device: those of its KV heads."""
        return max(1, self.index_heads // setting.tensor_parallel)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys and values, and a key of the index, which all of its heads share."""
        return super().cache_bytes(tokens, setting) + tokens * self.index_dim * bytes_per_element(
            setting.precision.kv
        )
