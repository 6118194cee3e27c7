"""Measure one pass of a user's module, plain and watched in turn, per traced operator."""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from profiler.module_hearing import Run, hearing, plainly
from profiler.module_source import Built, attempt, built
from profiler.module_trace import ATTENTION, Recorder
from profiler.recorders import Marks, clock, in_range
from profiler.repeats import warm_up
from profiler.steps import Timed
from profiler.timing import laps, without_collection
from roofline.together import joined
from specfiles.errors import InputError
from workloads.phases import operators, prefill
from workloads.traced_model import Call, traced_model

if TYPE_CHECKING:
    from workloads.phases import Named

NOT_HEARD: Marks = ((), ())


@dataclass(frozen=True)
class Watch:
    """A module ready to be timed: its operations in order, each with its operator's name."""

    source: Built
    device: str
    functions: tuple[Any, ...]
    names: tuple[str, ...]  # per operation; empty where it costs nothing
    kinds: Mapping[str, str]  # by name; for operators in one kernel that of the first

    @property
    def counts(self) -> Counter[str]:
        """How often each name runs in a pass."""
        return Counter(name for name in self.names if name)


def watch(target: str, device: str, traced: Sequence[Call], causal_exact: bool, seed: int) -> Watch:
    """Build `module:function` on a device and intercept one pass.

    Operations are named as in `traced`, the same pass on the meta device. Raises InputError where the module
    cannot be built or run.
    """
    import torch

    torch.manual_seed(seed)
    source = built(target, device)
    recorder = Recorder(source.module, causal_exact)
    with attempt(target, f"running it on {device}"):
        with plainly(device):
            source()  # one-time initialisation, no part of later passes
        recorder.run(source, device)
    heard = recorder.heard
    calls = _as_traced(recorder.rows, traced)
    names = _names([*traced, *calls])
    following = iter(names[call] for call in calls)
    joined = tuple(_joined([next(following) for _ in entry.rows]) for entry in heard)
    kinds = {name: entry.rows[0][1].kind for name, entry in zip(joined, heard, strict=True) if name}
    return Watch(source, device, tuple(entry.function for entry in heard), joined, kinds)


def _as_traced(calls: Sequence[Call], traced: Sequence[Call]) -> list[Call]:
    """Calls of a pass, replaced by the traced ones where both have equally many of a name.

    Formats of side results depend on the device: the mean of a bf16 layer norm is bf16 on a CPU.
    """
    known: dict[str, list[Call]] = defaultdict(list)
    for call in traced:
        known[call[0]].append(call)
    made = Counter(name for name, _ in calls)
    same = {name: iter(found) for name, found in known.items() if len(found) == made[name]}
    return [next(same[call[0]]) if call[0] in same else call for call in calls]


def distinct(calls: Sequence[Call]) -> list[Named]:
    """Calls as a prediction names and counts them."""
    return operators(traced_model("", calls), prefill(1, 1))


def _names(calls: Sequence[Call]) -> dict[Call, str]:
    """The name of each distinct call; traced ones come first and keep their names."""
    different = list(dict.fromkeys(calls))
    return {call: named.name for call, named in zip(different, distinct(different), strict=True)}


def _joined(names: Sequence[str]) -> str:
    """The name of a kernel of several operators of one module; empty where it has no operator."""
    return joined(names) if names else ""


def warm_passes(watched: Watch, late: Callable[[], bool]) -> int:
    """Run the pass until it has settled or it is late; returns how often."""
    lap = laps(watched.device)
    with attempt(watched.source.target, f"running it on {watched.device}"), plainly(watched.device):
        return len(warm_up(lambda: lap(watched.source).work_s, late))


def time_passes(watched: Watch) -> Iterator[Timed]:
    """Run the pass plain and watched in turn, endlessly; yields the times so far after each pair.

    On one CPU thread times are CPU time; on CUDA they are between events, launches included.
    """
    lap, recorder, timed = laps(watched.device), clock(watched.device), Timed()
    marks = {name: recorder.marks(name) for name in watched.kinds}
    order = [marks.get(name, NOT_HEARD) for name in watched.names]
    for repeat in count():
        gc.collect()
        with without_collection():
            for with_ranges in (repeat % 2 == 0, repeat % 2 == 1):
                stopwatch = _Stopwatch(watched, order)
                with (
                    attempt(watched.source.target, f"running it on {watched.device}"),
                    plainly(watched.device),
                    hearing(stopwatch) if with_ranges else nullcontext(),
                ):
                    whole = lap(watched.source)
                if with_ranges:
                    stopwatch.check_end()
                timed.add(whole, watched=with_ranges)
            for name, total in recorder.totals_s().items():
                timed.ranges[name].append(total)
        yield timed


class _Stopwatch:
    """Times each operation under the name of its position in the pass."""

    def __init__(self, watched: Watch, order: Sequence[Marks]) -> None:
        self.watched, self.order, self.passed = watched, order, count()

    def operation(self, run: Run, func: Any, args: Any, kwargs: Any) -> Any:
        return self._timed(run, func)

    def attention(self, run: Run, query: Any, key: Any, value: Any, mask: Any, causal: bool) -> Any:
        return self._timed(run, ATTENTION)

    def check_end(self) -> None:
        """Check that every operation ran."""
        if next(self.passed) != len(self.order):
            raise self._other()

    def _timed(self, run: Run, function: Any) -> Any:
        at = next(self.passed)
        if at >= len(self.order) or self.watched.functions[at] is not function:
            raise self._other()
        return in_range(self.order[at], run)

    def _other(self) -> InputError:
        return InputError(
            f"{self.watched.source.target}: its passes run different operations each time; "
            "a pass must repeat itself to be measured."
        )


def quiet_inputs(source: Built) -> bool:
    """Whether a floating-point input is constant, which a GPU multiplies faster."""
    import torch
    from torch.utils._pytree import tree_leaves

    tensors = (leaf for leaf in tree_leaves((source.args, source.kwargs)) if isinstance(leaf, torch.Tensor))
    return any(t.is_floating_point() and t.numel() > 1 and bool((t == t.flatten()[0]).all()) for t in tensors)
