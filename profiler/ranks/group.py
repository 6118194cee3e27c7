"""The processes of one run: their ranks, their process group, and the handling of SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from profiler.collectives import BACKENDS
from specfiles.errors import InputError

STOPPED = 128 + signal.SIGTERM  # exit code after SIGTERM
GRACE_S = 5.0  # for a regular end; torchrun kills after 30 s


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    count: int
    local: int  # among those of this machine

    @property
    def first(self) -> bool:
        """Whether this process merges the parts."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The device of this process, as in `--device`; on CUDA each has its own."""
        if asked.startswith("cuda:"):
            raise InputError(f"{asked} was asked for, and {self.count} processes run; use --device cuda.")
        if asked == "auto":
            import torch

            asked = "cuda" if torch.cuda.is_available() else "cpu"
        return f"cuda:{self.local}" if asked == "cuda" else asked


def started() -> Ranks | None:
    """The ranks that torchrun set in the environment; None for a single process."""
    told = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(value.isdecimal() for value in told) or int(told[1]) < 2:
        return None
    return Ranks(*map(int, told))


def check_asked(
    ranks: Ranks | None, tensor_parallel: int, alone: Mapping[str, bool], whole: Mapping[str, bool]
) -> None:
    """InputError where --tp is not the number of processes, or options do not go with several processes.

    `alone` are options that need a single process, `whole` options that need whole models.
    """
    count = ranks.count if ranks else 1
    for what in [name for name, asked in alone.items() if asked and count > 1]:
        raise InputError(f"{what} runs in one process, and torchrun started {count}; start it without.")
    for what in [name for name, asked in whole.items() if asked and tensor_parallel > 1]:
        raise InputError(f"{what} runs whole models, and processes share this one; leave --tp out.")
    if tensor_parallel not in (1, count):
        raise InputError(
            f"--tp {tensor_parallel} needs {tensor_parallel} processes, and there "
            f"{'is' if count == 1 else 'are'} {count}; start them with "
            f"torchrun --nproc-per-node {tensor_parallel} -m profiler profile ..."
        )


@dataclass(frozen=True)
class Group:
    """The process group: the default group communicates between devices, `talk` between hosts."""

    ranks: Ranks
    talk: Any

    def all(self, value: bool) -> bool:
        """Whether a value is true in every process; all of them call this together."""
        import torch
        import torch.distributed as dist

        told = torch.tensor([int(value)])
        dist.all_reduce(told, dist.ReduceOp.MIN, group=self.talk)
        return bool(told)

    def meet(self) -> None:
        """Wait for the other processes. Raises RuntimeError where one of them has died."""
        self.all(True)


@contextmanager
def joined(ranks: Ranks, device: str) -> Iterator[Group]:
    """The group inside the block. After an error it is not left, as the other processes may hang."""
    import torch
    import torch.distributed as dist

    kind = device.partition(":")[0]
    own = torch.device(device) if kind == "cuda" else None
    try:
        dist.init_process_group(BACKENDS[kind], device_id=own)
        talk = dist.new_group(backend="gloo")
    except RuntimeError as error:  # as where two have one GPU; NCCL names the cause in its last line
        said = str(error).strip().rpartition("\n")[2].rstrip(".")
        raise InputError(f"{ranks.count} processes cannot join by {BACKENDS[kind]}: {said}.") from None
    yield Group(ranks, talk)
    dist.destroy_process_group()


@contextmanager
def when_stopped(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` and exit on SIGTERM, which torchrun sends to all processes where one dies.

    The process may be waiting in a collective, where no Python signal handler runs; so a thread waits for the
    signal's wake-up byte. If the block itself fails within the grace period, nothing is called.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    woken_before = signal.set_wakeup_fd(writing)
    left = threading.Event()

    def wait() -> None:
        while came := os.read(reading, 1):
            if came[0] == signal.SIGTERM and not left.wait(GRACE_S):
                try:
                    act()
                finally:
                    os._exit(STOPPED)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(woken_before)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)
        thread.join()
        os.close(reading)
