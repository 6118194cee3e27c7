"""Attention between queries and a KV cache: one formula for prefill, decode and chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.dtypes import bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from workloads.dtypes import DtypeLike, Size


@dataclass(frozen=True)
class Attention(Operator):
    """softmax(Q K') V of the last `q_len` positions over `kv_len` of them (these included).

    Shapes: Q[batch, heads, q_len, head_dim], K and V[batch, kv_heads, kv_len, head_dim]. Query heads
    share KV heads (GQA, arXiv:2305.13245, section 2.2; 1 KV head is MQA). Prefill is q_len == kv_len,
    decode q_len == 1. A causal query sees `window` keys, itself included; None sees all.
    """

    kind: ClassVar[str] = "attention"

    batch: Size
    q_len: Size
    kv_len: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    dtype: DtypeLike = "bf16"
    kv_dtype: DtypeLike = "bf16"
    causal: bool = True
    window: Size | None = None
    causal_exact: bool = True  # False counts masked pairs too, as some tools do
    fused: bool = True  # False writes and reads the scores around the softmax

    def pairs(self) -> Any:
        """Query-key pairs of one head of one sequence for which a score is computed."""
        if not self.causal:  # a window around each query; at the edges it is counted whole
            return self.q_len * (self.kv_len if self.window is None else minimum(self.kv_len, self.window))
        if not self.causal_exact:
            return self.q_len * self.keys_read()
        before = self.kv_len - self.q_len
        return _visible(self.kv_len, self.window) - _visible(before, self.window)

    def keys_read(self) -> Any:
        """Keys of one sequence that at least one query sees."""
        if self.window is None:
            return self.kv_len
        return minimum(self.kv_len, self.window + self.q_len - 1)

    def work(self) -> Work:
        """QK' and PV: 4 FLOP per pair and head element; one exponential per score.

        Q read, output written, each KV head's visible keys and values read once. Unfused: scores are
        written by QK', read and written by the softmax, read by PV.
        """
        scores = self.batch * self.heads * self.pairs()
        queries = self.batch * self.q_len * self.heads * self.head_dim
        cached = self.batch * self.keys_read() * self.kv_heads * self.head_dim
        element, kv_element = bytes_per_element(self.dtype), bytes_per_element(self.kv_dtype)
        traffic = [
            Traffic("query", Role.INPUT, queries * element),
            Traffic("key", Role.KV_READ, cached * kv_element),
            Traffic("value", Role.KV_READ, cached * kv_element),
            Traffic("output", Role.OUTPUT, queries * element),
        ]
        if not self.fused:
            traffic.append(Traffic("scores", Role.SCORES, 4 * scores * element))
        return Work(
            dtype=self.dtype,
            traffic=tuple(traffic),
            matrix_flops=4 * scores * self.head_dim,
            special_ops=scores,
            outputs=queries,
        )


def _visible(length: Any, window: Any) -> Any:
    """Sum over positions 1..length of min(position, window): pairs of a causal prefix."""
    inside = length if window is None else minimum(length, window)
    outside = 0 if window is None else (length - inside) * window
    return inside * (inside + 1) // 2 + outside


def minimum(a: Any, b: Any) -> Any:
    """min for numbers, elementwise for arrays (without importing NumPy for numbers)."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return min(a, b)
    import numpy as np

    return np.minimum(a, b)
