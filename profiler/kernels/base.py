"""Reference kernels: a call to be timed, and its result in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from profiler.kernels.place import PRODUCTS, known_kernel_dtype
from specfiles.errors import InputError
from workloads.operators import Gemm, Operator

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place


KERNEL_ERRORS = Exception  # libraries raise errors of every kind
MOST_CHECKED = 1e9  # multiply-adds in fp64: some GPUs do them 64 times slower than those in fp32


@dataclass(frozen=True)
class Kernel:
    """A callable by execution number, which selects the copy of rotated buffers, and its exact result."""

    run: Callable[[int], torch.Tensor]
    exact: Callable[[], torch.Tensor]  # the same result in fp64, or the end of it in each dimension
    backend: str = "torch"  # the library
    name: str = "torch"  # of the kernel, where the library has several

    @property
    def words(self) -> str:
        """Library and kernel."""
        return self.name if self.name.startswith(self.backend) else f"{self.backend}, {self.name}"

    def error(self) -> float:
        """Largest deviation of the result from fp64, relative to the largest element."""
        import torch

        result, exact = self.run(0), self.exact()
        sizes = zip(result.shape, exact.shape, strict=True)
        result = result[tuple(slice(size - checked, None) for size, checked in sizes)]
        return float((result.to(torch.float64) - exact).abs().max() / exact.abs().max().clamp_min(1e-30))

    def checked_error(self, dtype: str) -> float:
        """The deviation. Raises InputError where it exceeds the tolerance of a format."""
        error = self.error()
        if not error <= TOLERANCE[dtype]:
            raise InputError(f"deviates by {error:.2g} from fp64")
        return error


# Rounding of sums, intermediate values and results; inputs are exact in their format.
TOLERANCE = {"fp64": 1e-12, "fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, **dict.fromkeys(PRODUCTS, 5e-2)}


def kernel(operator: Operator, place: Place) -> Kernel:
    """The kernel of an operator. Raises InputError where there is none for it or its format."""
    if not (place.dtype in PRODUCTS and isinstance(operator, Gemm)):
        known_kernel_dtype(place.dtype)
    return build(operator, place)


@singledispatch
def build(operator: Operator, place: Place) -> Kernel:
    """The kernel of a kind of operator; other modules register implementations."""
    raise InputError(f"there is no reference kernel for {operator.kind}.")


def checked_part(rows: int, columns: int, each: int) -> tuple[int, int]:
    """How many of the last rows and columns of a result are compared with fp64, at `each` multiply-adds.

    The last ones, because tiles and blocks at the end are the ones that are not full.
    """
    side = int(math.sqrt(MOST_CHECKED / each))
    high = max(1, min(rows, max(side, int(MOST_CHECKED / (each * columns)))))
    return high, max(1, min(columns, int(MOST_CHECKED / (each * high))))


def whole(size: Any) -> int:
    """A size as an integer; operators of grids, with arrays of sizes, have no kernels.

    Raises InputError for an average over steps of which most do not run the operator.
    """
    size = size.item() if hasattr(size, "item") else size
    if 0 < size < 1:
        raise InputError(
            f"an average step has {size:g} of a row or column of it, and kernels run whole ones."
        )
    return int(size)
