"""Our evaluation of trees is scikit-learn's, and only whole trees are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs.correctors import LEAF, check_preorder
from roofline.physics.corrector.trees import decided, flattened, planted, summed


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_the_same_as_scikit_learn_also_where_features_lie_on_thresholds(loss: str) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype(np.float32)
    x[:, 1] = np.round(x[:, 1])  # many equal values
    y = np.sin(3 * x[:, 0]) + x[:, 1] * (x[:, 2] > 0.3) + 0.1 * rng.normal(size=600)
    grown = HistGradientBoostingRegressor(loss=loss, max_iter=40, max_leaf_nodes=8, early_stopping=False)
    grown.fit(x, y)
    base, splits, numbers = flattened(grown)
    # Thresholds lie halfway between two values: also ask on both sides of each, as near as float32 allows.
    asked = x.copy()
    thresholds = np.array([number for split, number in zip(splits, numbers, strict=True) if split == 0])
    near = np.float32(thresholds[: len(asked) // 2])
    asked[: len(near), 0] = near
    asked[len(near) : 2 * len(near), 0] = np.nextafter(near, np.float32(np.inf))
    ours = base + summed(planted(splits, numbers), list(asked.T))
    assert ours == pytest.approx(grown.predict(asked), rel=1e-5, abs=1e-5)
    assert splits.count(LEAF) == len(splits) - splits.count(LEAF) + 40  # a leaf more than splits, per tree


def test_a_tree_by_hand() -> None:
    trees = planted([1, 0, LEAF, LEAF, LEAF, LEAF], [0.5, 2.0, 1.0, 10.0, 100.0, 1000.0])
    columns = [np.array([2.0, 3.0, 2.0], np.float32), np.array([0.5, 0.0, 0.6], np.float32)]
    assert list(summed(trees, columns)) == [1001.0, 1010.0, 1100.0]  # the second tree is a leaf alone


@given(st.integers(0, 3), st.floats(-2, 2), st.integers(0, 99))
def test_a_decided_feature_is_asked_no_more_and_changes_nothing(
    feature: int, value: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def tree(depth: int) -> list[tuple[int, float]]:
        if depth == 0 or rng.random() < 0.2:
            return [(LEAF, float(rng.normal()))]
        return [(int(rng.integers(4)), float(rng.normal())), *tree(depth - 1), *tree(depth - 1)]

    splits, numbers = (list(each) for each in zip(*tree(4), *tree(3), *tree(0), strict=True))
    columns = rng.normal(size=(4, 50)).astype(np.float32)
    columns[feature] = value = float(np.float32(value))
    known = decided(splits, numbers, feature, value)
    assert feature not in known[0]
    assert list(summed(planted(*known), columns)) == list(summed(planted(splits, numbers), columns))


@given(st.lists(st.integers(-3, 4), max_size=40))
def test_whole_trees_and_nothing_else_pass_the_check(splits: list[int]) -> None:
    try:
        check_preorder(splits, 3)
    except ValueError:
        missing = 0
        for split in splits:
            if not LEAF <= split < 3:
                return
            missing = (missing or 1) + (1 if split != LEAF else -1)
        assert missing > 0
    else:
        assert len(planted(splits, [0.0] * len(splits))) == splits.count(LEAF) - sum(
            s != LEAF for s in splits
        )


def test_no_tree_is_deeper_than_python_may_recurse() -> None:
    with pytest.raises(ValueError, match="deeper"):
        check_preorder([0] * 100_000, 1)
