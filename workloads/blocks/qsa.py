"""Gated attention to runs of positions that a small attention picks (Qwen4-Exp)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from specfiles.frozen import dataclass
from workloads.arrays import minimum
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.delta import GatedAttentionBlock
from workloads.blocks.mla import Indexer
from workloads.dtypes import Size, bytes_per_element
from workloads.operators import Attention, IndexScores, KvAppend, Residual, Rope, TopK
from workloads.step import Setting


@dataclass(frozen=True)
class PickedAttentionBlock(GatedAttentionBlock):
    """Its index scores the mean key of each run; positions behind the last whole run are seen in any case."""

    index: Indexer = Indexer(1, 1, 1)

    @property
    def core_name(self) -> str:
        """The range of the core: attention to what an index picks is another operator."""
        return f"core.top{self.index.chosen}"

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, with the index before the core."""
        for name, key, operator in super().parts(place):
            if name == self.core_name:
                yield from self._index(place)
            yield name, (self.index, key), operator

    def _index(self, place: Place) -> Iterator[Part]:
        """Queries and a key, means of keys, a score of every whole run, the best of them; on each device."""
        step, p, index = place.step, place.setting.precision, self.index
        heads, width, tokens = index.heads, index.head_dim, place.tokens
        runs = tokens / index.pool
        yield "indexer_qk_proj", index, place.linear((heads + 1) * width, place.hidden)
        yield "indexer_q_norm", index, place.norm(tokens * heads, width, RMS_NORM)
        yield "indexer_mean", index, Residual(tokens, width, p.wide, place.fused)
        yield "indexer_k_norm", index, place.norm(runs, width, RMS_NORM)
        rotated = min(self.rotary_dim, width)
        rope = Rope(tokens, heads + 1 / index.pool, rotated, p.wide, place.fused)
        yield "indexer_rope", (index, rotated), rope
        append = KvAppend(runs, 1, width, p.wide, p.kv, place.fused, latent=True)
        yield "indexer_append", index, append
        exact, sizes = place.setting.convention.causal_exact, (step.batch, step.q_len, step.kv_len)
        scores = IndexScores(*sizes, heads, width, p.wide, p.kv, exact, stride=index.pool)
        yield "indexer_scores", index, scores
        seen = step.kv_len / index.pool
        chosen = minimum(seen, index.chosen // index.pool)
        yield "indexer_topk", index, TopK(tokens, seen, chosen, p.wide, place.fused, normalised=False)

    def _core(self, place: Place, heads: int, kv_heads: int) -> Attention:
        core = super()._core(place, heads, kv_heads)
        if not place.setting.convention.absorbs_latents:  # model code masks what is not picked
            return core
        return replace(core, window=self.index.seen, scattered=True)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys and values, a key of the index per run, and those of the run that has begun."""
        keys = (tokens / self.index.pool + self.index.pool) * self.index.head_dim
        return super().cache_bytes(tokens, setting) + keys * bytes_per_element(setting.precision.kv)
