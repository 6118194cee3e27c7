"""The operators that a campaign measures, most valuable first.

Shapes are strata of real models (projections, heads) crossed with sizes. Both are visited in low-discrepancy
order, so that a campaign that ends early has some shapes of every kind and size, not all shapes of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from profiler.kernels import MULTIPLES, PRODUCTS
from roofline.optable import row_operators
from roofline.physics.columns import of_table

Row = dict[str, Any]  # columns of an operator table (roofline.optable)


@dataclass(frozen=True)
class Limits:
    """The largest operators measured on a device."""

    flops: float
    bytes: float


# (n, k) of projections: SmolLM2-135M, Qwen3-0.6B, Llama-3.2-1B and -3B, Llama-3.1-8B, Qwen2.5-32B, and
# Llama-3.1-70B whole and over 8 devices.
PROJECTIONS = (
    (4096, 4096), (576, 576), (28672, 4096), (2048, 2048), (1024, 4096), (4096, 14336), (3072, 1024),
    (8192, 8192), (6144, 4096), (1536, 576), (16384, 2048), (3072, 3072), (8192, 3584), (1280, 8192),
    (576, 1536), (5120, 27648), (1024, 8192), (2048, 8192), (49152, 576), (10240, 5120), (128256, 4096),
    (7168, 8192), (1024, 3072), (57344, 8192),
)  # fmt: skip
TOKENS = tuple(sorted({2**i for i in range(14)} | {24, 48, 96, 160, 300, 700, 1500, 3000, 5000}))
# (query heads, KV heads, width of a head): MHA, GQA and MQA of the same models
HEADS = (
    (32, 8, 128), (9, 3, 64), (32, 32, 128), (64, 8, 128), (8, 1, 128),
    (16, 8, 128), (4, 4, 128), (32, 8, 64), (24, 8, 128),
)  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
# (hidden, MLP width, query heads, KV heads, width of a head)
WIDTHS = (
    (4096, 14336, 32, 8, 128), (576, 1536, 9, 3, 64), (2048, 8192, 32, 8, 64), (8192, 28672, 64, 8, 128),
)  # fmt: skip
# (experts, choices per token, hidden, width of an expert): Mixtral 8x7B, Qwen3-30B-A3B, Granite 3.1 1B-A400M,
# OLMoE, DeepSeek-V2-Lite
EXPERTS = (
    (8, 2, 4096, 14336), (128, 8, 2048, 768), (32, 8, 1024, 512), (64, 8, 2048, 1024), (64, 6, 2048, 1408),
)  # fmt: skip
PAGE = 16  # positions of a block: the default of vLLM and FlashInfer
VOCABULARIES = (128_256, 32_000, 151_936, 49_152)
COPIES = tuple(2**i for i in range(12, 29, 2))  # as many as BATCHES
# Rows per round. Every seventh product is also measured with warm caches and with host launches.
WEIGHT = {
    "gemm": 6, "attention_decode": 3, "attention_prefill": 3, "experts": 2, "paged": 1, "elementwise": 1,
    "memory": 1, "ways": 1,
}  # fmt: skip
GROUPED = "grouped_gemm"


def rows(dtypes: Sequence[str], limits: Limits) -> Iterator[Row]:
    """Every row of a campaign within the limits, most valuable first."""
    wide = [dtype for dtype in dtypes if dtype not in PRODUCTS]
    kinds = {
        "gemm": _gemms(dtypes),
        "attention_decode": _decodes(wide),
        "attention_prefill": _prefills(wide),
        "experts": _experts(wide),
        "paged": _paged(wide),
        "elementwise": _elementwise(wide),
        "memory": _memory(wide),
        "ways": _ways(wide),
    }
    queues = {kind: iter(_affordable(list(found), limits)) for kind, found in kinds.items()}
    while queues:
        for kind in list(queues):
            for _ in range(WEIGHT[kind]):
                row = next(queues[kind], None)
                if row is None:
                    del queues[kind]
                    break
                yield row


def _gemms(dtypes: Sequence[str]) -> Iterator[Row]:
    for (n, k), m, dtype in _crossed(PROJECTIONS, TOKENS, dtypes):
        multiple = MULTIPLES.get(dtype, 1)
        if not (n % multiple or k % multiple):
            yield {"op": "gemm", "dtype": dtype, "m": m, "n": n, "k": k}


def _decodes(dtypes: Sequence[str]) -> Iterator[Row]:
    for heads, (batch, length), dtype in _crossed(HEADS, tuple(product(BATCHES, LENGTHS)), dtypes):
        yield _attention("attention_decode", heads, batch, 1, length, dtype)


def _prefills(dtypes: Sequence[str]) -> Iterator[Row]:
    for heads, (batch, length), dtype in _crossed(HEADS, tuple(product(BATCHES[:5], LENGTHS)), dtypes):
        yield _attention("attention_prefill", heads, batch, length, length, dtype)


def _attention(op: str, heads: tuple[int, int, int], batch: int, q_len: int, kv_len: int, dtype: str) -> Row:
    n_heads, n_kv_heads, head_dim = heads
    return {
        "op": op, "dtype": dtype, "kv_dtype": dtype, "batch": batch, "q_len": q_len, "kv_len": kv_len,
        "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "window": 0, "causal": 1,
    }  # fmt: skip


def _paged(dtypes: Sequence[str]) -> Iterator[Row]:
    for row in _decodes(dtypes):
        yield {**row, "page": PAGE}


def _experts(dtypes: Sequence[str]) -> Iterator[Row]:
    """A layer's experts as one operator, and their wider product alone."""
    for (experts, chosen, hidden, inter), tokens, dtype in _crossed(EXPERTS, TOKENS, dtypes):
        shape = {"hidden": hidden, "inter": inter, "topk": chosen, "num_experts": experts}
        yield {
            "op": "moe", "dtype": dtype, "num_tokens": tokens, **shape, "moe_tp": 1, "moe_ep": 1,
            "distribution": "balanced", "gated": 1,
        }  # fmt: skip
        product = {"m": tokens * chosen, "n": 2 * inter, "k": hidden}
        yield {"op": GROUPED, "dtype": dtype, **product, "num_experts": experts}


def _memory(dtypes: Sequence[str]) -> Iterator[Row]:
    for vocabulary, tokens, dtype in _crossed(VOCABULARIES, BATCHES, dtypes):
        yield {"op": "sampling", "dtype": dtype, "num_tokens": tokens, "n": vocabulary}
        if vocabulary == VOCABULARIES[0]:
            yield {"op": "copy", "dtype": dtype, "bytes": COPIES[BATCHES.index(tokens)]}


def _ways(dtypes: Sequence[str]) -> Iterator[Row]:
    """Products with weights left in the cache, or launched one by one from the host."""
    for row in islice(_gemms(dtypes), 0, None, 7):
        for tag in ("warm", "by call"):
            yield {**row, "tag": tag}


def _elementwise(dtypes: Sequence[str]) -> Iterator[Row]:
    for (hidden, inter, heads, kv_heads, width), tokens, dtype in _crossed(WIDTHS, TOKENS, dtypes):
        common = {"dtype": dtype, "num_tokens": tokens}
        yield {"op": "rmsnorm", "hidden": hidden, **common}
        yield {"op": "act_mul", "inter": inter, "gated": 1, **common}
        yield {"op": "elementwise_add", "hidden": hidden, **common}
        yield {"op": "rope", "n_heads": heads, "n_kv_heads": kv_heads, "head_dim": width, **common}


def _crossed(
    strata: Sequence[Any], sizes: Sequence[Any], dtypes: Sequence[str]
) -> Iterator[tuple[Any, Any, str]]:
    """Every (stratum, size, dtype); each round visits every stratum once, at different sizes."""
    order = list(spread(len(sizes)))
    for turn in range(len(sizes)):
        for index, stratum in enumerate(strata):
            size = sizes[order[(turn + index * _STEP) % len(sizes)]]
            for dtype in dtypes:
                yield stratum, size, dtype


_STEP = 5  # between the first sizes of neighbouring strata


def spread(count: int) -> Iterable[int]:
    """0..count-1 in the order of van der Corput's sequence: any prefix covers the range evenly."""
    bits = max(1, (count - 1).bit_length())
    reversed_bits = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return (i for i in reversed_bits if i < count)


def _affordable(found: list[Row], limits: Limits) -> list[Row]:
    """The rows within the limits, in order."""
    import numpy as np
    import pandas as pd

    table = pd.DataFrame(found)
    fits = np.zeros(len(table), dtype=bool)
    for (op, dtype), at in table.groupby(["op", "dtype"]).indices.items():
        work = row_operators(table, at, of_table(table.iloc[at]), str(op), str(dtype), "").work()
        fits[at] = (work.flops <= limits.flops) & (work.bytes <= limits.bytes)
    return [row for row, fit in zip(found, fits, strict=True) if fit]
