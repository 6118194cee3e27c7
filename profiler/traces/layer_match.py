"""Match the kernels of a layer with its operators, by kind and order.

Within a layer kernels and operators have the same order and kinds; only the number of operators per kernel
(Q, K and V in one product) or of kernels per operator differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from profiler.traces.layers import ANCHORS
from roofline.together import joined
from workloads.operators import Gemm, GroupedGemm, Operator

MIXERS = (*ANCHORS, "sparse_attention")
HEAVY = (*MIXERS, "gemm", "grouped_gemm")
# Kinds of kernels over which frameworks spread a norm, RoPE or an activation.
SPREAD = ("elementwise", "reduce", "copy", "set", "index", "residual", "rmsnorm", "rope", "act_mul")


@dataclass(frozen=True)
class Target:
    """An operator of the model that kernels may belong to."""

    name: str
    operator: Operator

    @property
    def kind(self) -> str:
        """The operator's kind; a product per attention head runs as a plain product."""
        alone = isinstance(self.operator, GroupedGemm) and _block(self).endswith("attention")
        return "gemm" if alone else self.operator.kind


Match = tuple[list[int], list[Target]]  # kernels (positions in the order given) and what they compute


def match_layer(kinds: Sequence[str], helper: Sequence[bool], targets: Sequence[Target]) -> list[Match]:
    """Kernels of one layer, by kind, with their operators, without unmatched kernels.

    The parts before and after the mixer are matched separately: an extra kernel affects one side only.
    """
    main = [i for i, h in enumerate(helper) if not h]
    mixer = next((i for i in main if kinds[i] in MIXERS), None)
    middle = next((j for j, t in enumerate(targets) if t.kind in MIXERS), None)
    found: list[Match] = []
    for kind in dict.fromkeys(t.kind for t in targets):
        mine = [i for i in main if kinds[i] == kind or (kind in MIXERS and kinds[i] in MIXERS)]
        theirs = [j for j, t in enumerate(targets) if t.kind == kind]
        sides: list[tuple[list[int], list[int]]] = [(mine, theirs)]
        if kind not in MIXERS and mixer is not None and middle is not None:
            sides = [
                ([i for i in mine if i < mixer], [j for j in theirs if j < middle]),
                ([i for i in mine if i > mixer], [j for j in theirs if j > middle]),
            ]
        for kernels, operators in sides:
            found += pair(kernels, [targets[j] for j in operators])
    return _between([_with_helpers(match, kinds, helper) for match in found], kinds, targets)


def _between(found: list[Match], kinds: Sequence[str], targets: Sequence[Target]) -> list[Match]:
    """The matches, and the unmatched kernels and operators between two heavy kernels: a norm or RoPE that
    frameworks spread over many small kernels."""
    place = {target.name: at for at, target in enumerate(targets)}
    heavy = sorted((m for m in found if m[1][0].kind in HEAVY), key=lambda match: match[0])
    edges = [(-1, -1, -1, -1)]
    for kernels, operators in heavy:
        at = [place[target.name] for target in operators]
        edges.append((min(kernels), max(kernels), min(at), max(at)))
    edges.append((len(kinds), len(kinds), len(targets), len(targets)))
    taken = {kernel for kernels, _ in found for kernel in kernels}
    named = {target.name for _, operators in found for target in operators}
    taken |= {at for at, kind in enumerate(kinds) if kind not in SPREAD}
    named |= {target.name for target in targets if target.kind in HEAVY}
    more: list[Match] = []
    for (_, after, _, behind), (before, _, ahead, _) in pairwise(edges):
        kernels = [kernel for kernel in range(after + 1, before) if kernel not in taken]
        operators = [target for target in targets[behind + 1 : ahead] if target.name not in named]
        if kernels and operators:
            more.append((kernels, operators))
    return [*found, *more]


def pair(kernels: list[int], targets: list[Target]) -> list[Match]:
    """Both in order: neighbours of one block are merged until there are as many as kernels, projections of
    the same input first. Where that does not suffice, or products are too many, nothing is claimed."""
    if not kernels or not targets:
        return []
    groups = [[target] for target in _by_input(targets)]
    while len(groups) > len(kernels):
        beside = [i for i, (a, b) in enumerate(pairwise(groups)) if _block(a[-1]) == _block(b[0])]
        alike = [i for i in beside if _input(groups[i][-1]) == _input(groups[i + 1][0]) is not None]
        together = [i for i in alike if all(t.name.endswith("_proj") for t in groups[i] + groups[i + 1])]
        if not beside:
            return []
        at = (together or alike or beside)[0]
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    if targets[0].kind in ("gemm", "grouped_gemm") and len(kernels) % len(groups):
        return []
    share = [i * len(groups) // len(kernels) for i in range(len(kernels))]
    return [
        ([k for k, s in zip(kernels, share, strict=True) if s == g], group) for g, group in enumerate(groups)
    ]


def _by_input(targets: Sequence[Target]) -> list[Target]:
    """Reorder products of a block so that those with the same input are adjacent, as when fused."""
    found: list[Target] = []
    for target in targets:
        same = [
            i
            for i, other in enumerate(found)
            if _input(target) == _input(other) is not None and _block(target) == _block(other)
        ]
        found.insert(same[-1] + 1 if same else len(found), target)
    return found


def _block(target: Target) -> str:
    return target.name.rpartition(".")[0]


def _input(target: Target) -> tuple[Any, Any] | None:
    """A product's input, by its sizes."""
    operator = target.operator
    return (operator.m, operator.k) if isinstance(operator, Gemm) else None


def _with_helpers(match: Match, kinds: Sequence[str], helper: Sequence[bool]) -> Match:
    """Kernels that prepare or finish another's work get the operator of their neighbour."""
    kernels, targets = match
    taken = list(kernels)
    at = kernels[-1] + 1
    while at < len(kinds) and helper[at] and kinds[at] == kinds[kernels[-1]]:
        taken.append(at)
        at += 1
    return taken, targets


def joined_name(targets: Sequence[Target]) -> str:
    """One name for the operators of a kernel: `layers.attention.q_proj + k_proj + v_proj`."""
    return joined([target.name for target in targets])
