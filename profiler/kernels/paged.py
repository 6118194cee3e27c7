"""Decode attention over a paged KV cache, with blocks of positions in any order and a block table.

FlashInfer or FlashAttention where they are installed and support the block size; else blocks are gathered for
PyTorch's scaled_dot_product_attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from profiler.kernels.base import KERNEL_ERRORS, Kernel, checked_part, whole
from profiler.kernels.place import Place, known_kernel_dtype, pairs
from specfiles.errors import InputError, reason
from workloads.operators import Attention

if TYPE_CHECKING:
    import torch

FLASH_ATTENTION_BLOCK = 256  # positions; block sizes are multiples of this
WORKSPACE_BYTES = 128 << 20  # as FlashInfer's documentation recommends
FAULTS: dict[str, str] = {}  # installed libraries that compute nothing here, and why


def paged(op: Attention, place: Place, page: int) -> Kernel:
    """One query per sequence over blocks of `page` positions. Raises InputError for other operators."""
    if whole(op.q_len) != 1 or op.values_in_keys or not op.cached:
        raise InputError("paged attention is measured for decode steps of heads with keys and values.")
    if op.window is not None and whole(op.window) < whole(op.kv_len):
        raise InputError("paged attention is measured without a window.")
    known_kernel_dtype(place.dtype)
    cache = _Cache(op, place, page)
    backend = _backend(place, page)
    return Kernel(BACKENDS[backend](cache), cache.exact, backend, "paged")


def _backend(place: Place, page: int) -> str:
    """An installed library that reads blocks in place and computes here, else torch."""
    wanted = ["flashinfer", *(["flash_attn"] if page % FLASH_ATTENTION_BLOCK == 0 else [])]
    installed = (name for name in wanted if place.has_package(name))
    return next((name for name in installed if not _fault(name, place.device, place.dtype)), "torch")


@cache
def _fault(backend: str, device: str, dtype: str) -> str:
    """Why an installed library computes nothing here, as FlashInfer without CUDA's compiler; else empty."""
    operator = Attention(1, 1, FLASH_ATTENTION_BLOCK, 1, 1, 128, dtype=dtype, kv_dtype=dtype)
    tried = _Cache(operator, Place(device, dtype), FLASH_ATTENTION_BLOCK)
    try:
        Kernel(BACKENDS[backend](tried), tried.exact).checked_error(dtype)
    except KERNEL_ERRORS as error:
        FAULTS[backend] = reason(error)
        return FAULTS[backend]
    return ""


@dataclass(frozen=True)
class _Cache:
    """Queries, blocks of keys and values, and the block table."""

    op: Attention
    place: Place
    page: int

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Sequences, query heads, KV heads, width of a head."""
        op = self.op
        return whole(op.batch), whole(op.heads), whole(op.kv_heads), whole(op.head_dim)

    @cached_property
    def length(self) -> int:
        """Positions of each sequence."""
        return whole(self.op.kv_len)

    @cached_property
    def table(self) -> torch.Tensor:
        """int32[sequences, blocks per sequence]: block numbers in random order."""
        import torch

        batch, blocks = self.shape[0], -(-self.length // self.page)
        order = torch.randperm(batch * blocks, device=self.place.device)
        return order.view(batch, blocks).to(torch.int32)

    @cached_property
    def queries(self) -> torch.Tensor:
        """[sequences, query heads, width]."""
        batch, heads, _, width = self.shape
        return self.place.random(batch, heads, width)

    @cached_property
    def blocks(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cold copies of the keys and of the values: [blocks, page, KV heads, width]."""
        return pairs(self.place, self.table.numel(), self.page, *self.shape[2:])

    def gathered(self, blocks: torch.Tensor) -> torch.Tensor:
        """[sequences, KV heads, positions, width] in the order of the positions."""
        return blocks[self.table].flatten(1, 2)[:, : self.length].transpose(1, 2)

    def exact(self) -> torch.Tensor:
        """softmax(Q K') V in fp64, of the last sequences and heads."""
        batch, heads, kv_heads, width = self.shape
        groups = heads // kv_heads
        last, shared = checked_part(batch, kv_heads, 2 * groups * self.length * width)
        keys, values = (self.gathered(copies[0])[-last:, -shared:].double() for copies in self.blocks)
        queries = self.queries.view(batch, kv_heads, groups, width)[-last:, -shared:].double()
        scores = queries @ keys.transpose(2, 3) / math.sqrt(width)
        return (scores.softmax(-1) @ values).view(last, shared * groups, width)


def _torch(cache: _Cache) -> Callable[[int], torch.Tensor]:
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    batch, heads, kv_heads, width = cache.shape
    queries = cache.queries.view(batch, kv_heads, heads // kv_heads, width)
    keys, values = cache.blocks

    def run(i: int) -> torch.Tensor:
        k, v = (cache.gathered(copies[i % len(copies)]) for copies in (keys, values))
        return sdpa(queries, k, v).reshape(batch, heads, width)  # some kernels return another layout

    return run


def _flash_attention(cache: _Cache) -> Callable[[int], torch.Tensor]:
    import torch
    from flash_attn import flash_attn_with_kvcache

    queries = cache.queries[:, None]
    lengths = torch.full(cache.shape[:1], cache.length, dtype=torch.int32, device=cache.place.device)
    keys, values = cache.blocks

    def run(i: int) -> Any:
        blocks = (keys[i % len(keys)], values[i % len(values)])
        mixed = flash_attn_with_kvcache(
            queries, *blocks, cache_seqlens=lengths, block_table=cache.table, causal=True
        )
        return mixed[:, 0]

    return run


def _flashinfer(cache: _Cache) -> Callable[[int], torch.Tensor]:
    import torch
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    device = cache.place.device
    (batch, heads, kv_heads, width), blocks = cache.shape, cache.table.shape[1]
    scratch = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(scratch, "NHD")
    starts = torch.arange(0, (batch + 1) * blocks, blocks, dtype=torch.int32, device=device)
    last = cache.length - (blocks - 1) * cache.page
    lasts = torch.full((batch,), last, dtype=torch.int32, device=device)
    dtype = cache.place.torch_dtype
    wrapper.plan(
        starts, cache.table.flatten(), lasts, heads, kv_heads, width, cache.page,
        q_data_type=dtype, kv_data_type=dtype,
    )  # fmt: skip
    keys, values = cache.blocks
    return lambda i: wrapper.run(cache.queries, (keys[i % len(keys)], values[i % len(values)]))


BACKENDS: dict[str, Callable[[_Cache], Callable[[int], torch.Tensor]]] = {
    "torch": _torch,
    "flash_attn": _flash_attention,
    "flashinfer": _flashinfer,
}
