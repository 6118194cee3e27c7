"""Traces of other makers, layouts and versions: times to the nanosecond, by every way of reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.alike import frame
from profiler.traces.attribution import attribute
from profiler.traces.breakdown import breakdown
from profiler.traces.reading import read_brief, read_traces
from profiler.traces.summary import show
from tests.profiler.traces.makers import MAKERS


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("maker", MAKERS)
def test_times_are_those_that_were_written(maker: str, packed: bool, write: Callable[..., Path]) -> None:
    story = MAKERS[maker]()
    path = write(story.text, packed=packed)
    trace = read_traces([path])
    full = show(attribute(trace), "operator")
    quick = breakdown(read_brief(path), "kernel")
    for found in (full["totals"], quick["totals"]):
        assert {name: found[name] for name in story.seconds()} == pytest.approx(story.seconds(), abs=1e-12)
    assert sum(full["idle"].values()) == pytest.approx(full["totals"]["gpu_idle_s"], abs=1e-12)
    linked = (trace.column("activities", "launch") >= 0) | (trace.column("activities", "range") >= 0)
    assert linked.sum() == story.linked
    assert any(story.loses in loss["sentence"] for loss in full["losses"]) or not story.loses


@pytest.mark.parametrize("lost", ["s", "f"])
def test_half_an_arrow_links_nothing(lost: str, write: Callable[..., Path]) -> None:
    events = [event for event in MAKERS["flows_alone"]().events if event["ph"] != lost]
    trace = read_traces([write(json.dumps(events))])
    assert set(trace.column("activities", "launch").tolist()) == {-1}


def test_messages_of_collectives_are_their_work(made: Any, write: Callable[..., Path]) -> None:
    """Eight devices, a million elements of 2 bytes: rings send 14/8 (all-reduce) and 7/8 of all."""
    sent = {
        "allreduce": 3.5e6,
        "_allgather_base": 1.75e6,
        "_reduce_scatter_base": 1.75e6,
        "all_to_all": 1.75e6,
    }
    for at, name in enumerate(sent):
        elements = {"In msg nelems": 10**6, "Out msg nelems": 10**6}
        if name == "_allgather_base":
            elements["In msg nelems"] //= 8
        if name == "_reduce_scatter_base":
            elements["Out msg nelems"] //= 8
        told = {"Collective name": name, "Group size": 8, "dtype": "BFloat16", **elements}
        made.add("cpu_op", "record_param_comms", 100.0 * at, 50.0, **told)
        made.kernel(f"ncclDevKernel_{at}", 100.0 * at + 60, 20.0, launched=100.0 * at + 9)
    made.add("cpu_op", "record_param_comms", 900.0, 50.0, **(told | {"dtype": "Quaternion"}))
    made.kernel("ncclDevKernel_5", 960.0, 20.0, launched=909.0)
    found = frame(attribute(read_traces([write(made.text())])))
    assert found["comm_bytes"].tolist() == [*sent.values(), 0.0]
    assert found["how"].notna().tolist() == [True] * 4 + [False]
