"""Whose the kernels of a traced step are, where it has no ranges: events made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import DeviceType  # noqa: E402

from profiler.compiled import Site  # noqa: E402
from profiler.kernel_times import (  # noqa: E402
    as_table,
    by_call,
    by_order,
    by_range,
    labels,
    launched_kernels,
    seconds_by_operator,
    shares,
    without_records,
)
from roofline.together import parts  # noqa: E402

ORDER = ["embedding", "layers.norm", "layers.proj", "layers.residual", "final_norm"]


@dataclass
class Event:
    """What torch.profiler says of an operation."""

    name: str
    start: float
    micros: float
    cpu_children: list[Event] = field(default_factory=list)
    cpu_parent: Event | None = None
    kernels: list[Any] = field(default_factory=list)
    device_type: Any = DeviceType.CPU
    id: int = 0
    is_user_annotation: bool = False

    @property
    def time_range(self) -> Any:
        return SimpleNamespace(start=self.start, elapsed_us=lambda: self.micros)

    @property
    def cpu_time_total(self) -> float:
        return self.micros

    @property
    def self_cpu_time_total(self) -> float:
        return self.micros - sum(child.micros for child in self.cpu_children)


def tree(*tops: Event) -> list[Event]:
    """All events of a tree, in the order in which they ended: the profiler promises none."""
    found: list[Event] = []
    for top in tops:
        for child in top.cpu_children:
            child.cpu_parent = top
        found += [*tree(*top.cpu_children), top]
    return found


SITES = [
    Site("cpp_fused_0", ("embedding", "layers.norm")),
    Site("aten::mm", ("layers.proj",)),
    Site("cpp_fused_1", ("layers.residual", "layers.norm")),
    Site("aten::mm", ("layers.proj",)),
    Site("cpp_fused_2", ("layers.residual", "final_norm")),
]
TOGETHER = "layers.norm + residual + embedding + final_norm"


def test_operators_that_share_kernels_are_timed_together() -> None:
    label = labels(SITES, ORDER)
    assert label == {
        "layers.proj": "layers.proj",
        **dict.fromkeys(("embedding", "layers.norm", "layers.residual", "final_norm"), TOGETHER),
    }


def test_the_operators_of_a_range_share_a_kernel_with_those_of_others() -> None:
    """Each bears its whole name, by which it is known."""
    order = ["layers.attention.core.top4", "layers.attention.scores", "layers.attention.topk"]
    picked = "layers.attention.scores + topk"
    label = labels([Site("cpp_fused_0", (order[0], picked))], order)
    assert set(label) == {order[0], picked}
    assert {*map(tuple, (parts(name, order) for name in label.values()))} == {tuple(order)}


def step(missing: int = 0) -> list[Event]:
    """A step of 100 us: 5 in the first kernel, 20 + 30 in products, 10 + 10 in others, 7 in a copy."""
    parts = [Event("aten::copy_", 21, 4)]
    inside = [
        Event("graph_0_cpp_fused_0", 0, 5),
        Event("aten::mm", 5, 20, parts),
        Event("graph_0_cpp_fused_1", 30, 10),
        Event("aten::mm", 40, 30),
        Event("graph_0_cpp_fused_2", 70, 10),
    ]
    compiled = Event("Torch-Compiled Region: 0/0", 0, 93, inside[: len(inside) - missing])
    return tree(compiled, Event("aten::copy_", 95, 7))


def test_the_kth_execution_is_the_kth_call_and_every_microsecond_is_somewhere() -> None:
    rows = by_call(step(), SITES, labels(SITES, ORDER), on_device=False)
    assert seconds_by_operator(rows) == pytest.approx({"layers.proj": 50e-6, TOGETHER: 25e-6})
    assert sum(row.seconds for row in rows) == pytest.approx(100e-6)
    table = as_table(rows)
    assert {(row["operator"], row["name"]): row["count"] for row in table}[("layers.proj", "aten::mm")] == 2
    # The copy belongs to none; the region's own 18 us are the framework's and no operation.
    found = shares(table, on_device=False)
    assert (found["in_operators_s"], found["of_s"]) == pytest.approx((75e-6, 82e-6))


def test_of_a_name_that_ran_less_often_than_it_is_called_nothing_is_claimed() -> None:
    """Without the last product nobody knows which of the two ran."""
    events = [event for event in step() if not (event.name == "aten::mm" and event.start == 40)]
    region = next(event for event in events if event.cpu_children and event.name.startswith("Torch"))
    region.cpu_children = [child for child in region.cpu_children if child.start != 40]
    rows = by_call(events, SITES, labels(SITES, ORDER), on_device=False)
    assert set(seconds_by_operator(rows)) == {TOGETHER}
    assert sum(row.seconds for row in rows if row.name == "aten::mm") == pytest.approx(20e-6)


def test_on_a_device_the_kernels_of_a_call_count_with_those_of_its_parts() -> None:
    kernel = SimpleNamespace(name="gemm", duration=8.0)
    copy = SimpleNamespace(name="memcpy", duration=2.0)
    call = Event("aten::mm", 0, 20, [Event("aten::copy_", 1, 3, kernels=[copy])], kernels=[kernel])
    sites = [Site("aten::mm", ("layers.proj",))]
    rows = by_call(tree(call), sites, labels(sites, ORDER), on_device=True)
    assert [(row.operator, row.name, row.seconds) for row in rows] == [
        ("layers.proj", "gemm", pytest.approx(8e-6)),
        ("layers.proj", "memcpy", pytest.approx(2e-6)),
    ]


def test_a_range_of_torch_that_the_profiler_shows_on_the_device_is_no_kernel() -> None:
    """It is as long as all kernels in it together, which would count twice."""
    region = "## Call CompiledFxGraph fp2xx ##"
    gemm, copy = (SimpleNamespace(name=name, duration=8.0) for name in ("gemm", region))
    inside = Event(region, 0, 20, [Event("aten::mm", 1, 3, kernels=[gemm])], kernels=[copy])
    shown = Event(region, 5, 8, device_type=DeviceType.CUDA, is_user_annotation=True)
    sites = [Site("aten::mm", ("layers.proj",))]
    rows = by_call([*tree(inside), shown], sites, labels(sites, ORDER), on_device=True)
    assert [(row.operator, row.name) for row in rows] == [("layers.proj", "gemm")]


def test_a_trace_without_kernels_says_why_there_may_be_none() -> None:
    """CUPTI, from which torch.profiler has kernels, serves one tool at a time."""
    from profiler.noting import attributed_words
    from roofline.run_head import Attributed

    point = {"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 9}
    said = attributed_words(Attributed(**point, **shares([], on_device=True)), "cuda:0")
    assert said.startswith("torch.profiler recorded no kernels of the step decode-1x1of9")
    assert "under nsys or ncu" in said


def test_launches_without_a_kernel_are_counted() -> None:
    """By CUPTI's number, which a launch and its kernels share; allocations and operations have none."""
    on_host = [("aten::mm", 1), ("cudaLaunchKernel", 7), ("cuLaunchKernelEx", 8), ("cudaMalloc", 9)]
    events = [Event(name, 0, 1, id=number) for name, number in [*on_host, ("cudaGraphLaunch", 10)]]
    ran = [Event("gemm", 2, 1, device_type=DeviceType.CUDA, id=number) for number in (7, 10, 10)]
    assert without_records([*events, *ran]) == 1
    assert without_records(events[:1]) == 0


def test_replayed_kernels_are_known_by_their_order() -> None:
    """A kernel that the capture did not launch belongs to none, and those behind it are still known."""
    launched = [("norm", "layers.norm"), ("gemm", "layers.proj"), ("add", "layers.residual")]
    ran = [("norm", 0, 1), ("memset", 1, 2), ("gemm", 3, 5), ("add", 8, 1)]
    events = [Event(name, at, micros, device_type=DeviceType.CUDA) for name, at, micros in reversed(ran)]
    rows = by_order(events, launched)
    assert [row.operator for row in rows] == ["layers.norm", "", "layers.proj", "layers.residual"]
    found = shares(as_table(rows), on_device=True)
    assert (found["in_operators_s"], found["of_s"]) == pytest.approx((7e-6, 9e-6))


def device_kernel(name: str, start: float) -> Event:
    """A kernel as it ran."""
    return Event(name, start, 1, device_type=DeviceType.CUDA)


def test_an_operation_may_launch_kernels_behind_those_of_its_parts() -> None:
    """As aten::sort does, which fills its indices first: a replayed graph has the kernels in that order."""
    fill = Event("aten::fill_", 2, 1, kernels=[SimpleNamespace(name="fill", duration=1.0)])
    sort = Event("aten::sort", 1, 4, [fill], kernels=[SimpleNamespace(name="sort", duration=1.0)])
    before = Event("aten::mm", 0, 1, kernels=[SimpleNamespace(name="gemm", duration=1.0)])
    events = tree(Event("proj", 0, 1, [before]), Event("experts", 1, 5, [sort]))
    ran = [device_kernel(name, 10 + at) for at, name in enumerate(("gemm", "fill", "sort"))]
    found = launched_kernels([*events, *ran], {"proj", "experts"})
    assert found == [("gemm", "proj"), ("fill", "experts"), ("sort", "experts")]


def test_a_kernel_without_an_operation_of_torch_belongs_to_the_range_it_hangs_on() -> None:
    """Such are kernels of other libraries; the profiler may list the range itself among them."""

    def kernel(name: str, micros: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, duration=micros)

    product = Event("aten::mm", 12, 3, kernels=[kernel("gemm", 5.0)])
    events = tree(
        Event("core", 0, 9, kernels=[kernel("flash", 7.0), kernel("core", 9.0)]),
        Event("proj", 10, 9, [product]),
        Event("aten::add", 20, 1, kernels=[kernel("add", 2.0)]),
    )
    names = {"core", "proj"}
    on_device = [device_kernel(name, at) for at, name in enumerate(("flash", "gemm", "add"))]
    assert launched_kernels([*events, *on_device], names) == [
        ("flash", "core"),
        ("gemm", "proj"),
        ("add", ""),
    ]
    rows = by_range(events, names, on_device=True)
    assert {(row.name, row.operator, row.seconds) for row in rows} == {
        ("flash", "core", 7.0 * 1e-6), ("gemm", "proj", 5.0 * 1e-6), ("add", "", 2.0 * 1e-6)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lengths_ms", "chosen_ms", "traced"),
    [
        ((11, 40, 3, 90, 12, 30, 4), 3, 7),  # the others waited for a processor
        ((300, 500, 400, 1), 300, 3),  # which together are long enough
        ((700, 600, 1), 600, 2),
        ((5000, 1), 5000, 1),
    ],
)
def test_on_a_host_the_shortest_step_is_taken(
    lengths_ms: tuple[int, ...], chosen_ms: int, traced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from profiler.traced import traced_whole

    steps, kept = iter(lengths_ms), list[Any]()

    def trace(*_: Any) -> Any:
        events = tree(Event("aten::mm", 0, 1e3 * next(steps)))
        return SimpleNamespace(events=lambda: events)

    monkeypatch.setattr("profiler.traced._profiled", trace)
    monkeypatch.setattr("profiler.traced.keep", lambda found, _: kept.append(found.events()))
    events = traced_whole("cpu", lambda: None, Path("trace.json.gz"))
    assert [event.micros for event in events] == [1e3 * chosen_ms]
    assert kept == [events]  # the table and the trace of a run are of one step
    assert list(steps) == list(lengths_ms[traced:])
