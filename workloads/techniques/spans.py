"""Positions see some of the positions before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.arrays import maximum, minimum, rounded
from workloads.blocks import AttentionBlock
from workloads.dtypes import bytes_per_element
from workloads.operators import Attention, Changed, Gemm, Residual
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import each_row, on, with_blocks, within
from workloads.techniques.conditions import no_cache, no_decoding, no_heads
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class WindowAttention(Technique):
    """Every position sees a window of the last ones, in prefill and decode."""

    name = "window-attention"
    aliases = ("window", "longformer", "sliding-window-attention")
    category = "sparsification"
    paper = "Longformer arXiv:2004.05150; Mistral 7B arXiv:2310.06825"
    removes = "attention beyond the window, and its cache"
    needs = "a model trained or fine-tuned with the window"
    quality = "retrained"
    slot = "which positions are attended to"
    on_arrays = True
    example = "Llama-3.1-8B --hw h100 --prompt 8192"
    applies_with = "the kind of attention"
    refused_by = (no_heads,)

    window: int = parameter(4096, "positions that each one sees (Mistral: 4096)", low=1, high=100_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """Layers that have a narrower window keep it."""

        def narrow(b: AttentionBlock) -> AttentionBlock:
            return replace(b, window=min(b.window or self.window, self.window))

        return with_blocks(schedule, AttentionBlock, narrow)


@dataclass(frozen=True)
class BigBird(Technique):
    """Every position sees a window, a few global positions and a few random ones."""

    name = "bigbird"
    aliases = ("block-sparse-attention", "longformer-global")
    category = "sparsification"
    paper = "BigBird arXiv:2007.14062"
    removes = "attention to all other positions; keys and values stay"
    needs = "a model trained or fine-tuned with it; a block-sparse kernel"
    quality = "retrained"
    slot = "which positions are attended to"
    on_arrays = True
    applies_with = "the kind of attention"
    refused_by = (no_heads,)

    window: int = parameter(192, "positions of the window (BigBird: 3 blocks of 64)", low=1, high=10_000_000)
    first: int = parameter(128, "global positions (BigBird: 2 blocks)", low=0, high=10_000_000)
    random: int = parameter(192, "random positions (BigBird: 3 blocks)", low=0, high=10_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """The work of a window of all three sizes together, but every key stays in memory."""
        seen = self.window + self.first + self.random
        return schedule.with_change(on(Attention, lambda core: within(core, seen)), held=False)


@dataclass(frozen=True)
class StreamingLlm(Technique):
    """Every position sees a few first tokens (attention sinks) and a window; the cache keeps only those."""

    name = "streaming-llm"
    aliases = ("attention-sinks", "sliding-window-cache")
    category = "sparsification"
    paper = "StreamingLLM arXiv:2309.17453"
    removes = "keys and values beyond the window, from memory and from every step"
    needs = "an attention kernel with sinks and a window"
    quality = "lossy"
    served = "TensorRT-LLM"
    slot = "which positions are attended to"
    on_arrays = True
    refused_by = (no_cache,)

    sinks: int = parameter(4, "first tokens that stay (the paper: 4)", low=0, high=1024)
    window: int = parameter(1020, "last tokens that stay", low=1, high=10_000_000)

    def apply(self, schedule: Schedule) -> Schedule:
        """A window as wide as sinks and window together does the same work."""
        kept = self.sinks + self.window
        seen = schedule.with_change(on(Attention, lambda core: within(core, kept)))
        return seen.with_main(tokens=minimum(schedule.main.tokens, kept))


@dataclass(frozen=True)
class MixtureOfAttention(Technique):
    """Each head has a span of its own, short for most and long for few."""

    name = "mixture-of-attention"
    aliases = ("moa",)
    category = "sparsification"
    paper = "MoA arXiv:2406.14909"
    removes = "attention and cache beyond each head's span"
    needs = "spans found by profiling the model; a kernel with a span per head"
    quality = "lossy"
    slot = "which positions are attended to"
    on_arrays = True
    refused_by = (no_cache,)

    span: float = parameter(0.5, "mean span of a head over the context (MoA: 0.5)", low=0.001, high=1)

    def apply(self, schedule: Schedule) -> Schedule:
        """On average every head sees this share of what it saw."""

        def shorter(core: Any) -> Any:
            seen = core.kv_len if core.window is None else minimum(core.window, core.kv_len)
            return replace(core, window=seen * self.span)

        if self.span == 1:
            return schedule
        found = schedule.with_change(on(Attention, shorter))
        return found.with_main(cache_factor=schedule.main.cache_factor * self.span)


@dataclass(frozen=True)
class HeavyHitters(Technique):
    """The cache keeps the last tokens and those that were attended to most; the others are dropped."""

    name = "h2o"
    aliases = ("heavy-hitter-oracle", "kv-eviction", "kv-cache-eviction")
    category = "dynamic inference"
    paper = "H2O arXiv:2306.14048"
    removes = "keys and values of dropped tokens, from memory and from every step"
    adds = "a running sum of attention weights per kept position and head"
    needs = "an attention kernel that gives its weights"
    quality = "lossy"
    slot = "which positions are attended to"
    on_arrays = True
    refused_by = (no_decoding, no_cache)

    share: float = parameter(0.2, "share of the prompt that is kept (H2O: 0.2)", low=0.001, high=1)

    def apply(self, schedule: Schedule) -> Schedule:
        """A budget from the prompt's length; the prefill sees everything and drops afterwards."""
        if self.share == 1:
            return schedule
        budget = maximum(1, rounded(self.share * schedule.prompt))

        def capped(row: Named) -> list[Named]:
            if not isinstance(row.operator, Attention):
                return [row]
            core = replace(row.operator, kv_len=minimum(row.operator.kv_len, budget))
            sums = Residual(1, core.batch * core.heads * core.kv_len, "fp32")
            return [replace(row, operator=core), replace(row, name=f"{row.name}.sums", operator=sums)]

        held = minimum(schedule.main.tokens, budget)
        return schedule.with_change(each_row(capped), "decode").with_main(tokens=held)


@dataclass(frozen=True)
class Quest(Technique):
    """Each page of keys has an upper bound on its score; a query reads only the pages with the highest."""

    name = "quest"
    aliases = ("kv-selection", "kv-cache-selection", "query-aware-sparsity")
    category = "dynamic inference"
    paper = "Quest arXiv:2406.10774"
    removes = "reads of pages whose keys cannot matter, in decode"
    adds = "the smallest and largest key of each page: read in every step, kept in memory; scores of pages"
    needs = "an attention kernel over chosen pages; the whole cache stays in memory"
    quality = "lossy"
    slot = "which positions are attended to"
    on_arrays = True
    example = "Llama-3.1-8B --hw h100 --prompt 8192"
    refused_by = (no_decoding, no_cache)

    budget: int = parameter(2048, "tokens read per step", low=1, high=10_000_000)
    page: int = parameter(16, "tokens of a page (the paper: 16)", low=1, high=4096)
    dense: int = parameter(2, "first layers that read everything (the paper: 2)", low=0, high=1000)

    def apply(self, schedule: Schedule) -> Schedule:
        """Decode reads the bounds of all pages, then the chosen ones."""
        share = max(0.0, 1 - self.dense / len(schedule.main.model.layers))  # of the layers that select
        seen = schedule.with_change(each_row(lambda row: self._parts(row, share)), "decode")
        return seen.with_main(cache_factor=schedule.main.cache_factor * (1 + share / self.page))

    def _parts(self, row: Named, share: float) -> list[Named]:
        """An attention in layers that select and in the others; a window within the budget is read whole."""
        core = row.operator
        if not isinstance(core, Attention) or (core.window is not None and core.window <= self.budget):
            return [row]
        count, repeated = row.count * share, row.repeated * share
        whole = replace(row, count=row.count - count, repeated=row.repeated - repeated)
        chosen = replace(core, kv_len=minimum(core.kv_len, self.budget))
        selecting = replace(row, operator=chosen, count=count, repeated=repeated)
        scores = replace(selecting, name=f"{row.name}.page_scores", operator=self._scores(core))
        dense = [replace(whole, name=f"{row.name}.dense")] if self.dense else []
        return [scores, selecting, *dense]

    def _scores(self, core: Attention) -> Changed:
        """Both bounds of every page times the query: two products per query head."""
        seen = core.kv_len if core.window is None else minimum(core.window, core.kv_len)
        pages: Any = seen / self.page
        bounds = 2 * core.batch * pages * core.kv_heads * core.head_dim
        products = Gemm(core.batch * core.q_len, core.heads * pages, 2 * core.head_dim, core.dtype)
        return Changed(products, _FromCache("page bounds", bounds * bytes_per_element(core.kv_dtype)))


@dataclass(frozen=True)
class _FromCache:
    """The edit of a product with a matrix read from the cache instead of weights."""

    tensor: str
    size_bytes: Any

    def __call__(self, work: Work) -> Work:
        """The work with its matrix read from the cache."""
        rest = tuple(t for t in work.traffic if t.role is not Role.WEIGHT)
        return replace(work, traffic=(*rest, Traffic(self.tensor, Role.KV_READ, self.size_bytes)))
