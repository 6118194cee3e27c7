"""Fit the overheads of inference engines, and say how they do on settings and models that took no part."""

from __future__ import annotations

from typing import Any

import msgspec
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
    "poll_steps": (0.5, 1.0, 1e2),  # each step; every so many, for a shorter host path
    "prompt_stretch": (1.0, 1.4, 3.0),  # kernels alone; eager code, chunks beside decoding, padding
}
# Of an engine that nobody measured: a host of today, a tenth of the requests in the benchmark's first round,
# arrivals seen at every step. Only how prompts stretch is taken from other engines, where they agree.
ASSUMED = Overheads(launch_s=5e-5, step_s=5e-4, request_s=5e-3, together=0.1)
SURE = 0.1  # of the starting values: what a factor of e off weighs, in units of SCALE
LAUNCHES_S = (1e-5, 3e-5, 1e-4)
PRINTED = 5  # decimals of seconds: what a rounded copy of a measurement still has
LEAST = 20  # rows of an engine, below which four constants would be read off noise
SCALE = 0.1  # errors well above this count less than by their square: repeats and harnesses differ by it


def fit_all(rows: pd.DataFrame, source: str) -> list[Fit]:
    """Of composed rows: of every engine with enough of them, and of one that nobody measured."""
    found = [
        Fit(backend=str(name), models=sorted(set(group["model"])), overheads=fit(group), source=source)
        for name, group in rows.groupby("engine")
        if name and len(group) >= LEAST
    ]
    models = sorted(set(rows["model"]))
    return [Fit(backend="", models=models, overheads=assumed(rows), source=source), *found]


def assumed(rows: pd.DataFrame) -> Overheads:
    """Of an engine that has none of these rows: `ASSUMED`, with the mean stretch of its prompts on others."""
    groups = [group for _, group in rows[~rows["static"]].groupby("engine") if len(group) >= LEAST]
    logs = [np.log(fit(group).prompt_stretch) for group in groups]
    stretch = float(np.exp(np.mean(logs))) if logs else BOUNDS["prompt_stretch"][1]
    return msgspec.structs.replace(ASSUMED, prompt_stretch=float(f"{stretch:.4g}"))


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
    """The same as an engine that nobody measured: neither its rows nor the model's take part."""
    found = []
    for (model, engine), group in rows.groupby(["model", "engine"], sort=True):
        others = rows[(rows["model"] != model) & (rows["engine"] != engine)]
        ttft, tpot = applied(group, assumed(others))
        found.append(group.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot))
    return pd.concat(found)


def fit(rows: pd.DataFrame) -> Overheads:
    """The overheads that make log(predicted / measured) of TTFT and TPOT small; models weigh alike."""
    names, rows = list(BOUNDS), rows.drop_duplicates()  # published tables hold copies
    low, start, high = (np.log([BOUNDS[name][i] for name in names]) for i in range(3))
    weight = 1 / rows.groupby("model")["model"].transform("size").to_numpy() ** 0.5

    def errors(logs: Any) -> Any:
        found = applied(rows, Overheads(**dict(zip(names, map(float, np.exp(logs)), strict=True))))
        measured = rows["ttft_s"].to_numpy(), rows["tpot_s"].to_numpy()
        pairs = zip(found, measured, strict=True)
        parts = [_tamed(np.log(a / b) / SCALE) * weight for a, b in pairs]
        return np.concatenate([*parts, SURE * (logs - start)])

    # The host's launches are felt only where they are slower than the device: try hosts of several speeds.
    starts = [np.where(np.array(names) == "launch_s", np.log(speed), start) for speed in LAUNCHES_S]
    tried = [least_squares(errors, each, bounds=(low, high)) for each in starts]
    found = min(tried, key=lambda one: one.cost)
    return Overheads(**{n: float(f"{v:.4g}") for n, v in zip(names, np.exp(found.x), strict=True)})


def _tamed(error: Any) -> Any:
    """Residuals whose squares grow as log |error| far out (Cauchy), so that failed rows do not decide."""
    return np.sign(error) * np.sqrt(np.log1p(np.square(error)))
