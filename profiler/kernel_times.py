"""The time of each operator in a traced step, by its ranges or by the calls that launched its kernels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.parts.base import FRAMEWORK
from roofline.together import joined, parts

if TYPE_CHECKING:
    from profiler.compiled import Site

UNATTRIBUTED = ""  # the operator of unattributed time
GRAPH = re.compile(r"^graph_\d+_")  # prefix of the names of compiled CPU kernels
LAUNCH = re.compile(r"^cu(?:da)?(?:LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")  # calls of CUDA


@dataclass(frozen=True)
class KernelTime:
    """A kernel or host operation of a traced step, and its operator."""

    operator: str
    name: str
    seconds: float


def labels(sites: Iterable[Site], order: Sequence[str]) -> dict[str, str]:
    """The label under which each operator is timed; operators that share kernels are timed together.

    `order` is that of the operators in a step; a label names those of the layers first.
    """
    groups: dict[str, set[str]] = {}
    known = set(order)
    ranges = {name: parts(name, known) for site in sites for name in site.operators}
    for site in sites:
        inside = [one for name in site.operators for one in ranges[name]]
        members = set(inside).union(*(groups.get(name, {name}) for name in inside))
        groups.update(dict.fromkeys(members, members))
    place = {name: (not name.startswith("layers."), at) for at, name in enumerate(order)}
    last = (True, len(place))
    named = {
        name: joined(sorted(members, key=lambda each: (*place.get(each, last), each)))
        for name, members in groups.items()
    }
    return {name: named[first] for name, (first, *_) in ranges.items()}


def by_call(
    events: Sequence[Any], sites: Sequence[Site], label: dict[str, str], *, on_device: bool
) -> list[KernelTime]:
    """The kernels of a traced step in which the calls of `sites` ran once, in their order.

    The k-th execution of a name is its k-th call. Where the counts of executions and calls of a name differ,
    its executions are unattributed.
    """
    called: dict[str, list[str]] = defaultdict(list)
    for site in sites:
        called[site.name].append(label[site.operators[0]] if site.operators else UNATTRIBUTED)
    found = list(_outermost(_roots(events), called))
    ran = Counter(name for name, _, known in found if known)
    turn: Counter[str] = Counter()
    shown = {event.name for event in events if not _on_host(event) and _is_annotation(event)}
    rows: list[KernelTime] = []
    for name, event, known in found:
        operator = UNATTRIBUTED
        if known and ran[name] == len(called[name]):
            operator = called[name][turn[name]]
            turn[name] += 1
        rows += _times(event, name, operator, on_device=on_device, whole=known)
    return [row for row in rows if row.name not in shown]  # the device's copies of torch's own ranges


def by_order(events: Iterable[Any], kernels: Sequence[tuple[str, str]]) -> list[KernelTime]:
    """The device's kernels of a replayed graph, which run in capture order.

    `kernels` are name and operator of those that the same step launches eagerly. Runs of equal names in both
    sequences are attributed.
    """
    from difflib import SequenceMatcher

    ran = sorted(device_events(events), key=lambda event: event.time_range.start)
    names = [event.name for event in ran]
    operators = [UNATTRIBUTED] * len(ran)
    matcher = SequenceMatcher(None, [name for name, _ in kernels], names, autojunk=False)
    for before, after, size in matcher.get_matching_blocks():
        for k in range(size):
            operators[after + k] = kernels[before + k][1]
    return [
        KernelTime(operator, event.name, event.time_range.elapsed_us() * 1e-6)
        for event, operator in zip(ran, operators, strict=True)
    ]


def launched_kernels(events: Sequence[Any], ranges: set[str]) -> list[tuple[str, str]]:
    """Name and operator of the kernels of a step traced under ranges, in execution order.

    That differs from the order of operations: one may launch its own kernels after those of its parts.
    """
    calls = sorted((e for e in events if _on_host(e)), key=lambda event: event.time_range.start)
    owners: dict[str, deque[str]] = defaultdict(deque)
    for event in calls:
        for kernel in launched(event, ranges):
            owners[kernel.name].append(innermost(event, ranges))
    ran = sorted(device_events(events), key=lambda event: event.time_range.start)
    return [(e.name, owners[e.name].popleft() if owners[e.name] else UNATTRIBUTED) for e in ran]


def by_range(events: Iterable[Any], ranges: set[str], *, on_device: bool) -> Iterator[KernelTime]:
    """The kernels of a step traced under ranges; on a host, the self time of each operation."""
    for event in events:
        if on_device:
            for kernel in launched(event, ranges):
                yield KernelTime(innermost(event, ranges), kernel.name, kernel.duration * 1e-6)
        elif event.name not in ranges and event.self_cpu_time_total > 0:
            yield KernelTime(enclosing(event, ranges), event.name, event.self_cpu_time_total * 1e-6)


def device_events(events: Iterable[Any]) -> Iterator[Any]:
    """Activities of the device, without the ranges that the profiler also shows there."""
    for event in events:
        if not _on_host(event) and not _is_annotation(event):
            yield event


def without_records(events: Sequence[Any]) -> int:
    """Launches of a traced step of which the device has no record: CUPTI may lose kernels."""
    ran = {event.id for event in device_events(events)}
    launches = (event for event in events if _on_host(event) and LAUNCH.match(event.name))
    return sum(event.id not in ran for event in launches)


def seconds_by_operator(rows: Iterable[KernelTime]) -> dict[str, float]:
    """Seconds per operator, without unattributed time."""
    sums: dict[str, float] = defaultdict(float)
    for row in rows:
        if row.operator:
            sums[row.operator] += row.seconds
    return dict(sums)


def as_table(rows: Iterable[KernelTime]) -> list[dict[str, Any]]:
    """Rows of a run's table `kernels`: longest first."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        seconds[row.operator, row.name] += row.seconds
        counts[row.operator, row.name] += 1
    return [
        {"operator": operator, "name": name, "count": counts[operator, name], "time_s": total}
        for (operator, name), total in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def shares(rows: Iterable[dict[str, Any]], *, on_device: bool) -> dict[str, float]:
    """Seconds of a table's rows in operators, in the framework's ranges, and in total.

    On a host only names with `::` are operations; others are the framework's frames.
    """
    known = [row for row in rows if row["operator"] or on_device or "::" in row["name"]]
    named = dict.fromkeys((False, True), 0.0)
    for row in known:
        if row["operator"]:
            named[row["operator"].startswith(FRAMEWORK)] += row["time_s"]
    whole = sum(row["time_s"] for row in known)
    return {"in_operators_s": named[False], "in_framework_s": named[True], "of_s": whole}


def _roots(events: Iterable[Any]) -> list[Any]:
    tops = [event for event in events if _on_host(event) and event.cpu_parent is None]
    return sorted(tops, key=lambda event: event.time_range.start)


def _on_host(event: Any) -> bool:
    from torch.autograd import DeviceType

    return bool(event.device_type == DeviceType.CPU)


def _is_annotation(event: Any) -> bool:
    return bool(getattr(event, "is_user_annotation", False))


def _outermost(events: Iterable[Any], called: dict[str, list[str]]) -> Iterator[tuple[str, Any, bool]]:
    """Name, event and whether it is a call of the compiled code, in which case its parts are skipped."""
    for event in events:
        name = GRAPH.sub("", event.name)
        yield name, event, name in called
        if name not in called:
            children = sorted(event.cpu_children, key=lambda child: child.time_range.start)
            yield from _outermost(children, called)


def _times(event: Any, name: str, operator: str, *, on_device: bool, whole: bool) -> Iterator[KernelTime]:
    """Rows of an operation, `whole`: with its parts. A row per launched kernel, or its time on the host."""
    if on_device:
        for kernel in _kernels(event, whole):
            yield KernelTime(operator, kernel.name, kernel.duration * 1e-6)
        return
    micros = event.cpu_time_total if whole else event.self_cpu_time_total
    if micros > 0:
        yield KernelTime(operator, name, micros * 1e-6)


def _kernels(event: Any, whole: bool) -> Iterator[Any]:
    yield from event.kernels
    if whole:
        for child in event.cpu_children:
            yield from _kernels(child, whole)


def launched(event: Any, ranges: set[str]) -> list[Any]:
    """The kernels that an event launched itself, without our ranges' copies on the device."""
    return [kernel for kernel in event.kernels if kernel.name not in ranges]


def innermost(event: Any, ranges: set[str]) -> str:
    """The range that an event is or is in: kernels without a torch operation are attached to the range."""
    return str(event.name) if event.name in ranges else enclosing(event, ranges)


def enclosing(event: Any, ranges: set[str]) -> str:
    """The innermost of our ranges around an event."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in ranges:
            return str(parent.name)
        parent = parent.cpu_parent
    return UNATTRIBUTED
