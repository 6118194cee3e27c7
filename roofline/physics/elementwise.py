"""Elementwise kernels (norms, rotary embedding, activations, additions): a launch, rounds of rows, and bytes.

A block of threads takes one row and loops over it: each turn of the loop waits for its loads, and issues its
instructions on a processor that other rows share. Beside that stream the bytes, from memory or the L2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofline.physics.base import Constant, ceil_div, column
from roofline.physics.libraries import kernel_of
from roofline.physics.model import KernelModel
from workloads.operators import Activation, Norm, Residual, Rope

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu
    from workloads.operators import Operator

# Where nobody measured a kind, these starts are its constants. Loads take 262 clocks from the L2 and 466 from
# memory on an A100, and within 5 % as many on an H100 (Luo et al., 2024, arXiv:2402.13499, table 4); here at
# START_HZ, an A100's.
START_HZ = 1.41e9
CONSTANTS = (
    Constant("launch_s", "s", 5e-7, 3e-5, 2e-6, "kernel start and end"),
    Constant("near_s", "s", 5e-8, 2e-6, 1.86e-7, "latency of an iteration with loads from the L2", "1/clock"),
    Constant("far_s", "s", 1e-8, 2e-6, 1.45e-7, "extra latency with loads from memory", "1/clock"),
    Constant("memory_share", "", 0.5, 0.95, 0.85, "share of the memory bandwidth", "stream"),
    Constant("l2_share", "", 0.03, 1.0, 0.3, "share of the L2 bandwidth for cached rows", "slices"),
    Constant("kept", "", 0.01, 2.0, 0.4, "share of the L2 that keeps the previous kernel's output", "whole"),
)
# The measured kernels load one element of 2 bytes per thread, as vLLM's did in 2023. Current ones
# (FlashInfer's, vLLM's with `vectorize`) load 16 bytes, and so take an eighth of the turns.
NARROW = frozenset({"rms_norm", "rotary", "silu_and_mul"})
WIDER = 8
# Threads of a block at most: of rotations, of others (`dim3 block` in vLLM's pos_encoding_kernels.cu, and in
# its layernorm_kernels.cu and activation_kernels.cu; Apache-2.0).
MOST_ROTATING, MOST = 512, 1024
# Instructions of a turn, about, counted in the same sources: a norm loads, converts, squares and adds, or
# scales and stores; an activation has an exponential (7) and a division (9) of floats; a rotation divides
# integers (20) for its head and angle, and loads, multiplies and stores two elements.
INSTRUCTIONS = {"rmsnorm": 10, "act_mul": 30, "rope": 50}
ISSUED = 128  # threads whose instruction a processor issues in a clock: 4 warps, on all generations


class ElementwiseModel(KernelModel):
    """Launch, the turns of the busiest processor, and the bytes from memory or the L2.

    Rows are equally long and start together, so that blocks that loop keep step: all wait, then all stream.
    """

    kinds: ClassVar[tuple[str, ...]] = ("rmsnorm", "rope", "act_mul", "elementwise_add")
    ruled_by_name: ClassVar[bool] = True
    published: ClassVar[str] = "published latencies, arXiv:2402.13499"
    family: ClassVar[tuple[str, ...]] = ("hidden", "n_heads", "n_kv_heads", "head_dim")
    why: ClassVar[Mapping[str, str]] = {
        "ideal": "bytes at the bandwidth of memory, or of the L2 where they are cached",
        "reached": "attained share of that bandwidth",
        "turns": "latency of loops over rows, from loads and busy processors",
        "launch": "kernel start and end",
    }

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all kinds; latencies start as so many clocks."""
        slower = START_HZ / gpu.boost_hz
        return tuple(
            replace(c, start=min(max(c.start * slower, c.low), c.high)) if c.scales_with == "1/clock" else c
            for c in CONSTANTS
        )

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """The ideal pass through memory, what the share of the bandwidth and turns add, and the launch."""
        size = np.asarray(operator(rows, dtype.outputs).work().bytes, dtype=np.float64)
        near = np.minimum(1.0, c["kept"] * gpu.l2_bytes / np.maximum(size, 1.0))
        memory = 1 / (c["memory_share"] * gpu.dram_byte_per_s)
        cached = np.minimum(1 / (c["l2_share"] * gpu.l2_byte_per_s), memory)
        ideal = size * ((1 - near) / gpu.dram_byte_per_s + near / gpu.l2_byte_per_s)
        reached = size * ((1 - near) * memory + near * cached)
        return {
            "ideal": np.minimum(ideal, reached),
            "reached": np.maximum(reached - ideal, 0.0),
            "turns": turns_s(rows, gpu, near, c),
            "launch": np.full(len(size), c["launch_s"]),
        }


def turns_s(rows: Columns, gpu: Gpu, near: Floats, c: Mapping[str, float]) -> Floats:
    """Seconds of the busiest processor: a latency for each turn of a round of rows, and issuing of each row.

    A processor holds so many rows at once as their threads allow, which wait together but issue in turn. A
    norm reads its row twice, the second time from nearby. Rows of wide loads take a turn or two and do not
    keep step: the first ones wait, and what follows streams meanwhile. Additions loop over no row.
    """
    kind, each = _kind(rows), 1.0 if _narrow(rows) else WIDER
    if kind == "elementwise_add":
        return np.zeros(len(near))
    if kind == "rope":
        half = column(rows, "head_dim") / 2
        lengths, most = [column(rows, name) * half for name in ("n_heads", "n_kv_heads")], MOST_ROTATING
    else:
        lengths, most = [_width(rows)] * (2 if kind == "rmsnorm" else 1), MOST
    threads = np.clip(lengths[0] / each, 32.0, most)
    waiting = [ceil_div(length, each * threads) for length in lengths]
    from_memory = waiting[0] if kind == "rmsnorm" else sum(waiting)
    round_s = np.asarray(c["near_s"] * sum(waiting) + c["far_s"] * (1 - near) * from_memory)
    if not _narrow(rows):
        return round_s
    on_one = np.maximum(np.floor(gpu.resident_threads / threads), 1.0)  # blocks of threads
    busiest = ceil_div(column(rows, "num_tokens"), gpu.processors)
    issued = INSTRUCTIONS[kind] * sum(lengths) / (ISSUED * gpu.boost_hz)
    return np.asarray(ceil_div(busiest, on_one) * round_s + busiest * issued)


def _kind(rows: Columns) -> str:
    return str(rows["op"][0]) if "op" in rows else "rmsnorm"


def _narrow(rows: Columns) -> bool:
    return kernel_of(rows) in NARROW


def _width(rows: Columns) -> Any:
    """Elements of a row."""
    width: Any = column(rows, "inter")
    return np.where(width > 0, width, column(rows, "hidden"))


def operator(rows: Columns, dtype: str) -> Operator:
    """The operator of the rows, which are all of one kind."""
    tokens, kind = column(rows, "num_tokens"), _kind(rows)
    if kind == "rope":
        heads = column(rows, "n_heads") + column(rows, "n_kv_heads")
        return Rope(tokens, heads, column(rows, "head_dim"), dtype)
    made: dict[str, type[Activation | Residual]] = {"act_mul": Activation, "elementwise_add": Residual}
    if kind == "rmsnorm":
        adds: Any = column(rows, "adds") > 0
        return Norm(tokens, _width(rows), dtype, adds=adds)
    return made[kind](tokens, _width(rows), dtype)
