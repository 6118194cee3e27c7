"""What the attention kernels share: the sizes of their rows, where their bytes come from, their tiles.

Flash attention (arXiv:2205.14135, 2307.08691, 2407.08608): a block of threads takes a tile of query rows and
walks over blocks of keys. Prefill, decode and latent attention differ in what fills the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics.base import column, smooth_max
from roofline.physics.libraries import kernel_of, since
from workloads.dtypes import bytes_per_element, compute_dtype
from workloads.operators import Attention

if TYPE_CHECKING:
    from roofline.physics.base import Columns, Dtypes, Floats, Gpu

NO_WINDOW = 1e18  # keys
OVERLAP = 4.0  # sharpness of the corner between tensor cores and special-function units inside a tile
OF_SGLANG = ("fa3", "trtllm_mha", "flashinfer", "triton")
LATENT, ROTATED, NOPE, VALUE = 512.0, 64.0, 128.0, 128.0  # elements; DeepSeek-V2/V3, the measured MLA


# The reason of each part of a kernel of attention.
WHY = {
    "ideal": "the roofline: FLOP at the peak or bytes at the data sheet's bandwidth",
    "reached": "attained share of either with every processor busy; tile padding",
    "waves": "latency of each block of keys, and processors idle in the last wave",
    "copies": "exposed traffic of queries, results and cache",
    "append": "new keys and values are written into the cache",
    "combine": "combining partial results of keys split over processors",
    "schedule": "a preceding kernel schedules each sequence, or finds its window",
    "launch": "kernel start and end, and its first loads",
}


@dataclass(frozen=True)
class Shape:
    """Sizes of some rows of attention, one array each."""

    batch: Floats
    q_len: Floats
    kv_len: Floats
    heads: Floats
    kv_heads: Floats
    key_dim: Floats
    value_dim: Floats
    cached_dim: Floats  # elements stored per position and KV head: key and value, or one latent for both
    window: Floats  # keys that a query sees, itself included; NO_WINDOW for all
    causal: Any

    @classmethod
    def of(cls, rows: Columns, value_dim: Floats | None = None) -> Shape:
        """The columns of the measured tables; a window of 0 is none."""
        head_dim, window = column(rows, "head_dim"), column(rows, "window")
        value_dim = head_dim if value_dim is None else value_dim
        return cls(
            batch=column(rows, "batch"),
            q_len=column(rows, "q_len", 1.0),
            kv_len=column(rows, "kv_len"),
            heads=column(rows, "n_heads"),
            kv_heads=column(rows, "n_kv_heads"),
            key_dim=head_dim,
            value_dim=value_dim,
            cached_dim=head_dim + value_dim,
            window=np.where(window > 0, window, NO_WINDOW),
            causal=column(rows, "causal", 1.0) > 0,
        )

    @property
    def group(self) -> Floats:
        """Query heads that share a KV head."""
        return self.heads / self.kv_heads

    @property
    def flop_per_pair(self) -> Floats:
        """QK' and PV of one query row and one key."""
        return 2 * (self.key_dim + self.value_dim)

    @property
    def windowed(self) -> Any:
        """Rows of which some query does not see all earlier keys."""
        return self.kv_len > self.window

    def operator(self, dtype: Dtypes, causal: bool) -> Attention:
        """The same as an operator, whose work makes the ideal time."""
        return Attention(
            self.batch,
            self.q_len,
            self.kv_len,
            self.heads,
            self.kv_heads,
            self.key_dim,
            dtype.inputs,
            dtype.kv,
            causal=causal,
            window=np.minimum(self.window, self.kv_len),
            value_dim=self.value_dim,
            values_in_keys=bool(np.all(self.cached_dim < self.key_dim + self.value_dim)),
        )

    def ideal_s(self, gpu: Gpu, dtype: Dtypes) -> Floats:
        """The roofline at data-sheet peaks."""
        exact = self.operator(dtype, causal=True).work()
        square = self.operator(dtype, causal=False).work().flops
        flops = np.where(self.causal, exact.flops, square)
        compute_s = flops / gpu.peak(compute_dtype(dtype.inputs))
        return np.asarray(np.maximum(compute_s, exact.bytes / gpu.dram_byte_per_s))


def element(dtype: str) -> float:
    """Bytes of one element."""
    return float(bytes_per_element(dtype))


def missed(size: Floats, capacity: float) -> Floats:
    """Share of a working set, used again and again, that comes from memory.

    All of it hits while it fits. Beyond, the oldest lines are the next ones needed, so that hits die out
    before the set is half again as large.
    """
    return np.clip(2 * (size / capacity - 1), 0.0, 1.0)


def row_s(
    shape: Shape,
    gpu: Gpu,
    peak: float,
    tensor_share: float,
    softmax_share: float,
    overlap: float = OVERLAP,
    exponentials: float = 1.0,
    instructions: Any = 0.0,
) -> Floats:
    """Seconds of one processor per query row and key: products beside exponentials.

    One tile's softmax runs beside another's products, so that the slower unit decides; where both are
    busy, some of the other shows. The vector units' instructions come from the warps that wait for the
    exponentials.
    """
    products = shape.flop_per_pair / (peak / gpu.processors * tensor_share)
    vector_s = instructions / (gpu.vector_flop_per_s / 2)  # a multiply-add is two FLOP
    softmax = gpu.processors * (exponentials / gpu.special_op_per_s + vector_s) / softmax_share
    return smooth_max([products, softmax], overlap)


def compiled(kernel: str) -> str | None:
    """Triton, whose kernels are one source for all GPUs; of others each generation has its own."""
    return "Triton" if "triton" in kernel else None


# Starts of kernels beside attention in a replayed graph, as medians of what equal sizes differ by: a cache in
# 8 bits beside one of 16 in SGLang (3.45 us for two), vLLM's rows with the append beside those without.
START_S, APPEND_S = 1.75e-6, 2.8e-6
# vLLM's attention no longer appends what is new, and the measured tables call that apart since.
APPENDED_APART, APPENDED_AGAIN = (0, 15), (0, 24)


def appends(rows: Columns) -> Any:
    """Whether rows hold the append of new keys and values: those of some versions of vLLM do not."""
    if not kernel_of(rows).startswith("vllm") or "version" not in rows:
        return True
    return ~(since(rows, *APPENDED_APART) & ~since(rows, *APPENDED_AGAIN))


# FlashAttention 3, for which all sequences differ in length, so that a kernel before counts their blocks
# (prepare_varlen_num_blocks). "flash_attention" is SGLang's on Ampere, and of latents on Hopper.
FLASH_3 = ("fa3", "vllm_flash_attn_fa3", "flash_attention", "flash_attention_v3", "vllm_vit_flash_attn_fa3")
# FlashAttention 2, and FlashInfer's own kernels of its kind.
FLASH_2, FLASHINFER = ("vllm_flash_attn",), ("flashinfer", "vllm_flashinfer")
SORTED_BATCH = 992.0  # sequences that vLLM's FlashAttention 3 prepares in a kernel of 32 warps of 31


def scheduled(shape: Shape, kernel: str, gpu: Gpu) -> Floats:
    """Where a kernel before prepares each sequence: FlashAttention 3's, of as many as vLLM's can sort."""
    if kernel not in FLASH_3 or gpu.generation >= 10:
        return np.zeros_like(shape.batch)
    return np.where(kernel.startswith("vllm") & (shape.batch > SORTED_BATCH), 0.0, 1.0)


def of_flashinfer(kernel: str, gpu: Gpu) -> bool:
    """Whether FlashInfer decodes by its own kernel, of FlashAttention 2's kind: not vLLM's on Blackwell."""
    return kernel == "flashinfer" or (kernel in FLASHINFER and gpu.generation < 10)


def combines_apart(kernel: str, gpu: Gpu) -> bool:
    """Whether a kernel of its own adds up the splits, and starts when the first has ended.

    From Hopper on it is launched while the first runs (programmatic dependent launch); TensorRT-LLM's last
    thread block adds up.
    """
    return kernel in (*FLASH_2, *FLASH_3, *FLASHINFER) and gpu.generation < 9


def conversions(kernel: str, dtype: Dtypes) -> int:
    """Kernels with which SGLang brings new keys and values, and trtllm-gen's queries too, into 8 bits."""
    if dtype.kv != "fp8" or kernel not in OF_SGLANG:
        return 0
    if kernel == "trtllm_mha":
        return 3
    return 2 if dtype.inputs != "fp8" else 0
