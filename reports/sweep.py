"""The best points of a sweep, and how many it has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.units import in_bytes, percent, seconds, si, text
from reports.wording import plain

if TYPE_CHECKING:
    import pandas as pd

BETTER = {"tokens_per_s": "larger", "ttft_s": "smaller", "tpot_s": "smaller", "energy_j": "smaller"}
COLUMNS: dict[str, tuple[str, terminal.Format]] = {
    "model": ("model", text),
    "hardware": ("device", text),
    "tensor_parallel": ("TP", text),
    "weights": ("weights", text),
    "kv": ("KV", text),
    "techniques": ("techniques", lambda v: v or "–"),
    "engine": ("engine", text),
    "batch": ("batch", text),
    "prompt": ("prompt", text),
    "context": ("context", text),
    "ttft_s": ("TTFT", seconds),
    "tpot_s": ("TPOT", seconds),
    "tokens_per_s": ("tokens/s", plain),
    "mbu": ("MBU", percent),
    "memory_bytes": ("memory", in_bytes),
    "energy_j": ("energy", lambda v: si(v, "J")),
}


def best_points(table: pd.DataFrame, most: int, by: str) -> list[dict[str, Any]]:
    """The best points that fit, by one of BETTER."""
    known = table[table["error"].isna() & table["fits"].fillna(False).astype(bool) & table[by].notna()]
    ranked = known.sort_values(by, ascending=BETTER[by] == "smaller", kind="stable").head(most)
    return [
        {str(k): None if v != v else v for k, v in row.items() if k != "error"}
        for row in ranked.astype(object).to_dict("records")
    ]


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many points there are, how many fit, and how many have no prediction."""
    failed = int(table["error"].notna().sum())
    return {"points": len(table), "fit": int(table["fits"].fillna(False).sum()), "without_prediction": failed}


def as_json(table: pd.DataFrame, most: int, by: str) -> str:
    """The best points in SI units, and the counts."""
    return json.dumps(
        {"schema": 1, **counts(table), "by": by, "best": best_points(table, most, by)}, indent=1
    )


def as_text(table: pd.DataFrame, most: int, by: str) -> str:
    """A table of the best points, then what else there is."""
    found, best = counts(table), best_points(table, most, by)
    said = (
        f"{found['points']} points: {found['fit']} fit their device's memory, "
        f"{found['without_prediction']} have no prediction"
    )
    reasons = table["error"].dropna().value_counts().head(3)
    lines = [f"{said}.", *(f"- {count} x {reason}" for reason, count in reasons.items())]
    # A decode step has no prompt, and what it sees is said; the context of others follows from their lengths.
    without = {"prompt" if set(table["phase"]) == {"decode"} else "context"}
    without |= set() if (table["engine"] != "none").any() else {"engine"}
    columns = {name: column for name, column in COLUMNS.items() if name not in without}
    drawn = terminal.table(best, columns, f"the best of those that fit, by {by}") if best else ""
    return drawn + "\n".join([*lines, ""])
