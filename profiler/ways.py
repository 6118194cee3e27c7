"""Ways to run and time the steps of a point: eager, compiled, or as a replayed graph."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.affordable import affordable
from profiler.attending import attended
from profiler.compiled import CompiledStep, refuse_uncompilable
from profiler.experts import use_experts
from profiler.forward import Point, fixed_step, greedy, step
from profiler.graphs import GraphedStep, refuse_graphs
from profiler.kernel_times import (
    KernelTime,
    as_table,
    by_call,
    by_order,
    labels,
    launched_kernels,
    seconds_by_operator,
    without_records,
)
from profiler.recorders import in_range, nvtx_marks
from profiler.references import repeats_of, visit
from profiler.replay import nvtx_only, step_name
from profiler.steps import Timed, Turns, operators_at
from profiler.subject import Subject
from profiler.timing import laps, without_collection
from profiler.traced import MOST_TRACES, trace_step, traced, traced_in_ranges, traced_whole
from roofline.run_head import Compilation
from specfiles.errors import choose

if TYPE_CHECKING:
    from profiler.timing import Lap

Rows = list[dict[str, Any]]


class Way(ABC):
    """A point, ready to be run repeatedly."""

    watching = "ranges"  # the instrumentation, as named with its overhead
    by_wall = False  # whether operators are timed by the wall clock, including waits for a processor
    compilation: Compilation | None = None

    def __init__(self, subject: Subject, point: Point) -> None:
        self.subject, self.point = subject, point
        self.attended: set[str] = set()  # implementations of attention in traced steps
        self.unrecorded = 0  # kernels of the last traced step, or launches of some, without a record

    def hear(self, events: Any) -> None:
        """Collect from a traced step the implementation of attention, and what its trace lacks."""
        self.attended |= attended(events)
        self.unrecorded = without_records(events)

    @abstractmethod
    def once(self) -> Any:
        """Run the step."""

    @abstractmethod
    def visit(self, timed: Timed) -> None:
        """Repeat the step a few times, plain and watched in turn; times are added to `timed`."""

    @abstractmethod
    def trace(self, path: Path) -> Rows:
        """Trace one step into a file: rows of the table `kernels`."""


class Eager(Way):
    """Operators are called one by one, in ranges."""

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        self.run = step(subject, point, point.kv_len)
        self.run(greedy)  # one-time allocation and compilation
        self.turns: Turns | None = None  # chosen at the first visit, when the step is warm

    def once(self) -> Any:
        """Call the operators."""
        return self.run(greedy)

    def visit(self, timed: Timed) -> None:
        """Without and with ranges."""
        if self.turns is None:
            self.turns = affordable(self.subject, self.run, repeats_of(self.point))
        visit(self.subject, self.point, self.run, timed, plain_too=True, turns=self.turns)

    def trace(self, path: Path) -> Rows:
        """Under ranges, too."""
        return trace_step(self.subject, self.run, path, self.hear)


class _Traced(Way):
    """Without ranges: operators are timed in traced steps, in turn with plain ones."""

    most = 0  # kernels of a traced step so far: a step launches the same ones each time

    @abstractmethod
    def kernels(self, events: Sequence[Any]) -> list[KernelTime]:
        """The kernels of a traced step, with their operators."""

    def visit(self, timed: Timed) -> None:
        """Plain and traced."""
        lap = laps(self.subject.device)
        for repeat in range(len(timed.plain), len(timed.plain) + repeats_of(self.point)):
            for watched in (repeat % 2 == 0, repeat % 2 == 1):
                gc.collect()
                with without_collection():
                    if watched:
                        self.watch(lap, timed)
                    else:
                        timed.add(lap(self.once), watched=False)

    def watch(self, lap: Callable[[Callable[[], Any]], Lap], timed: Timed) -> None:
        """One watched step: its time, and that of each operator in it."""
        step = partial(lap, self.once)
        events = traced(self.subject.device, lambda: timed.add(step(), watched=True), before=self.once)
        self.add(events, timed)

    def add(self, events: Any, timed: Timed) -> None:
        """Add the operators of a traced step, unless another one had more kernels: some were not recorded."""
        kernels = self.kernels(events)
        if self.subject.device.startswith("cuda"):
            if len(kernels) > self.most:
                timed.ranges.clear()
            self.most = max(self.most, len(kernels))
            if len(kernels) < self.most:
                return
        for name, seconds in seconds_by_operator(kernels).items():
            timed.ranges[name].append(seconds)

    def trace(self, path: Path) -> Rows:
        """One step by itself, again where a step before had more kernels: a replay is one launch of many."""
        for _ in range(MOST_TRACES):
            events = traced_whole(self.subject.device, self.once, path)
            kernels = self.kernels(events)
            if len(kernels) >= self.most:
                break
        self.hear(events)
        self.unrecorded = max(self.unrecorded, self.most - len(kernels))
        return as_table(kernels)


class Compiled(_Traced):
    """The step compiled by torch.compile."""

    watching = "the profiler's records"
    by_wall = True

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        self.step = CompiledStep(subject, fixed_step(subject, point))
        order = [named.name for named in operators_at(subject.loaded, subject.dtype, point)]
        self.label = labels(self.step.sites, order)

    @property
    def compilation(self) -> Compilation:  # type: ignore[override]
        """Compile time and recompilations."""
        return Compilation(
            **vars(self.point),
            seconds=self.step.compile_s,
            graphs=self.step.graphs - self.step.recompilations,
            recompilations=self.step.recompilations,
            breaks=sorted(self.step.breaks),
        )

    def once(self) -> Any:
        """Run the compiled step; points take turns."""
        use_experts(self.subject, self.point.phase)
        return self.step(greedy)

    def kernels(self, events: Sequence[Any]) -> list[KernelTime]:
        """By the calls in the compiled code."""
        return by_call(events, self.step.sites, self.label, on_device=self.subject.device.startswith("cuda"))


class Graphed(_Traced):
    """The step as a CUDA graph: ranges are recorded during the capture, and one around each replay."""

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        run = fixed_step(subject, point)
        run(greedy)
        events, ranges = traced_in_ranges(subject, run)
        self.hear(events)
        self.captured = launched_kernels(events, ranges)
        self.step = GraphedStep(subject, run, nvtx_only(subject, point))
        self.around = nvtx_marks(step_name(point))

    def once(self) -> Any:
        """Replay the graph."""
        return self.step()

    def watch(self, lap: Callable[[Callable[[], Any]], Lap], timed: Timed) -> None:
        """A replay in its range gives the overhead; another, traced one gives the operators."""
        timed.add(lap(partial(in_range, self.around, self.step)), watched=True)
        self.add(traced(self.subject.device, self.step), timed)

    def kernels(self, events: Sequence[Any]) -> list[KernelTime]:
        """By their order in the graph."""
        return by_order(events, self.captured)


WAYS: dict[str, type[Way]] = {"eager": Eager, "compile": Compiled, "graph": Graphed}


def check_mode(mode: str, device: str) -> None:
    """InputError where a mode is unknown or cannot run on a device."""
    if mode not in WAYS:
        raise choose(mode, list(WAYS), "mode")
    if mode == "compile":
        refuse_uncompilable(device)
    if mode == "graph":
        refuse_graphs(device)
