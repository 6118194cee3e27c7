"""What listens to ranges: NVTX where it is installed, clocks, and the trace."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from profiler import recorders
from profiler.recorders import DOMAIN, CudaClock, HostClock, Trace, clock, nvtx_marks


def run_range(recorder: Any, name: str) -> None:
    begin, end = recorder.marks(name)
    for call in (*begin, *end):
        call()


class Domain:
    """An NVTX domain as nvtx 0.2.12 and later have it; ranges go into a list."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, attributes: str) -> None:
        self.log.append(f"push {attributes}")

    def pop_range(self) -> None:
        self.log.append("pop")


def test_marks_push_and_pop_in_our_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    domains: dict[str, Domain] = {}
    module = ModuleType("nvtx")
    module.get_domain = lambda name: domains.setdefault(name, Domain())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", module)
    monkeypatch.setattr(recorders, "nvtx_installed", lambda: True)
    (push,), (pop,) = nvtx_marks("layers.mlp.down_proj")
    push()
    pop()
    assert domains[DOMAIN].log == ["push layers.mlp.down_proj", "pop"]


def test_marks_of_the_installed_nvtx() -> None:
    """Nothing listens; the calls must pass all the same, and as often as one likes."""
    pytest.importorskip("nvtx")
    begin, end = nvtx_marks("sampling")
    assert len(begin) == len(end) == 1
    for _ in range(3):
        for call in (*begin, *end):
            call()


def test_without_nvtx_there_are_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "nvtx_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "nvtx", None)  # importing it would fail
    assert nvtx_marks("sampling") == ((), ())


@pytest.mark.parametrize("installed", [True, False])
def test_the_host_clock_sums_by_name_with_and_without_nvtx(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("nvtx")
    monkeypatch.setattr(recorders, "nvtx_installed", lambda: installed)
    ticks = iter([0, 1_000_000_000, 10_000_000_000, 12_000_000_000, 20_000_000_000, 24_000_000_000])
    monkeypatch.setattr(recorders, "host_clock", lambda: lambda: next(ticks))
    host = HostClock()
    for name in ("norm", "gemm", "norm"):
        run_range(host, name)
    assert host.totals_s() == {"norm": pytest.approx(1 + 4), "gemm": pytest.approx(2)}
    assert host.totals_s() == {}  # a repeat begins from nothing


def test_the_trace_has_the_ranges_as_annotations() -> None:
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    trace = Trace()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as traced:
        run_range(trace, "layers.mlp.down_proj")
        begin, end = trace.marks("sampling")
        for call in begin:
            call()
        torch.ones(3).argmax()
        for call in end:
            call()
    names = [event.name for event in traced.events()]
    assert trace.names == {"layers.mlp.down_proj", "sampling"}
    assert trace.names <= set(names)
    inside = next(event for event in traced.events() if event.name == "aten::argmax")
    assert inside.cpu_parent.name == "sampling"


@pytest.mark.gpu
def test_the_cuda_clock_sums_by_name(cuda: str) -> None:
    import torch

    a = torch.randn(2048, 2048, device=cuda)
    watch = clock(cuda)
    assert isinstance(watch, CudaClock)
    for _ in range(3):
        begin, end = watch.marks("gemm")
        for call in begin:
            call()
        a @ a
        for call in end:
            call()
    run_range(watch, "nothing")
    totals = watch.totals_s()
    assert set(totals) == {"gemm", "nothing"}
    assert 0 <= totals["nothing"] < totals["gemm"]
