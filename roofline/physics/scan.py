"""Chains of kernels that read a prompt with a recurrent state: the gated delta rule, and the convolution.

Nobody's tables hold them. Their constants are those of published measurements, which each model names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from roofline.physics.base import Constant, ceil_div, column
from roofline.physics.model import KernelModel

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

CHUNK = 64  # positions (flash-linear-attention, ops/gated_delta_rule/chunk.py)
WIDE = 2  # bytes of an element between kernels, which is bf16 but for one matrix


class DeltaModel(KernelModel):
    """The gated delta rule of a prompt as flash-linear-attention's kernels, which SGLang and vLLM carry.

    Every kernel reads from memory what the one before left there. One of them goes through the chunks of a
    sequence in order: however few heads there are, each chunk takes its latency.
    """

    kinds: ClassVar[tuple[str, ...]] = ("gated_delta",)
    family: ClassVar[tuple[str, ...]] = ("n_heads", "n_kv_heads", "head_dim")
    why: ClassVar[Mapping[str, str]] = {
        "between": "intermediate results between the chain's kernels, through memory",
        "chain": "chunks of a sequence run one after another, at a latency each",
        "launch": "kernel launches",
    }
    # B200: vllm-project/vllm pull request 38981 and flashinfer-ai/flashinfer pull request 2742 time the chain
    # on 8 to 96 heads and 1 to 9 sequences; tests/roofline/physics/test_scan.py has the times. What is short
    # takes longer than this.
    published: ClassVar[str] = "vllm pull request 38981"

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all formats."""
        return (
            Constant("memory_share", "", 0.05, 1.0, 0.42, "share of the memory bandwidth"),
            Constant(
                "chunk_s", "s", 1e-7, 2e-5, 1.75e-6, "latency of one chunk: two products and their loads"
            ),
            Constant("launch_s", "s", 1e-6, 3e-4, 5.3e-5, "launches of six kernels"),
        )

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """Memory between kernels, the chain through the chunks, the launches; nothing for short steps."""
        length, key, value = (column(rows, name) for name in ("q_len", "head_dim", "inter"))
        each = column(rows, "batch") * length * column(rows, "n_heads")
        chunked = length >= CHUNK
        size = each * _between_bytes(key, value)
        return {
            "between": size / (c["memory_share"] * gpu.dram_byte_per_s) * chunked,
            "chain": ceil_div(length, CHUNK) * c["chunk_s"] * chunked,
            "launch": np.asarray(c["launch_s"] * chunked),
        }


def _between_bytes(key: Floats, value: Floats) -> Floats:
    """Bytes per position and head that the chain moves: K K', its inverse, W and U, states, outputs."""
    state = key * value / CHUNK  # of each chunk
    product = key * WIDE + CHUNK * 4  # reads k; writes K K' in fp32
    inverse = CHUNK * 4 + CHUNK * WIDE
    both = (key + value + CHUNK) * WIDE + (key + value) * WIDE  # reads k, v and the inverse; writes W, U
    states = (2 * key + value) * WIDE + (value + state) * WIDE  # reads k, W, U; writes new v and states
    outputs = (2 * key + value + state) * WIDE + value * WIDE  # reads q, k, new v, states
    return np.asarray(product + inverse + both + states + outputs)


class ConvolutionModel(KernelModel):
    """The short convolution of a prompt, as the CUDA kernel of causal-conv1d, which SGLang carries.

    Positions of a channel are not neighbours in memory, so that loads are narrow.
    """

    kinds: ClassVar[tuple[str, ...]] = ("causal_conv1d",)
    family: ClassVar[tuple[str, ...]] = ("hidden",)
    why: ClassVar[Mapping[str, str]] = {
        "pass": "reads and writes of every position at the bandwidth share of narrow loads",
        "launch": "kernel launch",
    }
    # B300, 10240 channels: 35, 228, 280 and 1280 us for 1000, 8000, 10000 and 50000 positions ("before").
    published: ClassVar[str] = "TensorRT-LLM pull request 13103"

    def constants(self, gpu: Gpu, dtype: Dtypes) -> tuple[Constant, ...]:
        """The same for all formats."""
        return (
            Constant("memory_share", "", 0.02, 1.0, 0.195, "share of the memory bandwidth"),
            Constant("launch_s", "s", 5e-7, 3e-5, 8e-6, "kernel launch and first loads"),
        )

    def parts(self, rows: Columns, gpu: Gpu, dtype: Dtypes, c: Mapping[str, float]) -> dict[str, Floats]:
        """One pass through memory, and the launch; nothing for steps of one position."""
        size = 2 * WIDE * column(rows, "num_tokens") * column(rows, "hidden")
        long = column(rows, "q_len") > 1
        return {
            "pass": size / (c["memory_share"] * gpu.dram_byte_per_s) * long,
            "launch": np.asarray(c["launch_s"] * long),
        }
