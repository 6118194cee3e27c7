"""When each process enters and leaves each collective, on the clock of the first process.

Processes of one machine share a clock. Clocks of several machines are compared by round trips of a message:
the other's reading lies between request and answer, so that half of the shortest round trip bounds the error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.forward import greedy
from profiler.instrument import instrumented

if TYPE_CHECKING:
    from profiler.ranks.group import Group
    from profiler.recorders import Marks
    from profiler.subject import Subject

STEPS = 8  # of each point
ROUND_TRIPS = 20
Clock = Callable[[], int]


@dataclass(frozen=True)
class Offset:
    """The difference of the first process's clock from another's, and its uncertainty."""

    ns: int = 0
    uncertainty_ns: int = 0


def clock_identity() -> int:
    """A number equal for processes that share a monotonic clock: that of the running kernel."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return hash_of(boot, os.stat("/proc/self/ns/time").st_ino)
    except OSError:
        return hash_of(str(os.getpid()), time.time_ns())  # unknown: treated as a clock of its own


def hash_of(text: str, number: int) -> int:
    """A 63-bit hash, equal in all processes."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{text} {number}".encode()).digest()[:8], "little") >> 1


def offset_to_first(group: Group, read: Clock = time.perf_counter_ns, identity: int | None = None) -> Offset:
    """Compare this process's clock with that of the first; called by all processes together."""
    import torch
    import torch.distributed as dist

    mine = torch.tensor([clock_identity() if identity is None else identity])
    all_of = [torch.zeros_like(mine) for _ in range(group.ranks.count)]
    dist.all_gather(all_of, mine, group=group.talk)
    if all(torch.equal(mine, other) for other in all_of):
        return Offset()
    result = Offset()
    for other in range(1, group.ranks.count):
        if group.ranks.first:
            _ask(other, group.talk, read)
        elif group.ranks.rank == other:
            result = _answer(group.talk, read)
    return result


def _ask(other: int, talk: Any, read: Clock) -> None:
    """Make round trips with another process, then send it the result."""
    import torch
    import torch.distributed as dist

    found = []
    for _ in range(ROUND_TRIPS):
        answer = torch.zeros(1, dtype=torch.int64)
        begin = read()
        dist.send(answer, other, group=talk)
        dist.recv(answer, other, group=talk)
        end = read()
        found.append((end - begin, (begin + end) // 2 - int(answer)))
    shortest, offset = min(found)
    dist.send(torch.tensor([offset, (shortest + 1) // 2]), other, group=talk)


def _answer(talk: Any, read: Clock) -> Offset:
    import torch
    import torch.distributed as dist

    asked = torch.zeros(1, dtype=torch.int64)
    for _ in range(ROUND_TRIPS):
        dist.recv(asked, 0, group=talk)
        dist.send(torch.tensor([read()]), 0, group=talk)
    told = torch.zeros(2, dtype=torch.int64)
    dist.recv(told, 0, group=talk)
    return Offset(*told.tolist())


class Moments:
    """A recorder of begin and end of the ranges of some names."""

    def __init__(self, names: Sequence[str], device: str) -> None:
        self.names = frozenset(names)
        self.found: list[tuple[str, Any, Any]] = []  # name, begin, end
        self._begin: Any = None
        self._mark: Callable[[], Any] = _event if device.startswith("cuda") else time.perf_counter_ns

    def marks(self, name: str) -> Marks:
        """Marks for the watched names only."""
        if name not in self.names:
            return (), ()

        def begin() -> None:
            self._begin = self._mark()

        def end() -> None:
            self.found.append((name, self._begin, self._mark()))

        return (begin,), (end,)


def _event() -> Any:
    """A CUDA event on the current stream, after the work so far."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def arrivals(
    subject: Subject, run: Callable[[Any], Any], names: Sequence[str], group: Group
) -> list[dict[str, Any]]:
    """Repeat a step and return a row per collective in it: seconds of its begin and end.

    `index` counts the collectives of a step. On CUDA a collective begins when the stream reaches it: NCCL's
    kernel then waits for the others.
    """
    offset = offset_to_first(group)
    rows = []
    for repeat in range(STEPS):
        moments = Moments(names, subject.device)
        with instrumented(subject, moments, greedy) as watched:
            group.meet()
            zero, unsure_ns, first = _zero(subject.device)
            run(watched.sampler)
        read = _reader(zero, first)
        rows += [
            {
                "name": name,
                "repeat": repeat,
                "index": index,
                "begin_s": (read(begin) + offset.ns) * 1e-9,
                "end_s": (read(end) + offset.ns) * 1e-9,
                "uncertainty_s": (offset.uncertainty_ns + unsure_ns) * 1e-9,
            }
            for index, (name, begin, end) in enumerate(moments.found)
        ]
    return rows


def _zero(device: str) -> tuple[int, int, Any]:
    """The host's time of an event, its uncertainty, and the event; zeros and None on a CPU."""
    if not device.startswith("cuda"):
        return 0, 0, None
    import torch

    torch.cuda.synchronize(device)
    before = time.perf_counter_ns()
    event = _event()
    event.synchronize()
    after = time.perf_counter_ns()
    return (before + after) // 2, (after - before + 1) // 2, event


def _reader(zero: int, first: Any) -> Callable[[Any], float]:
    """A function from a mark to nanoseconds on the host's clock."""
    if first is None:
        return lambda mark: mark
    import torch

    torch.cuda.synchronize()
    return lambda mark: zero + first.elapsed_time(mark) * 1e6
