"""Copies that run ahead of their use: on a device that copies at once, as late, and in any order it may."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from specfiles.errors import InputError
from workloads.techniques.registry import parse

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from profiler.forward import Point, step  # noqa: E402
from profiler.repeats import Effort  # noqa: E402
from profiler.subject import Subject  # noqa: E402
from profiler.treatments import kv_offload, weight_offload  # noqa: E402
from profiler.treatments.base import logits  # noqa: E402
from profiler.treatments.measure import TREATMENTS, deviation, measured, treatment  # noqa: E402
from profiler.treatments.prefetch import Prefetch, place, places, spread  # noqa: E402

pytestmark = pytest.mark.usefixtures("inference")
MakeSubject = Callable[..., Subject]
POINTS = {"prefill": Point("prefill", 2, 20, 20), "decode": Point("decode", 2, 1, 41)}


class LateLanes:
    """A device whose copies end only where they are waited for, and whose marks count what was asked."""

    def __init__(self, device: str = "") -> None:
        self.asked = 0
        self.copies: list[tuple[int, Any, Any, Any]] = []  # number, into, source, after
        self.done = 0

    def mark(self) -> int:
        self.asked += 1
        return self.asked

    def copy(self, into: Any, source: Any, after: int) -> tuple[str, int]:
        self.copies.append((self.mark(), into, source, after))
        return "copy", len(self.copies)

    def wait(self, mark: tuple[str, int]) -> None:
        while self.done < mark[1]:  # in the order of the lane
            _, into, source, _ = self.copies[self.done]
            into.copy_(source)
            self.done += 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_what_is_used_is_there_and_the_next_one_is_on_its_way(count: int) -> None:
    """Over three steps: no slot is written before its last reader is done, however late copies end."""
    sources = [torch.full((3,), float(index)) for index in range(count)]
    buffers = [torch.full((3,), -1.0) for _ in range(places(count))]
    lanes = LateLanes()
    prefetch = Prefetch(sources, [buffers[place(index, count)] for index in range(count)], lanes)
    read: dict[int, int] = {}  # when a buffer was last read
    for _ in range(3):
        for index in range(count):
            prefetch.enter(index)
            buffer = buffers[place(index, count)]
            assert torch.equal(buffer, sources[index])
            if count > 1:
                following = (index + 1) % count
                assert lanes.copies[-1][2] is sources[following]
            read[id(buffer)] = lanes.mark()
            for number, into, _, after in lanes.copies:
                if number > read.get(id(into), 0) and id(into) in read:
                    assert after >= read[id(into)]
        prefetch.finish()
    assert lanes.done == len(lanes.copies) == 3 * count + (count > 1)  # and the first of a fourth


def test_a_copy_into_what_is_being_read_would_be_found_out() -> None:
    """Two buffers for three tensors: the last one's would be overwritten by the first of the next step."""
    assert [place(index, 3) for index in range(3)] == [0, 1, 2]
    assert [place(index, 4) for index in range(4)] == [0, 1, 0, 1]
    assert (places(1), places(2), places(3), places(4)) == (1, 2, 3, 2)
    for count in range(2, 12):
        cycle = [place(index, count) for index in range(count)]
        assert all(a != b for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True))
        assert max(cycle) < places(count)


def test_a_share_is_spread_evenly() -> None:
    assert spread(8, 0.5) == [0, 2, 4, 6]
    assert spread(4, 1.0) == [0, 1, 2, 3]
    assert spread(30, 0.0) == [0]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("layers", [3, 4])
@pytest.mark.parametrize(
    ("words", "phase"),
    [
        ("weight-offloading:share=1", "prefill"),
        ("weight-offloading:share=0.5", "decode"),
        ("weight-offloading:share=1", "decode"),
        ("kv-offloading:share=1", "decode"),
        ("kv-offloading:share=0.4", "decode"),
    ],
)
def test_offloading_changes_no_result(
    words: str, phase: str, layers: int, late: bool, subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    if late:
        for module in (weight_offload, kv_offload):
            monkeypatch.setattr(module, "lanes", LateLanes)
    ours, technique = subject(num_hidden_layers=layers), parse(words)
    found = TREATMENTS[technique.name].pair(technique, ours, POINTS[phase])
    for _ in range(3):  # what a step leaves behind serves the next one
        assert deviation(found) < 1e-6
    assert found.technique.share == pytest.approx(  # type: ignore[attr-defined]
        len(spread(layers, technique.share)) / layers  # type: ignore[attr-defined]
    )


def test_a_copy_that_nobody_waits_for_is_found_out(
    subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(LateLanes):
        def wait(self, mark: tuple[str, int]) -> None:
            """No."""

    monkeypatch.setattr(weight_offload, "lanes", Careless)
    with pytest.raises(InputError, match="was not timed: its results differ"):
        measured(parse("weight-offloading"), subject(), POINTS["decode"], Effort(1))


@pytest.mark.parametrize("words", ["weight-offloading", "kv-offloading"])
def test_the_model_is_as_before(words: str, subject: MakeSubject) -> None:
    ours, point = subject(), POINTS["decode"]
    run = partial(step(ours, point, point.kv_len), logits)
    before = run()
    assert measured(parse(words), ours, point, Effort(2)) is not None
    assert torch.equal(run(), before)


def test_where_it_cannot_be_measured_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("weight-offloading", "kv-offloading"):
        with pytest.raises(InputError, match="a CPU computes in the host's memory, so that nothing would be"):
            treatment(parse(words), "cpu", "fp32", ["decode"])
        with pytest.raises(InputError, match="leave disk"):
            treatment(parse(f"{words}:disk=0.5"), "cuda:0", "bf16", ["decode"])


@pytest.mark.gpu
@pytest.mark.parametrize("words", ["weight-offloading", "weight-offloading:share=0.5", "kv-offloading"])
def test_a_gpu_gives_the_same(words: str, subject: MakeSubject, cuda: str) -> None:
    ours = subject(device=cuda, dtype="bf16", num_hidden_layers=5, hidden_size=384, intermediate_size=1024)
    row = measured(parse(words), ours, POINTS["decode"], Effort(5))
    assert row is not None
    assert row["treated_s"] > 0


@pytest.mark.gpu
def test_weights_come_as_fast_as_the_link_allows(subject: MakeSubject, cuda: str) -> None:
    """A step is not shorter than the transfer of all its matrices over the fastest link there is."""
    ours = subject(device=cuda, dtype="bf16", num_hidden_layers=4, hidden_size=1536, intermediate_size=6144)
    row = measured(parse("weight-offloading"), ours, POINTS["decode"], Effort(5))
    assert row is not None
    layer = ours.network.model.layers[0]
    moved = 4 * sum(weight.nbytes for weight in layer.parameters() if weight.ndim > 1)
    assert row["treated_s"] > moved / 450e9  # NVLink-C2C, one direction
    assert row["gain"] < 1
