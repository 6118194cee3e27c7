"""Low-rank projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workloads.operators import Gemm, Operator
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.base import Technique, parameter
from workloads.techniques.changes import each_row, is_projection


@dataclass(frozen=True)
class LowRank(Technique):
    """Each projection of the layers becomes a product of two thin matrices."""

    name = "low-rank"
    aliases = ("svd", "asvd", "svd-llm", "low-rank-factorisation")
    category = "sparsification"
    paper = "ASVD arXiv:2312.05821; SVD-LLM arXiv:2403.07378"
    removes = "weights and work of the projections"
    adds = "a second, thin product for each"
    needs = "a decomposition with calibration data"
    quality = "lossy"
    slot = "the rank of projections"
    on_arrays = True

    ratio: float = parameter(
        0.8, "parameters that stay of each projection (ASVD: 0.7 to 0.9)", low=0.01, high=1
    )

    def apply(self, schedule: Schedule) -> Schedule:
        """Rank r = ratio n k / (n + k) leaves that share of the parameters."""
        return schedule.with_change(each_row(self._split)) if self.ratio < 1 else schedule

    def _split(self, row: Named) -> list[Named]:
        if not is_projection(row):
            return [row]
        down, up = self._thin(row.operator)
        names = f"{row.name}.down", f"{row.name}.up"
        return [replace(row, name=names[0], operator=down), replace(row, name=names[1], operator=up)]

    def _thin(self, product: Any) -> tuple[Operator, Operator]:
        rank = max(1, round(self.ratio * product.n * product.k / (product.n + product.k)))
        down, up = replace(product, n=rank, bias=False), replace(product, k=rank)
        if isinstance(product, Gemm):
            return down, up
        # Two kernels replace one; the intermediate has a row per token and selected expert.
        return replace(down, written_rows=None, layer=None), replace(up, read_rows=None, layer=None)
