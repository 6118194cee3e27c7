"""Products with weights: one matrix, or each row with the matrix of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.kernels.base import Kernel, build, checked_part, whole
from profiler.kernels.groups import Groups, exact_products
from profiler.kernels.place import PRODUCTS, Place
from profiler.kernels.scaled import scaled
from workloads.operators import Gemm, GroupedGemm

if TYPE_CHECKING:
    import torch


@build.register
def _(op: Gemm, place: Place) -> Kernel:
    from torch.nn.functional import linear

    if place.dtype in PRODUCTS:
        return scaled(op, place)
    m, n, k = whole(op.m), whole(op.n), whole(op.k)
    x, weights = place.random(1, m, k), place.cold(n, k)
    bias = place.random(n) if op.bias else None

    def exact() -> torch.Tensor:
        rows, columns = checked_part(m, n, k)
        added = None if bias is None else bias[-columns:].double()
        return linear(x[:, -rows:].double(), weights[0][-columns:].double(), added)

    return Kernel(lambda i: linear(x, weights[i % len(weights)], bias), exact)


@build.register
def _(op: GroupedGemm, place: Place) -> Kernel:
    """Rows in the order of their groups, spread evenly over the touched ones."""
    m, n, k, touched = whole(op.m), whole(op.n), whole(op.k), max(1, whole(op.touched + 0.5))
    groups = Groups(place, m, touched, touched)
    x, weights = place.random(m, k), place.cold(groups.count, n, k)
    bias = groups.by_row(place.random(groups.count, n)) if op.bias else None

    def run(i: int) -> torch.Tensor:
        product = groups.multiply(x, weights[i % len(weights)])
        return product if bias is None else product + bias

    def exact() -> torch.Tensor:
        rows, columns = checked_part(m, n, k)
        product = exact_products(x[-rows:], weights[0][:, -columns:], groups.owners[-rows:])
        return product if bias is None else product + bias[-rows:, -columns:].double()

    return Kernel(run, exact, name=groups.kernel(n, k))
