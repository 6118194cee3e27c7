"""A learned correction beside a kernel model's terms: bounded, inside what it was trained on, else none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics.base import total
from roofline.physics.corrector.features import features
from roofline.physics.corrector.trees import planted, summed

if TYPE_CHECKING:
    from hwspecs.correctors import Corrector
    from roofline.physics.base import Columns, Floats, Gpu

TERM = "learned correction"
MOST_FACTOR = 2.0  # by which a correction lengthens or shortens a time at most
WHY = f"regression trees on the residual of the terms above, at most a factor of {MOST_FACTOR:g} either way"
MARGIN = 0.05  # beyond the box, of its width, that still counts as inside


class Correction:
    """The trees of one kernel, ready to be evaluated."""

    def __init__(self, corrector: Corrector) -> None:
        self.corrector = corrector
        self._trees = planted(corrector.splits, corrector.numbers)

    def seconds(self, rows: Columns, gpu: Gpu, parts: Mapping[str, Floats]) -> Floats:
        """What to add to the terms' sum, per row; NaN outside the box."""
        seen = features(self.corrector.op, rows, gpu, parts)
        columns = [seen.get(name) for name in self.corrector.features]
        time = total(parts)
        if any(column is None for column in columns):  # trained beside other terms
            return np.full(len(time), np.nan)
        known = inside(columns, self.corrector.box)
        factor = bounded(self.corrector.base + summed(self._trees, columns))
        return np.where(known, time * (factor - 1), np.nan)


def inside(columns: Any, box: Any) -> Any:
    """Rows whose every feature lies in its range."""
    known = np.ones(len(columns[0]), dtype=bool)
    for column, (low, high) in zip(columns, box, strict=True):
        margin = MARGIN * (high - low)
        known &= (column >= np.float32(low - margin)) & (column <= np.float32(high + margin))
    return known


def bounded(logarithm: Any) -> Any:
    """The factor of a logarithm, no further from 1 than MOST_FACTOR."""
    return np.exp(np.clip(np.asarray(logarithm, dtype=np.float64), -np.log(MOST_FACTOR), np.log(MOST_FACTOR)))
