"""PagedAttention: the cache in blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.model import UNLIMITED
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_cache

BLOCK_ENTRY_BYTES = 4  # a 32-bit block number


@dataclass(frozen=True)
class PagedAttention(Technique):
    """The cache is allocated in blocks as tokens arrive, instead of once for the longest sequence."""

    name = "paged-attention"
    aliases = ("vllm", "block-kv-cache")
    category = "memory management"
    paper = "vLLM PagedAttention arXiv:2309.06180"
    removes = "memory reserved for tokens that never come"
    adds = "a block table, and the last block of each sequence, half empty on average"
    needs = "an attention kernel that follows a block table"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how the cache is laid out"
    without = {"reserves_cache": True}

    block: int = parameter(16, "tokens of a block (vLLM: 16)", low=1, high=65536)
    reserved: int = parameter(
        0,
        "tokens reserved per sequence without it; 0: all that the model has positions for",
        low=0,
        high=100_000_000,
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a cache that grows."""
        if (reason := no_cache(schedule)) is not None:
            return reason
        if 0 < self.reserved < schedule.main.tokens:
            return f"{schedule.main.tokens} tokens need more than the {self.reserved} that are reserved"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """Blocks round each sequence up; a note says what would be reserved without them."""
        main = schedule.main
        whole = -(-main.tokens // self.block) * self.block
        entry = BLOCK_ENTRY_BYTES / self.block  # per token, of the block table
        per_token = main.model.cache_bytes(1, whole, main.setting) / whole
        factor = main.cache_factor * (1 + entry / per_token)
        paged = schedule.with_main(tokens=whole, cache_factor=factor, reserved=1.0)
        reserved = self.reserved or main.model.max_position
        if reserved >= UNLIMITED:  # nothing says how long the longest sequence is
            return paged
        note = f"without blocks, {reserved} tokens a sequence: {reserved / whole:.1f} times as many"
        return replace(paged, notes=(*schedule.notes, note))
