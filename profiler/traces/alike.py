"""Activities with their limits, aggregated over identical ones: the input of a recording's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from profiler.traces.grouping import numbered
from profiler.traces.recorded import Given
from profiler.traces.tables import WORK, Trace
from profiler.traces.waves import last_wave_s, waves
from roofline.times import times
from specfiles.errors import InputError
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from roofline.ceilings import Ceilings

PIECE = 1 << 18  # activities processed at once
ABOVE = 1.001  # of a ceiling, beyond timer precision: work or timer is wrong, or the data were in a cache
PLACE = ("source", "device", "stream", "layer")
WORDS = ("activity", "kernel", "operator", "kind", "phase", "how", "dtype", "bound", "warning")
SUMS = ("time_s", "bound_s", "matrix_flops", "vector_flops", "work_bytes", "waves", "last_wave_s")
COUNTS = ("in_waves", "above")


def frame(trace: Trace) -> pd.DataFrame:
    """One row per activity with its attribution; missing words are None."""
    table = trace["activities"].select(["source", "device", "stream", "kind", "name", "graph"])
    activities = table.to_pandas(strings_to_categorical=False, types_mapper=None)
    activities = activities.rename(columns={"kind": "activity", "name": "kernel"})
    attribution = trace["attribution"].to_pandas()
    return pd.concat([activities, attribution], axis=1).assign(time_s=trace.spent_ns / 1e9)


def limits(rows: pd.DataFrame, ceilings: Ceilings | None, whole_s: Any) -> pd.DataFrame:
    """The rows with `bound_s` (NaN without work or ceilings) and `bound`, of each instance's own work.

    `whole_s` is the time of all activities of each row's instance (`instances_s`).
    """
    bound_s = np.full(len(rows), np.nan)
    bound = np.full(len(rows), None, dtype=object)
    if ceilings is not None:
        modelled = rows["how"].notna().to_numpy()
        for dtype, at in rows[modelled].groupby("dtype", observed=True).indices.items():
            where = np.flatnonzero(modelled)[at]
            values = {name: rows[name].to_numpy()[where] for name in WORK}
            try:
                limit = times(Given(_work(str(dtype), values)), ceilings)
            except InputError:  # a format without a peak has no bound
                continue
            bound_s[where] = np.broadcast_to(
                np.maximum(np.maximum(limit.compute_s, limit.memory_s), limit.comm_s), len(where)
            )
            bound[where] = limit.bound
    return rows.assign(bound_s=bound_s, bound=bound, above=bound_s > ABOVE * whole_s)


def instances_s(trace: Trace) -> Any:
    """The time that all activities of the same execution took, for each activity."""
    spent, instance = trace.spent_ns / 1e9, trace.column("attribution", "instance")
    most = 2 * len(spent) + 1  # runs of activities, then executions: `profiler.traces.executions`
    known = np.where((instance >= 0) & (instance < most), instance, most)
    return np.bincount(known, weights=spent, minlength=most)[known]


def pieces(trace: Trace) -> Iterator[tuple[int, Trace]]:
    """At most PIECE activities each, and how many precede them; one empty piece if there are none."""
    for at in range(0, max(trace["activities"].num_rows, 1), PIECE):
        tables = {name: trace[name].slice(at, PIECE) for name in ("activities", "attribution")}
        yield at, Trace(trace.origins, tables, trace.devices)


def alike(trace: Trace, ceilings: Ceilings | None) -> pd.DataFrame:
    """Sums over activities that agree in PLACE and WORDS: `count`, SUMS and COUNTS; missing words are None.

    Processed in pieces, so that millions of activities need little more memory than their tables; identical
    activities have a row per piece. `waves` sums over the `in_waves` activities with known waves.
    """
    return pd.concat([_summed(rows) for rows in _described(trace, ceilings)], ignore_index=True)


def _described(trace: Trace, ceilings: Ceilings | None) -> Iterator[pd.DataFrame]:
    """Every activity with its limits and waves, in pieces."""
    whole_s = instances_s(trace)
    for at, piece in pieces(trace):
        rows = limits(frame(piece), ceilings, whole_s[at : at + PIECE])
        known = waves(piece)
        yield rows.assign(
            waves=np.nan_to_num(known),
            in_waves=np.isfinite(known),
            last_wave_s=last_wave_s(rows["time_s"].to_numpy(), known),
        )


def _summed(rows: pd.DataFrame) -> pd.DataFrame:
    words = {name: rows[name].astype("category") for name in WORDS}
    number = numbered(*(rows[name] for name in PLACE), *(word.cat.codes for word in words.values()))
    count = np.bincount(number)
    first = np.empty(len(count), np.int64)
    first[number[::-1]] = np.arange(len(rows))[::-1]
    found: dict[str, Any] = {name: rows[name].to_numpy()[first] for name in PLACE}
    found |= {name: word.iloc[first].astype(object).to_numpy() for name, word in words.items()}
    found["count"] = count
    for name in (*SUMS, *COUNTS):
        found[name] = np.bincount(number, weights=rows[name].to_numpy(), minlength=len(count))
    return pd.DataFrame(found).astype(dict.fromkeys(COUNTS, np.int64))


def _work(dtype: str, values: dict[str, Any]) -> Work:
    traffic = (
        Traffic("all", Role.INPUT, values["work_bytes"]),
        Traffic("wire", Role.WIRE, values["comm_bytes"]),
    )
    return Work(dtype, traffic, values["matrix_flops"], values["vector_flops"], values["special_ops"])
