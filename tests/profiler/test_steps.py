"""Whole steps and their ranges, timed in turn."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from profiler.forward import Point, greedy, step
from profiler.steps import operators_at, time_ranges
from profiler.subject import Subject

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

POINT = Point("prefill", 1, 24, 24)


@pytest.fixture
def model(subject: Callable[..., Subject]) -> Subject:
    return subject("llama", num_hidden_layers=6)


def test_each_repeat_gives_a_step_and_every_operator(model: Subject) -> None:
    with torch.inference_mode():
        timed = time_ranges(model, step(model, POINT, 24), repeats=4, plain_too=True)
    assert len(timed.plain) == len(timed.ranged) == 4
    operators = {name: times for name, times in timed.ranges.items() if not name.startswith("framework.")}
    assert {name: len(times) for name, times in operators.items()} == {
        named.name: 4 for named in operators_at(model.loaded, "fp32", POINT)
    }
    assert all(seconds > 0 for times in timed.ranges.values() for seconds in times)


class Operations(TorchDispatchMode):
    """A clock that goes on by a nanosecond with every operation."""

    now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now += 1
        return func(*args, **(kwargs or {}))


def test_ranges_of_all_layers_fit_into_their_step(model: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is counted twice; what is left is the framework's."""
    monkeypatch.setattr("profiler.steps.STRIDE", 1)
    clock = Operations()
    for place in ("profiler.timing", "profiler.recorders"):
        monkeypatch.setattr(f"{place}.host_clock", lambda: lambda: clock.now)
    with torch.inference_mode(), clock:
        timed = time_ranges(model, step(model, POINT, 24), repeats=2)
    shares = [
        sum(times[i] for times in timed.ranges.values()) / whole for i, whole in enumerate(timed.ranged)
    ]
    assert shares == pytest.approx(shares[:1] * 2)
    assert 0.5 < shares[0] < 1


def test_without_plain_steps_only_ranges_are_timed(model: Subject) -> None:
    calls: list[int] = []

    def run(sampler: Callable[[Any], Any]) -> None:
        calls.append(0)
        sampler(torch.zeros(1, 1, 5))

    timed = time_ranges(model, run, repeats=3, warm_up=2)
    assert (timed.plain, len(timed.ranged), len(calls)) == ([], 3, 5)
    assert list(timed.ranges) == ["sampling"]


def test_garbage_collection_rests_while_timing_and_goes_on_after_an_error(model: Subject) -> None:
    def run(sampler: Callable[[Any], Any]) -> None:
        if sampler is not greedy:
            assert not gc.isenabled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        time_ranges(model, run, repeats=1)
    assert gc.isenabled()


def test_operators_are_those_that_pytorch_runs(model: Subject) -> None:
    """One kernel or more each: nothing hides in a neighbour, attention keeps its scores on the chip."""
    found = operators_at(model.loaded, "bf16", POINT)
    assert not any(named.operator.work().fused for named in found)
    assert {str(named.operator.work().dtype) for named in found} == {"bf16"}
