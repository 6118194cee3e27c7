"""Dense matrix products: C[m, n] = A[m, k] W[n, k]^T."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from roofline.physics.base import Constant, column, smooth_max
from workloads.dtypes import compute_dtype
from workloads.operators import Gemm

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu


class GemmModel:
    """Launch, plus the roofline at the shares of the peaks that the kernel reaches."""

    kinds: ClassVar[tuple[str, ...]] = ("gemm",)
    family: ClassVar[tuple[str, ...]] = ("n", "k")

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """See each constant's `why`."""
        return (
            Constant("launch_s", "s", 5e-7, 3e-5, 3e-6, "start of the kernel in a CUDA graph"),
            Constant("compute_share", "", 0.2, 1.1, 0.8, "share of the tensor peak that long kernels reach"),
            Constant("memory_share", "", 0.3, 1.2, 0.85, "share of the memory bandwidth that streams reach"),
            Constant("sharpness", "", 1.0, 20.0, 4.0, "how well copies hide behind arithmetic"),
        )

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The ideal roofline, then what launch, shares of peaks and imperfect overlap add."""
        m, n, k = (column(rows, name) for name in ("m", "n", "k"))
        work = Gemm(m, n, k, dtype.inputs, dtype.weights, dtype.outputs).work()
        compute = work.flops / gpu.peak(compute_dtype(dtype.inputs))
        memory = work.bytes / gpu.dram_byte_per_s
        ideal = smooth_max([compute, memory], 200.0)
        reached = smooth_max([compute / c["compute_share"], memory / c["memory_share"]], c["sharpness"])
        return {"ideal": ideal, "reached": reached - ideal, "launch": 0 * ideal + c["launch_s"]}
