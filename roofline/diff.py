"""Two runs side by side: what got slower or faster, and what else changed there.

Pure tables in and out: a side has a row per thing that is compared (SIDE), whatever measured it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

KEY = ["phase", "name", "layer"]
# phase, name, layer (-1: none), executions, seconds of all of them; the kernels that ran and the shapes that
# were given, as frozensets of words; and a spread: half the distance of the quartiles, NaN where unknown.
SIDE = [*KEY, "count", "time_s", "kernels", "shapes", "spread_s"]
MATTERS = 0.01  # of the run's time: below it an operator alone does not fail a comparison


@dataclass(frozen=True)
class Diff:
    """`rows`: a row per key of either side, the largest change first; `phases`: their sums, and `total`.

    A change is time_b_s - time_a_s; `ratio` is time_b_s / time_a_s - 1, None for what only one side has.
    """

    rows: pd.DataFrame
    phases: pd.DataFrame
    total_a_s: float
    total_b_s: float

    @property
    def ratio(self) -> float | None:
        """Relative change of all time; None where the first run has none."""
        return self.total_b_s / self.total_a_s - 1 if self.total_a_s else None

    def regressions(self, above: float, *, each: bool = False) -> list[str]:
        """What is slower by more than a fraction: the whole, a phase and, if asked, operators that matter."""
        found = []
        if self.ratio is not None and self.ratio > above:
            found.append(f"the whole: {100 * self.ratio:+.1f} %")
        slower = self.phases[self.phases["ratio"] > above]
        found += [
            f"phase {row.phase}: {100 * row.ratio:+.1f} %"
            for row in slower.itertuples()
            if len(self.phases) > 1
        ]
        if each:
            rows = self.rows[(self.rows["ratio"] > above) & ~self.rows["within_spread"]]
            rows = rows[rows["time_b_s"] >= MATTERS * self.total_b_s]
            found += [
                f"{name}: {100 * ratio:+.1f} %"
                for name, ratio in zip(rows["name"], rows["ratio"], strict=True)
            ]
        return found


def diff(before: pd.DataFrame, after: pd.DataFrame) -> Diff:
    """Compare two sides (SIDE), matched by phase, name and layer."""
    import pandas as pd

    joined = before.merge(after, on=KEY, how="outer", suffixes=("_a", "_b"), indicator="side", sort=False)
    for column in ("time_s_a", "time_s_b", "count_a", "count_b"):
        joined[column] = joined[column].fillna(0)
    rows = [_row(record) for record in joined.to_dict("records")]
    columns = ["phase", "name", "layer", "side", "count_a", "count_b", "time_a_s", "time_b_s", "change_s"]
    columns += ["ratio", "within_spread", "kernels_gone", "kernels_new", "shapes_gone", "shapes_new", "why"]
    table = pd.DataFrame(rows, columns=columns)
    order = table["change_s"].abs().sort_values(ascending=False, kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    sums = table.groupby("phase", sort=False)[["time_a_s", "time_b_s", "change_s"]].sum().reset_index()
    sums["ratio"] = [_ratio(a, b) for a, b in zip(sums["time_a_s"], sums["time_b_s"], strict=True)]
    sums["ratio"] = sums["ratio"].astype(float)
    table["ratio"] = table["ratio"].astype(float)
    return Diff(table, sums, float(table["time_a_s"].sum()), float(table["time_b_s"].sum()))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    a, b = float(record["time_s_a"]), float(record["time_s_b"])
    side = {"left_only": "gone", "right_only": "new"}.get(record["side"], "both")
    sets = {what: [_words(record[f"{what}_{end}"]) for end in "ab"] for what in ("kernels", "shapes")}
    spread = max(_number(record["spread_s_a"]), 0.0) + max(_number(record["spread_s_b"]), 0.0)
    row = {
        **{key: record[key] for key in KEY},
        "side": side,
        "count_a": int(record["count_a"]),
        "count_b": int(record["count_b"]),
        "time_a_s": a,
        "time_b_s": b,
        "change_s": b - a,
        "ratio": _ratio(a, b) if side == "both" else None,
        "within_spread": side == "both" and 0 < abs(b - a) <= spread,
        **{
            f"{what}_{which}": sorted(words) if side == "both" else []
            for what, (one, other) in sets.items()
            for which, words in (("gone", one - other), ("new", other - one))
        },
    }
    return {**row, "why": _why(row)}


def _why(row: dict[str, Any]) -> str:
    """What changed beside the time."""
    if row["side"] != "both":
        return "only in the first run" if row["side"] == "gone" else "only in the second run"
    said = []
    if row["count_a"] != row["count_b"]:
        said.append(f"{row['count_a']} -> {row['count_b']} times")
    for what, label in (("kernels", "other kernels"), ("shapes", "other shapes")):
        if row[f"{what}_gone"] or row[f"{what}_new"]:
            said.append(label)
    if not said and row["within_spread"]:
        said.append("within the spread of the repeats")
    return ", ".join(said)


def same_scale(found: Diff) -> float | None:
    """By what factor the second run executes nearly everything more often; None where counts agree or vary.

    Recordings of another length are no regression: then times per execution are to be compared.
    """
    both = found.rows[(found.rows["side"] == "both") & (found.rows["count_a"] > 0)]
    if not len(both):
        return None
    ratios = both["count_b"] / both["count_a"]
    typical = float(ratios.median())
    agreeing = both[(ratios / typical - 1).abs() < 0.02]
    nearly_all = float(agreeing["time_a_s"].sum()) > 0.8 * found.total_a_s
    return typical if typical != 1 and nearly_all else None


def per_execution(side: pd.DataFrame, factor: float) -> pd.DataFrame:
    """A side whose recording was `factor` times as long, brought to the length of the other."""
    shorter = {name: side[name] / factor for name in ("time_s", "spread_s")}
    return side.assign(**shorter, count=(side["count"] / factor).round())


def _ratio(a: float, b: float) -> float | None:
    return b / a - 1 if a > 0 else None


def _words(value: Any) -> frozenset[str]:
    return value if isinstance(value, frozenset) else frozenset()


def _number(value: Any) -> float:
    return float(value) if value == value and value is not None else 0.0
