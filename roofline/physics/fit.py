"""Fit the constants of a kernel model to measured times: robust, bounded, deterministic, families held out.

Residuals are logarithms of predicted / measured, so that every size counts alike; the loss is soft-L1, so
that a few odd rows do not steer a constant. A cell with few rows is regularised towards a prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.physics.base import total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.physics.base import Bound, Columns, Constant, Dtypes, Floats, Gpu
    from roofline.physics.model import KernelModel

FOLDS = 5
SOFT = 0.05  # errors beyond 5 % count linearly: harnesses differ by that much
STEP = 0.004  # of a bound's range: tiles and splits are discrete, smaller steps see only their noise
STARTS, TRIED = 32, 1  # points that a fit without a prior looks at, and those that it descends from
TRIED_LOOSE = 2  # the same where many sets of constants meet the rows as well, with a prior, too
AS_WELL = 0.05  # of the least loss, by which such sets may differ
SPREAD = 0.5  # of a bound's range that these points span
ROUNDS = 1  # of looking for a way out of a local minimum
LEAST_GAIN = 0.002  # of the loss, for which a round is worth its time
USUAL_ERROR = 0.15  # of a prior on a cell that it is meant for
LEAST_TRUST = 0.3  # of a prior's weight, however far off it is
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
        return _numbered([self])[0]

    def family_keys(self) -> list[tuple[Any, ...]]:
        """What makes each row's shape family."""
        names = [name for name in self.model.family if name in self.rows]
        return list(zip(*(np.asarray(self.rows[name]).tolist() for name in names), strict=True))

    @cached_property
    def _parts(self) -> Bound:
        """The model's parts of these rows; what does not depend on constants is done once."""
        return self.model.bound(self.rows, self.gpu, self.dtype)

    def predicted_s(self, constants: Mapping[str, float]) -> Floats:
        """Times by the constants."""
        time = total(self._parts(constants))
        return time if self.floor_s is None else np.maximum(time, self.floor_s)


def fit(
    cells: Sequence[Cell], prior: Mapping[str, float] | None = None, mixed: bool = False
) -> dict[str, float]:
    """One set of constants for all the cells (usually one), drawn towards `prior` where given.

    mixed: the prior is of several formats. What a format decides then lies between theirs, from where a
    descent may not find its way: another one begins where that has its usual value.
    """
    from scipy.optimize import least_squares

    constants = cells[0].model.constants(cells[0].gpu, cells[0].dtype)
    most = cells[0].model.most_rows // min(len(cells), 2)
    cells = [_thinned(_possible(cell), most) for cell in cells]
    centre = np.array([_inside(c, (prior or {}).get(c.name, c.start)) for c in constants])
    trust = cells[0].model.start_weight if prior is None else _trust(cells, prior)
    weight = np.sqrt(PRIOR_ROWS) * SOFT * 4 * trust

    def residuals(x: Floats) -> Floats:
        values = _values(constants, x)
        return np.concatenate([*(_felt(cell, values) for cell in cells), weight * (x - centre)])

    def descend(x: Floats) -> Floats:
        options = {"loss": "soft_l1", "f_scale": SOFT, "diff_step": STEP, "max_nfev": 16, "xtol": 1e-4}
        start = np.clip(x, 1 + 1e-6, 2 - 1e-6)
        return np.asarray(least_squares(residuals, start, bounds=(1.0, 2.0), ftol=1e-4, **options).x)

    def loss(x: Floats) -> float:
        return _loss(residuals(x))

    loose = cells[0].model.loose
    tried = TRIED_LOOSE if loose else 0 if prior else TRIED
    ends = [descend(start) for start in _starts(centre, loss, tried)]
    if mixed and prior is not None:
        own = [_inside(c, c.start) if "format" in c.scales_with.split() else np.nan for c in constants]
        ends.append(descend(np.where(np.isnan(own), centre, own)))
    for _ in range(ROUNDS):
        better = _scan(loss, min(ends, key=loss))
        if better is None:
            break
        ends.append(descend(better))
    return _values(constants, _middle(ends, loss) if loose else min(ends, key=loss))


def _errors(cell: Cell, values: Mapping[str, float]) -> Floats:
    """Logarithms of predicted / measured."""
    return np.asarray(np.log(np.maximum(cell.predicted_s(values), 1e-12) / cell.time_s))


def _felt(cell: Cell, values: Mapping[str, float]) -> Floats:
    """The same, levelling off at what no model misses by: such rows ran something else."""
    errors = _errors(cell, values)
    return np.asarray(errors / np.sqrt(1 + (errors / cell.model.odd_error) ** 2))


def _trust(cells: Sequence[Cell], prior: Mapping[str, float]) -> float:
    """By how much a prior weighs more, for a model that says how many rows of a family are evidence.

    Further rows of a family repeat what its first ones say, and only families that differ tell constants
    apart. A prior that is far off on the cell itself is another kernel's, and weighs less.
    """
    evidence = cells[0].model.rows_of_family
    if evidence is None or len(cells) > 1:
        return 1.0
    (cell,) = cells
    off = max(float(np.mean(np.abs(_errors(cell, prior)))), 1e-3)
    repeated = max(len(cell.time_s) / (evidence * len(set(cell.family_keys())) ** 2), 1.0)
    return float(np.sqrt(max(repeated * (USUAL_ERROR / off) ** 2, LEAST_TRUST)))


def _starts(centre: Floats, loss: Callable[[Floats], float], tried: int) -> list[Floats]:
    """The centre and the best of points spread around it: descents from one end in local minima."""
    from scipy.stats import qmc

    if not tried:
        return [centre]
    around = centre + SPREAD * (qmc.Sobol(len(centre), seed=0).random(STARTS) - 0.5)
    return [centre, *sorted(np.clip(around, 1, 2), key=loss)[:tried]]


def _middle(ends: Sequence[Floats], loss: Callable[[Floats], float]) -> Floats:
    """The mean of the points that are about as good as the best, where it is as good itself.

    What rows leave open differs between them by chance, and their middle errs less on rows to come.
    """
    best = min(ends, key=loss)
    most = loss(best) * (1 + AS_WELL)
    middle = np.mean([x for x in ends if loss(x) <= most], axis=0)
    return middle if loss(middle) <= most else best


def _loss(residuals: Floats) -> float:
    """Soft-L1, as least_squares sums it."""
    return float(np.sum(np.sqrt(1 + (residuals / SOFT) ** 2) - 1))


def _scan(loss: Callable[[Floats], float], x: Floats) -> Floats | None:
    """A better point that differs in one constant, anywhere in its range: a way out of a local minimum."""
    least, best = loss(x) * (1 - LEAST_GAIN), None
    for index in range(len(x)):
        for share in np.linspace(1.1, 1.9, 5):
            moved = x.copy()
            moved[index] = share
            if (found := loss(moved)) < least:
                least, best = found, moved
    return best


@dataclass(frozen=True)
class CrossFit:
    """A cell fitted once per fold of its shape families, each time without the fold's."""

    fold: NDArray[np.intp]  # of each row
    constants: dict[int, dict[str, float]]  # by fold; fitted without it

    def predicted_s(self, cell: Cell) -> Floats:
        """Each row's time by constants that were fitted without its shape family."""
        predicted = np.full(len(cell.time_s), np.nan)
        for fold, values in self.constants.items():
            held = self.fold == fold
            if held.any():
                predicted[held] = cell.take(held).predicted_s(values)
        return predicted


def cross_fitted(cells: Sequence[Cell], kin: Sequence[tuple[int, ...]] | None = None) -> list[CrossFit]:
    """Every cell fitted by folds; the prior that cells share did not see the held-out families either.

    kin: of each cell, those that its prior is fitted to, itself among them; all where it is not given.
    A family is in one fold, whichever cell has it. Where cells have different priors, each is fitted without
    every fold, also one that none of its rows is in, which its prior has not seen then: what is learned
    beside all of these constants has not seen the fold's families anywhere.
    """
    kin = kin or [tuple(range(len(cells)))] * len(cells)
    apart = len(set(kin)) > 1
    fold = _spread(cells) if apart else [each % FOLDS for each in _numbered(cells)]
    every = np.unique(np.concatenate(fold)).tolist() if apart else None
    found: dict[int, CrossFit] = {}
    for own in dict.fromkeys(kin):
        pool = [cells[i] for i in own]
        prior, mixed = _shared_prior(pool, [fold[i] for i in own]), of_formats(pool)
        found |= {i: _cross_fit(cells[i], fold[i], prior, every, mixed) for i in own if kin[i] == own}
    return [found[i] for i in range(len(cells))]


def of_formats(cells: Sequence[Cell]) -> bool:
    """Whether cells are of several formats."""
    return len({cell.dtype for cell in cells}) > 1


def _spread(cells: Sequence[Cell]) -> list[NDArray[np.intp]]:
    """The fold of each row: families in turn, the most common first, to where they share fewest cells.

    So a cell of two families or more is hardly ever in one fold as a whole.
    """
    keys = [cell.family_keys() for cell in cells]
    holders = {key: [i for i, each in enumerate(keys) if key in each] for key in set().union(*keys)}
    taken = np.zeros((FOLDS, len(cells)))  # by a fold, of each cell's families
    fold: dict[tuple[Any, ...], int] = {}
    for key in sorted(holders, key=lambda key: (-len(holders[key]), repr(key))):
        own = holders[key]
        fold[key] = min(range(FOLDS), key=lambda f: (taken[f, own].sum(), taken[f].sum(), f))
        taken[fold[key], own] += [1 / len(set(keys[i])) for i in own]
    return [np.array([fold[key] for key in each], dtype=np.intp) for each in keys]


def _shared_prior(
    pool: Sequence[Cell], numbered: Sequence[NDArray[np.intp]]
) -> Callable[[int], dict[str, float] | None]:
    """The constants of all cells together without a fold's families, fitted when asked; None of one cell."""

    @cache
    def prior(fold: int) -> dict[str, float] | None:
        if len(pool) == 1:
            return None
        known = [cell.take(f != fold) for cell, f in zip(pool, numbered, strict=True) if (f != fold).any()]
        return fit(known or pool)

    return prior


def _cross_fit(
    cell: Cell,
    fold: NDArray[np.intp],
    prior: Callable[[int], Mapping[str, float] | None],
    every: Sequence[int] | None = None,
    mixed: bool = False,
) -> CrossFit:
    """A cell of one fold alone has its prior, or without one what fits the cell itself.

    every: the folds to leave out, the cell's own where it is not given.
    """
    constants: dict[int, dict[str, float]] = {}
    for held in np.unique(fold).tolist() if every is None else every:
        known, shared = fold != held, prior(held)
        if not known.any() and shared is not None:
            constants[held] = dict(shared)
        else:
            constants[held] = fit([cell.take(known) if known.any() else cell], shared, mixed)
    return CrossFit(fold, constants)


def _numbered(cells: Sequence[Cell]) -> list[NDArray[np.intp]]:
    """The shape families of the cells' rows, numbered in one sorted order."""
    keys = [cell.family_keys() for cell in cells]
    number = {key: i for i, key in enumerate(sorted({key for each in keys for key in each}, key=repr))}
    return [np.array([number[key] for key in each], dtype=np.intp) for each in keys]


def mape(predicted: Floats, measured: Floats) -> float:
    """Mean absolute relative error."""
    return float(np.mean(np.abs(predicted / measured - 1)))


def _thinned(cell: Cell, most: int) -> Cell:
    """At most so many rows, evenly spread; as many of each family where a family's rows repeat each other."""
    count = len(cell.time_s)
    if count <= most:
        return cell
    if cell.model.rows_of_family is None:
        return cell.take(_spread_over(np.arange(count), most))
    _, first = np.unique(cell.families(), return_inverse=True)
    of = [np.flatnonzero(first == family) for family in range(int(first.max()) + 1)]
    share = _level(np.array([len(rows) for rows in of]), most)
    return cell.take(np.sort(np.concatenate([_spread_over(rows, share) for rows in of])))


def _spread_over(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


def _level(counts: NDArray[np.intp], most: int) -> int:
    """How many of each may stay that no more than `most` do, at least one."""
    levels = np.arange(1, most + 1)
    taken = np.minimum(counts[None], levels[:, None]).sum(axis=1)
    return int(levels[taken <= most].max(initial=1))


def _possible(cell: Cell) -> Cell:
    """Without rows that beat the data sheet: whatever they measured, it was not this work on this device."""
    if cell.floor_s is None or not (possible := cell.time_s >= cell.floor_s).any():
        return cell
    return cell.take(possible)


def _inside(constant: Constant, value: float) -> float:
    """Where a value lies between its bounds, from 1 to 2: of logarithms where the lower one is above 0."""
    low, high, value = constant.low, constant.high, min(max(value, constant.low), constant.high)
    if low > 0:
        low, high, value = np.log([low, high, value])
    return 1 + float((value - low) / (high - low)) if high > low else 1.0


def _values(constants: Sequence[Constant], x: Floats) -> dict[str, float]:
    pairs = zip(constants, np.asarray(x) - 1, strict=True)
    return {
        c.name: float(c.low * (c.high / c.low) ** share if c.low > 0 else c.low + share * (c.high - c.low))
        for c, share in pairs
    }
