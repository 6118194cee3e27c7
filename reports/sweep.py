"""The best points of a sweep, and how many it has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import percent, text
from roofline.tables import csv_text, plain_records

if TYPE_CHECKING:
    import pandas as pd

BETTER = {
    "tokens_per_s": "larger",
    "ttft_s": "smaller",
    "tpot_s": "smaller",
    "energy_j": "smaller",
    "usd_per_million_tokens": "smaller",
}
COLUMNS: terminal.Columns = {
    "model": ("model", text),
    "hardware": ("device", text),
    "tensor_parallel": ("TP", text),
    "expert_parallel": ("EP", text),
    "pipeline_parallel": ("PP", text),
    "weights": ("weights", text),
    "experts": ("experts", text),
    "activations": ("activations", text),
    "expert_activations": ("experts' activations", text),
    "kv": ("KV", text),
    "techniques": ("techniques", lambda v: v or "–"),
    "engine": ("engine", text),
    **terminal.SIZES,
    **terminal.RATES,
    "mbu": ("MBU", percent),
    **terminal.MEMORY,
    **terminal.ENERGY,
    **terminal.COST,
}


def best_points(table: pd.DataFrame, most: int, by: str) -> list[dict[str, Any]]:
    """The best points that fit, by one of BETTER."""
    known = table[table["error"].isna() & table["fits"].fillna(False).astype(bool) & table[by].notna()]
    ranked = known.sort_values(by, ascending=BETTER[by] == "smaller", kind="stable").head(most)
    return plain_records(ranked.drop(columns="error"))


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many points there are, how many fit, and how many have no prediction."""
    failed = int(table["error"].notna().sum())
    return {"points": len(table), "fit": int(table["fits"].fillna(False).sum()), "without_prediction": failed}


def as_json(table: pd.DataFrame, met: pd.DataFrame, most: int, by: str) -> str:
    """The best points of those that `met` the limits, in SI units, and the counts of all."""
    found = {**counts(table), "within": len(met)}
    return json.dumps({"schema": 1, **found, "by": by, "best": best_points(met, most, by)}, indent=1)


def as_csv(table: pd.DataFrame, met: pd.DataFrame, most: int, by: str) -> str:
    """The best points of those that `met` the limits, with the columns of `points.parquet`."""
    return csv_text(best_points(met, most, by), [name for name in table if name != "error"])


def as_text(table: pd.DataFrame, met: pd.DataFrame, most: int, by: str) -> str:
    """A table of the best points of those that `met` the limits, then what else there is."""
    found, best = counts(table), best_points(met, most, by)
    said = (
        f"{found['points']} points: {found['fit']} fit their device's memory, "
        f"{found['without_prediction']} have no prediction"
    )
    limited = met is not table
    if limited:
        said += f"; {counts(met)['fit']} fit and meet the limits"
    reasons = table["error"].dropna().value_counts().head(3)
    lines = [f"{said}.", *(f"- {count} x {reason}" for reason, count in reasons.items())]
    # A decode step has a stated context and no prompt; for others the context follows from their lengths.
    without = {"prompt" if set(table["phase"]) == {"decode"} else "context"}
    without |= set() if (table["engine"] != "none").any() else {"engine"}
    without |= {split for split in ("expert_parallel", "pipeline_parallel") if (table[split] == 1).all()}
    without |= COLUMNS.keys() - set(met)
    for experts, others in (("experts", "weights"), ("expert_activations", "activations")):
        without |= {experts} if (table[experts] == table[others]).all() else set()
    without |= {"activations"} if table["activations"].nunique() == 1 else set()
    columns = {name: column for name, column in COLUMNS.items() if name not in without}
    title = f"the best of those that fit{' and meet the limits' if limited else ''}, by {by}"
    drawn = terminal.table(best, columns, title) if best else ""
    return drawn + "\n".join([*lines, ""])
