"""Routed experts: top-k, permutation of rows by expert, the experts' products, weighted sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from profiler.kernels.base import Kernel, build, checked_part, whole
from profiler.kernels.groups import Groups, exact_products
from profiler.kernels.place import Place
from workloads.operators import Combine, Permute, RoutedExperts, TopK

if TYPE_CHECKING:
    import torch


@build.register
def _(op: TopK, place: Place) -> Kernel:
    scores = place.random(whole(op.rows), whole(op.width))

    def choose(scores: Any) -> torch.Tensor:
        if not op.normalised:
            return scores.topk(whole(op.chosen)).values
        weights = scores.softmax(-1).topk(whole(op.chosen)).values
        return weights / weights.sum(-1, keepdim=True)

    return Kernel(lambda _: choose(scores), lambda: choose(scores.double()))


@build.register
def _(op: Permute, place: Place) -> Kernel:
    x, index = place.random(whole(op.tokens), whole(op.width)), _rows(op, place)
    return Kernel(lambda _: x[index], lambda: x.double()[index])


@build.register
def _(op: Combine, place: Place) -> Kernel:
    results, index = place.random(whole(op.copies), whole(op.width)), _rows(op, place)
    weights = place.random(whole(op.copies), 1)
    tokens = whole(op.tokens)
    return Kernel(
        lambda _: _summed(results * weights, index, tokens),
        lambda: _summed(results.double() * weights.double(), index, tokens),
    )


@build.register
def _(op: RoutedExperts, place: Place) -> Kernel:
    """Gather, products by group, activation, products by group, and sum, with given routing."""
    from torch.nn.functional import silu

    tokens, hidden, width = whole(op.tokens), whole(op.hidden), whole(op.width)
    choices, gated = whole(op.choices + 0.5), whole(op.matrices) > 2
    index = _spread(place, tokens, choices)
    groups = Groups(place, choices, whole(op.touched + 0.5), whole(op.touched + 0.5))
    x = place.random(tokens, hidden) / math.sqrt(hidden)  # or fp16 overflows after the gate
    wide = place.cold(groups.count, (1 + gated) * width, hidden)
    narrow = place.cold(groups.count, hidden, width)

    def between(rows: Any) -> torch.Tensor:
        return silu(rows[:, :width]) * rows[:, width:] if gated else silu(rows)

    def run(i: int) -> torch.Tensor:
        inner = between(groups.multiply(x[index], wide[i % len(wide)]))
        return _summed(groups.multiply(inner, narrow[i % len(narrow)]), index, tokens)

    def exact() -> torch.Tensor:
        each = whole(op.matrices) * hidden * width * -(-choices // tokens)
        last, _ = checked_part(tokens, 1, each)
        rows = (index >= tokens - last).nonzero()[:, 0]
        owners = groups.owners[rows]
        inner = between(exact_products(x[index[rows]], wide[0], owners))
        return _summed(exact_products(inner, narrow[0], owners), index[rows] - (tokens - last), last)

    return Kernel(run, exact, name=groups.kernel(width, hidden))


def _rows(op: Permute | Combine, place: Place) -> torch.Tensor:
    return _spread(place, whole(op.tokens), whole(op.copies))


def _spread(place: Place, tokens: int, copies: int) -> torch.Tensor:
    """The token of each routed row: all tokens equally often, in random order."""
    import torch

    return torch.arange(tokens).repeat(-(-copies // tokens))[torch.randperm(copies)].to(place.device)


def _summed(rows: torch.Tensor, index: torch.Tensor, tokens: int) -> torch.Tensor:
    return rows.new_zeros(tokens, rows.shape[1]).index_add_(0, index, rows)
