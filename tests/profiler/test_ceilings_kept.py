"""Measurements are kept at once: what was cut short goes on, and makes a file as far as it got."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from profiler import probes
from profiler.ceilings import device, inside, journal, measure, plan
from profiler.ceilings.journal import journal_of, kept
from profiler.ceilings.measure import measure_ceilings
from profiler.ceilings.plan import CLASS, STEP, Findings, Key, OutOfTimeError, Plan
from specfiles.errors import InputError

torch = pytest.importorskip("torch")


class Machine:
    """A GPU whose probes are stand-ins: their order is real, their times are told."""

    def __init__(self) -> None:
        self.asked: list[Key] = []
        self.fails_at: Key | None = None
        self.error: BaseException = KeyboardInterrupt()
        self.answers = True

    def probes(self, *asked: Any) -> list[tuple[Key, Callable[[], float]]]:
        return [(key, lambda key=key: self.take(key)) for key, _ in probes.probes(*asked)]

    def take(self, key: Key) -> float:
        self.asked.append(key)
        if key == self.fails_at:
            raise self.error
        return 1e-3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(measure, "probes", made.probes)
    monkeypatch.setattr(measure, "answers", lambda _: made.answers)
    monkeypatch.setattr(inside, "all_steps", lambda *_: [])
    monkeypatch.setattr(inside, "memory_bytes", lambda _: 80e9)
    monkeypatch.setattr(plan, "last_level_cache_bytes", lambda _: 1 << 20)
    for module in (device, journal):
        monkeypatch.setattr(module, "environment", lambda _: {"processor": "none", "torch": "9"})
        monkeypatch.setattr(module, "device_name", lambda _: "a GPU")
    return made


@pytest.fixture
def asked(paper_device: Callable[..., Any]) -> Callable[..., Plan]:
    usual = {"dtypes": ("bf16", "fp32"), "passes": 1, "sheet": paper_device()}
    return lambda **more: Plan("cuda:0", **{**usual, **more})


def cut_short(machine: Machine, plan: Plan, out: Path, at: Key) -> None:
    """Measure until an interrupt at one of the measurements; the next command meets none."""
    machine.fails_at = at
    with pytest.raises(KeyboardInterrupt):
        measure_ceilings(plan, out)
    machine.fails_at = None


FIRST_PRODUCT, LAST_PRODUCT = ("matmul", "bf16", 1024), ("matmul", "bf16", 16384)


def test_a_first_pass_that_is_cut_short_makes_a_file_of_its_whole_figures(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """The best of the small products is no peak; what came before is a ceiling."""
    out = tmp_path / "gpu.yaml"
    cut_short(machine, asked(), out, ("matmul", "fp32", 4096))
    found = load_device(out)
    assert set(found.measured.tensor_flop_per_s) == {"bf16"}
    assert not found.measured.vector_flop_per_s
    assert found.measured.dram_byte_per_s is not None
    assert found.measured.links == {}
    assert found.calibration is None
    assert "medians of 0 passes, ended by: an interrupt" in found.sources["measured"]


def test_too_little_for_a_file_is_kept_all_the_same(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    told: list[str] = []
    cut_short(machine, asked(progress=told.append), tmp_path / "gpu.yaml", LAST_PRODUCT)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.passes.jsonl"]
    assert told[-1].startswith(
        f"{len(machine.asked) - 1} measurements are kept; the same command continues from"
    )


def test_time_that_ends_within_a_pass_ends_it_there(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which each measurement takes a second; those that are left come with the next command."""
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: float(len(machine.asked))))
    out = tmp_path / "gpu.yaml"
    with pytest.raises(OutOfTimeError, match="ended in pass 1"):
        measure_ceilings(asked(most_s=3.0), out)
    assert len(machine.asked) == 4
    before, machine.asked = machine.asked, []
    measure_ceilings(asked(), out)
    assert not set(before) & set(machine.asked)
    assert not journal_of(out).exists()


@pytest.mark.parametrize("at", [FIRST_PRODUCT, ("pcie", "to host"), ("launch",)])
def test_nothing_is_measured_twice(
    at: Key, machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """Two sittings ask for what one asks for, each figure as often as there are passes."""
    out = tmp_path / "gpu.yaml"
    whole = measure_ceilings(asked(passes=2))
    expected, machine.asked = machine.asked, []
    cut_short(machine, asked(passes=2), out, at)
    machine.asked = machine.asked[:-1]
    found = measure_ceilings(asked(passes=2), out)
    assert machine.asked == expected
    assert found.measured == whole.measured
    assert load_device(out) == found
    assert not journal_of(out).exists()


def test_more_passes_go_on_with_those_before(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """An interrupt of the third pass leaves two; asked for two, the next command has them."""
    out = tmp_path / "gpu.yaml"

    def stop(line: str) -> None:
        if line.startswith("pass 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_ceilings(asked(passes=9, progress=stop), out)
    assert "medians of 2 passes, ended by: an interrupt" in load_device(out).sources["measured"]
    machine.asked = []
    assert "medians of 2 passes, ended by: all" in measure_ceilings(asked(passes=2), out).sources["measured"]
    assert machine.asked == []


def test_formats_that_were_begun_are_ended(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """A campaign asks for others than the command before it; half of a format's products are no peak."""
    out = tmp_path / "gpu.yaml"
    cut_short(machine, asked(), out, ("matmul", "fp32", 4096))
    found = measure_ceilings(asked(dtypes=("bf16", "fp16")), out)
    assert set(found.measured.tensor_flop_per_s) == {"bf16", "fp16"}
    assert found.measured.vector_flop_per_s["fp32"].value == pytest.approx(2 * 16384**3 / 1e-3, rel=1e-4)


def test_one_measurement_that_fails_costs_itself_and_is_tried_again(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "gpu.yaml"
    machine.fails_at, machine.error = LAST_PRODUCT, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED\nand more")
    found = measure_ceilings(asked(), out)
    told = "matmul bf16 16384 could not be measured: CUBLAS_STATUS_ALLOC_FAILED"
    assert told in found.sources["measured"]
    assert found.measured.tensor_flop_per_s["bf16"].value == pytest.approx(2 * 8192**3 / 1e-3, rel=1e-4)
    machine.fails_at = None
    found = measure_ceilings(asked(), out)
    assert found.measured.tensor_flop_per_s["bf16"].value == pytest.approx(2 * 16384**3 / 1e-3, rel=1e-4)


def test_what_takes_the_device_with_it_is_left_out_by_the_next_command(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """Otherwise no command would ever get beyond it."""
    out = tmp_path / "gpu.yaml"
    machine.fails_at, machine.error, machine.answers = LAST_PRODUCT, RuntimeError("illegal access"), False
    with pytest.raises(InputError, match="matmul bf16 16384 failed, and the device answers no more: illegal"):
        measure_ceilings(asked(), out)
    machine.answers, before = True, len(machine.asked)
    found = measure_ceilings(asked(), out)
    assert LAST_PRODUCT not in machine.asked[before:]
    assert "matmul bf16 16384 could not be measured: illegal access" in found.sources["measured"]


def test_what_kills_processes_is_left_out_by_the_third(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """A process that dies says nothing: it is known by what it began. One may have been killed by hand."""
    out = tmp_path / "gpu.yaml"
    machine.fails_at = LAST_PRODUCT
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measure_ceilings(asked(), out)
        lines = journal_of(out).read_text().splitlines(keepends=True)
        assert json.loads(lines[-1]) == {"visit": list(LAST_PRODUCT), "times": [], "lost": "", "begun": -1}
        journal_of(out).write_text("".join(lines[:-1]))  # as a killed process leaves it
    before = len(machine.asked)
    found = measure_ceilings(asked(), out)
    assert LAST_PRODUCT not in machine.asked[before:]
    assert "matmul bf16 16384 could not be measured: 2 processes died in it" in found.sources["measured"]


def test_measurements_of_another_machine_are_not_mixed_in(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.yaml"
    cut_short(machine, asked(), out, LAST_PRODUCT)
    before = journal_of(out).read_bytes()
    monkeypatch.setattr(journal, "environment", lambda _: {"processor": "none", "torch": "10"})
    with pytest.raises(InputError, match=r"holds measurements of torch 9, which differs here; name another"):
        measure_ceilings(asked(), out)
    assert journal_of(out).read_bytes() == before


def test_a_line_that_was_cut_short_is_measured_again(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    """As a kill in the middle of a write leaves it."""
    out = tmp_path / "gpu.yaml"
    cut_short(machine, asked(), out, LAST_PRODUCT)
    with journal_of(out).open("a") as file:
        file.write('{"visit": ["matmul", "bf16", 16384], "times": [[["mat')
    assert measure_ceilings(asked(), out).measured.tensor_flop_per_s


@pytest.mark.parametrize(
    "line", ["no JSON", '{"visit": 1}', '{"visit": [], "times": [[["a"], ["b"]]]}', '{"other": 1}', "[]"]
)
def test_a_broken_journal_is_named(
    line: str, machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "gpu.yaml"
    cut_short(machine, asked(), out, LAST_PRODUCT)
    lines = journal_of(out).read_text().splitlines()
    journal_of(out).write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(InputError, match="line 3"):
        measure_ceilings(asked(), out)


def test_nothing_is_left_where_nothing_was_measured(
    machine: Machine, asked: Callable[..., Plan], tmp_path: Path
) -> None:
    cut_short(machine, asked(), tmp_path / "gpu.yaml", ("launch",))
    assert not list(tmp_path.iterdir())


KEYS = st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.tuples(inner, inner))


@given(st.lists(st.tuples(st.tuples(KEYS, KEYS), st.lists(st.floats(0, 1e9), min_size=1)), max_size=5))
def test_a_journal_gives_back_every_digit(
    tmp_path_factory: pytest.TempPathFactory, times: list[tuple[Key, list[float]]]
) -> None:
    out = tmp_path_factory.mktemp("journal") / "gpu.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "environment", lambda _: {})
        patch.setattr(journal, "device_name", lambda _: "a GPU")
        written, read = Findings(), Findings()
        with kept(out, "cuda:0", written) as opened:
            assert opened is not None
            written.add(("a visit",), times)
            opened.add(("a visit",), times)
        with kept(out, "cuda:0", read):
            assert read.times == written.times
            assert read.visits == written.visits
        json.loads(journal_of(out).read_text().splitlines()[0])


def test_constants_need_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of operators of some models there is no fit: it would be scored on what it was fitted to."""
    steps = [(STEP, "bf16", name, "decode", 1, 1, 9, False) for name in "ab"]
    found = Findings()
    found.add(steps[0], [((CLASS, "bf16", *steps[0][1:], "norm"), [1.0])])
    found.add(("launch",), [(("launch",), [1.0])])
    assert set(found.without_halves([*steps, ("launch",)]).times) == {("launch",)}
    assert set(found.without_halves([steps[0], ("launch",)]).times) == set(found.times)
