"""2:4 sparsity with PyTorch's semi-structured tensors."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, step_logits
from profiler.treatments.products import checked, exchanged, product
from specfiles.errors import InputError

DTYPES = ("bf16", "fp16")
TILE = (32, 64)  # outputs and inputs of a CUTLASS tile in 16 bits; those of cuSPARSELt are smaller
FIRST = (8, 0)  # compute capability of the first matrix units with 2:4 sparsity


class TwoOfFour(Treatment):
    """The layers' projections by cuSPARSELt, or by CUTLASS where PyTorch was built without it.

    The two largest of every four weights are kept. The deviation of results is reported without a limit;
    each product is compared with the dense one of the kept weights before timing.
    """

    name = "sparsity-2:4"

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """Other devices than GPUs since Ampere, and other formats than 16 bits."""
        if not device.startswith("cuda"):
            return "PyTorch has no 2:4 kernels for a CPU; it needs CUDA"
        import torch

        if torch.cuda.get_device_capability(device) < FIRST:
            return f"{torch.cuda.get_device_name(device)} has no matrix units for 2:4 sparsity"
        if dtype not in DTYPES:
            return f"its kernels multiply in {' or '.join(DTYPES)}; take --dtype {DTYPES[0]}"
        return None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step with half of each projection's weights."""
        run = step_logits(subject, point)
        with warnings.catch_warnings():  # that it is a prototype
            warnings.simplefilter("ignore")
            around = exchanged(subject, partial(_sparse, subject.dtype))
        remark = "the smaller two of every four weights left out; products checked against dense ones"
        return Pair(run, run, technique, around_treated=around, remark=remark)


def _sparse(dtype: str, linear: Any) -> Any:
    import torch
    from torch.sparse import to_sparse_semi_structured

    if any(size % tile for size, tile in zip(linear.weight.shape, TILE, strict=True)):
        raise InputError(
            f"2:4 products need outputs and inputs in multiples of {TILE[0]} and {TILE[1]}; one is "
            f"{tuple(linear.weight.shape)}."
        )
    kept = halved(linear.weight.detach())
    packed = to_sparse_semi_structured(kept)

    def multiply(rows: Any) -> Any:
        return torch.nn.functional.linear(rows, packed)

    return product(checked(multiply, kept, dtype), linear.bias)


def halved(weight: Any) -> Any:
    """The weights [outputs, inputs] with the two smallest of every four in a row set to zero."""
    import torch

    fours = weight.reshape(-1, 4)
    smaller = fours.abs().topk(2, dim=1, largest=False).indices
    return torch.scatter(fours, 1, smaller, 0).view(weight.shape)
