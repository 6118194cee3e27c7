"""Attention between queries and a KV cache: one formula for prefill, decode and chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import maximum, minimum
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

QUERY_TILE = 64  # rows of queries per thread block (arXiv:2307.08691, section 3.3)


@dataclass(frozen=True)
class Attention(Operator):
    """softmax(Q K') V of the last `q_len` of `kv_len` positions over all of them.

    Shapes: Q[batch, heads, q_len, head_dim], K[batch, kv_heads, kv_len, head_dim], V the same or with
    `value_dim`. Query heads share KV heads (GQA, arXiv:2305.13245, section 2.2; 1 KV head is MQA). Prefill
    is q_len == kv_len, decode q_len == 1. A causal query sees `window` keys, itself included; None sees all.

    Multi-head latent attention (arXiv:2405.04434, section 2.1) is this operator twice: un-absorbed with
    expanded keys and values (`cached` False), and absorbed as one KV head whose values are the first
    `value_dim` elements of its keys (`values_in_keys`).
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
    causal_exact: bool = True  # False: masked pairs are counted, too, as some tools do
    fused: bool = True  # False: scores are written to and read from memory around the softmax
    value_dim: Size | None = None  # width of a value; None: head_dim
    values_in_keys: bool = False
    cached: bool = True  # False: keys and values are activations of this step
    scattered: bool = False  # True: the `window` keys of a query are selected by an index, anywhere
    chunk: Size | None = None  # a query sees only the keys of its own chunk of positions (Llama 4)
    alibi: bool = False  # a bias proportional to the distance (arXiv:2108.12409)
    softcap: bool = False  # scores are bounded by a tanh (arXiv:2408.00118)
    splits: bool = True  # False: keys are not split over thread blocks (no flash-decoding)
    sinks: bool = False  # a learned score per head in the softmax's denominator (gpt-oss)
    weights: DtypeLike = "bf16"  # format of the sinks

    def pairs(self) -> Any:
        """Query-key pairs of one head of one sequence for which a score is computed."""
        if not self.causal:  # a window around each query, counted in full at the edges, too
            return self.q_len * (self.kv_len if self.window is None else minimum(self.kv_len, self.window))
        if not self.causal_exact:
            return self.q_len * self.keys_read()
        before = self.kv_len - self.q_len
        if self.chunk is not None:
            return _visible_in_chunks(self.kv_len, self.chunk) - _visible_in_chunks(before, self.chunk)
        return _visible(self.kv_len, self.window) - _visible(before, self.window)

    def keys_read(self) -> Any:
        """Keys of one sequence that at least one query sees; scattered ones differ from query to query."""
        if self.chunk is not None:
            return self.kv_len - (self.kv_len - self.q_len) // self.chunk * self.chunk
        if self.window is None:
            return self.kv_len
        seen = self.window * self.q_len if self.scattered else self.window + self.q_len - 1
        return minimum(self.kv_len, seen)

    def work(self) -> Work:
        """QK' and PV: 2 FLOP per pair and element of a key, 2 of a value; one exponential per score.

        ALiBi scales and adds (2 FLOP per score); soft-capping scales before and after a tanh. Q is read, the
        output written, and each KV head's visible keys and values are read once. Unfused, scores are written
        by QK', read and written by the softmax, and read by PV.
        """
        rows = self.batch * self.q_len * self.heads
        scores = self.batch * self.heads * self.pairs()
        value_dim = self.head_dim if self.value_dim is None else self.value_dim
        return Work(
            dtype=self.dtype,
            traffic=tuple(self._traffic(rows, scores, value_dim)),
            matrix_flops=2 * scores * (self.head_dim + value_dim),
            vector_flops=2 * (self.alibi + self.softcap) * scores,
            special_ops=scores * (1 + self.softcap) + (rows if self.sinks else 0),
            outputs=rows * value_dim,
            spread=None if self.splits else self.batch * self.kv_heads * self._tiles(),
        )

    def _tiles(self) -> Any:
        """Thread blocks per KV head: one per tile of the queries that share it."""
        return -(-self.q_len * self.heads // (self.kv_heads * QUERY_TILE))

    def _traffic(self, rows: Any, scores: Any, value_dim: Any) -> Iterator[Traffic]:
        element = bytes_per_element(self.dtype)
        role = Role.KV_READ if self.cached else Role.INPUT
        keys = self.batch * self.keys_read() * self.kv_heads
        key_bytes = bytes_per_element(self.kv_dtype) if self.cached else element
        yield Traffic("query", Role.INPUT, rows * self.head_dim * element)
        yield Traffic("key", role, keys * self.head_dim * key_bytes)
        if not self.values_in_keys:
            yield Traffic("value", role, keys * value_dim * key_bytes)
        yield Traffic("output", Role.OUTPUT, rows * value_dim * element)
        if self.sinks:
            yield Traffic("sinks", Role.WEIGHT, self.heads * bytes_per_element(self.weights))
        if not self.fused:
            yield Traffic("scores", Role.SCORES, 4 * scores * element)

    def parameters(self) -> int:
        """One per head where it has sinks."""
        return int(self.heads) if self.sinks else 0


@dataclass(frozen=True)
class IndexScores(Operator):
    """sum over heads of w_h relu(Q_h K'): one score per visible position (DeepSeek-V3.2, section 2.1).

    Q[batch, heads, q_len, head_dim], one key per position shared by the heads, w[batch, q_len, heads].
    Without `summed` each head keeps its scores Q_h K' (MiniMax-M3). Where one key stands for `stride`
    positions (DeepSeek-V4), a query scores those whose positions lie behind it; a mean over positions.
    """

    kind: ClassVar[str] = "index_scores"

    batch: Size
    q_len: Size
    kv_len: Size
    heads: Size
    head_dim: Size
    dtype: DtypeLike = "bf16"
    kv_dtype: DtypeLike = "bf16"
    causal_exact: bool = True
    summed: bool = True
    stride: int = 1

    def pairs(self) -> Any:
        """Query-key pairs of one head of one sequence for which a score is computed."""
        if not self.causal_exact:
            return self.q_len * self.kv_len / self.stride
        past = self.kv_len - self.q_len
        return entries_seen(self.kv_len, self.stride) - entries_seen(past, self.stride)

    def work(self) -> Work:
        """QK': 2 FLOP per pair, head and element; the sum: 2 per pair and head. Scores stay on the chip."""
        pairs = self.batch * self.pairs()
        rows = self.batch * self.q_len * self.heads
        element = bytes_per_element(self.dtype)
        keys = self.batch * self.kv_len / self.stride * self.head_dim
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("query", Role.INPUT, rows * self.head_dim * element),
                *((Traffic("weights", Role.INPUT, rows * element),) if self.summed else ()),
                Traffic("key", Role.KV_READ, keys * bytes_per_element(self.kv_dtype)),
            ),
            matrix_flops=2 * pairs * self.heads * (self.head_dim + bool(self.summed)),
            outputs=pairs * (1 if self.summed else self.heads),
        )


def entries_seen(length: Any, stride: Any) -> Any:
    """Sum over p = 1..length of the whole strides among p positions: exact for whole strides, else smooth.

    Smooth, because the work of a decode step is then linear in the context, the mean over its positions.
    """
    return maximum(length * (length - stride + 2) / (2 * stride), 0)


def _visible(length: Any, window: Any) -> Any:
    """Sum over p = 1..length of min(p, window): the query-key pairs of a causal prefix."""
    inside = length if window is None else minimum(length, window)
    outside = 0 if window is None else (length - inside) * window
    return inside * (inside + 1) // 2 + outside


def _visible_in_chunks(length: Any, chunk: Any) -> Any:
    """The same where position p = 0..length-1 sees the p % chunk + 1 positions of its own chunk."""
    whole, rest = length // chunk, length % chunk
    return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2
