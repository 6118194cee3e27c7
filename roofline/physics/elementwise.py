"""Norms, rotary embedding, activations, additions: one pass over rows, from the L2 or from memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import Constant, column
from workloads.operators import Activation, Norm, Residual, Rope

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu
    from workloads.operators import Operator

CONSTANTS = (
    Constant("launch_s", "s", 5e-7, 3e-5, 3e-6, "start of the kernel and its first loads"),
    Constant("memory_share", "", 0.1, 1.2, 0.8, "share of the memory bandwidth that the pass reaches"),
    Constant("l2_share", "", 0.05, 1.5, 0.4, "share of the L2 bandwidth where rows are still there"),
    Constant("kept", "", 0.01, 2.0, 0.4, "of the L2 that holds rows which the kernel before has written"),
)


class ElementwiseModel:
    """Launch, then bytes from where they are."""

    kinds: ClassVar[tuple[str, ...]] = ("rmsnorm", "rope", "act_mul", "elementwise_add")
    family: ClassVar[tuple[str, ...]] = ("hidden", "n_heads", "n_kv_heads", "head_dim")
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "bytes at the peak of the memory, or of the L2 where they still are there",
        "reached": "share of that bandwidth that one pass reaches",
        "launch": "start of the kernel",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all kinds."""
        return CONSTANTS

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The ideal pass through memory, what the share of the bandwidth adds, and the launch."""
        size = np.asarray(operator(rows, dtype.outputs).work().bytes, dtype=np.float64)
        near = np.minimum(1.0, c["kept"] * gpu.l2_bytes / np.maximum(size, 1.0))
        memory = 1 / (c["memory_share"] * gpu.dram_byte_per_s)
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
    made: dict[str, type[Norm | Activation | Residual]] = {
        "rmsnorm": Norm,
        "act_mul": Activation,
        "elementwise_add": Residual,
    }
    return made[kind](tokens, width, dtype)
