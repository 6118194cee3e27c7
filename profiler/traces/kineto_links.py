"""Kineto's links: kernels to calls and operators by ids, else by arrows; modules to their threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.linking import link_ranges
from profiler.traces.nesting import innermost, latest_before, parents, threads
from profiler.traces.sound import Losses
from profiler.traces.tables import Trace

MOST_KERNELS_PER_CALL = 8  # of a call that launches no graph
Columns = Mapping[str, Any]


def linked(
    trace: Trace,
    columns: Mapping[str, Columns],
    words: Mapping[str, Sequence[str]],
    flows: Columns,
    losses: Losses,
) -> Trace:
    """The trace with its links; ambiguous ids are counted in the losses.

    `columns` are those of the tables with Kineto's `correlation` and `external` ids, `words` the dictionaries
    of their codes; `flows` are arrows, empty where ids link.
    """
    activities, launches, ranges = (columns.get(name) for name in ("activities", "launches", "ranges"))
    if ranges is not None and len(ranges["name"]):
        process, thread = _host_threads(ranges, launches, words)
        trace = trace.with_column("ranges", "process", process).with_column("ranges", "thread", thread)
    if activities is not None and launches is not None and len(launches["name"]):
        started = _by_arrows(activities, flows, launches) if flows else None
        launch, graph = _launches_of(activities, launches, words["launches"], losses, started)
        trace = trace.with_column("activities", "launch", launch).with_column("activities", "graph", graph)
        known = launch >= 0
        process = np.where(known, launches["process"][np.maximum(launch, 0)], NONE)
        trace = trace.with_column("activities", "process", process)
    if activities is not None and ranges is not None and len(ranges["name"]):
        around = (
            _by_arrows(activities, flows, ranges)
            if flows
            else _by_external(activities, ranges, words["range kind"])
        )
        trace = trace.with_column("activities", "range", around)
    return link_ranges(trace)


def _launches_of(
    activities: Columns, launches: Columns, names: Sequence[str], losses: Losses, launch: Any
) -> tuple[Any, Any]:
    """The call that launched each activity, and its graph: the given call, or by correlation id."""
    rows = np.flatnonzero(launches["correlation"] > 0)
    if launch is None:
        launch = _by_id("correlation", activities, launches, rows)
    graphs = np.array([*("graph" in name.casefold() for name in names), False])[launches["name"]]
    count = np.bincount(launch[launch >= 0], minlength=len(graphs))
    # Only graph launches start many kernels: other such calls have an id that was given to all.
    wrong = (launch >= 0) & ((count > MOST_KERNELS_PER_CALL) & ~graphs)[np.maximum(launch, 0)]
    launch = np.where(wrong, NONE, launch)
    of_graph = (launch >= 0) & graphs[np.maximum(launch, 0)]
    graph = np.where((activities["graph"] <= 0) & of_graph, launch, activities["graph"])
    losses.note("unlinked", wrong.sum(), "activities that share one correlation with many others: not linked")
    losses.note(
        "noted",
        _ambiguous(activities, launches, rows),
        "activities whose correlation id several processes used; the latest call before each was taken",
    )
    return launch, graph


def _by_id(name: str, activities: Columns, table: Columns, rows: Any) -> Any:
    """The row of a table, among some, with an activity's id; the latest before it where ids are reused."""
    found = latest_before(
        table[name][rows], table["start_ns"][rows], activities[name], activities["start_ns"]
    )
    found[activities[name] <= 0] = NONE
    return np.where(found >= 0, rows[np.maximum(found, 0)], NONE) if len(rows) else found


def _ambiguous(activities: Columns, launches: Columns, rows: Any) -> int:
    """Number of activities with a correlation id used by several processes."""
    processes = np.unique(launches["process"][rows])
    if len(processes) < 2:
        return 0
    ids = [np.unique(launches["correlation"][rows][launches["process"][rows] == p]) for p in processes]
    known, count = np.unique(np.concatenate(ids), return_counts=True)
    return int(np.isin(activities["correlation"], known[count > 1]).sum())


def _by_external(activities: Columns, ranges: Columns, kinds: Sequence[str]) -> Any:
    """The operator with an activity's external id."""
    operator = ranges["kind"] == (list(kinds).index("operator") if "operator" in kinds else -2)
    return _by_id("external", activities, ranges, np.flatnonzero(operator & (ranges["external"] > 0)))


def _by_arrows(activities: Columns, flows: Columns, table: Columns) -> Any:
    """The row of the call or range at the start of the arrow to each activity; -1 without one.

    An arrow ends at an activity's start, on its process and thread (`place_process`, `place_thread`), and
    starts inside a call or range: the innermost of its thread at that time.
    """
    found = np.full(len(activities["start_ns"]), NONE, np.int64)
    begins = np.flatnonzero(flows["begins"])
    ends = np.flatnonzero(~flows["begins"])
    if not len(begins) or not len(ends):
        return found
    of_end, of_activity = threads(
        (flows["process"][ends], flows["thread"][ends]),
        (activities["place_process"], activities["place_thread"]),
    )
    end = latest_before(of_end, flows["start_ns"][ends], of_activity, activities["start_ns"])
    meets = (end >= 0) & (flows["start_ns"][ends][np.maximum(end, 0)] == activities["start_ns"])
    end = ends[end[meets]]
    begin = latest_before(
        flows["arrow"][begins], flows["start_ns"][begins], flows["arrow"][end], flows["start_ns"][end]
    )
    known = begin >= 0
    begin = begins[begin[known]]
    of_row, of_begin = threads(
        (table["process"], table["thread"]), (flows["process"][begin], flows["thread"][begin])
    )
    start, stop = table["start_ns"], table["end_ns"]
    row = innermost(of_row, start, stop, parents(of_row, start, stop), of_begin, flows["start_ns"][begin])
    found[np.flatnonzero(meets)[known]] = row
    return found


def _host_threads(
    ranges: Columns, launches: Columns | None, words: Mapping[str, Sequence[str]]
) -> tuple[Any, Any]:
    """Process and thread of each range. Python numbers the threads of modules differently, so modules are
    assigned to the thread with most of its operators inside them."""
    process, thread = (ranges[key].astype(np.int64) for key in ("process", "thread"))
    kinds = words["range kind"]
    module = ranges["kind"] == (list(kinds).index("module") if "module" in kinds else -2)
    if not module.any() or module.all():
        return process, thread
    tables = [ranges, *([launches] if launches is not None else [])]
    places = threads(*((table["process"], table["thread"]) for table in tables))
    hosts = [~module, *(np.ones(len(place), bool) for place in places[1:])]
    of_hosts = np.unique(np.concatenate([place[host] for place, host in zip(places, hosts, strict=True)]))
    for each in np.setdiff1d(places[0][module], of_hosts).tolist():
        mine = module & (places[0] == each)
        first, last = ranges["start_ns"][mine].min(), ranges["end_ns"][mine].max()
        inside = [
            host & (table["start_ns"] >= first) & (table["start_ns"] <= last)
            for table, host in zip(tables, hosts, strict=True)
        ]
        found = np.concatenate([place[here] for place, here in zip(places, inside, strict=True)])
        if not len(found):
            continue
        known, count = np.unique(found, return_counts=True)
        for table, place in zip(tables, places, strict=True):
            if len(rows := np.flatnonzero(place == known[count.argmax()])):
                process[mine], thread[mine] = table["process"][rows[0]], table["thread"][rows[0]]
                break
    return process, thread
