"""Products with weights: one matrix, or each row with the matrix of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.groups import Groups
from profiler.kernels.place import FP8, Place
from specfiles.errors import InputError
from workloads.operators import Gemm, GroupedGemm

if TYPE_CHECKING:
    import torch


CHECKED = 1024  # rows compared with fp64, in which some GPUs multiply 64 times slower than in fp32


@build.register
def _(op: Gemm, place: Place) -> Kernel:
    from torch.nn.functional import linear

    if place.dtype == FP8:
        return _scaled(op, place)
    x, weights = place.random(1, whole(op.m), whole(op.k)), place.cold(whole(op.n), whole(op.k))
    bias = place.random(whole(op.n)) if op.bias else None
    last = x[:, -CHECKED:]
    return Kernel(
        lambda i: linear(x, weights[i % len(weights)], bias),
        lambda: linear(last.double(), weights[0].double(), None if bias is None else bias.double()),
    )


FP8_MULTIPLE = 16  # of n and k, as required by torch._scaled_mm


def _scaled(op: Gemm, place: Place) -> Kernel:
    """fp8 by fp8 with one scale per matrix and results in bf16, without the quantisation of inputs.

    Sums are accumulated in the matrix units, as in inference engines; on Hopper the alternative is slower.
    """
    import torch

    m, n, k = whole(op.m), whole(op.n), whole(op.k)
    if n % FP8_MULTIPLE or k % FP8_MULTIPLE or op.bias:
        raise InputError(f"fp8 products need n and k in multiples of {FP8_MULTIPLE} and no bias.")
    x, weights = place.random(m, k), place.cold(n, k)
    one = torch.ones((), device=place.device)

    def run(i: int) -> torch.Tensor:
        turned = weights[i % len(weights)].t()
        return torch._scaled_mm(
            x, turned, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return Kernel(run, lambda: x.double() @ weights[0].double().t(), name="torch._scaled_mm")


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
