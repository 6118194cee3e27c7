"""The cache of keys and values: its format, its layout and its reuse."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.dtypes import FORMATS, bytes_per_element
from workloads.model import UNLIMITED
from workloads.schedule import Pass, Schedule
from workloads.step import Setting
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.conditions import no_cache, no_prompt


@dataclass(frozen=True)
class KvQuantisation(Technique):
    """Keys and values are stored in few bits and dequantised when they are read."""

    name = "kv-quantisation"
    aliases = ("kv-cache-quantisation", "kvquant")
    variants = {
        "kivi": {"format": "int2_g32"},
        "kv8": {"format": "int8"},
        "kv-fp8": {"format": "fp8"},
        "kv4": {"format": "int4"},
        "kv2": {"format": "int2"},
    }
    category = "quantisation"
    paper = "KIVI arXiv:2402.02750; KVQuant arXiv:2401.18079"
    removes = "bytes of the KV cache, in memory and in every decode step"
    adds = "dequantisation inside the attention kernel; quantisation when keys and values are appended"
    needs = "an attention kernel that reads the format"
    quality = "lossy"
    served = "vLLM, SGLang, TensorRT-LLM (8 bits)"
    slot = "the format of the KV cache"
    on_arrays = True

    format: str = parameter(
        "int4",
        "format of keys and values (KVQuant: 4 bits and fewer, scales of whole channels and tokens)",
        among=("fp8", "int8", "int4", "int2", "int2_g32", "bf16"),
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """There must be a cache in a wider format."""
        if (reason := no_cache(schedule)) is not None:
            return reason
        kv = schedule.main.setting.precision.kv
        if bytes_per_element(kv) < FORMATS[self.format][0] / 8:
            return f"the cache in {kv} is narrower than {self.format} already"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The format of the cache, in every pass and in memory."""

        def narrow(setting: Setting) -> Setting:
            return replace(setting, precision=replace(setting.precision, kv=self.format))

        return schedule.with_setting(narrow)


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


@dataclass(frozen=True)
class PrefixCaching(Technique):
    """A share of the prompt was read for an earlier request; its keys and values are still there."""

    name = "prefix-caching"
    aliases = ("radix-attention", "automatic-prefix-caching", "prompt-caching", "prefix-reuse")
    category = "memory management"
    paper = "SGLang RadixAttention arXiv:2312.07104; vLLM PagedAttention arXiv:2309.06180, section 4.4"
    removes = "the prefill of the cached share of the prompt"
    adds = "memory for prefixes kept between requests"
    needs = "requests that begin alike"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "reuse of prefixes"
    assumed = ("hit",)
    of_requests = True

    hit: float = parameter(0.5, "share of prompt tokens found in the cache (measure yours)", low=0, high=1)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Only a prefill can be skipped, and only values that depend on the prefix alone can be reused."""
        encoder = "what an encoder makes of a prefix depends on all that follows"
        other = encoder if schedule.main.model.has_memory else None
        return no_prompt(schedule) or no_cache(schedule) or other

    def apply(self, schedule: Schedule) -> Schedule:
        """New positions are fewer and see as much as before; the last one is always computed."""

        def rest(p: Pass) -> Pass:
            return replace(p, q_len=max(1, round(p.q_len * (1 - self.hit))))

        return schedule.each("prefill", rest)
