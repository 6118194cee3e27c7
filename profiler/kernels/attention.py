"""Attention over contiguous keys and values: PyTorch's scaled_dot_product_attention.

It cannot cap scores; models that do so (arXiv:2408.00118) run separate kernels, and so does their reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from profiler.kernels.base import Kernel, build, checked_part, whole
from profiler.kernels.place import Place, pairs
from specfiles.errors import InputError
from workloads.operators import Attention, CompressedAttention, IndexScores

if TYPE_CHECKING:
    import torch

CAP = 50.0  # of Gemma 2's scores; time does not depend on it
CHECKED = 64  # query positions compared with fp64: all scores of a long prompt would not fit


@build.register
def _(op: Attention, place: Place) -> Kernel:
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    batch, heads, kv_heads = whole(op.batch), whole(op.heads), whole(op.kv_heads)
    q_len, kv_len, width = whole(op.q_len), whole(op.kv_len), whole(op.head_dim)
    window = kv_len if op.window is None else min(kv_len, whole(op.window))
    q = place.random(batch, q_len, heads, width).transpose(1, 2)
    keys, values = pairs(place, batch, kv_heads, kv_len, width)
    groups = heads // kv_heads
    plain = window == kv_len and (q_len == kv_len or not op.causal)  # masks built into the kernel
    mask = None if plain or q_len == 1 else visible(q_len, kv_len, window, op.causal, place.device)

    def attend(q: Any, k: Any, v: Any) -> torch.Tensor:
        if q_len == 1:  # queries as rows of their KV head: no mask, no copies of K and V
            seen = (t[:, :, -window:] for t in (k, v))
            packed = sdpa(q.reshape(batch, kv_heads, groups, width), *seen)
            return packed.reshape(batch, 1, heads * width)
        causal = op.causal and mask is None
        mixed = sdpa(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1)
        return mixed.transpose(1, 2).reshape(batch, q_len, heads * width)

    def separately(q: Any, k: Any, v: Any) -> torch.Tensor:
        scores = q @ k.repeat_interleave(groups, dim=1).transpose(2, 3) / math.sqrt(width)
        scores = _capped(scores)
        if q_len > 1 or window < kv_len:
            scores = scores.masked_fill(hidden, -math.inf)
        mixed = scores.softmax(-1) @ v.repeat_interleave(groups, dim=1)
        return mixed.transpose(1, 2).reshape(batch, q_len, heads * width)

    hidden = ~visible(q_len, kv_len, window, op.causal, place.device) if op.softcap else None
    run = separately if op.softcap else attend

    def exact() -> torch.Tensor:
        checked = min(q_len, CHECKED)
        last, shared = checked_part(batch, kv_heads, 2 * groups * checked * kv_len * width)
        of_heads = shared * groups
        k, v = (t[0][-last:, -shared:].double().repeat_interleave(groups, dim=1) for t in (keys, values))
        scores = q[-last:, -of_heads:, -checked:].double() @ k.transpose(2, 3) / math.sqrt(width)
        scores = _capped(scores) if op.softcap else scores
        scores = scores.masked_fill(~visible(checked, kv_len, window, op.causal, place.device), -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(last, checked, of_heads * width)

    return Kernel(lambda i: run(q, keys[i % len(keys)], values[i % len(values)]), exact)


def _capped(scores: torch.Tensor) -> torch.Tensor:
    return CAP * (scores / CAP).tanh()


def visible(q_len: int, kv_len: int, window: int, causal: bool, device: str) -> torch.Tensor:
    """The mask of positions that each of the last `q_len` attends to: bool[q_len, kv_len]."""
    import torch

    query = torch.arange(kv_len - q_len, kv_len, device=device)[:, None]
    key = torch.arange(kv_len, device=device)
    ahead = key > query if causal else torch.zeros(q_len, kv_len, dtype=torch.bool, device=device)
    return ~ahead & (key > query - window)


@build.register
def _(op: CompressedAttention, place: Place) -> Kernel:
    raise InputError("there is no reference kernel for attention to compressed entries.")


@build.register
def _(op: IndexScores, place: Place) -> Kernel:
    """Of all pairs of a query and a key, as model code has it, which masks behind the sum."""
    batch, q_len, heads, width = map(whole, (op.batch, op.q_len, op.heads, op.head_dim))
    queries, weights = place.random(batch, q_len, heads, width), place.random(batch, q_len, 1, heads)
    keys = place.cold(batch, 1, width, whole(op.kv_len))

    def scores(queries: Any, weights: Any, keys: Any) -> torch.Tensor:
        found = queries @ keys
        return (weights @ found.relu())[:, :, 0] if op.summed else found

    return Kernel(
        lambda i: scores(queries, weights, keys[i % len(keys)]),
        lambda: scores(queries.double(), weights.double(), keys[0].double()),
    )
