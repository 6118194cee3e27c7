"""Who the processes are, what they refuse, how one ends that is told to."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.ranks import group as groups
from profiler.ranks.arrivals import Offset, clock_identity, offset_to_first
from profiler.ranks.group import STOPPED, Ranks, check_asked, joined, started, when_stopped
from specfiles.errors import InputError

HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        ({"RANK": "3", "WORLD_SIZE": "8"}, None),
        ({"RANK": "3", "WORLD_SIZE": "x", "LOCAL_RANK": "3"}, None),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Ranks(9, 16, 1)),
    ],
)
def test_ranks_are_those_of_torchrun(
    told: dict[str, str], expected: Ranks | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert started() == expected


def test_each_process_takes_its_own_gpu(no_cuda: None) -> None:
    second = Ranks(9, 16, 1)
    assert [second.device(asked) for asked in ("cuda", "cpu", "auto")] == ["cuda:1", "cpu", "cpu"]
    with pytest.raises(InputError, match=r"cuda:0 was asked for, and 16 processes run; use --device cuda"):
        second.device("cuda:0")


@pytest.mark.parametrize(
    ("ranks", "devices", "alone", "sentence"),
    [
        (
            None,
            2,
            {},
            r"--tp 2 needs 2 processes, and there is 1; start them with torchrun --nproc-per-node 2",
        ),
        (Ranks(0, 4, 0), 2, {}, r"--tp 2 needs 2 processes, and there are 4"),
        (Ranks(0, 4, 0), 1, {"--nsys": True}, r"--nsys runs in one process, and torchrun started 4"),
    ],
)
def test_what_processes_cannot_do_is_refused(
    ranks: Ranks | None, devices: int, alone: dict[str, bool], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        check_asked(ranks, devices, alone, {})


@pytest.mark.parametrize("ranks", [None, Ranks(1, 4, 1)])
def test_whole_models_and_equal_shares_are_not_refused(ranks: Ranks | None) -> None:
    check_asked(ranks, 1, {"--nsys": False}, {"--mode graph": True})
    check_asked(ranks, ranks.count if ranks else 1, {}, {"--mode graph": False})


def test_a_share_of_a_model_is_not_captured() -> None:
    with pytest.raises(InputError, match=r"--mode graph runs whole models, .*leave --tp out"):
        check_asked(Ranks(0, 2, 0), 2, {}, {"--mode graph": True})


def test_a_process_that_is_told_to_end_acts_first(
    processes: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it waits where no signal handler runs: here in a sleep that goes on after each signal."""
    monkeypatch.setattr(groups, "GRACE_S", 0.05)

    def act(_: int) -> None:
        with when_stopped(lambda: (tmp_path / "said").write_text("ended")):
            (tmp_path / "ready").touch()
            time.sleep(600)

    found = processes(act, 1)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    found.send(0, signal.SIGTERM)
    assert found.wait() == [STOPPED]
    assert (tmp_path / "said").read_text() == "ended"


def test_processes_that_cannot_join_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"NCCL error in: ProcessGroupNCCL.cpp:1, invalid usage\nLast error:\n{cause}")

    monkeypatch.setattr("torch.distributed.init_process_group", fails)
    said = re.escape(f"2 processes cannot join by gloo: {cause}.")
    with pytest.raises(InputError, match=said), joined(Ranks(0, 2, 0), "cpu"):
        pytest.fail("there is no group")


def test_a_process_that_fails_by_itself_is_left_to(processes: Callable[..., Any], tmp_path: Path) -> None:
    def act(_: int) -> None:
        with when_stopped(lambda: (tmp_path / "said").touch()):
            raise SystemExit(7)

    assert processes(act, 1).wait() == [7]
    assert not (tmp_path / "said").exists()


def test_clocks_of_two_machines_are_compared_within_what_is_said(processes: Callable[..., Any]) -> None:
    """Process 1 reads a clock that is an hour ahead, and believes to be another machine."""

    def act(rank: int) -> None:
        with joined(Ranks(rank, 2, rank), "cpu") as group:
            found = offset_to_first(
                group, lambda: time.perf_counter_ns() + rank * HOUR_NS, identity=1000 + rank
            )
            assert abs(found.ns + rank * HOUR_NS) <= found.uncertainty_ns
            assert found.uncertainty_ns < HOUR_NS
            assert (found.uncertainty_ns > 0) == (rank == 1)

    found = processes(act)
    assert found.wait() == [0, 0], found.said()


def test_processes_of_one_machine_have_one_clock(processes: Callable[..., Any]) -> None:
    def act(rank: int) -> None:
        with joined(Ranks(rank, 2, rank), "cpu") as group:
            assert offset_to_first(group) == Offset()
            assert group.all(True)
            assert not group.all(rank == 0)

    found = processes(act)
    assert found.wait() == [0, 0], found.said()
    assert clock_identity() == clock_identity()
