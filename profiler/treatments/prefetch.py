"""Tensors that stay in the host's memory and are copied to the device just before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Lanes(Protocol):
    """Where a device computes and where it copies meanwhile, each in the order it was asked."""

    def mark(self) -> Any:
        """The end of all that computes so far."""

    def copy(self, into: Any, source: Any, after: Any) -> Any:
        """Copy after what a mark ends; the mark that ends the copy."""

    def wait(self, mark: Any) -> None:
        """What computes from here on comes after a mark."""


class CudaLanes:
    """The current stream, and a stream of copies: with page-locked memory they run side by side."""

    def __init__(self, device: str) -> None:
        import torch

        self.copies = torch.cuda.Stream(device)

    def mark(self) -> Any:
        """An event of the current stream."""
        import torch

        event = torch.cuda.Event()
        event.record()
        return event

    def copy(self, into: Any, source: Any, after: Any) -> Any:
        """Without the host: it goes on at once."""
        import torch

        self.copies.wait_event(after)
        with torch.cuda.stream(self.copies):
            into.copy_(source, non_blocking=True)
            return self.mark()

    def wait(self, mark: Any) -> None:
        """The current stream waits, not the host."""
        import torch

        torch.cuda.current_stream().wait_event(mark)


class HostLanes:
    """A CPU does one after the other: copies end where they are asked for."""

    def mark(self) -> None:
        """All has ended already."""

    def copy(self, into: Any, source: Any, after: Any) -> None:
        """At once."""
        into.copy_(source)

    def wait(self, mark: Any) -> None:
        """Nothing to wait for."""


def lanes(device: str) -> Lanes:
    """Those of a device."""
    return CudaLanes(device) if device.startswith("cuda") else HostLanes()


class Prefetch:
    """Copies that run one ahead of their use, in a cycle: while one tensor is used the next one comes.

    `sources` in the order of use are copied into slots of device memory, two in turn; a third one serves
    the last of an odd number, beside which the first comes again for the next step.
    """

    def __init__(self, sources: Sequence[Any], slots: Sequence[Any], lanes: Lanes) -> None:
        """A slot for each source: views of `places(len(sources))` buffers."""
        self.sources, self.slots, self.lanes = sources, slots, lanes
        self.coming: dict[int, Any] = {}  # marks that end the copies under way
        self.written: list[Any] = []  # the mark of the last copy to the host

    def enter(self, index: int) -> None:
        """Before a source is used: what computes from here on finds it in its slot; the next one comes."""
        used = self.lanes.mark()  # the next one's slot was last read before this
        following = (index + 1) % len(self.sources)
        if index not in self.coming:
            self._fetch(index, used)
        if place(following, len(self.sources)) != place(index, len(self.sources)):
            self._fetch(following, used)
        self.lanes.wait(self.coming.pop(index))

    def write_back(self, source: Any, slot: Any) -> None:
        """What was just computed goes to the host, in the order of the copies."""
        self.written = [self.lanes.copy(source, slot, self.lanes.mark())]

    def finish(self) -> None:
        """A step ends when its copies have: each step then has as many as there are sources."""
        for mark in (*self.coming.values(), *self.written):
            self.lanes.wait(mark)

    def _fetch(self, index: int, after: Any) -> None:
        self.coming[index] = self.lanes.copy(self.slots[index], self.sources[index], after)


def place(index: int, count: int) -> int:
    """Which buffer a source comes into: neighbours in the cycle have different ones."""
    return 2 if count > 1 and count % 2 and index == count - 1 else index % 2


def places(count: int) -> int:
    """How many buffers there are."""
    return min(count, 2 + count % 2)


def spread(total: int, share: float) -> list[int]:
    """So large a share of some layers, evenly among them and one at least."""
    count = max(1, round(total * share))
    return [index * total // count for index in range(count)]
