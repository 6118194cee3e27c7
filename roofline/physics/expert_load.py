"""How many tokens reach each expert of one rank, from how routing spreads them.

`balanced`: the choices of token t are spaced evenly over the experts and move on by one with each token, as
the measured tables define it. `power_law_A`: the loads of experts follow a density x^-A cut at 1 and 0.8
tokens (at 0.01 and 2 where there are fewer choices than experts), no expert is chosen twice by a token, and
rank 0 is the hottest of the ranks. `independent`: each token chooses by itself, every expert as likely as
any other, so that an expert's load is binomial; it stands for a router whose skew is unknown. Where it
is known (`--expert-skew`), popularity falls with an expert's rank as in workloads.operators.experts, and
experts are placed on the ranks by chance: many such placements are drawn, and the hottest rank is their mean.

The loads of a power law are its quantiles, which is what many draws average to. The hottest of `ranks` sums
of g loads lies, by the Cornish-Fisher expansion (z of its order statistic, corrected for the skew of the sum
of g), at g mean + deviation sqrt(g) (z + (z^2 - 1) skew / (6 sqrt(g))), and no lower than a rank that holds
the most popular expert and else average ones.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specfiles.errors import InputError
from workloads.operators.experts import popularity

if TYPE_CHECKING:
    from roofline.physics.base import Floats

TILES = (8, 16, 32, 64, 128, 256)  # rows of a tile that libraries offer for few tokens per expert
GROUPED = np.inf  # in place of an exponent: balanced choices that a limit on groups of experts changes
GROUPS, OPEN_GROUPS = 8, 4  # of DeepSeek-V3's router
INDEPENDENT = -1.0  # in place of an exponent; below it by the skew of popularity
DEALS = 1000  # ways to place experts on ranks, drawn by chance
FEW_ROWS = 50_000  # more are kept for one more question only
_NODES = 64  # loads that stand for all experts of a rank
_GRID = 256  # points of a quantile function
_Z = np.array([NormalDist().inv_cdf((j + 0.5) / _NODES) for j in range(_NODES)])


class Load(NamedTuple):
    """What one rank does: one array entry per row."""

    chosen: Floats  # pairs of a token and an expert of this rank
    touched: Floats  # experts of this rank with at least one token
    tokens: Floats  # tokens with at least one expert here
    tiles: Floats  # [len(TILES), rows]: tiles of so many rows that cover each expert's tokens


def exponent(distribution: str) -> float:
    """The exponent of `power_law_A`; 0 for balanced and INDEPENDENT for independent routing."""
    if distribution in ("", "balanced"):
        return 0.0
    if distribution == "independent":
        return INDEPENDENT
    try:
        alpha = float(distribution.removeprefix("power_law_"))
    except ValueError:
        alpha = 0.0
    if not distribution.startswith("power_law_") or not 0 < alpha < 10:
        raise InputError(
            f"distribution {distribution!r} is not known; use balanced, independent or power_law_A with "
            "0 < A < 10, for example power_law_1.2."
        )
    return alpha + 1e-6 if alpha == 1 else alpha


def exponents(distributions: Any) -> Floats:
    """The exponents of an array of names."""
    found = {name: exponent(str(name)) for name in set(distributions.tolist())}
    return np.array([found[name] for name in distributions.tolist()], dtype=np.float64)


def expert_load(tokens: Any, experts: Any, top_k: Any, ranks: Any, alpha: Any) -> Load:
    """The load of rank 0 of `ranks`, each with experts / ranks experts. Sizes are arrays of one length."""
    keys = np.stack(np.broadcast_arrays(tokens, experts, top_k, ranks, alpha)).astype(np.float64)
    counted = _cached if keys.shape[1] <= FEW_ROWS else _last
    return unpacked(counted(keys.tobytes()))


def unpacked(rows: Floats) -> Load:
    """A Load from its rows one below the other."""
    return Load(rows[0], rows[1], rows[2], rows[3:])


def _counted(sizes: bytes) -> Floats:
    distinct, row = _distinct(np.frombuffer(sizes).reshape(5, -1))
    result: Floats = _between(distinct)[:, row]
    result.setflags(write=False)
    return result


def _between(keys: Floats) -> Floats:
    """Loads of different rows, between those that are counted."""
    below, above = _neighbours(keys)
    distinct, row = _distinct(np.concatenate([below, above], axis=1))
    found = np.zeros((3 + len(TILES), distinct.shape[1]))
    alpha = distinct[4]
    skewed = (alpha > 0) & (alpha < GROUPED)
    kinds = ((alpha == 0, _balanced), (skewed, _skewed), (alpha == GROUPED, _grouped))
    for chosen, of in (*kinds, (alpha == INDEPENDENT, _independent), (alpha < INDEPENDENT, _popular)):
        if chosen.any():
            found[:, chosen] = _summed(*of(*distinct[:, chosen]))
    low, high = (found[:, part] for part in np.split(row, 2))
    part = (keys[0] - below[0]) / np.maximum(above[0] - below[0], 1.0)
    return np.asarray(low + (high - low) * part)


_cached = lru_cache(maxsize=64)(_counted)  # a fit asks for the same rows at each step
_last = lru_cache(maxsize=1)(_counted)  # a large table asks twice: for its work and for its time


def _distinct(keys: Floats) -> tuple[Floats, Any]:
    """The different columns, and which of them each column is: by hashing, which is faster than sorting."""
    import pandas as pd

    code = np.zeros(keys.shape[1], dtype=np.int64)
    for values in keys:
        if (values == values[:1]).all():  # most tables have a few layers at many numbers of tokens
            continue
        number, kinds = pd.factorize(values)
        code, _ = pd.factorize(code * len(kinds) + number)
    first = np.full(int(code.max(initial=-1)) + 1, -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    return keys[:, first], code


def _neighbours(keys: Floats) -> tuple[Floats, Floats]:
    """The rows with token counts of a grid, 32 an octave, below and above: between them loads are linear.

    Balanced routing, which is quick to count, stays as it is.
    """
    tokens = keys[0]
    step = np.exp2(np.floor(np.log2(np.maximum(tokens, 32.0))) - 5)
    low = np.where((keys[4] > 0) & (keys[4] < GROUPED), np.floor(tokens / step) * step, tokens)
    high = np.where(low < tokens, low + step, tokens)
    return np.concatenate([low[None], keys[1:]]), np.concatenate([high[None], keys[1:]])


def _summed(loads: Floats, experts: Floats, tokens: Floats) -> Floats:
    """[rows, nodes] loads and how many experts have each, as the rows of a Load."""
    tiles = [(np.ceil(loads / size) * experts).sum(axis=1) for size in TILES]
    return np.stack([(loads * experts).sum(axis=1), experts.sum(axis=1), tokens, *tiles])


def _balanced(tokens: Floats, experts: Floats, top_k: Floats, ranks: Floats, _: Floats) -> tuple[Any, ...]:
    """Each of a token's choices falls into a segment of its own, `stride` experts long."""
    held, stride = experts / ranks, np.ceil(experts / top_k)
    spread = tokens * top_k / ranks  # where a rank holds whole segments
    few = np.where(held >= stride, spread, np.minimum(np.ceil(tokens * held / stride), tokens))
    touched = np.where(tokens >= stride, held, np.minimum(few, held))
    rounds = np.floor(tokens / stride)  # rank 0 holds the first experts of a segment, which begin each round
    first = rounds * held + np.minimum(tokens - rounds * stride, held)
    chosen = np.where(held >= stride, spread, np.where(tokens < stride, touched, first))
    mean = np.maximum(chosen / touched, 1.0)
    low = np.floor(mean)
    loads = np.stack([low, low + 1], axis=1)
    share = np.stack([1 - (mean - low), mean - low], axis=1)
    return loads, touched[:, None] * share, np.where(held >= stride, tokens, np.minimum(chosen, tokens))


def _grouped(tokens: Floats, experts: Floats, top_k: Floats, ranks: Floats, _: Floats) -> tuple[Any, ...]:
    """Balanced choices as DeepSeek-V3's router changes them, which opens half of its groups to a token."""
    held = (experts / ranks).astype(np.intp)
    loads, reached = np.zeros((len(tokens), int(held.max()))), np.zeros(len(tokens))
    for row, (count, of, k) in enumerate(zip(tokens, experts, top_k, strict=True)):
        stride = np.ceil(of / k)
        if count >= stride:
            begins, times = np.arange(of), count // of + (np.arange(of) < count % of)
        else:
            begins, times = np.floor(np.arange(count) * stride / count), np.ones(int(count))
        here = _routed(begins.tobytes(), int(of), int(k))[:, : held[row]]
        loads[row, : held[row]] = (times[:, None] * here).sum(axis=0)
        reached[row] = (times * here.any(axis=1)).sum()
    return loads, (loads > 0).astype(np.float64), reached


@lru_cache(maxsize=64)
def _routed(begins: bytes, experts: int, top_k: int) -> Any:
    """[token, expert] whether it is chosen, of tokens that want evenly spaced experts from one on.

    Open are the groups with the most wanted experts, of two at most, then the first; what a token wants
    elsewhere it takes of the first experts in open groups, which it wants as much as any other. Groups of one
    expert have no second score to add: no score is valid, and the first experts take all.
    """
    if experts == GROUPS:
        return np.arange(experts)[None] < top_k
    begin = np.frombuffer(begins)[:, None]
    wanted = np.zeros((len(begin), experts))
    ids = (begin + np.arange(top_k) * math.ceil(experts / top_k)).astype(np.intp) % experts
    np.put_along_axis(wanted, ids, 1.0, axis=1)
    score = np.minimum(wanted.reshape(len(begin), GROUPS, -1).sum(axis=2), 2.0)
    opened = np.zeros_like(score)
    np.put_along_axis(opened, np.argsort(-score, axis=1, kind="stable")[:, :OPEN_GROUPS], 1.0, axis=1)
    value = (1 + wanted) * np.repeat(opened, experts // GROUPS, axis=1)
    chosen = np.zeros_like(wanted, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-value, axis=1, kind="stable")[:, :top_k], True, axis=1)
    return chosen


def _independent(tokens: Floats, experts: Floats, top_k: Floats, ranks: Floats, _: Floats) -> tuple[Any, ...]:
    """Binomial loads: exactly where they are small, else by the quantiles of the normal law."""
    held, share = experts / ranks, top_k / experts
    mean = tokens * share
    small = (mean <= _NODES / 3) & (share < 1)
    odds = np.where(small, share / np.maximum(1 - share, 1e-12), 0.0)
    one = np.where(small, tokens * np.log1p(-np.minimum(share, 1 - 1e-12)), 0.0)
    at = np.arange(1, _NODES + 1)[None]
    steps = np.maximum(tokens[:, None] - at + 1, 0.0) / at * odds[:, None]
    exact = np.exp(one)[:, None] * np.cumprod(steps, axis=1)  # P(load = 1, 2, ...)
    spread = np.sqrt(np.maximum(mean * (1 - share), 0.0))[:, None]
    wide = np.maximum(np.round(mean[:, None] + spread * _Z), 1.0)
    loads = np.where(small[:, None], at, wide)
    counts = np.where(small[:, None], exact, 1 / _NODES) * held[:, None]
    spared = (1 - 1 / ranks) ** top_k
    return loads, counts, tokens * np.where(ranks > 1, 1 - spared, 1.0)


def _popular(tokens: Floats, experts: Floats, top_k: Floats, ranks: Floats, alpha: Floats) -> tuple[Any, ...]:
    """A node per expert: what it gets where it is chosen at all, and how likely that is; the hottest rank."""
    p, likelier = np.zeros((2, len(tokens), int(experts.max())))
    for sizes in set(zip(experts, top_k, ranks, alpha, strict=True)):
        count, chosen, of = (int(size) for size in sizes[:3])
        same = (experts == count) & (top_k == chosen) & (ranks == of) & (alpha == sizes[3])
        popular = popularity(count, chosen, float(INDEPENDENT - sizes[3]))
        p[same, :count], likelier[same, :count] = popular, _with_the_hottest(popular, of)
    touched = 1 - (1 - p) ** tokens[:, None]
    loads = np.where(touched > 0, p * tokens[:, None] / np.maximum(touched, 1e-300), 0.0)
    spared = (1 - 1 / ranks) ** top_k
    counts = touched / ranks[:, None] * likelier
    return loads, counts, tokens * np.where(ranks > 1, 1 - spared, 1.0)


@lru_cache(maxsize=64)
def _with_the_hottest(popular: tuple[float, ...], ranks: int) -> Floats:
    """How much likelier than on a mean rank each expert is on the hottest one, of DEALS by chance."""
    order = np.tile(np.arange(len(popular)), (DEALS, 1))
    dealt = np.random.default_rng(0).permuted(order, axis=1).reshape(DEALS, ranks, -1)
    hottest = np.array(popular)[dealt].sum(axis=2).argmax(axis=1)
    there = np.bincount(dealt[np.arange(DEALS), hottest].ravel(), minlength=len(popular))
    return np.asarray(there * ranks / DEALS)


def _skewed(tokens: Floats, experts: Floats, top_k: Floats, ranks: Floats, alpha: Floats) -> tuple[Any, ...]:
    quantiles = _quantiles(tokens, experts, top_k, alpha)
    held, choices = experts / ranks, tokens * top_k
    total = _hottest(quantiles, experts, ranks)
    total = np.minimum(total, np.minimum(choices, tokens * held))
    loads, share = _tilted(quantiles, held, total)
    # Loads are whole tokens. What rounding loses goes to idle experts, one token each, rank by rank.
    loads = np.round(loads)
    idle = (loads < 0.5) & (share > 0)
    lost = np.maximum(choices - np.round(quantiles).mean(axis=1) * experts, 0) / ranks
    lost = np.where(ranks > 1, np.maximum(lost, np.ceil(np.minimum(lost, 1))), lost)
    asleep = (idle * share).sum(axis=1)
    woken = np.minimum(lost / np.maximum(asleep, 1e-9), 1.0)[:, None]
    share, loads = np.where(idle, share * woken, share), np.where(idle, 1.0, loads)
    chosen = (loads * share).sum(axis=1)
    missed = (1 - np.minimum(chosen / choices, 1.0)) ** top_k
    return loads, share, np.where(held <= 1, np.minimum(chosen, tokens), tokens * (1 - missed))


def _quantiles(tokens: Floats, experts: Floats, top_k: Floats, alpha: Floats) -> Floats:
    """[rows, _GRID] loads of experts at even quantiles; their mean is fixed and none is above `tokens`."""
    many = tokens * top_k > experts
    low = np.where(many, 1.0, 0.01)[:, None]
    high = np.where(many, np.maximum(0.8 * tokens, 1.0001), 2.0)[:, None]
    power, most = (1 - alpha)[:, None], tokens[:, None]
    at = (np.arange(_GRID) + 0.5) / _GRID
    loads = ((high**power - low**power) * at + low**power) ** (1 / power)
    mean = (tokens * top_k / experts)[:, None]
    loads *= mean / loads.mean(axis=1, keepdims=True)
    for _ in range(6):  # what no expert can take is shared by those below the limit
        loads = np.minimum(loads, most)
        open_, short = loads < most, mean - loads.mean(axis=1, keepdims=True)
        loads = loads + short * open_ / np.maximum(open_.mean(axis=1, keepdims=True), 1 / _GRID)
    return np.asarray(np.minimum(loads, most))


def _hottest(quantiles: Floats, experts: Floats, ranks: Floats) -> Floats:
    """The load of the hottest rank (see the module)."""
    held, mean, spread = experts / ranks, quantiles.mean(axis=1), quantiles.std(axis=1)
    third = ((quantiles - mean[:, None]) ** 3).mean(axis=1)
    skew = third / np.maximum(spread, 1e-12) ** 3
    normal = {n: NormalDist().inv_cdf((n - 0.375) / (n + 0.25)) for n in np.unique(ranks)}  # Blom
    z = np.array([normal[n] for n in ranks]) * np.sqrt(1 - 1 / ranks)  # ranks share one total
    tilt = z + (z**2 - 1) * skew / (6 * np.sqrt(held))
    top = np.take_along_axis(quantiles, ((1 - 0.5 / experts) * _GRID).astype(int)[:, None], axis=1)[:, 0]
    popular = top + (held - 1) * (experts * mean - top) / np.maximum(experts - 1, 1)
    above = np.maximum(held * mean + np.sqrt(held) * spread * np.maximum(tilt, 0.0), popular)
    return np.asarray(np.where(ranks > 1, above, experts * mean))


def _tilted(quantiles: Floats, held: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Loads of a rank that sum to `total`: quantiles at u^p, the p found by bisection; and their counts."""
    nodes, j = np.minimum(held, _NODES), np.arange(_NODES)[None]
    used = j < nodes[:, None]
    at = np.where(used, (j + 0.5) / nodes[:, None], 0.0)
    share = np.where(used, (held / nodes)[:, None], 0.0)
    rows = np.arange(len(held))[:, None]

    def loads(p: Floats) -> Any:
        place: Floats = np.clip(at ** p[:, None] * _GRID - 0.5, 0, _GRID - 1)
        below = np.minimum(place.astype(np.intp), _GRID - 2)
        part = place - below
        return quantiles[rows, below] * (1 - part) + quantiles[rows, below + 1] * part

    low, high = np.zeros(len(held)), np.full(len(held), 1.3)
    for _ in range(18):
        middle = (low + high) / 2
        over = (loads(middle) * share).sum(axis=1) > total
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.asarray(loads((low + high) / 2)), share
