"""Processes as torchrun starts them, forked so that torch is imported already."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
if not hasattr(os, "fork"):
    pytest.skip("processes are forked here", allow_module_level=True)

PATIENCE_S = 600.0
Act = Callable[[int], object]


@dataclass
class Processes:
    """Forked processes by rank, and what each printed."""

    pids: list[int]
    logs: list[Path]
    meeting: socket.socket  # held, so that nobody else is given its port
    codes: dict[int, int] = field(default_factory=dict)

    def wait(self) -> list[int]:
        """The exit codes; minus the signal that ended one."""
        deadline = time.monotonic() + PATIENCE_S
        while self.running():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return [self.codes[rank] for rank in range(len(self.pids))]

    def running(self) -> list[int]:
        """The ranks that have not ended."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return [rank for rank in range(len(self.pids)) if rank not in self.codes]

    def send(self, rank: int, number: int) -> None:
        """Send a signal to one of them."""
        os.kill(self.pids[rank], number)

    def said(self) -> str:
        """What all of them printed."""
        return "\n".join(f"rank {rank}: {log.read_text()}" for rank, log in enumerate(self.logs))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    """Start a function in several processes; those that still run at the end are killed."""
    begun: list[Processes] = []

    def start(act: Act, count: int = 2) -> Processes:
        meeting = socket.socket()
        # As the process that listens there does.
        meeting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        meeting.bind(("127.0.0.1", 0))
        port: int = meeting.getsockname()[1]
        found = Processes([], [tmp_path / f"log-{rank}" for rank in range(count)], meeting)
        for log in found.logs:
            log.touch()
        begun.append(found)
        for rank in range(count):
            if pid := os.fork():
                found.pids.append(pid)
            else:
                _become(act, rank, count, port, found.logs[rank])
        return found

    yield start
    for found in begun:
        for rank in found.running():
            found.send(rank, signal.SIGKILL)
        found.wait()
        found.meeting.close()


@pytest.fixture
def torchrun(processes: Callable[..., Processes]) -> Callable[..., Processes]:
    """Start a command in several processes."""

    def start(*words: object, count: int = 2) -> Processes:
        def act(_: int) -> object:
            from profiler.cli import main

            sys.argv = ["roofline", *map(str, words)]
            main()
            return None

        return processes(act, count)

    return start


def _become(act: Act, rank: int, count: int, port: int, log: Path) -> None:
    """Be one of the processes: 0 where the function returns, else what it exits with."""
    code = 1
    try:
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1")
        act(rank)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
