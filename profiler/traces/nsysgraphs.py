"""Ranges of the kernels of replayed CUDA graphs: those open on the thread that captured their nodes.

`nsys profile --cuda-graph-trace=node` records when each node was made. Instantiating a graph clones its
nodes, and a kernel of a replay names its clone: clones are followed back to the node of the capture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.grouping import numbered
from profiler.traces.nesting import innermost, threads
from profiler.traces.sound import Columns
from profiler.traces.tables import Trace

NODES = "CUDA_GRAPH_NODE_EVENTS"
MOST_CLONES = 16  # of clones; damaged tables may have cycles


def link_nodes(trace: Trace, nodes: Columns) -> Trace:
    """The trace with all activities of graphs marked so, and in the ranges of their capture.

    `nodes` are the events of nodes in order of time, with the `node` made and the `original` that it clones.
    """
    node, launch = trace.column("activities", "graph_node"), trace.column("activities", "launch")
    graph = trace.column("activities", "graph")
    unsaid = (node > 0) & (graph < 0) & (launch >= 0)
    if unsaid.any():
        trace = trace.with_column("activities", "graph", np.where(unsaid, launch, graph))
    rows = np.flatnonzero(node > 0)
    if not (len(rows) and len(nodes["start_ns"]) and {"node", "thread"} <= nodes.keys()):
        return trace
    event = _captured(nodes, trace.column("activities", "process")[rows], node[rows])
    found = np.append(_ranges(trace, nodes), np.int32(NONE))[event]
    around = trace.column("activities", "range").copy()
    around[rows] = np.where(found >= 0, found, around[rows])
    return trace.with_column("activities", "range", around)


def _captured(nodes: Columns, process: Any, node: Any) -> Any:
    """The event that made each of some nodes, or the node that it is a clone of; -1 where there is none."""
    count = len(nodes["node"])
    original = nodes.get("original", np.full(count, NONE))
    number = numbered(
        np.concatenate([nodes["process"], nodes["process"], process]),
        np.concatenate([nodes["node"], original, node]),
    )
    of_node, of_original, asked = number[:count], number[count : 2 * count], number[2 * count :]
    cloned = np.flatnonzero(original > 0)[::-1]  # the first of several stays
    source = np.arange(number.max() + 1)
    source[of_node[cloned]] = of_original[cloned]
    for _ in range(MOST_CLONES):
        asked = source[asked]
    event = np.full(len(source), NONE)
    event[of_node[::-1]] = np.arange(count)[::-1]
    return event[asked]


def _ranges(trace: Trace, nodes: Columns) -> Any:
    """The innermost range around each event, on its thread."""
    place = ("process", "thread")
    of_range, of_node = threads(
        tuple(trace.column("ranges", key) for key in place), tuple(nodes[key] for key in place)
    )
    start, end, parent = (trace.column("ranges", key) for key in ("start_ns", "end_ns", "parent"))
    return innermost(of_range, start, end, parent, of_node, nodes["start_ns"])
