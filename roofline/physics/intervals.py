"""Intervals around times: quantiles of measured / predicted on shape families that took no part, by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from roofline.physics.base import Floats

Band = tuple[float, float, float]  # up to this predicted time in seconds; measured / predicted from, to

COVERED = 0.8  # of the rows of families that were held out lie inside an interval
LEAST_ROWS = 60  # that set a band: its tails then hold six rows each
MOST_BANDS = 5
FEW = 8  # families; fewer do not say on which side of 1 the next one lies
LEAST_WIDTH = 0.02  # to either side, in logarithms: measurements repeat within 1 to 3 %
FOLDS = 5


def bands(predicted_s: Floats, ratio: Floats, families: Any) -> list[Band]:
    """Bands of equally many rows by predicted time, each with the interval of its own rows."""
    count = int(np.clip(len(ratio) // LEAST_ROWS, 1, MOST_BANDS))
    edges = np.quantile(predicted_s, np.arange(1, count + 1) / count)
    band = np.searchsorted(edges[:-1], predicted_s)
    found = []
    for index, edge in enumerate(edges):
        rows = band == index
        if rows.any():  # many rows may share one time
            found.append((float(edge), *interval(ratio[rows], families[rows])))
    return found


def within(found: Sequence[Band], predicted_s: Floats) -> tuple[Floats, Floats]:
    """The interval of measured / predicted for each time."""
    edges, lower, upper = np.array(found, dtype=np.float64).reshape(-1, 3).T
    band = np.searchsorted(edges[:-1], predicted_s)
    return lower[band], upper[band]


def interval(ratio: Floats, families: Any) -> tuple[float, float]:
    """Quantiles of measured / predicted that hold COVERED of the next family's rows.

    Wider than these rows' own by what Student's t asks beyond a normal's quantile of so many independent
    ones, since rows of one family err alike; of a few families symmetric about 1.
    """
    from scipy.stats import norm, t

    tail, logs = (1 - COVERED) / 2, np.log(ratio)
    wider = float(t.ppf(1 - tail, _independent(logs, families) - 1) / norm.ppf(1 - tail))
    if len(np.unique(families)) < FEW:
        half = float(np.quantile(np.abs(logs), COVERED))
        low, high = -half, half
    else:
        low, high = (float(q) for q in np.quantile(logs, [tail, 1 - tail]))
    middle, half = (low + high) / 2, max(wider * (high - low) / 2, LEAST_WIDTH)
    return float(np.exp(middle - half)), float(np.exp(middle + half))


def _independent(errors: Floats, families: Any) -> float:
    """How many independent rows these are worth: n / (1 + (rows per family - 1) x intraclass correlation).

    Kish, Survey Sampling (1965), section 5.4; the correlation by one-way analysis of variance. At least 2.
    """
    _, of, count = np.unique(families, return_inverse=True, return_counts=True)
    rows, each = len(errors), len(errors) / len(count)
    if len(count) < 2 or rows == len(count):
        return float(max(len(count), 2))
    mean = np.bincount(of, errors) / count
    between = float(np.sum(count * (mean - errors.mean()) ** 2)) / (len(count) - 1)
    inside = float(np.sum((errors - mean[of]) ** 2)) / (rows - len(count))
    alike = (between - inside) / max(between + (each - 1) * inside, 1e-30)
    return max(2.0, rows / (1 + (each - 1) * max(alike, 0.0)))


def covered(predicted_s: Floats, measured_s: Floats, families: Any) -> float:
    """Share of rows inside a band that the other folds' families set."""
    folds, ratio, inside = families % FOLDS, measured_s / predicted_s, np.zeros(len(families), dtype=bool)
    for fold in np.unique(folds):
        held = folds == fold
        if held.all():
            return COVERED  # of one family nothing can be said
        lower, upper = within(bands(predicted_s[~held], ratio[~held], families[~held]), predicted_s[held])
        inside[held] = (ratio[held] >= lower) & (ratio[held] <= upper)
    return float(inside.mean())
