"""The sides of a comparison: measured runs, imported runs and traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from profiler.traces.showing import opened
from roofline.diff import SIDE
from roofline.run import Run
from roofline.run_tables import POINT
from specfiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from profiler.traces.tables import Trace

Point = tuple[str, int, int, int, int]  # the values of POINT
BY = ("operator", "layer", "kernel")
STEP = ("model", "framework")  # contexts of operators measured inside a step, not alone
GROUP = ["phase", "name", "layer"]  # what operators of a trace are summed by
OUTSIDE = "(in no range)"


def sides(before: Path, after: Path, by: str) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Two runs or traces as tables of roofline.diff.SIDE, and a note on each point of one run alone.

    Points of two measured runs are matched by their sizes, the rest in their order, as other shapes.
    Raises InputError where nothing is left to compare.
    """
    tables = side(before, by), side(after, by)
    if not all("point" in table for table in tables):
        first, second = (_named(table, _names(_pairs([table, table]))) for table in tables)
        return first, second, []
    pairs = _pairs(tables)
    if not pairs:
        raise InputError(f"{before} and {after} have no phase in common; nothing can be compared.")
    names = _names(pairs)
    first, second = (
        _named(table, {pair[at]: name for pair, name in zip(pairs, names.values(), strict=True)})
        for at, table in enumerate(tables)
    )
    notes = [
        f"{_name(point)} was measured in {subject} alone and is not compared."
        for at, (subject, table) in enumerate(zip((before, after), tables, strict=True))
        for point in table["point"].unique()
        if point not in {pair[at] for pair in pairs}
    ]
    return first, second, notes


def _pairs(tables: Sequence[pd.DataFrame]) -> list[tuple[Point, Point]]:
    """The points of two measured runs that are compared, by phase."""
    if not all("point" in table for table in tables):
        return []
    one, other = (list(table["point"].unique()) for table in tables)
    both = [(point, point) for point in one if point in other]
    rest = [[point for point in points if (point, point) not in both] for points in (one, other)]
    for phase in dict.fromkeys(point[0] for point in rest[0]):
        first, second = ([point for point in points if point[0] == phase] for points in rest)
        both += zip(first, second, strict=False)
    return both


def _names(pairs: Sequence[tuple[Point, Point]]) -> dict[Point, str]:
    """The phase of each first point, with its sizes where several of that phase are compared."""
    phases = [point[0] for point, _ in pairs]
    return {point: point[0] if phases.count(point[0]) == 1 else _name(point) for point, _ in pairs}


def _name(point: Point) -> str:
    phase, batch, q_len, kv_len, encoder_len = point
    return f"{phase} {batch}x{q_len} of {kv_len}{_encoded(encoder_len)}"


def _named(table: pd.DataFrame, names: Mapping[Point, str]) -> pd.DataFrame:
    """A side with the names of its points as phases, without points that have none."""
    if "point" not in table:
        return table
    return table.assign(phase=table["point"].map(names)).dropna(subset=["phase"])[SIDE]


def side(subject: Path, by: str) -> pd.DataFrame:
    """A run or trace as a table of roofline.diff.SIDE; of a run measured here with each row's `point`.

    Raises InputError where it is neither or empty.
    """
    run, trace = opened(subject)
    if trace is not None:
        found = traced(trace, by)
    elif run is not None:
        found = measured_kernels(run) if by == "kernel" else measured(run)
    if not len(found):
        raise InputError(f"{subject}: holds nothing to compare (no {by} was measured).")
    return found


def measured(run: Run) -> pd.DataFrame:
    """The operators of a measured run, the framework's work between them, and the time in no range.

    One step of each point: the rows add up to the step's time.
    """
    import pandas as pd

    table = run.table("operators")
    inside = table[table["where"].isin(STEP)]
    table = pd.concat([inside, _beside(run.table("steps"), inside)], ignore_index=True)
    kernels = run.table("kernels").groupby([*POINT, "operator"])["name"].agg(frozenset)
    ran = [kernels.get((*key,), frozenset()) for key in table[[*POINT, "name"]].itertuples(index=False)]
    return table.assign(
        point=_points(table),
        layer=-1,
        time_s=table["median_s"] * table["count"],
        spread_s=(table["q75_s"] - table["q25_s"]) / 2 * table["count"],
        kernels=ran,
        shapes=_sizes(table),
    )[[*SIDE, "point"]]


def _beside(steps: pd.DataFrame, inside: pd.DataFrame) -> pd.DataFrame:
    """A row per point: a plain step less its ranges; negative where their medians add up to more."""
    whole = steps[steps["instrumented"] == False].set_index(POINT)  # noqa: E712 - a column
    ranges = (inside["median_s"] * inside["count"]).groupby([inside[key] for key in POINT], sort=False).sum()
    rest = (whole["median_s"] - ranges).dropna()
    spread = (whole["q75_s"] - whole["q25_s"]).reindex(rest.index)
    rows = rest.rename("median_s").reset_index()
    return rows.assign(name=OUTSIDE, count=1, q25_s=0.0, q75_s=spread.to_numpy())


def measured_kernels(run: Run) -> pd.DataFrame:
    """The kernels of the traced steps of a measured run."""
    groups = run.table("kernels").groupby(["name", *POINT], sort=False)
    table = groups[["count", "time_s"]].sum().reset_index()
    return table.assign(
        point=_points(table),
        layer=-1,
        spread_s=np.nan,
        kernels=[frozenset()] * len(table),
        shapes=_sizes(table),
    )[[*SIDE, "point"]]


def traced(trace: Trace, by: str) -> pd.DataFrame:
    """The operators, those of each layer, or the kernels of an imported trace, summed a piece at a time."""
    import pandas as pd

    from profiler.traces.alike import PIECE, frame, pieces

    said, words = _shapes(trace)
    summed = [_summed(frame(piece), said[at : at + PIECE], words, by) for at, piece in pieces(trace)]
    groups = pd.concat(summed).groupby(GROUP, sort=False)
    found = groups[["count", "time_s"]].sum()
    for sets in ("kernels", "shapes"):
        found[sets] = groups[sets].agg(lambda each: frozenset().union(*each))
    return found.reset_index().assign(spread_s=np.nan)[SIDE]


def _summed(rows: pd.DataFrame, said: np.ndarray, words: list[str], by: str) -> pd.DataFrame:
    """Activities of a piece by group; `said` are the places of their inputs among `words`."""
    rows = rows.astype({c: object for c in rows if rows[c].dtype == "category"})
    rows["kernel"] = rows["kernel"].where(rows["kernel"].notna(), "unknown")  # groupby drops missing keys
    known = rows["operator"].where(rows["operator"].notna(), "(" + rows["kind"].fillna("unknown") + ")")
    rows = rows.assign(
        name=rows["kernel"] if by == "kernel" else known,
        phase="" if by == "kernel" else rows["phase"].fillna(""),
        layer=rows["layer"] if by == "layer" else -1,
        said=said,
    )
    groups = rows.groupby(GROUP, sort=False)
    found = groups["time_s"].agg(["size", "sum"]).rename(columns={"size": "count", "sum": "time_s"})
    found["kernels"] = groups["kernel"].agg(
        lambda names: frozenset(names) if by == "operator" else frozenset()
    )
    found["shapes"] = groups["said"].agg(lambda at: frozenset(words[i] for i in at.unique() if i >= 0))
    return found.reset_index()


def _shapes(trace: Trace) -> tuple[np.ndarray, list[str]]:
    """The recorded inputs of each activity's innermost range that has any, as places in words; else -1."""
    from profiler.traces.work import in_words

    row, parent = trace.column("activities", "range").copy(), trace.column("ranges", "parent")
    code = trace.column("ranges", "shapes")
    words = [in_words(shapes) for shapes in trace.words("ranges", "shapes")]
    if not len(code):
        return np.full(len(row), -1), words
    while (up := (row >= 0) & (code[np.maximum(row, 0)] < 0)).any():
        row[up] = parent[row[up]]
    return np.where(row >= 0, code[np.maximum(row, 0)], -1), words


def _points(table: pd.DataFrame) -> list[Point]:
    return list(table[POINT].itertuples(index=False, name=None))


def _sizes(table: pd.DataFrame) -> list[frozenset[str]]:
    return [
        frozenset({f"batch {row.batch}, {row.q_len} of {row.kv_len} tokens{_encoded(row.encoder_len)}"})
        for row in table.itertuples()
    ]


def _encoded(length: int) -> str:
    return f", {length} of an encoder" if length else ""
