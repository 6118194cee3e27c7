"""The attention of DeepSeek-V4: a window, and entries that each stand for many positions.

Keys are values, one for all heads, so that nothing is expanded. The way back goes through groups of heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import minimum
from workloads.blocks.base import RMS_NORM, UNSCALED, Part, Place, indivisible
from workloads.blocks.recurrent import RecurrentBlock
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators import (
    Attention,
    CompressedAttention,
    Compression,
    GroupedGemm,
    IndexScores,
    KvAppend,
    Rope,
    TopK,
)
from workloads.step import Setting, Step


@dataclass(frozen=True)
class EntryIndex:
    """The small attention that picks entries, from entries of its own."""

    heads: int
    head_dim: int
    chosen: int


@dataclass(frozen=True)
class CompressedAttentionBlock(RecurrentBlock):
    """Without a stride there are no entries, and the window is all that a query sees."""

    branch: ClassVar[str] = "attention"
    divided: ClassVar[Mapping[str, str]] = {"heads": "attention heads", "groups": "groups of heads"}

    heads: int
    head_dim: int
    rope_dim: int
    q_latent: int
    window: int
    groups: int
    group_latent: int
    stride: int = 0  # positions of an entry
    series: int = 1  # rows that an entry takes of a position: 2 where it overlaps with the one before
    index: EntryIndex | None = None  # else all entries are seen

    def parts(self, place: Place) -> Iterator[Part]:
        """Queries, the window's keys, entries, the core, and its result turned back and through groups."""
        p, heads = place.setting.precision, self.heads // place.setting.tensor_parallel
        width, tokens = heads * self.head_dim, place.tokens
        yield "q_a_proj", self.q_latent, place.linear(self.q_latent, place.hidden)
        yield "q_a_norm", self.q_latent, place.norm(tokens, self.q_latent, RMS_NORM)
        yield "q_b_proj", (width, self.q_latent), place.linear(width, self.q_latent)
        yield "q_b_norm", (heads, self.head_dim), place.norm(tokens * heads, self.head_dim, UNSCALED)
        yield "kv_proj", self.head_dim, place.linear(self.head_dim, place.hidden)
        yield "kv_norm", self.head_dim, place.norm(tokens, self.head_dim, RMS_NORM)
        yield "rope", (heads, self.rope_dim), Rope(tokens, heads + 1, self.rope_dim, p.wide, place.fused)
        yield "kv_append", self.head_dim, self._append(place, tokens, self.head_dim)
        if self.stride:
            yield from self._compressed(place, "entries", self.head_dim)
            if self.index is not None:
                yield from self._picked(place, self.index)
        yield self.core_name, self, self._core(place, heads)
        yield "unrotate", (heads, self.rope_dim), Rope(tokens, heads, self.rope_dim, p.wide, place.fused)
        groups = self.groups // place.setting.tensor_parallel
        formats = (p.activations, p.weights, p.wide)
        inner = self.heads // self.groups * self.head_dim
        down = GroupedGemm(tokens * groups, self.group_latent, inner, groups, groups, *formats)
        back = groups * self.group_latent
        yield "o_a_proj", (groups, inner), down
        yield "o_b_proj", back, place.linear(place.hidden, back)

    def _append(self, place: Place, rows: Size, width: int, kept: DtypeLike | None = None) -> KvAppend:
        p = place.setting.precision
        return KvAppend(rows, 1, width, p.wide, p.kv if kept is None else kept, place.fused, latent=True)

    def _compressed(
        self, place: Place, name: str, width: int, kept: DtypeLike | None = None
    ) -> Iterator[Part]:
        """Values and gates of every position; of complete entries the sum, its norm, rotation and append."""
        rows = place.tokens / self.stride
        for part in ("kv", "gate"):
            yield f"{name}_{part}_proj", (self, width), place.linear(self.series * width, place.hidden)
        yield f"{name}_sum", (self, width), self._compression(place.step, place.setting, width)
        yield f"{name}_norm", (self, width), place.norm(rows, width, RMS_NORM)
        rope = Rope(rows, 1, self.rope_dim, place.setting.precision.wide, place.fused)
        yield f"{name}_rope", (self, width), rope
        yield f"{name}_append", (self, width), self._append(place, rows, width, kept)

    def _compression(self, step: Step, setting: Setting, width: int) -> Compression:
        wide = setting.precision.wide
        return Compression(*step.sizes, width, self.stride, self.series, wide, wide)

    def _picked(self, place: Place, index: EntryIndex) -> Iterator[Part]:
        """The index's entries and queries, a score of every entry, the choice."""
        step, p, convention = place.step, place.setting.precision, place.setting.convention
        kept = place.setting.index_keys
        yield from self._compressed(place, "indexer_entries", index.head_dim, kept)
        yield "indexer_q_proj", index, place.linear(index.heads * index.head_dim, self.q_latent)
        yield "indexer_rope", index, Rope(place.tokens, index.heads, self.rope_dim, p.wide, place.fused)
        yield "indexer_weights_proj", index, place.linear(index.heads, place.hidden)
        sizes = step.batch, step.q_len, step.kv_len, index.heads, index.head_dim
        exact = convention.causal_exact
        yield "indexer_scores", index, IndexScores(*sizes, p.wide, kept, exact, stride=self.stride)
        entries = step.kv_len / self.stride
        chosen = minimum(entries, index.chosen)
        pick = TopK(place.tokens, entries, chosen, p.wide, place.fused, normalised=False)
        yield "indexer_topk", index, pick

    @property
    def core_name(self) -> str:
        """The range of the core: attention that sees less is another operator."""
        entries = f".every{self.stride}" if self.stride else ""
        return f"core.window{self.window}{entries}{f'.top{self.index.chosen}' if self.index else ''}"

    def _core(self, place: Place, heads: int) -> Attention:
        step, p, convention = place.step, place.setting.precision, place.setting.convention
        sizes = step.batch, step.q_len, step.kv_len, heads, 1, self.head_dim
        how: dict[str, Any] = {
            "dtype": p.wide,
            "kv_dtype": p.kv,
            "window": self.window,
            "causal_exact": convention.causal_exact,
            "fused": convention.scores_on_chip,
            "values_in_keys": True,
            "sinks": True,
            "weights": p.wide,
        }
        if not self.stride:
            return Attention(*sizes, **how)
        picks = self.index is not None and convention.absorbs_latents  # model code in PyTorch masks
        chosen = self.index.chosen if self.index is not None and picks else None
        return CompressedAttention(*sizes, **how, stride=self.stride, chosen=chosen)

    def states(self, step: Step, setting: Setting) -> tuple[Compression, ...]:
        """Rows that await the end of their entry."""
        if not self.stride:
            return ()
        widths = (self.head_dim, *((self.index.head_dim,) if self.index else ()))
        return tuple(self._compression(step, setting, width) for width in widths)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The window, entries of the past, and states; every device that shares the heads holds a copy."""
        elements, held = minimum(tokens, self.window) * self.head_dim, super().cache_bytes(tokens, setting)
        if self.stride:
            entries = tokens / self.stride
            elements = elements + entries * self.head_dim
            if self.index:
                held = held + entries * self.index.head_dim * bytes_per_element(setting.index_keys)
        return elements * bytes_per_element(setting.precision.kv) + held

    def unsplit(self, devices: int) -> Iterator[str]:
        """Heads and groups of them are shared out evenly."""
        for name, what in self.divided.items():
            yield from indivisible(what, getattr(self, name), devices)
