"""Layers and steps from kernel order alone, where ranges do not give them.

Every decoder layer mixes tokens once: its attention (or scan) kernel is the anchor. The kernels between two
anchors, the end of one layer and the start of the next, are always the same, except at the end of a step:
vocabulary projection, sampling and the next embedding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.rules import COMMUNICATION

RECURRENCES = ("selective_scan", "ssd", "gated_delta", "linear_attention", "wkv", "matrix_wkv", "delta_wkv")
ANCHORS = ("attention", *RECURRENCES)
BORDERS = ("embedding", "sampling")
FEED_FORWARD = ("act_mul", "grouped_gemm", "moe_combine")
NORMS = ("rmsnorm", "reduce")  # a mean of squares is part of a norm
FEWEST = 4  # minimum of anchors for a repetition


@dataclass(frozen=True)
class Sequence:
    """Kernels in order of time: kind by name, whether they are helpers, and name codes."""

    kind: list[str]
    helper: list[bool] | bytes
    name: Any

    def anchors(self) -> list[int]:
        """Positions of the kernels that mix tokens, one per layer."""
        return [i for i, kind in enumerate(self.kind) if kind in ANCHORS and not self.helper[i]]


def layers_and_steps(sequence: Sequence) -> tuple[Any, Any]:
    """The layer (within its step) and the step of each kernel; -1 outside them, or without repetition.

    Kernels before the first or after the last layer of a step are in the step and in no layer.
    """
    count = len(sequence.kind)
    layer, step = np.full(count, NONE, np.int64), np.full(count, NONE, np.int64)
    anchors = _one_per_layer(sequence)
    if len(anchors) < FEWEST:
        return layer, step
    ends = _step_ends(sequence, anchors)
    begins = [
        _layer_begin(sequence, previous + 1, anchor)
        for previous, anchor in zip([-1, *anchors], anchors, strict=False)
    ]
    tails = {
        tuple(sequence.name[anchor:begin].tolist())
        for anchor, begin, ended in zip(anchors, begins[1:], ends, strict=False)
        if not ended
    }
    number = current = 0
    for index, anchor in enumerate(anchors):
        last = index + 1 == len(anchors)
        following = count if last else begins[index + 1]
        stop = _layer_end(sequence, anchor, following, tails) if ends[index] or last else following
        layer[begins[index] : stop] = number
        step[begins[index] : following] = current
        number += 1
        if ends[index]:
            number, current = 0, current + 1
    step[: begins[0]] = 0
    _embeddings_lead(sequence, step, anchors, ends)
    return layer, step


def _one_per_layer(sequence: Sequence) -> list[int]:
    """Anchors with a matrix product between them: consecutive attention kernels belong to one layer."""
    found: list[int] = []
    for at in sequence.anchors():
        between = sequence.kind[found[-1] + 1 : at] if found else []
        if not found or "gemm" in between or "grouped_gemm" in between:
            found.append(at)
    return found


def _step_ends(sequence: Sequence, anchors: list[int]) -> list[bool]:
    """For each anchor, whether its step ends before the next anchor."""
    gaps = list(pairwise(anchors))
    kinds = [set(sequence.kind[a + 1 : b]) for a, b in gaps]
    marked = [bool(found & set(BORDERS)) for found in kinds]
    if any(marked) and not all(marked):
        return [*marked, False]
    # No known kernel ends a step: take the gap that is longer than the usual ones and differs from them.
    signs = [tuple(sequence.name[a + 1 : b].tolist()) for a, b in gaps]
    usual = Counter(signs)
    typical = float(np.median([len(sign) for sign in signs]))
    rare = max(1, len(signs) // FEWEST)
    return [*(usual[sign] <= rare and len(sign) > typical * 1.2 for sign in signs), False]


def _layer_begin(sequence: Sequence, low: int, anchor: int) -> int:
    """The start of an anchor's layer: the norm before the first product after the end of the previous layer.
    If that end is not recognised, the norm before the last products before the anchor."""
    marks = [at for at in range(low, anchor) if sequence.kind[at] in (*BORDERS, *FEED_FORWARD)]
    for mark in reversed(marks):
        begin = _norm_before_product(sequence, mark + 1, anchor)
        if begin is not None:
            return begin
        if sequence.kind[mark] in BORDERS:  # a layer cannot cross the start of its step
            break
    if marks:
        return _behind_feed_forward(sequence, marks[-1], anchor)
    seen_product = False
    for at in range(anchor - 1, low - 1, -1):
        seen_product = seen_product or _is_product(sequence, at)
        if seen_product and sequence.kind[at] in NORMS:
            return _norm_begin(sequence, at, low)
    return low


def _behind_feed_forward(sequence: Sequence, mark: int, high: int) -> int:
    """The position after a feed-forward's last product and its collective, which may fuse a norm."""
    products = [at for at in range(mark + 1, high) if _is_product(sequence, at)]
    at = products[0] + 1 if sequence.kind[mark] == "act_mul" and len(products) > 1 else mark + 1
    while at < high and (sequence.helper[at] or sequence.kind[at] in (*COMMUNICATION, "residual")):
        at += 1
    return at


def _is_product(sequence: Sequence, at: int) -> bool:
    return sequence.kind[at] == "gemm" and not sequence.helper[at]


def _norm_before_product(sequence: Sequence, low: int, high: int) -> int | None:
    """The last norm (of several in a row) before the first product that follows a norm."""
    norm = None
    for at in range(low, high):
        if sequence.kind[at] in NORMS:
            norm = at
        elif norm is not None and _is_product(sequence, at):
            return _norm_begin(sequence, norm, low)
    return None


def _norm_begin(sequence: Sequence, norm: int, low: int) -> int:
    """The first kernel of a norm: a norm of several kernels casts and squares before it reduces."""
    if sequence.kind[norm] == "reduce":
        while norm > low and sequence.kind[norm - 1] in ("elementwise", "copy"):
            norm -= 1
    return norm


def _layer_end(sequence: Sequence, anchor: int, high: int, tails: set[tuple[int, ...]]) -> int:
    """The end of a step's last layer: as of an earlier layer with the same start, else before the next norm
    after its feed-forward's products."""
    for tail in sorted(tails, key=len, reverse=True):
        if tuple(sequence.name[anchor : anchor + len(tail)].tolist()) == tail:
            return anchor + len(tail)
    products = 0
    for at in range(anchor + 1, high):
        products += sequence.kind[at] in ("gemm", "grouped_gemm", "moe_combine")
        if sequence.kind[at] == "rmsnorm" and products > 1:
            return at
    return high


def _embeddings_lead(sequence: Sequence, step: Any, anchors: list[int], ends: list[bool]) -> None:
    """An embedding between two steps belongs to the later one."""
    for index, ended in enumerate(ends[:-1]):
        if not ended:
            continue
        gap = range(anchors[index] + 1, anchors[index + 1])
        opening = [at for at in gap if sequence.kind[at] == "embedding"]
        if opening:
            step[opening[-1] : anchors[index + 1]] = step[anchors[index + 1]]
