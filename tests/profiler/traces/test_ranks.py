"""Clocks of ranks that differ, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler.traces.reading import read_traces
from profiler.traces.totals import totals
from tests.profiler.traces.conftest import Made

Write = Callable[..., Path]
REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def rank(
    number: int,
    shift_us: float,
    *,
    collectives: bool = True,
    zero_ns: int | None = None,
    uneven_us: float = 0.01,
) -> str:
    """A rank that comes to each all-reduce at its own time and leaves with the others but for `uneven_us`."""
    made = Made()
    for step in range(6):
        base = 1000.0 * step + shift_us
        made.add("user_annotation", f"ProfilerStep#{step}", base, 900.0)
        late = 100.0 * ((step + number) % 3)
        made.kernel("gemm", base + 10, 200.0 + late, launched=base)
        if collectives:
            made.kernel(
                REDUCE, base + 220 + late, 500.0 - late + uneven_us * number * (step + 1), launched=base + 1
            )
    around = {} if zero_ns is None else {"baseTimeNanoseconds": zero_ns}
    return made.text(distributedInfo={"rank": number}, **around)


def ends(trace: Any, source: int) -> Any:
    here = trace.column("activities", "source") == source
    wire = trace.column("activities", "name") == trace.words("activities", "name").index(REDUCE)
    return np.sort(trace.column("activities", "end_ns")[here & wire])


@pytest.mark.parametrize("collectives", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_ranks_meet_in_their_collectives_and_steps(write: Write, collectives: bool, order: int) -> None:
    files = [write(rank(n, 5e6 * n, collectives=collectives), f"{n}.json") for n in (0, 1)][::order]
    alone = [totals(read_traces([file])) for file in files]
    trace = read_traces(files)
    (said,) = [loss.sentence for loss in trace.losses if loss.what == "repaired"]
    assert said.startswith("1.json: clock moved by -5000.000 ms")
    assert ("collectives end" if collectives else "steps begin") in said
    if collectives:
        assert np.abs(ends(trace, 0) - ends(trace, 1)).max() <= 60
    for name in ("gpu_busy_s", "gpu_span_s", "kernel_time_s"):
        assert totals(trace)[name] == pytest.approx(sum(each[name] for each in alone))


def test_the_zero_of_a_clock_is_no_skew(write: Write) -> None:
    files = [write(rank(n, -3e6 * n, zero_ns=10**18 + n * 3 * 10**9), f"{n}.json") for n in (0, 1)]
    trace = read_traces(files)
    assert not [loss for loss in trace.losses if loss.what == "repaired"]
    assert np.abs(ends(trace, 0) - ends(trace, 1)).max() <= 60


def test_what_does_not_end_together_moves_no_clock(write: Write) -> None:
    """Ends of collectives that drift by 150 us a step are no common moment; the steps begin together."""
    files = [write(rank(n, 5e6 * n, uneven_us=150.0), f"{n}.json") for n in (0, 1)]
    (said,) = [loss.sentence for loss in read_traces(files).losses if loss.what == "repaired"]
    assert "steps begin" in said


def test_two_recordings_of_one_rank_keep_their_clocks(write: Write) -> None:
    files = [write(rank(0, shift), f"{shift}.json") for shift in (0.0, 5e6)]
    trace = read_traces(files)
    assert (ends(trace, 1) - ends(trace, 0) == 5 * 10**9).all()
    assert not [loss for loss in trace.losses if loss.what == "repaired"]
