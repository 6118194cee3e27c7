"""Fit the overheads of inference engines, and say how they do on settings and models that took no part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from hwspecs.serving import EAGER, Fit, Overheads
from roofline.endtoend import applied

# Bounds of each constant, in its unit: what a host can take at least and at most.
BOUNDS: dict[str, tuple[float, float]] = {
    "launch_s": (1e-6, 3e-4),  # a bare launch; an eager framework's whole operator, several kernels
    "step_s": (1e-5, 2e-2),  # a C++ loop; a Python scheduler with many requests
    "graph_s": (1e-8, 1e-5),  # nothing but the kernel; several small kernels around it
    "request_s": (1e-5, 5e-1),  # a call; HTTP, tokenising and admission
    "token_s": (1e-8, 3e-5),  # copying; one thread that tokenises random words
}
# Of an engine that nobody measured. A launch: vLLM's operators take the host 57 us and more where no graph
# replays them (aiconfigurator's eager rows). A graph's operator: what gpt-fast's published decode rates leave
# on A100 beside kernels, where no engine was measured (`assumed`). A step: its scheduler runs beside the
# device. A token: tokenisers read about a megabyte per second and thread.
ASSUMED = Overheads(launch_s=5.7e-5, graph_s=1e-6, step_s=5e-5, request_s=5e-3, token_s=3e-6)
# What static batches of a script do not determine: no request waits for another, and no graph is replayed.
UNDER_LOAD = ("graph_s", "token_s")
SURE = 0.1  # of the assumed values: what a factor of e off weighs, in units of SCALE
SCRIPT_STEP_S = 1e-3  # a script's loop has no second thread beside the device
STARTS = [(launch_s, step_s) for launch_s in (1e-5, 1e-4) for step_s in (5e-5, 5e-3)]
PRINTED = 5  # decimals of seconds: what a rounded copy of a measurement still has
LEAST = 20  # rows of an engine, below which four constants would be read off noise
SCALE = 0.1  # errors well above this count less than by their square: repeats and harnesses differ by it


def fit_all(rows: pd.DataFrame, source: str) -> list[Fit]:
    """Of composed rows: of every engine with enough of them, and of one that nobody measured."""
    rows = _plain(rows)
    found = [_measured(name, group, source) for name, group in _by_engine(rows)]
    others = [each.overheads for each in found if each.backend != EAGER]
    shared = Fit(
        backend="",
        models=sorted(set(rows["model"])),
        overheads=assumed(others),
        **_ranges([ASSUMED, *others]),
        source=source,
    )
    return [shared, *found]


def _by_engine(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every engine with enough of them."""
    groups = rows.groupby("engine")
    yield from ((str(name), group) for name, group in groups if name and len(group) >= LEAST)


def assumed(measured: Iterable[Overheads]) -> Overheads:
    """What is assumed of an engine that nobody measured, beside engines that were.

    Around the kernels of a replayed graph run the same small ones, whatever the engine: their mean.
    """
    found = [one.graph_s for one in measured if one.graph_s]
    if not found:
        return ASSUMED
    return msgspec.structs.replace(ASSUMED, graph_s=float(f"{np.exp(np.mean(np.log(found))):.4g}"))


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Those without drafted tokens: how many of those were kept is assumed, and no constant learns of it."""
    return rows[rows["tokens"] == 1]


def _measured(name: str, group: pd.DataFrame, source: str) -> Fit:
    """The engine's fit, and the range of its constants over fits that leave one setting out."""
    whole = fit(group)
    ranges = _ranges([whole, *(fit(others) for others, _ in _settings(group))])
    models = sorted(set(group["model"]))
    return Fit(backend=name, models=models, overheads=whole, **ranges, source=source)


def _ranges(found: list[Overheads]) -> dict[str, Overheads]:
    """The least and the largest of each constant, without those that static batches do not determine."""

    def of(choose: Any) -> Overheads:
        told = {name: [getattr(one, name) for one in found] for name in BOUNDS}
        served = [one for one in found if one.graph_s] or found
        told |= {name: [getattr(one, name) for one in served] for name in UNDER_LOAD}
        return Overheads(**{name: choose(values) for name, values in told.items()})

    return {"low": of(min), "high": of(max)}


def _settings(group: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Per dtype, tp and drafts: the rows of others that are no copies of it and drafted none, and its own.

    Published tables repeat one measurement under several splits, some rounded: copies take no part either.
    """
    for _, scored in group.groupby(["dtype", "tp", "tokens"], sort=True):
        others = _plain(group.drop(scored.index))
        others = others[~others["tpot_s"].round(PRINTED).isin(scored["tpot_s"].round(PRINTED))]
        if len(others):
            yield others, scored


def across_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with predicted_{ttft,tpot}_s by their own model's and engine's fit to its other dtypes and tp."""
    found = []
    for _, group in rows.groupby(["model", "engine"], sort=True):
        for others, scored in _settings(group):
            found.append(_predicted(scored, fit(others)))
    return pd.concat(found)


def as_unmeasured(rows: pd.DataFrame) -> pd.DataFrame:
    """The same as an engine that nobody measured: no constant is fitted to its own rows."""
    fits = {name: fit(group) for name, group in _by_engine(_plain(rows)) if name != EAGER}
    found = []
    for name, group in rows.groupby("engine"):
        others = [one for other, one in fits.items() if other != name]
        found.append(_predicted(group, assumed(others)))
    return pd.concat(found)


def kernels_alone(rows: pd.DataFrame) -> pd.DataFrame:
    """The same with nothing added to kernels: what every engine's constants have to beat."""
    return _predicted(rows, Overheads())


def _predicted(rows: pd.DataFrame, overheads: Overheads) -> pd.DataFrame:
    ttft, tpot = applied(rows, overheads)
    return rows.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot)


def fit(rows: pd.DataFrame) -> Overheads:
    """The overheads that make log(predicted / measured) of TTFT and TPOT small; models weigh alike."""
    rows = rows.drop_duplicates()  # published tables hold copies
    static = bool(rows["static"].all())
    names = [name for name in BOUNDS if not (static and name in UNDER_LOAD)]
    low, high = (np.log([BOUNDS[name][i] for name in names]) for i in range(2))
    usual = msgspec.structs.replace(ASSUMED, step_s=SCRIPT_STEP_S) if static else ASSUMED
    start = np.log([getattr(usual, name) for name in names])
    weight = 1 / rows.groupby("model")["model"].transform("size").to_numpy() ** 0.5

    def errors(logs: Any) -> Any:
        found = applied(rows, Overheads(**dict(zip(names, map(float, np.exp(logs)), strict=True))))
        measured = rows["ttft_s"].to_numpy(), rows["tpot_s"].to_numpy()
        pairs = zip(found, measured, strict=True)
        parts = [_tamed(np.log(a / b) / SCALE) * weight for a, b in pairs]
        return np.concatenate([*parts, SURE * (logs - start)])

    # The host's launches are felt only where they are slower than the device, a short step nowhere: try
    # hosts of several speeds.
    starts = [np.concatenate([np.log(pair), start[2:]]) for pair in STARTS]
    tried = [least_squares(errors, each, bounds=(low, high)) for each in starts]
    found = min(tried, key=lambda one: one.cost)
    return Overheads(**{n: float(f"{v:.4g}") for n, v in zip(names, np.exp(found.x), strict=True)})


def _tamed(error: Any) -> Any:
    """Residuals whose squares grow as log |error| far out (Cauchy), so that failed rows do not decide."""
    return np.sign(error) * np.sqrt(np.log1p(np.square(error)))
