"""Small regression trees: evaluated with NumPy, flattened from scikit-learn's.

Features are float32. A threshold rounded down to float32 sends every float32 the same way as the original, so
both evaluations take the same branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hwspecs.correctors import LEAF

Tree = Any  # a leaf's value, or (feature, threshold, branch where feature <= threshold, the other branch)


def planted(splits: Sequence[int], numbers: Sequence[float]) -> list[Tree]:
    """Trees in preorder as nested nodes; whole trees are expected (`hwspecs.correctors.check_preorder`)."""
    nodes = iter(zip(splits, numbers, strict=True))
    trees = []
    for node in nodes:
        trees.append(_grown(node, nodes))
    return trees


def _grown(node: tuple[int, float], nodes: Iterator[tuple[int, float]]) -> Tree:
    split, number = node
    if split == LEAF:
        return np.float32(number)
    return split, np.float32(number), _grown(next(nodes), nodes), _grown(next(nodes), nodes)


def summed(trees: Sequence[Tree], columns: Sequence[Any]) -> Any:
    """The sum of all trees' values per row; columns are float32 arrays of one length."""
    found = np.zeros(len(columns[0]), dtype=np.float32)
    for tree in trees:
        found += _value(tree, columns)
    return found


def _value(tree: Tree, columns: Sequence[Any]) -> Any:
    if not isinstance(tree, tuple):
        return tree
    split, threshold, below, above = tree
    return np.where(columns[split] <= threshold, _value(below, columns), _value(above, columns))


def flattened(regressor: Any) -> tuple[float, list[int], list[float]]:
    """(base, splits, numbers) of a fitted HistGradientBoostingRegressor of numeric features."""
    splits: list[int] = []
    numbers: list[float] = []

    def visit(nodes: Any, at: int) -> None:
        node = nodes[at]
        splits.append(LEAF if node["is_leaf"] else int(node["feature_idx"]))
        numbers.append(_short(node["value"]) if node["is_leaf"] else _short(_below(node["num_threshold"])))
        if not node["is_leaf"]:
            visit(nodes, int(node["left"]))
            visit(nodes, int(node["right"]))

    for (predictor,) in regressor._predictors:  # scikit-learn states no public way to its trees
        visit(predictor.nodes, 0)
    return float(regressor._baseline_prediction.item()), splits, numbers


def decided(
    splits: Sequence[int], numbers: Sequence[float], feature: int, value: float
) -> tuple[list[int], list[float]]:
    """The same trees where one feature is known: of its splits only the branch that is taken is left."""
    nodes = list(zip(splits, numbers, strict=True))[::-1]  # the next one last

    def rest() -> list[tuple[int, float]]:
        split, number = nodes.pop()
        if split == LEAF:
            return [(split, number)]
        below, above = rest(), rest()
        return (
            (below if value <= number else above) if split == feature else [(split, number), *below, *above]
        )

    left = []
    while nodes:
        left += rest()
    return [split for split, _ in left], [number for _, number in left]


def _below(threshold: float) -> np.float32:
    """The largest float32 that is not above it."""
    near = np.float32(threshold)
    return near if near <= threshold else np.nextafter(near, np.float32(-np.inf))


def _short(number: Any) -> float:
    """Nine digits tell every float32 apart."""
    return float(f"{np.float32(number):.9g}")
