"""Fit the constants of a kernel model to measured times: robust, bounded, deterministic, families held out.

Residuals are logarithms of predicted / measured, so that every size counts alike; the loss is soft-L1, so
that a few odd rows do not steer a constant. A cell with few rows leans on a prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics.base import total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.physics.base import Columns, Constant, Dtypes, Floats, Gpu, KernelModel

FOLDS = 5
SOFT = 0.05  # errors beyond 5 % count linearly: harnesses differ by that much
MOST_ROWS = 1500  # of a cell that a fit looks at, evenly spread
PRIOR_ROWS = 10.0  # a constant one prior width away weighs as much as so many rows, one SOFT wrong


@dataclass(frozen=True)
class Cell:
    """The measured rows that share their constants: one GPU, formats, backend and kernel."""

    model: KernelModel
    gpu: Gpu
    dtype: Dtypes
    rows: Columns
    time_s: Floats
    name: str = ""
    floor_s: Floats | None = None  # the data-sheet bound, below which no prediction goes

    def take(self, chosen: NDArray[Any]) -> Cell:
        """Some of the rows, by mask or index."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        floor = None if self.floor_s is None else self.floor_s[chosen]
        return replace(self, rows=rows, time_s=self.time_s[chosen], floor_s=floor)

    def families(self) -> NDArray[np.intp]:
        """The shape family of each row, numbered in sorted order."""
        keys = [np.asarray(self.rows[name]) for name in self.model.family if name in self.rows]
        pairs = list(zip(*(values.tolist() for values in keys), strict=True))
        number = {key: i for i, key in enumerate(sorted(set(pairs), key=repr))}
        return np.array([number[key] for key in pairs], dtype=np.intp)

    def predicted_s(self, constants: Mapping[str, float]) -> Floats:
        """Times by the constants."""
        time = total(self.model.parts(self.rows, self.gpu, self.dtype, constants))
        return time if self.floor_s is None else np.maximum(time, self.floor_s)


def fit(cells: Sequence[Cell], prior: Mapping[str, float] | None = None) -> dict[str, float]:
    """One set of constants for all the cells (usually one), drawn towards `prior` where given."""
    from scipy.optimize import least_squares

    constants = cells[0].model.constants(cells[0].gpu, cells[0].dtype)
    cells = [_thinned(cell) for cell in cells]
    low, high = (np.array([_forward(c, bound) for c in constants]) for bound in ("low", "high"))
    start = np.array([_forward(c, "start") for c in constants])
    centre = start if prior is None else np.array([_scale(c, prior.get(c.name, c.start)) for c in constants])
    width = np.maximum(high - low, 1e-9) / 4
    weight = np.sqrt(PRIOR_ROWS) * SOFT * (0.1 if prior is None else 1.0)

    def residuals(x: Floats) -> Floats:
        values = _values(constants, x)
        errors = [np.log(np.maximum(cell.predicted_s(values), 1e-12) / cell.time_s) for cell in cells]
        return np.concatenate([*errors, weight * (x - centre) / width])

    inner = 1e-6 * (high - low)
    found = least_squares(
        residuals,
        np.clip(centre, low + inner, high - inner),
        bounds=(low, high + 1e-12),
        loss="soft_l1",
        f_scale=SOFT,
        x_scale=width,
        diff_step=1e-3,  # tiles and splits are discrete: a smaller step sees only noise of rounding
        max_nfev=60,
    )
    return _values(constants, np.clip(found.x, low, high))


def held_out_s(cell: Cell, prior: Mapping[str, float] | None = None, folds: int = FOLDS) -> Floats:
    """Each row's time by constants that were fitted without its shape family."""
    families = cell.families()
    predicted = np.full(len(cell.time_s), np.nan)
    for fold in range(min(folds, int(families.max()) + 1)):
        held = families % folds == fold
        known = cell.take(~held) if not held.all() else cell
        predicted[held] = cell.take(held).predicted_s(fit([known], prior))
    return predicted


def mape(predicted: Floats, measured: Floats) -> float:
    """Mean absolute relative error."""
    return float(np.mean(np.abs(predicted / measured - 1)))


def _thinned(cell: Cell) -> Cell:
    count = len(cell.time_s)
    if count <= MOST_ROWS:
        return cell
    return cell.take(np.unique(np.linspace(0, count - 1, MOST_ROWS).astype(np.intp)))


def _forward(constant: Constant, which: str) -> float:
    return _scale(constant, getattr(constant, which))


def _scale(constant: Constant, value: float) -> float:
    value = min(max(value, constant.low), constant.high)
    return float(np.log(value)) if constant.low > 0 else float(value)


def _values(constants: Sequence[Constant], x: Floats) -> dict[str, float]:
    pairs = zip(constants, x, strict=True)
    return {c.name: float(np.exp(v)) if c.low > 0 else float(v) for c, v in pairs}
