"""Align the clocks of several ranks by events that are simultaneous on all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from profiler.traces.rules import COMMUNICATION, known_kernel
from profiler.traces.tables import SCHEMAS, Loss, Trace

FEWEST = 2  # minimum of common events
COLLECTIVE_NS, STEP_NS = 100_000, 10_000_000  # maximum spread of simultaneous events
SAID_NS = 1_000  # smaller shifts are not reported
TIMES = ("start_ns", "end_ns", "time_ns")
Moments = dict[str, Any]  # by name, in order of time


def aligned(trace: Trace) -> Trace:
    """The trace with every rank on the clock of the first.

    A collective ends on all ranks at once, a step begins on all at about the same time; where neither is
    recorded on both, the Unix time of each clock's zero is used. A shift is noted as a repair.
    """
    sources = np.unique(trace.column("activities", "source")).tolist()
    if len(sources) < 2:
        return trace
    first = min(sources, key=lambda s: (trace.origins[s].rank is None, trace.origins[s].rank, s))
    shifts, losses = {}, []
    for source in sources:
        if source == first or not _other_rank(trace, first, source):
            continue
        base = _zeros(trace, first, source)
        shift, why = _together(trace, first, source) or (base, "")
        shifts[source] = shift
        if why and abs(shift - base) >= SAID_NS:
            said = (
                f"{trace.origins[source].file}: clock moved by {(shift - base) / 1e6:+.3f} ms, so that {why}"
            )
            losses.append(Loss(what="repaired", count=1, sentence=said))
    return replace(_shifted(trace, shifts), losses=(*trace.losses, *losses))


def _other_rank(trace: Trace, one: int, other: int) -> bool:
    """Whether two files may be ranks of one run, and not two recordings of one rank."""
    a, b = trace.origins[one], trace.origins[other]
    return a.format == b.format and (a.rank is None or b.rank is None or a.rank != b.rank)


def _zeros(trace: Trace, one: int, other: int) -> int:
    a, b = trace.origins[one].zero_ns, trace.origins[other].zero_ns
    return b - a if a is not None and b is not None else 0


def _together(trace: Trace, one: int, other: int) -> tuple[int, str] | None:
    """The shift of the other's clock, and its evidence."""
    for what, moments, most in (
        ("collectives end together", _collective_ends, COLLECTIVE_NS),
        ("steps begin together", _step_begins, STEP_NS),
    ):
        apart = _differences(moments(trace, one), moments(trace, other))
        if len(apart) < FEWEST:
            continue
        shift = int(np.median(apart))
        spread = int(np.median(np.abs(apart - shift)))
        if spread <= most:
            return shift, f"{len(apart)} {what} (typically within {spread / 1e3:.1f} us)"
    return None


def _differences(one: Moments, other: Moments) -> Any:
    """Between the k-th events of a name, of names that both have equally often."""
    pairs = [one[name] - other[name] for name in one if len(one[name]) == len(other.get(name, ()))]
    return np.concatenate(pairs) if pairs else np.zeros(0, np.int64)


def _collective_ends(trace: Trace, source: int) -> Moments:
    words = trace.words("activities", "name")
    wire = [code for code, word in enumerate(words) if known_kernel(word).kind in COMMUNICATION]
    return _moments(trace, "activities", "end_ns", source, wire)


def _step_begins(trace: Trace, source: int) -> Moments:
    step = trace.of_kind("ranges", "step")
    return _moments(trace, "ranges", "start_ns", source, np.unique(trace.column("ranges", "name")[step]))


def _moments(trace: Trace, table: str, column: str, source: int, codes: Iterable[int]) -> Moments:
    name, time = trace.column(table, "name"), trace.column(table, column)
    here = trace.column(table, "source") == source
    words = trace.words(table, "name")
    return {words[code]: np.sort(time[here & (name == code)]) for code in codes}


def _shifted(trace: Trace, shifts: dict[int, int]) -> Trace:
    by = np.zeros(len(trace.origins), np.int64)
    by[list(shifts)] = list(shifts.values())
    for table, schema in SCHEMAS.items():
        for column in set(TIMES) & set(schema.names) if by.any() else ():
            moved = trace.column(table, column) + by[trace.column(table, "source")]
            trace = trace.with_column(table, column, moved)
    return trace
