"""Measured kernels of a table against their prediction: errors per cell, rows that beat a ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hwspecs import Device
from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.optable import BUILDERS, CALIBRATED_COLUMNS, predict_table
from roofline.physics.calibration import KEY, measured_on
from roofline.totals import reference
from roofline.validate import ABOVE
from specfiles.errors import InputError

TINY_S = 5e-6  # a bound below this is less than what starting kernels costs
REGIMES = ("compute", "memory", "tiny")
CELL = [*KEY, "distribution"]


@dataclass(frozen=True)
class Scores:
    """`rows`: the table with predicted_us, error, regime and attained; `left_out`: how many rows, and why.

    attained = data-sheet bound / measured; above 1 a row beats the data sheet: its data was in a cache, its
    sizes are not what ran, or a ceiling is wrong. `above_ceiling` flags more than 5 % of that.
    """

    fidelity: Fidelity
    rows: pd.DataFrame
    left_out: dict[str, int]

    @property
    def corrected(self) -> int:
        """How many rows have a learned correction."""
        return int((self.rows["fidelity"] == str(Fidelity.CORRECTED)).sum())

    def summary(self) -> pd.DataFrame:
        """Per cell, the worst first: all regimes together, then each."""
        if self.rows.empty:
            return pd.DataFrame(columns=[*CELL, "regime", *SCORES])
        found = []
        for cell, group in self.rows.groupby(CELL, sort=True):
            regimes = [("all", group), *((r, group[group["regime"] == r]) for r in REGIMES)]
            found.append(
                [
                    {**dict(zip(CELL, cell, strict=True)), "regime": r, **scores(g)}
                    for r, g in regimes
                    if len(g)
                ]
            )
        found.sort(key=lambda lines: -lines[0]["mape"])
        return pd.DataFrame([line for lines in found for line in lines])

    def medians(self) -> pd.DataFrame:
        """Per op and dtype: the number of cells, the median and the worst of their MAPE."""
        cells = self.summary()
        cells = cells[cells["regime"] == "all"]
        groups = cells.groupby(["op", "dtype"], sort=True)
        return groups.agg(
            cells=("mape", "size"),
            rows=("rows", "sum"),
            median_mape=("mape", "median"),
            worst_mape=("mape", "max"),
        ).reset_index()


SCORES = ("rows", "mape", "median_ape", "bias", "r2", "coverage", "above_ceiling")


def scores(rows: pd.DataFrame) -> dict[str, Any]:
    """Mean and median |error|, geometric bias, R2 of log time, share inside the interval."""
    log = np.log(rows["predicted_us"] / rows["latency_us"])
    spread = np.log(rows["latency_us"]) - np.log(rows["latency_us"]).mean()
    known = rows[rows["lower_us"].notna()] if "lower_us" in rows else rows.iloc[:0]
    inside = (known["latency_us"] >= known.get("lower_us")) & (known["latency_us"] <= known.get("upper_us"))
    values = (
        len(rows),
        float(rows["error"].abs().mean()),
        float(rows["error"].abs().median()),
        float(np.expm1(log.mean())),
        float(1 - (log**2).sum() / (spread**2).sum()) if (spread != 0).any() else float("nan"),
        float(inside.mean()) if len(known) else float("nan"),
        int(rows["above_ceiling"].sum()),
    )
    return dict(zip(SCORES, values, strict=True))


def score_table(table: pd.DataFrame, device: Device, fidelity: Fidelity | str) -> Scores:
    """Predict the rows measured on this device and compare; other rows are counted, not dropped unseen.

    Raises InputError where no row is left, or where a row cannot be read.
    """
    fidelity = Fidelity(fidelity)
    for name in ("op", "latency_us"):
        if name not in table:
            raise InputError(f"the table has no column {name!r}; expected op, dtype, sizes and latency_us.")
    here = measured_on(table, device)
    known = table["op"].isin(BUILDERS).to_numpy()
    timed = (pd.to_numeric(table["latency_us"], errors="coerce") > 0).to_numpy()
    chosen = table[here & known & timed]
    left_out = {
        "measured on another device": int((~here).sum()),
        "of a kind that is not known": int((here & ~known).sum()),
        "without a time": int((here & known & ~timed).sum()),
    }
    if chosen.empty:
        said = "; ".join(f"{count} {why}" for why, count in left_out.items() if count) or "it is empty"
        raise InputError(f"no row of the table can be compared on {device.name}: {said}.")
    rows = compared(predict_table(chosen, ceilings(device, fidelity)), device)
    return Scores(fidelity, rows, {why: count for why, count in left_out.items() if count})


def reached(
    table: pd.DataFrame, predicted_us: pd.Series, device: Device, limits: Ceilings
) -> dict[str, pd.Series]:
    """The share of the roofline that rows with latency_us attain; nothing where the table has none.

    `predicted_us` is the table's at `limits`: where those are the roofline's, nothing is predicted again.
    """
    if "latency_us" not in table:
        return {}
    given = table["latency_us"]
    measured = pd.to_numeric(given, errors="coerce")
    if (wrong := given.notna() & ~(measured > 0)).any():
        raise InputError(f"latency_us is {given[wrong].iloc[0]}; expected microseconds, above zero.")
    roof = reference(device, limits)
    bound_us = predicted_us if roof is limits else predict_table(table, roof)["predicted_us"]
    attained = bound_us / measured
    return {"latency_us": measured, "attained": attained, "above_ceiling": attained > ABOVE}


def compared(rows: pd.DataFrame, device: Device) -> pd.DataFrame:
    """Rows with latency_us and predicted_us, and their error, regime and attained share of the data sheet."""
    roof = predict_table(rows[[n for n in rows if n not in CALIBRATED_COLUMNS]], ceilings(device))
    bound, measured = roof["predicted_us"].to_numpy() * 1e-6, rows["latency_us"].to_numpy(dtype=float)
    regime = np.where(roof["compute_s"] > roof["memory_s"], "compute", "memory")
    attained = bound / (measured * 1e-6)
    return rows.assign(
        **{name: rows[name].fillna("").astype(str) if name in rows else "" for name in CELL},
        error=rows["predicted_us"].to_numpy() / measured - 1,
        regime=np.where(bound < TINY_S, "tiny", regime),
        attained=attained,
        above_ceiling=attained > ABOVE,
    )
