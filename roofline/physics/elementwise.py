"""Elementwise kernels (norms, rotary embedding, activations, additions): a launch, and bytes moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import Constant, column
from roofline.physics.model import KernelModel
from workloads.operators import Activation, Norm, Residual, Rope

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu
    from workloads.operators import Operator

CONSTANTS = (
    Constant("launch_s", "s", 5e-7, 3e-5, 3e-6, "start of the kernel and its first loads"),
    Constant("memory_share", "", 0.5, 1.05, 0.85, "share of the memory bandwidth", "stream"),
    Constant(
        "flight_bytes", "B", 500.0, 5e4, 4e3, "bytes in flight per processor, of kernels with narrow loads"
    ),
    Constant("l2_share", "", 0.03, 1.0, 0.3, "share of the L2 bandwidth, for rows that are cached", "slices"),
    Constant(
        "kept", "", 0.01, 2.0, 0.4, "share of the L2 that holds what the previous kernel wrote", "whole"
    ),
)


# Latency of a load from memory: 570 clocks of 1.4 GHz on an A100, and about the same time on all GPUs.
LATENCY_S = 4e-7
# The measured kernels load one element of 2 bytes per thread, as vLLM's did in 2023. Current ones
# (FlashInfer's, vLLM's with `vectorize`) load 16 bytes, so that only the memory bandwidth limits them.
NARROW = frozenset({"rms_norm", "rotary", "silu_and_mul"})
WIDER = 8


class ElementwiseModel(KernelModel):
    """Launch, then bytes from memory or the L2.

    Kernels with one narrow load per thread have too few bytes in flight for a fast memory: by Little's law
    their rate is the bytes in flight of all processors over the latency, whatever the bandwidth.
    """

    kinds: ClassVar[tuple[str, ...]] = ("rmsnorm", "rope", "act_mul", "elementwise_add")
    ruled_by_name: ClassVar[bool] = True
    family: ClassVar[tuple[str, ...]] = ("hidden", "n_heads", "n_kv_heads", "head_dim")
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "bytes at the bandwidth of memory, or of the L2 where they are cached",
        "reached": "share of that bandwidth that the kernel reaches",
        "launch": "start of the kernel",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all kinds."""
        return CONSTANTS

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The ideal pass through memory, what the share of the bandwidth adds, and the launch."""
        size = np.asarray(operator(rows, dtype.outputs).work().bytes, dtype=np.float64)
        near = np.minimum(1.0, c["kept"] * gpu.l2_bytes / np.maximum(size, 1.0))
        narrow = "kernel" in rows and str(rows["kernel"][0]) in NARROW
        in_flight = gpu.processors * c["flight_bytes"] * (1 if narrow else WIDER) / LATENCY_S
        memory = 1 / min(c["memory_share"] * gpu.dram_byte_per_s, in_flight)
        cached = np.minimum(1 / (c["l2_share"] * gpu.l2_byte_per_s), memory)
        ideal = size * ((1 - near) / gpu.dram_byte_per_s + near / gpu.l2_byte_per_s)
        reached = size * ((1 - near) * memory + near * cached)
        return {
            "ideal": np.minimum(ideal, reached),
            "reached": np.maximum(reached - ideal, 0.0),
            "launch": np.full(len(size), c["launch_s"]),
        }


def operator(rows: Columns, dtype: str) -> Operator:
    """The operator of the rows, which are all of one kind."""
    tokens = column(rows, "num_tokens")
    width: Any = column(rows, "inter")
    width = np.where(width > 0, width, column(rows, "hidden"))
    kind = str(rows["op"][0]) if "op" in rows else "rmsnorm"
    if kind == "rope":
        heads = column(rows, "n_heads") + column(rows, "n_kv_heads")
        return Rope(tokens, heads, column(rows, "head_dim"), dtype)
    made: dict[str, type[Activation | Residual]] = {
        "act_mul": Activation,
        "elementwise_add": Residual,
    }
    if kind == "rmsnorm":
        adds: Any = column(rows, "adds") > 0
        return Norm(tokens, width, dtype, adds=adds)
    return made[kind](tokens, width, dtype)
