"""Fit the overheads of inference engines, and say how they do on settings and models that took no part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from hwspecs.serving import Fit, Overheads
from roofline.endtoend import applied

# Bounds and start of each constant, in its unit: what a host can take at least and at most.
BOUNDS: dict[str, tuple[float, float, float]] = {
    "launch_s": (1e-6, 1e-5, 3e-4),  # a bare launch; an eager framework's whole operator
    "step_s": (1e-5, 1e-3, 2e-2),  # a C++ loop; a Python scheduler with many requests
    "request_s": (1e-5, 1e-2, 5e-1),  # a call; HTTP, tokenising and admission
    "together": (1e-3, 1e-1, 1.0),  # arrivals spread evenly; all at once
}
LAUNCHES_S = (1e-5, 3e-5, 1e-4)
PRINTED = 5  # decimals of seconds: what a rounded copy of a measurement still has
LEAST = 20  # rows of an engine, below which four constants would be read off noise
SCALE = 0.1  # errors well above this count less than by their square: repeats and harnesses differ by it


def fit_all(rows: pd.DataFrame, source: str) -> list[Fit]:
    """Of composed rows: a fit of all, and of every engine with enough rows."""
    pools = [("", rows)]
    pools += [(str(name), group) for name, group in rows.groupby("engine") if name and len(group) >= LEAST]
    return [
        Fit(backend=name, models=sorted(set(pool["model"])), overheads=fit(pool), source=source)
        for name, pool in pools
    ]


def across_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with predicted_{ttft,tpot}_s by their own model's and engine's fit to its other dtypes and tp.

    Published tables repeat one measurement under several splits, some rounded: copies take no part either.
    """
    found = []
    for _, group in rows.groupby(["model", "engine"], sort=True):
        for _, scored in group.groupby(["dtype", "tp"], sort=True):
            others = group.drop(scored.index)
            others = others[~others["tpot_s"].round(PRINTED).isin(scored["tpot_s"].round(PRINTED))]
            if len(others):
                ttft, tpot = applied(scored, fit(others))
                found.append(scored.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot))
    return pd.concat(found)


def across_models(rows: pd.DataFrame) -> pd.DataFrame:
    """The same by the fit to all rows of other models, whatever their engine."""
    found = []
    for model, group in rows.groupby("model", sort=True):
        ttft, tpot = applied(group, fit(rows[rows["model"] != model]))
        found.append(group.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot))
    return pd.concat(found)


def fit(rows: pd.DataFrame) -> Overheads:
    """The overheads that make log(predicted / measured) of TTFT and TPOT small; models weigh alike."""
    names = list(BOUNDS)
    low, start, high = (np.log([BOUNDS[name][i] for name in names]) for i in range(3))
    weight = 1 / rows.groupby("model")["model"].transform("size").to_numpy() ** 0.5

    def errors(logs: Any) -> Any:
        found = applied(rows, Overheads(**dict(zip(names, map(float, np.exp(logs)), strict=True))))
        measured = rows["ttft_s"].to_numpy(), rows["tpot_s"].to_numpy()
        pairs = zip(found, measured, strict=True)
        return np.concatenate([_tamed(np.log(a / b) / SCALE) * weight for a, b in pairs])

    # The host's launches are felt only where they are slower than the device: try hosts of several speeds.
    starts = [np.where(np.array(names) == "launch_s", np.log(speed), start) for speed in LAUNCHES_S]
    tried = [least_squares(errors, each, bounds=(low, high)) for each in starts]
    found = min(tried, key=lambda one: one.cost)
    return Overheads(**{n: float(f"{v:.4g}") for n, v in zip(names, np.exp(found.x), strict=True)})


def _tamed(error: Any) -> Any:
    """Residuals whose squares grow as |error| far out (soft L1), so that failed rows do not decide."""
    return np.sign(error) * np.sqrt(2 * (np.sqrt(1 + np.square(error)) - 1))
