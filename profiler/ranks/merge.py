"""Merge the parts of a run, a folder each, into one run that names missing parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiler.forward import Point
from profiler.noting import label
from profiler.repeats import quartiles
from reports.units import percent, seconds
from roofline.run import Run, open_run
from roofline.run_head import Head, Part
from roofline.run_tables import POINT, TABLES
from specfiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

KEY = [*POINT, "name", "kind", "where"]
QUARTILES = ["median_s", "q25_s", "q75_s"]
# Tables taken from the first readable part.
OF_ONE = ("references", "outliers", "kernels", "techniques", "power")


def part_folder(out: Path, rank: int) -> Path:
    """The folder of a process's part, itself a run."""
    return out / f"rank{rank}"


def merge(out: Path, begun: Head) -> Run:
    """Write the tables and the head of the run in `out` from its parts, complete or not.

    Operators are medians over ranks, and collectives the time after the last arrival; steps are those of the
    slowest rank. The parts are kept.
    """
    runs = {part.rank: _opened(part_folder(out, part.rank)) for part in begun.parts}
    found = [run for run in runs.values() if run is not None]
    parts = [_part(part, runs[part.rank]) for part in begun.parts]
    head = begun
    if found:
        head = found[0].head.replace(
            created=begun.created, command=begun.command, parts=begun.parts, notes=[]
        )
    run = Run(out, head)
    matched = _collectives(found, len(parts))
    tables = {name: found[0].table(name) for name in OF_ONE} if found else {}
    tables["steps"] = _slowest(_all_of(found, "steps"))
    tables["operators"] = _with_transfers(_medians(_all_of(found, "operators")), matched)
    tables["collectives"] = matched
    for name, table in tables.items():
        if len(table):
            run.write_table(name, table)
    whole = all(part.status == "complete" for part in parts)
    return run.write_head(
        status="complete" if whole else "failed", parts=parts, notes=_notes(found, parts, head, matched)
    )


def _opened(folder: Path) -> Run | None:
    """The part's run; None where it is missing or unreadable."""
    try:
        run = open_run(folder)
        for name in TABLES:
            run.table(name)
    except InputError:
        return None
    return run


def _part(part: Part, run: Run | None) -> Part:
    if run is None:
        return part.replace(status="missing")
    return part.replace(status=run.head.status, device=str(run.head.environment.get("gpu", run.head.device)))


def _all_of(runs: list[Run], name: str) -> pd.DataFrame:
    import pandas as pd

    tables = [run.table(name) for run in runs]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(TABLES[name]))


def _medians(operators: pd.DataFrame) -> pd.DataFrame:
    """A row per operator: medians over ranks of quartiles, fewest repeats, span of intervals."""
    medians = dict.fromkeys(QUARTILES, "median")
    how = {"count": "first", "repeats": "min", **medians, "low_s": "min", "high_s": "max", "outliers": "sum"}
    how["kernel"] = "first"  # the same on all ranks
    return operators.groupby(KEY, sort=False, as_index=False).agg(how)


def _slowest(steps: pd.DataFrame) -> pd.DataFrame:
    """The rows of the slowest rank of each point."""
    return steps.loc[steps.groupby([*POINT, "instrumented"], sort=False)["median_s"].idxmax()]


def _collectives(runs: list[Run], ranks: int) -> pd.DataFrame:
    """A row per point and collective: the wait for the last rank, and the transfer after it.

    Occurrences are matched by repeat and index in the step, if every rank has them.
    """
    import pandas as pd

    each = pd.concat(
        [_all_of([run], "arrivals").assign(rank=rank) for rank, run in enumerate(runs)]
        or [_all_of([], "arrivals")]
    )
    place = [*POINT, "repeat", "index", "name"]
    rows = []
    for key, met in each.groupby(place, sort=False):
        if len(met) != ranks:
            continue
        last = met["begin_s"].max()
        rows.append(
            {
                **dict(zip(place, key, strict=True)),
                "wait_s": last - met["begin_s"].min(),
                "mean_wait_s": last - met["begin_s"].mean(),
                "transfer_s": max(0.0, met["end_s"].max() - last),
                "last_rank": int(met.loc[met["begin_s"] == last, "rank"].iloc[0]),
                "uncertainty_s": met["uncertainty_s"].max(),
            }
        )
    if not rows:
        return pd.DataFrame(columns=list(TABLES["collectives"]))
    return _summed(pd.DataFrame(rows), ranks)


def _summed(occurrences: pd.DataFrame, ranks: int) -> pd.DataFrame:
    """Medians and quartiles over the occurrences of each collective of a point."""
    found = []
    for key, group in occurrences.groupby([*POINT, "name"], sort=False):
        quarters = quartiles(group["transfer_s"].tolist())
        lasts = group["last_rank"].mode()
        repeats = group["repeat"].nunique()
        found.append(
            {
                **dict(zip([*POINT, "name"], key, strict=True)),
                "ranks": ranks,
                "count": round(len(group) / repeats),
                "repeats": repeats,
                "wait_s": group["wait_s"].median(),
                "mean_wait_s": group["mean_wait_s"].median(),
                **dict(zip(["q25_s", "median_s", "q75_s"], quarters, strict=True)),
                "last_rank": int(lasts.iloc[0]),
                "last_share": float((group["last_rank"] == lasts.iloc[0]).mean()),
                "uncertainty_s": group["uncertainty_s"].max(),
            }
        )
    import pandas as pd

    return pd.DataFrame(found)


def _with_transfers(operators: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """Operators with the time of collectives replaced by that of the transfer, without waits."""
    if not len(matched):
        return operators
    place = [*POINT, "name"]
    known = operators.merge(matched[[*place, *QUARTILES]], on=place, how="left", suffixes=("", "_after"))
    inside = (known["where"] == "model") & known["median_s_after"].notna()
    for name in QUARTILES:
        known[name] = known[f"{name}_after"].where(inside, known[name])
    return known[list(TABLES["operators"])]


def _notes(runs: list[Run], parts: list[Part], head: Head, matched: pd.DataFrame) -> list[str]:
    """Notes on the merged run, and each part's own notes."""
    how = "shared the model" if head.tensor_parallel > 1 else "ran the whole model each, side by side"
    notes = [
        f"{len(parts)} ranks {how}; their parts are in rank0 to rank{len(parts) - 1}: operators are medians "
        "over ranks, steps those of the slowest"
    ]
    notes += [f"rank {part.rank} {_REASONS[part.status]}" for part in parts if part.status != "complete"]
    for row in matched.to_dict("records"):
        notes.append(
            f"{row['name']} in {label(Point(*(row[name] for name in POINT)))}: the last rank "
            f"arrives {seconds(row['wait_s'])} after the first (rank {row['last_rank']} is last in "
            f"{percent(row['last_share'], 0)}), then it takes {seconds(row['median_s'])}; clocks agree "
            f"within {seconds(row['uncertainty_s'])}"
        )
    if head.tensor_parallel > 1 and not len(matched):
        notes.append("no collective was seen on every rank: none is matched, their times hold the waits")
    return notes + [
        f"{run.path.name.replace('rank', 'rank ')}: {note}" for run in runs for note in run.head.notes
    ]


_REASONS = {
    "missing": "is missing: it wrote nothing that can be read",
    "running": "is missing its end: it was killed, what it measured before is here",
    "failed": "failed; what it measured before is here",
}
