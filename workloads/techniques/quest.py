"""Quest: attend to the pages of the cache that matter to this query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.arrays import minimum
from workloads.dtypes import bytes_per_element
from workloads.operators import Attention, Changed, Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import each_row
from workloads.techniques.conditions import no_cache, no_decoding
from workloads.work import Role, Traffic, Work


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
