"""Reference kernels: every operator alone, as the kernels that a model runs, each checked in fp64."""

from profiler.kernels import attention, chunks, experts, matrix, memory, rows, scans, shifts  # noqa: F401 - each registers its kinds
from profiler.kernels.base import KERNEL_ERRORS, TOLERANCE, Kernel, kernel
from profiler.kernels.paged import paged
from profiler.kernels.place import (
    PEAKS,
    PRODUCTS,
    TORCH_DTYPES,
    Place,
    company,
    known_kernel_dtype,
    product_dtypes,
)
from profiler.kernels.scaled import MULTIPLES

__all__ = [
    "KERNEL_ERRORS", "MULTIPLES", "PEAKS", "PRODUCTS", "TOLERANCE", "TORCH_DTYPES", "Kernel", "Place",
    "company", "kernel", "known_kernel_dtype", "paged", "product_dtypes",
]  # fmt: skip
