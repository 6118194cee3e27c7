"""What a reference kernel is: a call to be timed beside the same result in fp64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from profiler.kernels.place import FP8, known_kernel_dtype
from specfiles.errors import InputError
from workloads.operators import Gemm, Operator

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place


KERNEL_ERRORS = Exception  # what a kernel fails with: libraries raise errors of every kind


@dataclass(frozen=True)
class Kernel:
    """A callable per execution number (it selects the copy of rotated buffers), and what it should give."""

    run: Callable[[int], torch.Tensor]
    exact: Callable[[], torch.Tensor]  # the same result in fp64, or its last positions
    backend: str = "torch"  # the library that the call goes to
    name: str = "torch"  # of the kernel, where a library has several for the operator

    @property
    def words(self) -> str:
        """Library and kernel in one."""
        return self.name if self.name.startswith(self.backend) else f"{self.backend}, {self.name}"

    def error(self) -> float:
        """Largest deviation of the result from fp64, relative to the largest element."""
        import torch

        result, exact = self.run(0), self.exact()
        if result.ndim > 1 and result.shape[1] > exact.shape[1]:
            result = result[:, -exact.shape[1] :]
        return float((result.to(torch.float64) - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


# Rounding of sums, of what lies between, and of results; inputs are exact in their format.
TOLERANCE = {"fp64": 1e-12, "fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "fp8": 5e-2}


def kernel(operator: Operator, place: Place) -> Kernel:
    """The kernel of an operator; an InputError where there is none for it or its format."""
    if not (place.dtype == FP8 and isinstance(operator, Gemm)):  # PyTorch multiplies in fp8, no more
        known_kernel_dtype(place.dtype)
    return build(operator, place)


@singledispatch
def build(operator: Operator, place: Place) -> Kernel:
    """The kernel of a kind of operator; other modules register theirs here."""
    raise InputError(f"there is no reference kernel for {operator.kind}.")


def whole(size: Any) -> int:
    """A size of a single operator, a number or an array of one: reference kernels take no grids."""
    return int(size.item() if hasattr(size, "item") else size)
