"""Collectives are what fp64 says they are, take time, and end with their processes."""

from __future__ import annotations

import json
import multiprocessing
import signal
from functools import partial
from typing import Any

import pytest

from profiler import collectives
from profiler.collectives import SMALLEST, Exchange, collective_rows, measure_collectives, most_calls
from profiler.kernels import TORCH_DTYPES
from roofline.optable import one_operator
from specfiles.errors import InputError
from workloads.operators.collective import PATTERNS

torch = pytest.importorskip("torch")


@pytest.mark.slow
def test_every_pattern_between_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error above the tolerance would have ended them."""
    rows = [
        {"op": pattern, "dtype": "fp32", "bytes": size, "n_gpus": 2}
        for size in (512, 1 << 20)
        for pattern in PATTERNS
    ]
    forked = partial(torch.multiprocessing.start_processes, start_method="fork")  # torch is imported already
    monkeypatch.setattr(torch.multiprocessing, "spawn", forked)
    found, notes = measure_collectives(rows, "cpu", 2, budget_s=86400.0)
    assert not notes
    assert [(row["op"], row["bytes"]) for row in found] == [(row["op"], row["bytes"]) for row in rows]
    assert {row["backend"] for row in found} == {"gloo"}
    assert all(0 < row["q25_us"] <= row["latency_us"] <= row["q75_us"] for row in found)
    assert all(row["max_error"] < 1e-6 for row in found)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [2, 3, 8, 64])
@pytest.mark.parametrize("dtype", SMALLEST)
def test_sums_of_sums_stay_finite(dtype: str, processes: int) -> None:
    """A check, a first look at the time and a repeat: each call multiplies what is there by the processes."""
    numbers = 6 * SMALLEST[dtype] * torch.tensor([-1.0, 1.0]).to(getattr(torch, TORCH_DTYPES[dtype]))
    for _ in range(max(2, most_calls("allreduce", dtype, processes))):
        numbers = numbers * processes
    assert numbers.isfinite().all()
    assert numbers.abs().min() > 0
    assert most_calls("alltoall", dtype, processes) == 1000


def test_an_all_reduce_begins_anew() -> None:
    exchange = Exchange("allreduce", 24, "fp32", rank=1, processes=3, device="cpu")
    begun = exchange.source.clone()
    exchange.source.mul_(3)
    exchange.refresh()
    assert torch.equal(exchange.source, begun)
    assert torch.equal(exchange.of_ranks[1], begun)


@pytest.mark.gpu
@pytest.mark.slow
def test_every_pattern_between_gpus(cuda: str) -> None:
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("there is one GPU")
    rows = collective_rows("bf16", count, 1 << 24)
    found, notes = measure_collectives(rows, "cuda", count, budget_s=120.0)
    assert (len(found), notes) == (len(rows), [])


def test_what_fails_is_named_and_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process of two; larger messages of the same pattern are not tried."""

    def measured(row: dict[str, Any], rank: int, processes: int, device: str) -> dict[str, Any]:
        if rank == 1 and row["op"] == "alltoall" and row["bytes"] > 600:
            raise ValueError("no memory\n  to send from")
        collectives._slowest(0.0, device)  # every collective waits for all processes
        return {"latency_us": float(row["bytes"])}

    forked = partial(torch.multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(torch.multiprocessing, "spawn", forked)
    monkeypatch.setattr(collectives, "_measured", measured)
    sizes = {"alltoall": (512, 2048, 8192), "allreduce": (512, 2048)}
    rows = [{"op": op, "dtype": "fp32", "bytes": size} for op, each in sizes.items() for size in each]
    found, notes = measure_collectives(rows, "cpu", 2, budget_s=86400.0)
    assert [(row["op"], row["latency_us"]) for row in found] == [
        ("alltoall", 512.0),
        ("allreduce", 512.0),
        ("allreduce", 2048.0),
    ]
    assert notes == ["alltoall of 2048 bytes in fp32 between 2 processes failed: ValueError: no memory"]


def test_a_failure_after_the_last_row_is_blamed_on_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_: Any, args: tuple[Any], **__: Any) -> None:
        (job,) = args
        job.results.write_text("".join(json.dumps(row) + "\n" for row in job.rows))
        job.at(1).write_text(str(len(job.rows) - 1))
        raise torch.multiprocessing.ProcessExitedException("killed", 1, 7, -9)

    monkeypatch.setattr(torch.multiprocessing, "spawn", ended)
    rows = collective_rows("fp32", 2, 1e3)
    assert measure_collectives(rows, "cpu", 2, budget_s=86400.0) == (
        rows,
        ["collectives between 2 processes failed: killed"],
    )


def test_processes_that_cannot_join_are_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def unjoined(*_: Any, **__: Any) -> None:
        raise torch.multiprocessing.ProcessRaisedException("RuntimeError: no network", 0, 7)

    monkeypatch.setattr(torch.multiprocessing, "spawn", unjoined)
    found, notes = measure_collectives(collective_rows("fp32", 2, 1e3), "cpu", 2, budget_s=86400.0)
    assert not found
    assert notes == ["collectives between 2 processes failed: RuntimeError: no network"]


def test_processes_end_with_the_one_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python terminates daemons when it ends, and waits for other processes however long they take."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    forked = partial(torch.multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(torch.multiprocessing, "spawn", forked)
    monkeypatch.setattr(torch.multiprocessing.ProcessContext, "join", interrupted)
    monkeypatch.setattr(collectives, "_process", lambda *_: signal.pause())
    with pytest.raises(KeyboardInterrupt):
        measure_collectives(collective_rows("fp32", 2, 1e3), "cpu", 2, budget_s=86400.0)
    waiting = multiprocessing.active_children()
    for process in waiting:
        process.kill()
        process.join()
    assert [process.daemon for process in waiting] == [True, True]


def test_processes_that_were_interrupted_alone_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch passes over their KeyboardInterrupt, and they end without results as if they had succeeded."""
    monkeypatch.setattr("torch.multiprocessing.spawn", lambda *args, **named: None)
    found, notes = measure_collectives(collective_rows("fp32", 2, 1e3), "cpu", 2, 86400.0)
    assert (found, notes) == ([], ["collectives between 2 processes were interrupted."])


def test_an_unknown_pattern_is_refused_before_processes_start() -> None:
    with pytest.raises(InputError, match=r"collective named 'broadcast'.*allreduce"):
        measure_collectives([{"op": "broadcast"}], "cpu", 2, budget_s=1.0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_exact_results_on_paper(pattern: str) -> None:
    """Three processes whose numbers are 0..5, 10..15 and 20..25; the second one's result."""
    exchange = Exchange(pattern, 24, "fp32", rank=1, processes=3, device="cpu")
    exchange.of_ranks = [torch.arange(6.0) + 10 * rank for rank in range(3)]
    expected = {
        "allreduce": [30.0, 33.0, 36.0, 39.0, 42.0, 45.0],
        "allgather": [0.0, 1.0, 10.0, 11.0, 20.0, 21.0],
        "reduce_scatter": [36.0, 39.0],
        "alltoall": [2.0, 3.0, 12.0, 13.0, 22.0, 23.0],
        "sendrecv": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    }
    assert exchange.exact().tolist() == expected[pattern]


def test_every_row_is_an_operator_whose_message_is_sent() -> None:
    rows = collective_rows("bf16", 4, 1 << 28)
    assert len({(row["op"], row["bytes"]) for row in rows}) == len(rows)
    assert {row["op"] for row in rows[:5]} == set(PATTERNS)
    assert all(one_operator(row).work().comm_bytes > 0 for row in rows)
