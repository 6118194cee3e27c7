"""Tensors in host memory, copied to the device just before use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CudaLanes:
    """The current stream, and a stream of copies, which run concurrently with page-locked memory."""

    def __init__(self, device: str) -> None:
        import torch

        self.copies = torch.cuda.Stream(device)

    def mark(self) -> Any:
        """An event after the work on the current stream so far."""
        import torch

        event = torch.cuda.Event()
        event.record()
        return event

    def copy(self, into: Any, source: Any, after: Any) -> Any:
        """Copy after an event, without waiting; returns the event after the copy."""
        import torch

        self.copies.wait_event(after)
        with torch.cuda.stream(self.copies):
            into.copy_(source, non_blocking=True)
            return self.mark()

    def wait(self, mark: Any) -> None:
        """Let the current stream, not the host, wait for an event."""
        import torch

        torch.cuda.current_stream().wait_event(mark)


class HostLanes:
    """The same on a CPU, which copies synchronously."""

    def mark(self) -> None:
        """No event: all work is done."""

    def copy(self, into: Any, source: Any, after: Any) -> None:
        """Copy."""
        into.copy_(source)

    def wait(self, mark: Any) -> None:
        """Nothing to wait for."""


def lanes(device: str) -> CudaLanes | HostLanes:
    """The lanes of a device."""
    return CudaLanes(device) if device.startswith("cuda") else HostLanes()


class Prefetch:
    """Copies one tensor ahead of use, cyclically: while one is used, the next one is fetched.

    `sources`, in order of use, are copied into two alternating slots of device memory; for an odd number the
    last has a third slot, as the first is fetched again for the next step meanwhile.
    """

    def __init__(self, sources: Sequence[Any], slots: Sequence[Any], lanes: CudaLanes | HostLanes) -> None:
        """A slot for each source: views of `places(len(sources))` buffers."""
        self.sources, self.slots, self.lanes = sources, slots, lanes
        self.coming: dict[int, Any] = {}  # events after the copies in progress
        self.written: list[Any] = []  # the event after the last copy to the host

    def enter(self, index: int) -> None:
        """Called before a source is used: wait until it is in its slot, and fetch the next one."""
        used = self.lanes.mark()  # the next source's slot was last read before this
        following = (index + 1) % len(self.sources)
        if index not in self.coming:
            self._fetch(index, used)
        if place(following, len(self.sources)) != place(index, len(self.sources)):
            self._fetch(following, used)
        self.lanes.wait(self.coming.pop(index))

    def write_back(self, source: Any, slot: Any) -> None:
        """Copy what was just computed to the host."""
        self.written = [self.lanes.copy(source, slot, self.lanes.mark())]

    def finish(self) -> None:
        """Wait for all copies, so that each step has as many as there are sources."""
        for mark in (*self.coming.values(), *self.written):
            self.lanes.wait(mark)

    def _fetch(self, index: int, after: Any) -> None:
        self.coming[index] = self.lanes.copy(self.slots[index], self.sources[index], after)


def place(index: int, count: int) -> int:
    """The buffer of a source; neighbours in the cycle have different ones."""
    return 2 if count > 1 and count % 2 and index == count - 1 else index % 2


def places(count: int) -> int:
    """The number of buffers."""
    return min(count, 2 + count % 2)


def spread(total: int, share: float) -> list[int]:
    """Indices of a share of the layers, evenly spaced; at least one."""
    count = max(1, round(total * share))
    return [index * total // count for index in range(count)]
