"""How the steps of a point are run and timed: operator by operator, compiled, or as a replayed graph."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.attending import attended
from profiler.compiled import CompiledStep, refuse_uncompilable
from profiler.graphs import GraphedStep, captured_kernels, refuse_graphs
from profiler.kernel_times import KernelTime, as_table, by_call, by_order, labels, seconds_by_operator, traced
from profiler.references import repeats_of, visit
from profiler.replay import in_range, nvtx_only, step_name
from profiler.steps import Timed, operators_at
from profiler.subject import Point, Subject, fixed_step, greedy, step
from profiler.timing import laps, without_collection
from profiler.traced import trace_step
from roofline.run_head import Compilation
from specfiles.errors import choose

if TYPE_CHECKING:
    from profiler.timing import Lap

Rows = list[dict[str, Any]]


class Way(ABC):
    """A point, ready to be run again and again."""

    watching = "ranges"  # what watches the step, whose cost is stated
    by_wall = False  # whether operators are timed by the wall's clock, waits for a processor among them
    compilation: Compilation | None = None

    def __init__(self, subject: Subject, point: Point) -> None:
        self.subject, self.point = subject, point
        self.attended: set[str] = set()  # what computed attention in the traced steps

    def hear(self, events: Any) -> None:
        """Learn from a traced step what attended."""
        self.attended |= attended(events)

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
    """Operators are called one by one; ranges stand around them."""

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        self.run = step(subject, point, point.kv_len)
        self.run(greedy)  # what is allocated and compiled once

    def once(self) -> Any:
        """Call the operators."""
        return self.run(greedy)

    def visit(self, timed: Timed) -> None:
        """Without and with ranges."""
        visit(self.subject, self.point, self.run, timed, plain_too=True)

    def trace(self, path: Path) -> Rows:
        """Under ranges, too."""
        return trace_step(self.subject, self.run, path, self.hear)


class _Traced(Way):
    """Without ranges: operators are told by traces of the step, which takes turns with the plain one."""

    @abstractmethod
    def kernels(self, events: Iterable[Any]) -> list[KernelTime]:
        """Whose the kernels of a traced step are."""

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
        events = traced(self.subject.device, lambda: timed.add(lap(self.once), watched=True))
        self.add(events, timed)

    def add(self, events: Any, timed: Timed) -> None:
        """Add the operators of a traced step."""
        for name, seconds in seconds_by_operator(self.kernels(events)).items():
            timed.ranges[name].append(seconds)

    def trace(self, path: Path) -> Rows:
        """One step by itself."""
        events = traced(self.subject.device, self.once, path)
        self.hear(events)
        return as_table(self.kernels(events))


class Compiled(_Traced):
    """The step as torch.compile makes it."""

    watching = "the profiler's records"
    by_wall = True

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        self.step = CompiledStep(subject, fixed_step(subject, point))
        order = [named.name for named in operators_at(subject.loaded, subject.dtype, point)]
        self.label = labels(self.step.sites, order)

    @property
    def compilation(self) -> Compilation:  # type: ignore[override]
        """What compiling took, and how often it was done again."""
        return Compilation(
            **vars(self.point),
            seconds=self.step.compile_s,
            graphs=self.step.graphs - self.step.recompilations,
            recompilations=self.step.recompilations,
            breaks=sorted(self.step.breaks),
        )

    def once(self) -> Any:
        """Run what was compiled."""
        return self.step(greedy)

    def kernels(self, events: Iterable[Any]) -> list[KernelTime]:
        """By the calls in the compiled code."""
        return by_call(events, self.step.sites, self.label, on_device=self.subject.device.startswith("cuda"))


class Graphed(_Traced):
    """The step as a CUDA graph: ranges are heard when it is captured, and one stands around each replay."""

    def __init__(self, subject: Subject, point: Point) -> None:
        super().__init__(subject, point)
        run = fixed_step(subject, point)
        run(greedy)
        self.captured = captured_kernels(subject, run, self.hear)
        self.step = GraphedStep(subject, run, nvtx_only(subject, point))

    def once(self) -> Any:
        """Replay the graph."""
        return self.step()

    def watch(self, lap: Callable[[Callable[[], Any]], Lap], timed: Timed) -> None:
        """A replay in its range is what ranges cost; its operators are those of another, traced one."""
        timed.add(lap(lambda: in_range(step_name(self.point), self.step)), watched=True)
        self.add(traced(self.subject.device, self.step), timed)

    def kernels(self, events: Iterable[Any]) -> list[KernelTime]:
        """By their order in the graph."""
        return by_order(events, self.captured)


WAYS: dict[str, type[Way]] = {"eager": Eager, "compile": Compiled, "graph": Graphed}


def check_mode(mode: str, device: str) -> None:
    """An InputError where a mode is not known or cannot run on a device."""
    if mode not in WAYS:
        raise choose(mode, list(WAYS), "mode")
    if mode == "compile":
        refuse_uncompilable(device)
    if mode == "graph":
        refuse_graphs(device)
