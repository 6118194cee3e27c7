"""Fit the constants of an operator class to measured times, robustly and with held-out shapes.

Given which limit binds for each row the model is linear in its constants, so a fit is a few small
non-negative least-squares problems on relative errors. It is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from hwspecs import Constants
from roofline.times import calibrated_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

HELD_OUT_EVERY = 4  # every fourth shape family is held out to score the fit
ROUNDS = 12
SMALLEST_CACHE = 100_000.0  # bytes; below, fixed costs hide any bandwidth


@dataclass(frozen=True)
class Measurement:
    """One operator's work and its measured time; shapes of one `family` are held out together."""

    family: str
    flops: float
    special_ops: float
    bytes: float
    outputs: float
    time_s: float


@dataclass(frozen=True)
class Terms:
    """Which terms a kind has, by the physics of its kernels."""

    compute: bool = False
    special: bool = False
    memory: bool = True
    cached: bool = False  # a second bandwidth for footprints inside a cache
    outputs: bool = False


def fit(measurements: Sequence[Measurement], dtype: str, terms: Terms) -> Constants:
    """The constants with the least mean error on the fitted families, scored on the held-out ones."""
    rows = sorted(measurements, key=lambda m: (m.family, m.bytes, m.flops))
    held = set(sorted({m.family for m in rows})[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    fitted = [m for m in rows if m.family not in held]
    candidates = [
        _fit(fitted, dtype, terms, overlap, cache)
        for overlap in ((0.0, 1.0) if terms.compute and terms.memory else (0.0,))
        for cache in (_cache_candidates(fitted) if terms.cached else (None,))
    ]
    best = min(candidates, key=lambda c: float(np.mean(np.abs(_errors(c, fitted)))))
    scored = [m for m in rows if m.family in held] or rows
    error = float(np.median(np.abs(_errors(best, scored))))
    return best.replace(points=len(fitted), median_error=error)


def predicted_s(constants: Constants, rows: Sequence[Measurement]) -> Floats:
    """Times by the constants, for scoring a fit."""
    columns = [_column(rows, name) for name in ("flops", "special_ops", "bytes", "outputs")]
    return np.asarray(calibrated_limits(constants, *columns)[2])


def _errors(constants: Constants, rows: Sequence[Measurement]) -> Floats:
    return predicted_s(constants, rows) / _column(rows, "time_s") - 1


def _fit(
    rows: Sequence[Measurement], dtype: str, terms: Terms, overlap: float, cache: float | None
) -> Constants:
    """Alternate between assigning each row the limit that binds and solving for the constants."""
    time, size = _column(rows, "time_s"), _column(rows, "bytes")
    ones = np.ones_like(time)
    inside = size <= cache if cache is not None else np.zeros(len(rows), dtype=bool)
    columns = {
        "launch": ones,
        "flops": _column(rows, "flops") if terms.compute else 0 * ones,
        "special": _column(rows, "special_ops") if terms.special else 0 * ones,
        "bytes": np.where(inside, 0.0, size) if terms.memory else 0 * ones,
        "cached": np.where(inside, size, 0.0) if terms.memory else 0 * ones,
        "outputs": _column(rows, "outputs") if terms.outputs else 0 * ones,
    }
    in_compute = ones if overlap == 0 else (_column(rows, "flops") > 30 * size).astype(float)
    in_memory = ones if overlap == 0 else 1 - in_compute
    weight = ones
    for _ in range(ROUNDS):
        active = {
            "launch": columns["launch"],
            **{name: columns[name] * in_compute for name in ("flops", "special")},
            **{name: columns[name] * in_memory for name in ("bytes", "cached", "outputs")},
        }
        found = dict(zip(active, _nonnegative(list(active.values()), time, weight), strict=True))
        constants = _constants(dtype, overlap, cache, found)
        error = np.abs(predicted_s(constants, rows) / time - 1)
        weight = 1 / np.sqrt(np.maximum(error, 0.02))  # towards the median of relative errors
        if overlap:
            compute = columns["flops"] * found["flops"] + columns["special"] * found["special"]
            memory = sum(columns[name] * found[name] for name in ("bytes", "cached", "outputs"))
            in_compute = (compute >= memory).astype(float)
            in_memory = 1 - in_compute
    return constants


def _constants(dtype: str, overlap: float, cache: float | None, found: dict[str, float]) -> Constants:
    def rate(seconds: float) -> float | None:
        return 1 / seconds if seconds > 0 else None

    cached, beyond = rate(found["cached"]), rate(found["bytes"])
    if cache is None or cached is None or beyond is None or cached < beyond:  # no cache is slower than memory
        cache, cached, beyond = None, None, beyond or cached
    return Constants(
        dtype=dtype,  # type: ignore[arg-type]
        launch_s=found["launch"],
        flop_per_s=rate(found["flops"]),
        special_op_per_s=rate(found["special"]),
        byte_per_s=beyond,
        cache_bytes=cache,
        cached_byte_per_s=cached,
        output_s=found["outputs"],
        overlap=overlap,
        points=1,
        median_error=0.0,
    )


def _nonnegative(columns: list[Floats], time: Floats, weight: Floats) -> list[float]:
    """Least squares of relative errors with no negative coefficient: the best subset of the columns.

    With at most six columns all subsets are tried, which is exact.
    """
    scaled = [column / time * weight for column in columns]
    usable = [i for i, column in enumerate(scaled) if column.any()]
    best, best_loss = [0.0] * len(columns), np.inf
    for size in range(1, len(usable) + 1):
        for chosen in combinations(usable, size):
            matrix = np.stack([scaled[i] for i in chosen], axis=1)
            norms = np.linalg.norm(matrix, axis=0)
            solved = np.linalg.lstsq(matrix / norms, weight, rcond=None)[0] / norms
            if (solved < 0).any():
                continue
            loss = float(np.sum((matrix @ solved - weight) ** 2))
            if loss < best_loss * (1 - 1e-12):
                best_loss, best = loss, [0.0] * len(columns)
                for i, value in zip(chosen, solved, strict=True):
                    best[i] = float(value)
    return best


def _cache_candidates(rows: Sequence[Measurement]) -> list[float | None]:
    """Footprints at which a second bandwidth may begin: with at least four rows on either side."""
    sizes = sorted({m.bytes for m in rows if m.bytes >= SMALLEST_CACHE})
    return [None, *sizes[3:-4]]


def _column(rows: Sequence[Measurement], name: str) -> Floats:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)
