"""Train the corrector of a kernel, and score it on shape families that neither it nor the constants saw.

For each fold of families the constants come from a fit without them (`CrossFit`); the trees learn what those
constants leave on the other folds, and only then both predict the fold. What is shipped repeats this with
all rows, and only where the held-out score says that it helps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.correctors import Corrector, fingerprint
from roofline.physics.base import total
from roofline.physics.corrector.correction import bounded, inside
from roofline.physics.corrector.features import features, prepared
from roofline.physics.corrector.trees import flattened
from roofline.physics.fit import FOLDS, mape
from roofline.physics.intervals import bands, covered

if TYPE_CHECKING:
    from hwspecs import Kernel
    from roofline.physics.base import Floats
    from roofline.physics.fit import Cell, CrossFit

LEAST_ROWS, LEAST_FAMILIES = 100, FOLDS  # fewer say nothing about the next family
LEAST_GAIN = 0.03  # of the held-out error, for which a corrector is worth its trees
MOST_TREES = 120
TREES = {
    "loss": "absolute_error",  # medians: single odd rows do not steer a leaf
    "learning_rate": 0.15,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 15,
    "l2_regularization": 5.0,
    "max_bins": 64,
    "early_stopping": False,  # scikit-learn holds out rows; families are held out here
    "random_state": 0,
}


@dataclass(frozen=True)
class Trial:
    """What the corrector of a kernel does to rows of families held out; `corrector` where it is shipped."""

    kernel: Kernel
    time_s: Floats  # measured
    calibrated_s: Floats  # by constants fitted without the row's family
    corrected_s: Floats  # the same with trees that did not see it either
    applied: Any  # rows inside the box of the trees' own rows
    families: Any
    corrector: Corrector | None = None

    @property
    def helps(self) -> bool:
        """Whether the error falls by LEAST_GAIN or more, in most folds."""
        if not self.applied.any():
            return False
        fold, falls = self.families % FOLDS, []
        for each in np.unique(fold):
            of = fold == each
            before = mape(self.calibrated_s[of], self.time_s[of])
            falls.append(mape(self.corrected_s[of], self.time_s[of]) < before)
        before, after = (mape(p, self.time_s) for p in (self.calibrated_s, self.corrected_s))
        return after < (1 - LEAST_GAIN) * before and 2 * sum(falls) > len(falls)


def tried(cell: Cell, kernel: Kernel, folds: CrossFit) -> Trial:
    """The held-out score of a cell's corrector, and the corrector for all its rows where that says so."""
    families = cell.families() * FOLDS + folds.fold  # alike in a family, and the rest by FOLDS is the fold
    calibrated = folds.predicted_s(cell)
    corrected, applied = calibrated.copy(), np.zeros(len(calibrated), dtype=bool)
    trees = {}
    if len(calibrated) >= LEAST_ROWS and len(np.unique(families)) >= LEAST_FAMILIES:
        for fold, values in folds.constants.items():
            seen, held = _Seen.of(cell, kernel.op, values), folds.fold == fold
            trees[fold] = _count(seen, ~held, folds.fold)
            if trees[fold]:
                applied[held], corrected[held] = _apart(seen, ~held, held, trees[fold])
    trial = Trial(kernel, cell.time_s, calibrated, corrected, applied, families)
    if not trial.helps:
        return trial
    count = int(np.median(list(trees.values())))
    return replace(trial, corrector=_shipped(cell, trial, max(count, 1)))


@dataclass(frozen=True)
class _Seen:
    """Rows as the trees see them beside given constants."""

    names: tuple[str, ...]
    matrix: Any  # rows x features, float32
    terms_s: Floats
    floor_s: Floats
    time_s: Floats

    @classmethod
    def of(cls, cell: Cell, op: str, values: Mapping[str, float]) -> _Seen:
        rows = prepared(op, cell.rows)
        parts = cell.model.parts(rows, cell.gpu, cell.dtype, values)
        found = features(op, rows, cell.gpu, parts)
        matrix = np.stack([np.broadcast_to(f, cell.time_s.shape) for f in found.values()], axis=1)
        floor = np.zeros_like(cell.time_s) if cell.floor_s is None else cell.floor_s
        return cls(tuple(found), matrix, total(parts), floor, cell.time_s)

    @property
    def target(self) -> Floats:
        """Logarithms of measured / the terms' sum, within what a correction may do."""
        return np.asarray(np.log(bounded(np.log(self.time_s / self.terms_s))))

    @property
    def possible(self) -> Any:
        """Rows that do not beat the data sheet: the others did other work than they say."""
        return self.time_s >= self.floor_s

    def corrected_s(self, rows: Any, logarithm: Floats) -> Floats:
        """Times of some rows, never below the data sheet."""
        return np.asarray(np.maximum(self.terms_s[rows] * bounded(logarithm), self.floor_s[rows]))


def _grow(seen: _Seen, rows: Any, count: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    chosen = rows & seen.possible
    return HistGradientBoostingRegressor(**TREES, max_iter=count).fit(
        seen.matrix[chosen], seen.target[chosen]
    )


def _count(seen: _Seen, rows: Any, fold: Any) -> int:
    """How many trees help most on one of the folds, grown on the others; 0 where none do."""
    known = rows & seen.possible
    held = known & (fold == np.unique(fold[known])[0])
    if (known & ~held).sum() < LEAST_ROWS / 2:
        return 0
    grown = _grow(seen, known & ~held, MOST_TREES)
    errors = [mape(np.maximum(seen.terms_s, seen.floor_s)[held], seen.time_s[held])]
    errors += [
        mape(seen.corrected_s(held, each), seen.time_s[held])
        for each in grown.staged_predict(seen.matrix[held])
    ]
    return int(np.argmin(errors))


def _apart(seen: _Seen, known: Any, held: Any, count: int) -> tuple[Any, Floats]:
    """Held rows by trees of the others: which lie in their box, and their times, corrected where they do."""
    box = _box(seen.matrix[known & seen.possible])
    within = inside(list(seen.matrix[held].T), box)
    logarithm = _grow(seen, known, count).predict(seen.matrix[held])
    return within, seen.corrected_s(held, np.where(within, logarithm, 0.0))


def _box(matrix: Any) -> list[tuple[float, float]]:
    return list(zip(matrix.min(axis=0).tolist(), matrix.max(axis=0).tolist(), strict=True))


def _shipped(cell: Cell, trial: Trial, count: int) -> Corrector:
    """Trees of all rows beside the kernel's own constants, with what held-out families say of such trees."""
    kernel, applied = trial.kernel, trial.applied
    seen = _Seen.of(cell, kernel.op, kernel.values)
    base, splits, numbers = flattened(_grow(seen, np.ones(len(cell.time_s), dtype=bool), count))
    ratio = (trial.time_s / trial.corrected_s)[applied]
    families, time = trial.families[applied], trial.corrected_s[applied]
    return Corrector(
        op=kernel.op,
        dtype=kernel.dtype,
        kv_dtype=kernel.kv_dtype,
        backend=kernel.backend,
        kernel=kernel.kernel,
        beside=fingerprint(kernel),
        features=list(seen.names),
        box=[(_rounded(low), _rounded(high)) for low, high in _box(seen.matrix)],
        base=base,
        splits=splits,
        numbers=numbers,
        points=len(cell.time_s),
        families=len(np.unique(trial.families)),
        calibrated_error=_rounded(mape(trial.calibrated_s, trial.time_s)),
        held_out_error=_rounded(mape(trial.corrected_s, trial.time_s)),
        applied=_rounded(float(applied.mean())),
        bands=[(_rounded(a), _rounded(b), _rounded(c)) for a, b, c in bands(time, ratio, families)],
        coverage=_rounded(covered(time, trial.time_s[applied], families)),
        source=kernel.source,
    )


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
