"""Recorders of ranges: clocks with NVTX, and torch.profiler's trace.

A recorder returns the calls to make around an operator. They run hundreds of times per step with cold
caches, so on the host they are bound C functions, without Python frames or look-ups.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from profiler.timing import between_events, host_clock

DOMAIN = "roofline"
Call = Callable[[], object]
Marks = tuple[tuple[Call, ...], tuple[Call, ...]]  # to call at the beginning and at the end


def in_range(marks: Marks, run: Callable[[], Any]) -> Any:
    """Run a callable between marks made before, as making marks takes far longer than calling them."""
    begin, end = marks
    for call in begin:
        call()
    result = run()
    for call in end:
        call()
    return result


class Recorder(Protocol):
    """Records begin and end of ranges. Ranges are sequential; they do not nest."""

    def marks(self, name: str) -> Marks:
        """The calls at the begin and at the end of the range `name`, in order."""


def nvtx_installed() -> bool:
    """Whether NVTX ranges can be made."""
    return importlib.util.find_spec("nvtx") is not None


def nvtx_marks(name: str, payload: int | None = None, sizes: str | None = None) -> Marks:
    """Push and pop of an NVTX range in the domain `roofline`; nothing without nvtx.

    NVTX's payload is one number: the tokens of the step. An operator's sizes are text, so they are the
    range's category: registered once, then a number in each event.
    """
    if not nvtx_installed():
        return (), ()
    import nvtx

    domain = nvtx.get_domain(DOMAIN)
    given = {"payload": payload, "category": sizes}
    attributes = domain.get_event_attributes(
        message=name, **{key: value for key, value in given.items() if value is not None}
    )
    if hasattr(domain, "push_range"):  # nvtx >= 0.2.12
        return (partial(domain.push_range, attributes),), (domain.pop_range,)
    from nvtx.nvtx import libnvtx_pop_range, libnvtx_push_range

    push = partial(libnvtx_push_range, attributes, domain.handle)
    return (push,), (partial(libnvtx_pop_range, domain.handle),)


class InTurn:
    """A recorder of one in `parts` names, in rotation, by the order in which they were first asked for."""

    def __init__(self, recorder: Recorder, parts: int) -> None:
        self._recorder, self._parts = recorder, parts
        self._order: dict[str, int] = {}
        self.turn = 0

    def marks(self, name: str) -> Marks:
        """The recorder's marks, or none where it is not the name's turn."""
        at = self._order.setdefault(name, len(self._order))
        return ((), ()) if (at - self.turn) % self._parts else self._recorder.marks(name)


class _Clock:
    """Readings of a clock inside NVTX ranges: name, begin, end, name, begin, end, ..."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._tick: Call = lambda: None

    def marks(self, name: str) -> Marks:
        """Clock readings inside an NVTX range."""
        push, pop = nvtx_marks(name)
        return (*push, partial(self._events.append, name), self._tick), (self._tick, *pop)

    def _totals(self, seconds: Callable[[Any, Any], float]) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        events = self._events
        for name, begin, end in zip(events[::3], events[1::3], events[2::3], strict=True):
            found[name] += seconds(begin, end)
        events.clear()
        return dict(found)


class HostClock(_Clock):
    """Seconds per range name on the host's clock, which is the device's time where work is synchronous."""

    def __init__(self) -> None:
        super().__init__()
        # Appends a clock reading without a Python frame: `map` calls both functions from C.
        self._tick = map(self._events.append, iter(host_clock(), None)).__next__

    def totals_s(self) -> dict[str, float]:
        """Seconds by name since the last call."""
        return self._totals(lambda begin, end: (end - begin) * 1e-9)


class CudaClock(_Clock):
    """Seconds per range name between CUDA events on the stream current at construction."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        self._new = partial(torch.cuda.Event, enable_timing=True)
        self._stream = torch.cuda.current_stream()  # querying it takes far longer than recording an event
        self._pool: list[Any] = []
        self._tick = self._mark

    def totals_s(self) -> dict[str, float]:
        """Seconds by name since the last call; waits for the device."""
        import torch

        torch.cuda.synchronize()
        return self._totals(self._between)

    def _between(self, begin: Any, end: Any) -> float:
        self._pool += (begin, end)
        return between_events(begin, end)

    def _mark(self) -> None:
        event = self._pool.pop() if self._pool else self._new()
        event.record(self._stream)
        self._events.append(event)


class Trace:
    """Ranges as records in a torch.profiler trace; `names` holds all of them."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._open: list[Any] = []

    def marks(self, name: str) -> Marks:
        """A `record_function` around the range."""
        from torch.autograd.profiler import record_function

        self.names.add(name)

        def begin() -> None:
            record = record_function(name)
            record.__enter__()
            self._open.append(record)

        return (begin,), (self._end,)

    def _end(self) -> None:
        if self._open:  # empty where an error leaves a layer before its gap began
            self._open.pop().__exit__(None, None, None)


def clock(device: str) -> HostClock | CudaClock:
    """The clock of a device's ranges."""
    return CudaClock() if device.startswith("cuda") else HostClock()
