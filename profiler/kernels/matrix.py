"""Products with weights: one matrix, or each row with the matrix of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.groups import Groups
from profiler.kernels.place import PRODUCTS, Place
from profiler.kernels.scaled import scaled
from workloads.operators import Gemm, GroupedGemm

if TYPE_CHECKING:
    import torch


CHECKED = 1024  # rows compared with fp64, in which some GPUs multiply 64 times slower than in fp32


@build.register
def _(op: Gemm, place: Place) -> Kernel:
    from torch.nn.functional import linear

    if place.dtype in PRODUCTS:
        return scaled(op, place)
    x, weights = place.random(1, whole(op.m), whole(op.k)), place.cold(whole(op.n), whole(op.k))
    bias = place.random(whole(op.n)) if op.bias else None
    last = x[:, -CHECKED:]
    return Kernel(
        lambda i: linear(x, weights[i % len(weights)], bias),
        lambda: linear(last.double(), weights[0].double(), None if bias is None else bias.double()),
    )


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
        product = groups.exact(x, weights[0])
        return product if bias is None else product + bias.double()

    return Kernel(run, exact, name=groups.kernel(n, k))
