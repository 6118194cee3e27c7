"""Train correctors of kernels, and score them on shape families that neither they nor the constants saw.

For each fold of families the constants come from fits without them (`CrossFit`); the trees learn what those
constants leave on the other folds, and only then both predict the fold. What is shipped repeats this with
all rows, and only where the held-out score says that it helps. Kernels of one library may learn together:
then a fold's families are unseen in all of their rows, and which kernel a row is of is one more feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.correctors import Corrector, fingerprint
from roofline.physics.base import total
from roofline.physics.corrector.correction import bounded, inside
from roofline.physics.corrector.features import features, prepared
from roofline.physics.corrector.trees import decided, flattened
from roofline.physics.fit import FOLDS, mape
from roofline.physics.intervals import bands, covered
from specfiles.errors import InputError

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


TOGETHER = {**TREES, "min_samples_leaf": 40}  # of kernels that learn together


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
    def helped(self) -> bool:
        """Whether the error falls at all."""
        return mape(self.corrected_s, self.time_s) < mape(self.calibrated_s, self.time_s)


@dataclass(frozen=True)
class Kin:
    """A kernel's rows, its constants of all of them, and those of each fold of families."""

    cell: Cell
    kernel: Kernel
    folds: CrossFit


def tried(kin: Sequence[Kin]) -> list[Trial]:
    """The held-out scores of the correctors of kernels that learn together, and correctors that help.

    Raises InputError where their folds tear a family apart: trees that learned of one have then seen another.
    """
    fold = np.concatenate([one.folds.fold for one in kin])
    families = [key for one in kin for key in one.cell.family_keys()]
    if len(kin) > 1 and len(set(zip(families, fold.tolist(), strict=True))) > len(set(families)):
        raise InputError(f"folds of {kin[0].cell.name} and its kin do not agree; fit their table again.")
    calibrated = np.concatenate([one.folds.predicted_s(one.cell) for one in kin])
    corrected, applied = calibrated.copy(), np.zeros(len(calibrated), dtype=bool)
    counts = []
    if len(fold) >= LEAST_ROWS and len(set(families)) >= LEAST_FAMILIES:
        for each in np.unique(fold):
            seen, held = _Seen.of(kin, [one.folds.constants[int(each)] for one in kin]), fold == each
            counts.append(_count(seen, ~held, fold) if len(kin) == 1 else MOST_TREES)
            if counts[-1]:
                applied[held], corrected[held] = _apart(seen, ~held, held, counts[-1])
    trials, end = list[Trial](), 0
    for one in kin:
        own = slice(end, end := end + len(one.cell.time_s))
        alike = one.cell.families() * FOLDS + fold[own]  # in a family; the rest by FOLDS is the fold
        trials.append(
            Trial(one.kernel, one.cell.time_s, calibrated[own], corrected[own], applied[own], alike)
        )
    return _with_correctors(kin, trials, max(int(np.median(counts)), 1) if counts else 0)


@dataclass(frozen=True)
class _Seen:
    """Rows as the trees see them beside given constants."""

    names: tuple[str, ...]
    matrix: Any  # rows x features, float32
    terms_s: Floats
    floor_s: Floats
    time_s: Floats

    weight: Any  # of rows, so that a kernel of many does not speak for all; None of one kernel

    @classmethod
    def of(cls, kin: Sequence[Kin], constants: Sequence[Mapping[str, float]]) -> _Seen:
        """Rows of all kernels, each beside its constants; the last feature of several is their number."""
        alone = [cls._one(one, values) for one, values in zip(kin, constants, strict=True)]
        if len(alone) == 1:
            return alone[0]
        numbered = [np.insert(a.matrix, a.matrix.shape[1], i, axis=1) for i, a in enumerate(alone)]
        counts = np.array([len(one.time_s) for one in alone])
        terms, floor, time = (
            np.concatenate([getattr(one, name) for one in alone]) for name in ("terms_s", "floor_s", "time_s")
        )
        weight = np.repeat(counts**-0.5, counts)
        return cls(alone[0].names, np.concatenate(numbered), terms, floor, time, weight)

    @classmethod
    def _one(cls, kin: Kin, values: Mapping[str, float]) -> _Seen:
        cell, op = kin.cell, kin.kernel.op
        rows = prepared(op, cell.rows)
        parts = cell.model.parts(rows, cell.gpu, cell.dtype, values)
        found = features(op, rows, cell.gpu, parts)
        matrix = np.stack([np.broadcast_to(f, cell.time_s.shape) for f in found.values()], axis=1)
        floor = np.zeros_like(cell.time_s) if cell.floor_s is None else cell.floor_s
        return cls(tuple(found), matrix, total(parts), floor, cell.time_s, None)

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
    if seen.weight is None:
        options, weight = TREES, None
    else:
        options, weight = TOGETHER, seen.weight[chosen]
    return HistGradientBoostingRegressor(**options, max_iter=count).fit(
        seen.matrix[chosen], seen.target[chosen], weight
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


def _help(trials: Sequence[Trial]) -> bool:
    """Whether the mean error of the kernels falls by LEAST_GAIN or more, in most folds."""
    fold = np.concatenate([trial.families % FOLDS for trial in trials])
    weight = np.concatenate([np.full(len(trial.time_s), 1 / len(trial.time_s)) for trial in trials])
    before, after = (
        np.concatenate([np.abs(getattr(trial, name) / trial.time_s - 1) for trial in trials])
        for name in ("calibrated_s", "corrected_s")
    )

    def falls(of: Any, gain: float = 0.0) -> bool:
        was, is_ = (np.average(errors[of], weights=weight[of]) for errors in (before, after))
        return bool(is_ < (1 - gain) * was)

    folds = [falls(fold == each) for each in np.unique(fold)]
    return falls(fold >= 0, LEAST_GAIN) and 2 * sum(folds) > len(folds)


def _with_correctors(kin: Sequence[Kin], trials: list[Trial], count: int) -> list[Trial]:
    """Trials with trees of all rows beside the kernels' own constants, where held-out families want them."""
    if not _help(trials):
        return trials
    seen = _Seen.of(kin, [{**_starts(one.cell), **one.kernel.values} for one in kin])
    base, splits, numbers = flattened(_grow(seen, np.ones(len(seen.time_s), dtype=bool), count))
    box = _box(seen.matrix)[: len(seen.names)]
    found = []
    for number, trial in enumerate(trials):
        own = decided(splits, numbers, len(seen.names), float(number))
        made = _shipped(trial, seen.names, box, base, *own) if trial.helped else None
        found.append(replace(trial, corrector=made))
    return found


def _starts(cell: Cell) -> dict[str, float]:
    """Of constants that a kernel does not state, as none of its rows depends on them."""
    return {c.name: c.start for c in cell.model.constants(cell.gpu, cell.dtype)}


def _shipped(
    trial: Trial,
    names: Sequence[str],
    box: Sequence[tuple[float, float]],
    base: float,
    splits: list[int],
    numbers: list[float],
) -> Corrector:
    """A kernel's trees, with what held-out families say of such trees."""
    kernel, applied = trial.kernel, trial.applied
    ratio = (trial.time_s / trial.corrected_s)[applied]
    families, time = trial.families[applied], trial.corrected_s[applied]
    return Corrector(
        op=kernel.op,
        dtype=kernel.dtype,
        kv_dtype=kernel.kv_dtype,
        backend=kernel.backend,
        kernel=kernel.kernel,
        beside=fingerprint(kernel),
        features=list(names),
        box=[(_rounded(low), _rounded(high)) for low, high in box],
        base=base,
        splits=splits,
        numbers=numbers,
        points=len(trial.time_s),
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
