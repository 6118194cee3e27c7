"""Map the recorded inputs of an operator to an operator of `workloads`.

The formulas of work are in `workloads/operators`; this module only interprets the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from profiler.traces.recorded import ELEMENT_BYTES, Recorded, Tensor, matrix_work, streamed_work
from workloads.operators import Attention, Embedding, Gemm, KvAppend, Operator, Rope
from workloads.operators.experts import expected_distinct

PACKED = "fp4"
CAUSAL = ("True", "1", "2")  # a flag; PyTorch's custom_mask_type, aligned to the first or the last key
Sizes = tuple[float, float, float, float, float, float]  # of attention, in its order
Formula = Callable[[Recorded, Sequence[int]], Operator | None]


def product(call: Recorded, at: Sequence[int]) -> Operator | None:
    """A[..., m, k] @ B[..., k, n], per batch entry; B counts once where it is not batched.

    Where both pack two numbers per element, k is twice the recorded size.
    """
    a, b = call.tensors(at)
    if (a.dtype == PACKED) != (b.dtype == PACKED):
        return None
    each = 2 if a.dtype == PACKED else 1
    m = a.dims[-2] if len(a.dims) > 1 else 1
    k, n = (b.dims[-2], b.dims[-1]) if len(b.dims) > 1 else (b.dims[0], 1)
    batch = _broadcast([a.dims[:-2], b.dims[:-2]])
    if a.dims[-1] != k or not k or batch is None:
        return None
    if math.prod(b.dims[:-2]) > 1:  # every pair of matrices is moved once: what a batched product reads
        return _batched(a, b, m, n, each * k, batch)
    rows = a.elements // k if len(a.dims) > 2 else m
    return Gemm(rows, n, each * k, _multiplied(a, b), b.dtype, _wide(a))


def linear(call: Recorded, at: Sequence[int]) -> Operator | None:
    """x[..., k] @ W[n, k].T."""
    x, weight = call.tensors(at)
    if len(weight.dims) != 2 or x.dims[-1] != weight.dims[1] or not x.dims[-1]:
        return None
    n, k = weight.dims
    return Gemm(x.elements // k, n, k, _multiplied(x, weight), weight.dtype, _wide(x))


def packed(call: Recorded, at: Sequence[int]) -> Operator | None:
    """x[m, k / 2] @ W[n, k / 2].T of bytes that hold two numbers of 4 bits each, with scales per 16."""
    x, weight = call.tensors(at)
    if len(x.dims) != 2 or len(weight.dims) != 2 or x.dims[1] != weight.dims[1]:
        return None
    return Gemm(x.dims[0], weight.dims[0], 2 * x.dims[1], PACKED, "nvfp4", "bf16")


def heads_first(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Q[batch, heads, q_len, head_dim], K[batch, kv_heads, kv_len, head_dim]."""
    q, k, _ = call.tensors(at[:3])
    if len(q.dims) != 4 or len(k.dims) != 4:
        return None
    batch, heads, q_len, width = q.dims
    return _attention(call, (batch, q_len, k.dims[2], heads, k.dims[1], width), q, at)


def heads_last(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Q[batch, q_len, heads, head_dim]; of packed sequences Q[tokens, heads, head_dim], or a batch of 1."""
    q, k, _ = call.tensors(at[:3])
    if not len(q.dims) == len(k.dims) in (3, 4):
        return None
    batch, packed = math.prod(q.dims[:-3]), _packed(call, after=at[2])
    if len(q.dims) == 3:
        packed = call.sequences or packed
    elif batch > 1 or not packed:
        packed = 1
    if not packed:
        return None
    each, visible = q.dims[-3] / packed, k.dims[-3] / packed
    return _attention(call, (batch * packed, each, visible, q.dims[-2], k.dims[-2], q.dims[-1]), q, at)


def _packed(call: Recorded, after: int) -> int:
    """Sequences by the offsets where they begin, the first numbers behind the values; 0 without them."""
    vectors = (t for t in call.inputs[after + 1 :] if t and len(t.dims) == 1 and "int" in t.type)
    return next((t.dims[0] - 1 for t in vectors), 0)


def cached(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Q[tokens, heads, head_dim] over a paged cache; its length is in the step's annotation."""
    q, k = call.tensors(at)
    if len(q.dims) != 3 or len(k.dims) != 3 or not call.kv_tokens or not call.sequences:
        return None
    tokens, heads, width = q.dims
    return Attention(
        batch=call.sequences,
        q_len=max(1.0, tokens / call.sequences),
        kv_len=max(call.kv_tokens, tokens) / call.sequences,
        heads=heads,
        kv_heads=k.dims[1],
        head_dim=width,
        dtype=_matrix(q.dtype),
        kv_dtype=_matrix(q.dtype),
    )


def paged(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Decode over a paged cache: Q[sequences, heads, head_dim], keys[blocks, kv_heads, ...]."""
    q, k = call.tensors(at)
    if len(q.dims) != 3 or len(k.dims) < 3 or not call.kv_tokens:
        return None
    sequences, heads, width = q.dims
    lengths = (sequences, 1, call.kv_tokens / sequences, heads, k.dims[1], width)
    return Attention(*lengths, dtype=_matrix(q.dtype), kv_dtype=_stored(k))


def experts(call: Recorded, at: Sequence[int]) -> Operator | None:
    """x[tokens, hidden], w1[experts, 2 inter, hidden], w2[experts, hidden, inter], ids[tokens, topk].

    Weights are read once per expert expected to be selected (uniform routing).
    """
    x, first, second, ids = call.tensors(at)
    if len(first.dims) != 3 or len(second.dims) != 3 or len(x.dims) != 2 or len(ids.dims) != 2:
        return None
    tokens, topk, count = x.dims[0], ids.dims[1], first.dims[0]
    touched = expected_distinct(count, min(topk, count), tokens)
    weights = (first.bytes + second.bytes) * touched / count
    per_pair = 2 * (math.prod(first.dims[1:]) + math.prod(second.dims[1:]))
    return matrix_work(2 * x.bytes, weights, tokens * topk * per_pair, _multiplied(x, first), x.elements)


def rotated(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Queries and keys [tokens, heads x head_dim], rotated in place."""
    q, k = call.tensors(at)
    tokens = q.dims[0]
    return Rope(tokens, (q.elements + k.elements) // max(tokens, 1), 1, _matrix(q.dtype))


def appended(call: Recorded, at: Sequence[int]) -> Operator | None:
    """New keys [tokens, kv_heads, head_dim], and as many values, into a cache."""
    key, cache = call.tensors(at)
    if len(key.dims) != 3:
        return None
    return KvAppend(*key.dims, _matrix(key.dtype), _stored(cache))


def looked_up(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Rows of a table[vocabulary, width]; index_select names its rows third."""
    table = call.tensors(at[:1])[0]
    rows = next((t for t in call.all_tensors()[1:] if "long" in t.type or t.type == "int"), None)
    if len(table.dims) != 2 or rows is None:
        return None
    return Embedding(rows.elements, *table.dims, table.dtype, table.dtype)


def streamed(call: Recorded, at: Sequence[int]) -> Operator | None:
    """All tensor arguments, outputs included, each moved once."""
    return updated(call, ())


def updated(call: Recorded, at: Sequence[int]) -> Operator | None:
    """All tensor arguments read, and those at `at` written in their place."""
    tensors = call.all_tensors()
    if not tensors:
        return None
    largest = max(tensors, key=lambda t: t.elements)
    written = sum(t.bytes for t in call.tensors(at))
    return streamed_work(sum(t.bytes for t in tensors), written, largest.elements, largest.dtype)


def mapped(call: Recorded, at: Sequence[int], width: float = 0.0) -> Operator | None:
    """Element by element: all tensor inputs read, a result of their common shape written.

    `width` is that of an element in bytes, by default the widest of the inputs'.
    """
    tensors = call.tensors(at) if at else call.all_tensors()
    if not tensors:
        return None
    elements = _broadcast([t.dims for t in tensors])
    if elements is None:
        return None
    width = width or max(t.bytes / max(t.elements, 1) for t in tensors)
    dtype = max(tensors, key=lambda t: t.elements).dtype
    return streamed_work(sum(t.bytes for t in tensors), elements * width, elements, dtype)


def tested(call: Recorded, at: Sequence[int]) -> Operator | None:
    """Element by element, with a flag as result."""
    return mapped(call, at, ELEMENT_BYTES["bool"])


def reduced(call: Recorded, at: Sequence[int]) -> Operator | None:
    """One tensor read; the result is small."""
    (tensor,) = call.tensors(at)
    return streamed_work(tensor.bytes, 0.0, tensor.elements, tensor.dtype)


def copied(call: Recorded, at: Sequence[int]) -> Operator | None:
    """The second tensor into the first."""
    target, source = call.tensors(at)
    return streamed_work(source.bytes, target.bytes, 0.0, target.dtype)


def filled(call: Recorded, at: Sequence[int]) -> Operator | None:
    """One tensor written."""
    (tensor,) = call.tensors(at)
    return streamed_work(0.0, tensor.bytes, 0.0, tensor.dtype)


def joined(call: Recorded, at: Sequence[int]) -> Operator | None:
    """A list of tensors into one."""
    parts = call.lists.get(at[0])
    if not parts:
        return None
    size = sum(t.bytes for t in parts)
    return streamed_work(size, size, 0.0, parts[0].dtype)


def nothing(call: Recorded, at: Sequence[int]) -> Operator | None:
    """The kind is known; the inputs do not determine the work."""
    return None


_EVERY = (
    product, linear, packed, heads_first, heads_last, cached, paged, experts, rotated, appended,
    looked_up, streamed, updated, mapped, tested, reduced, copied, filled, joined, nothing,
)  # fmt: skip
FORMULAS: Mapping[str, Formula] = {formula.__name__: formula for formula in _EVERY}


def _attention(call: Recorded, sizes: Sizes, q: Tensor, at: Sequence[int]) -> Operator | None:
    """Behind queries, keys and values, `at` names the input that says whether later positions are hidden."""
    _, q_len, kv_len, *_ = sizes
    if not all(size > 0 for size in sizes):
        return None
    hides = any(str(call.values[i]) in CAUSAL for i in at[3:] if i < len(call.values))
    causal = q_len == 1 or (hides and q_len <= kv_len)
    return Attention(*sizes, dtype=_matrix(q.dtype), kv_dtype=_matrix(q.dtype), causal=causal)


def _batched(a: Tensor, b: Tensor, m: int, n: int, k: int, batch: int) -> Operator:
    """Independent products as one: work is the sum."""
    return matrix_work(
        a.bytes + batch * m * n * a.bytes / max(a.elements, 1),
        b.bytes,
        2.0 * batch * m * n * k,
        _multiplied(a, b),
        batch * m * n,
    )


def _multiplied(a: Tensor, b: Tensor) -> str:
    """The format that is multiplied in: the wider of both, of those that matrix units know."""
    return max((_matrix(a.dtype), _matrix(b.dtype)), key=lambda d: ELEMENT_BYTES[d])


def _matrix(dtype: str) -> str:
    return dtype if dtype in ELEMENT_BYTES else "fp32"


def _stored(cache: Tensor) -> str:
    """The format of keys and values in a cache; vLLM keeps fp8 as bytes."""
    return "fp8" if cache.type == "unsigned char" else _matrix(cache.dtype)


def _wide(tensor: Tensor) -> str:
    return "bf16" if tensor.dtype in ("fp8", "int8", PACKED) else tensor.dtype


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> int | None:
    size = max((len(shape) for shape in shapes), default=0)
    total = 1
    for axis in range(1, size + 1):
        widths = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(widths) > 1:
            return None
        total *= widths.pop() if widths else 1
    return total
