"""Gathers, appends, copies and sampling: operators that move more data than they compute."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.place import Place, pairs
from workloads.operators import Copy, Embedding, KvAppend, RelativeBias, Sampling

if TYPE_CHECKING:
    import torch


@build.register
def _(op: Embedding, place: Place) -> Kernel:
    import torch
    from torch.nn.functional import embedding

    table = place.random(whole(op.vocabulary), whole(op.width))
    rows = [
        torch.randint(whole(op.vocabulary), (1, whole(op.tokens)), device=place.device) for _ in range(64)
    ]  # different rows for each call: a token's row is rarely in the cache
    return Kernel(lambda i: embedding(rows[i % 64], table), lambda: embedding(rows[0], table.double()))


@build.register
def _(op: RelativeBias, place: Place) -> Kernel:
    import torch

    queries, keys, buckets = whole(op.q_len), whole(op.kv_len), whole(op.buckets)
    table = place.random(buckets, whole(op.heads))

    def buckets_of() -> torch.Tensor:
        """One bucket for each small distance, logarithmic buckets for larger ones."""
        query = torch.arange(keys - queries, keys, device=place.device)[:, None]
        back = (query - torch.arange(keys, device=place.device)).clamp_min(0)
        own = max(1, buckets // 2)
        shared = own + (torch.log(back.float() / own) * (own / math.log(8))).clamp_min(0).long()
        return torch.where(back < own, back, shared.clamp_max(buckets - 1))

    return Kernel(
        lambda _: table[buckets_of()].permute(2, 0, 1), lambda: table.double()[buckets_of()].permute(2, 0, 1)
    )


@build.register
def _(op: KvAppend, place: Place) -> Kernel:
    tokens, heads, width = whole(op.tokens), whole(op.kv_heads), whole(op.head_dim)
    new = [place.random(1, heads, tokens, width) for _ in range(2)]
    caches = pairs(place, 1, heads, 2 * tokens, width)

    def run(i: int) -> torch.Tensor:
        for cache, fresh in zip(caches, new, strict=True):
            cache[i % len(cache)][:, :, tokens:] = fresh
        return caches[0][i % len(caches[0])][:, :, tokens:]

    return Kernel(run, new[0].double)


@build.register
def _(op: Sampling, place: Place) -> Kernel:
    import torch

    logits = place.random(whole(op.rows), whole(op.vocabulary))
    if not op.softmax:
        return Kernel(lambda _: logits.argmax(-1), lambda: logits.double().argmax(-1).double())
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_().clamp_min(1e-6).to(logits.dtype)

    def draw(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The largest p / e with exponential e, whose index is a sample of p."""
        return (logits.softmax(-1) / noise).max(-1).values

    return Kernel(lambda _: draw(logits, noise), lambda: draw(logits.double(), noise.double()))


@build.register
def _(op: Copy, place: Place) -> Kernel:
    sources, targets = pairs(place, max(1, whole(op.size_bytes) // place.torch_dtype.itemsize))
    return Kernel(lambda i: targets[i % len(targets)].copy_(sources[i % len(sources)]), sources[0].double)
