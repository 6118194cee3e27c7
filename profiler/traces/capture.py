"""Map kernels of a replayed graph to the operators captured into it.

A replay is one launch of many kernels, in capture order. Its capture is identified by the number of kernels,
by their names where the capture has them (ROCm), and by the size captured for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiler.traces.grouping import groups
from profiler.traces.steps import StepFacts
from profiler.traces.tables import Trace

BEGIN, END = re.compile("StreamBeginCapture"), re.compile("StreamEndCapture")
NODE = re.compile("Launch(Cooperative)?Kernel|LaunchKernelEx|MemcpyAsync|MemsetAsync|Memcpy.*Async")
SAME = 0.9  # required share of equal kernel names, where both sides have them
SIZE = re.compile(r"capture\D*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Capture:
    """The calls recorded by one capture, as rows of the launches."""

    source: int
    rows: Any
    size: int  # tokens captured for, where an annotation gives them


def captures(trace: Trace) -> list[Capture]:
    """Every capture of a trace, in order of time."""
    names = trace.words("launches", "name")
    code = trace.column("launches", "name")
    if not any(BEGIN.search(name) for name in names):
        return []
    begins, ends, nodes = (np.isin(code, _matching(names, p)) for p in (BEGIN, END, NODE))
    place = [trace.column("launches", key) for key in ("source", "process", "thread")]
    size, found = _sizes(trace), {}
    for rows in groups(np.flatnonzero(begins | ends | nodes), place, np.arange(len(code))):
        stops = np.append(np.flatnonzero(ends[rows]), len(rows))
        for at in np.flatnonzero(begins[rows]).tolist():
            inside = rows[at + 1 : stops[np.searchsorted(stops, at)]]
            begin = int(rows[at])
            found[begin] = Capture(int(place[0][begin]), inside[nodes[inside]], size(begin))
    return [found[begin] for begin in sorted(found)]


def link_captures(trace: Trace, step_of: Any, facts: list[StepFacts]) -> tuple[Trace, Any]:
    """Give kernels of replays the ranges of their capture; also returns a mask of these activities.

    Where the tool tells the node of each, as Nsight Systems does, they have these ranges already.
    `step_of` is the step of each activity (-1: none) and `facts` those of the steps.
    """
    graph, launch = trace.column("activities", "graph"), trace.column("activities", "launch")
    linked = _by_node(trace)
    known: dict[int, list[Capture]] = defaultdict(list)  # by number of kernels
    for each in captures(trace):
        known[len(each.rows)].append(each)
    if not known or not len(graph):
        return trace, linked
    ranges = trace.column("activities", "range").copy()
    around = trace.column("launches", "range")
    start = trace.column("activities", "start_ns")
    names = _names(trace, "activities", "name")
    captured = _names(trace, "launches", "kernel")
    turns: dict[int, int] = {}
    replays = np.zeros(len(around) + 1, bool)
    replays[launch[graph >= 0]] = True
    replays[-1] = False  # of activities whose launch is not known
    for rows in groups(np.flatnonzero(replays[launch]), [launch], start):
        if linked[rows].any():
            continue
        step = facts[step_of[rows[0]]] if step_of[rows[0]] >= 0 else StepFacts()
        match = _best(known.get(len(rows), []), [names[r] for r in rows], captured, step, turns)
        if match is not None:
            inner = around[match.rows]
            ranges[rows] = np.where(inner >= 0, inner, ranges[rows])
            linked[rows] = inner >= 0
    return trace.with_column("activities", "range", ranges), linked


def _by_node(trace: Trace) -> Any:
    """A mask of the activities of graphs in a range that ended before their launch: that of the capture."""
    graph, launch, around = (trace.column("activities", name) for name in ("graph", "launch", "range"))
    found = (graph >= 0) & (launch >= 0) & (around >= 0)
    rows = np.flatnonzero(found)
    ended = trace.column("ranges", "end_ns")[around[rows]]
    found[rows] = ended < trace.column("launches", "start_ns")[launch[rows]]
    return found


def without_captures(trace: Trace) -> Trace:
    """Drop activities of files that only capture: they are not part of the measurement."""
    sources = {capture.source for capture in captures(trace)}
    source, launch = trace.column("activities", "source"), trace.column("activities", "launch")
    replayed = set(source[(trace.column("activities", "graph") >= 0) & (launch >= 0)].tolist())
    drop = np.isin(source, sorted(sources - replayed))
    if not replayed or not drop.any():
        return trace
    kept = trace.with_table("activities", trace["activities"].filter(~drop))
    sentence = (
        "activities of files that only capture graphs: their operators are used, their time is not counted"
    )
    return kept.with_notes({sentence: int(drop.sum())})


def _best(
    known: list[Capture], names: list[str], captured: list[str], step: StepFacts, turns: dict[int, int]
) -> Capture | None:
    """Of the captures of as many kernels that of these names and of a fitting size; None without one."""
    fitting = [c for c in known if _alike(names, [captured[r] for r in c.rows])]
    sized = [c for c in fitting if c.size >= step.tokens > 0]
    if sized:
        least = min(c.size for c in sized)
        fitting = [c for c in sized if c.size == least]
    if not fitting:
        return None
    turn = turns.get(len(names), 0)  # identical-looking pieces of a model are replayed in capture order
    turns[len(names)] = turn + 1
    return fitting[turn % len(fitting)]


def _alike(names: list[str], captured: list[str]) -> bool:
    pairs = [(a, b) for a, b in zip(names, captured, strict=True) if a and b]
    return not pairs or sum(a == b for a, b in pairs) >= SAME * len(pairs)


def _matching(names: list[str], pattern: re.Pattern[str]) -> list[int]:
    return [code for code, name in enumerate(names) if pattern.search(name)]


def _names(trace: Trace, table: str, column: str) -> list[str]:
    words = [*trace.words(table, column), ""]
    return [words[code] for code in trace.column(table, column)]


def _sizes(trace: Trace) -> Callable[[int], int]:
    """The size captured for in the ranges around a call, by its row; 0 where none of them says it."""
    around, parents = trace.column("launches", "range"), trace.column("ranges", "parent")
    names, words = trace.column("ranges", "name"), [*trace.words("ranges", "name"), ""]  # code -1: no name

    def size(launch: int) -> int:
        row = int(around[launch])
        while row >= 0:
            if found := SIZE.search(words[names[row]]):
                return int(found.group(1)[:9])
            row = int(parents[row])
        return 0

    return size
