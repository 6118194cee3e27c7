"""A command that is stopped, killed or out of room leaves what opens; two at once do not mix."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwspecs import load_device
from profiler import alone
from profiler.campaign import run as campaigns
from profiler.campaign import table as tables
from profiler.campaign.shapes import Limits
from profiler.campaign.table import COLUMNS
from profiler.ceilings import measure
from profiler.probes import probes
from roofline.run import open_run

pytest.importorskip("torch")
pytest.importorskip("transformers")
if not hasattr(os, "fork"):
    pytest.skip("processes are forked here", allow_module_level=True)

PATIENCE_S = 600.0


@dataclass
class Child:
    """A command in a process of its own, forked so that torch is imported already."""

    pid: int
    log: Path
    ended: list[int] = field(default_factory=list)

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""
        if not self.ended:
            self.ended.append(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        return self.ended[0]

    def send(self, number: int) -> int:
        """Send a signal, once, and return how it ended."""
        os.kill(self.pid, number)
        deadline = time.monotonic() + PATIENCE_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.ended, f"it still runs after signal {number}: {self.log.read_text()[-500:]}"
        return self.ended[0]

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if not self.ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.ended += [os.waitstatus_to_exitcode(status)] if pid else []
        return not self.ended


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start commands; those that still run at the end are killed."""
    children: list[Child] = []

    def begin(*words: object, most_bytes: int | None = None) -> Child:
        log = tmp_path / f"log-{len(children)}"
        log.touch()
        if pid := os.fork():
            children.append(Child(pid, log))
            return children[-1]
        _become(words, log, most_bytes)
        raise AssertionError("not reached")

    yield begin
    for child in children:
        if child.running():
            child.send(signal.SIGKILL)


def _become(words: tuple[object, ...], log: Path, most_bytes: int | None) -> None:
    """Be the command: its output goes to `log`, no file may grow beyond `most_bytes`."""
    from profiler.cli import main

    code: Any = 1
    try:
        os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.stdout = sys.stderr
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["roofline", *map(str, words)]
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        main()
    except SystemExit as left:
        code = left.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def until(true: Callable[[], bool], child: Child) -> None:
    """Wait for something that the child does."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert child.running(), child.log.read_text()
        assert time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.01)


def test_a_kernel_that_fails_alone_costs_its_own_row(
    roofline: Callable[..., Any], small_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever PyTorch raises: its errors are RuntimeErrors."""
    genuine = alone.kernel

    def failing(operator: Any, place: Any) -> Any:
        if operator.kind == "attention":
            raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")
        return genuine(operator, place)

    monkeypatch.setattr(alone, "kernel", failing)
    monkeypatch.setattr(alone, "last_level_cache_bytes", lambda _: 1 << 18)
    sizes = ("--device", "cpu", "--phase", "decode", "--context", 40, "--repeats", 1)
    done = roofline("profile", small_llama, "-o", tmp_path / "run", *sizes)
    assert done.code == 0, done.err
    assert "layers.attention.core not measured alone: CUDA error: no kernel image is available\n" in done.err
    operators = open_run(tmp_path / "run").table("operators")
    timed = set(operators.loc[operators["where"] == "alone", "kind"])
    assert "gemm" in timed
    assert "attention" not in timed


PROFILE = ("--device", "cpu", "--phase", "decode", "--context", "40", "--no-alone", "--repeats")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
@pytest.mark.parametrize("every_s", [0.0, float("inf")], ids=["saved", "unsaved"])
def test_a_profile_that_is_ended_opens(
    every_s: float,
    number: int,
    start: Callable[..., Child],
    roofline: Callable[..., Any],
    small_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of its rounds. SIGKILL leaves no time for anything: what was written before is whole."""
    monkeypatch.setattr("profiler.record.SAVE_EVERY_S", every_s)
    out, saved = tmp_path / "run", not every_s
    child = start("profile", small_llama, "-o", out, *PROFILE, 100_000)
    last = out / "references.parquet"
    until(last.exists if saved else lambda: "round 1," in child.log.read_text(), child)
    assert child.send(number) == (130 if number == signal.SIGINT else -number)
    run = open_run(out)
    assert run.head.status == ("failed" if number == signal.SIGINT else "running")
    rows = len(run.table("steps"))  # where a round was over, its steps without and with ranges
    assert rows == 2 or (rows == 0 and not saved)
    assert not (saved and run.table("operators").empty)
    for command in ("show", "validate", "report"):
        words = (out, "--hw", "a100_sxm", *(("-o", tmp_path / "r.html") if command == "report" else ()))
        done = roofline(command, *words)
        assert done.code == 0 or (done.code == 2 and not saved)
        assert "Traceback" not in done.err
        assert done.code == 0 or len(done.err.strip().splitlines()) == 1


@pytest.fixture
def small_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators of milliseconds, no ceilings, a table that is written often."""
    monkeypatch.setattr(campaigns, "_limits", lambda _: Limits(flops=1e8, bytes=4e6))
    monkeypatch.setattr(tables, "last_level_cache_bytes", lambda _: 100_000)
    monkeypatch.setattr(campaigns, "_ceilings", lambda _: [])
    monkeypatch.setattr(campaigns, "COLLECTIVES", float("inf"))
    monkeypatch.setattr(tables, "SAVE_EVERY_S", 0.2)


@pytest.mark.usefixtures("small_campaign")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_a_campaign_that_is_ended_goes_on(
    number: int,
    start: Callable[..., Child],
    roofline: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second sitting ends with its list of three operators, however long they take."""
    out = tmp_path / "campaign"
    words = ("campaign", "--device", "cpu", "--no-models", "-o", out, "--budget", "10h")
    child = start(*words)
    until((out / "operators.parquet").exists, child)
    assert child.send(number) == (130 if number == signal.SIGINT else -number)
    before = pd.read_parquet(out / "operators.parquet")
    assert tuple(before.columns) == COLUMNS
    assert len(before) > 0
    wanted = tables.Table.wanted
    monkeypatch.setattr(tables.Table, "wanted", lambda *args: islice(wanted(*args), 3))
    done = roofline(*words)
    assert done.code == 0, done.err
    after = pd.read_parquet(out / "operators.parquet")
    assert len(after) == len(before) + 3
    pd.testing.assert_frame_equal(after.head(len(before)), before)


def waiting_at_fifth(found: Any, reached: Path) -> Iterator[Any]:
    """Probes of which the fifth says that it was reached, and does not end."""

    def wait() -> float:
        reached.touch()
        time.sleep(PATIENCE_S)
        raise AssertionError("nobody came")

    for number, (key, probe) in enumerate(found):
        yield key, wait if number == 4 else probe


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_ceilings_that_are_ended_in_their_first_pass_leave_the_old_file_and_go_on(
    number: int, start: Callable[..., Child], roofline: Callable[..., Any], tmp_path: Path
) -> None:
    """What was measured before is part of the file that the next command writes."""
    out, journal = tmp_path / "here.yaml", tmp_path / "here.passes.jsonl"
    out.write_text("old")
    reached = tmp_path / "reached"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "probes", lambda *asked: waiting_at_fifth(probes(*asked), reached))
        child = start("ceilings", "--device", "cpu", "--passes", 1000, "-o", out)
    until(reached.exists, child)
    assert child.send(number) == (130 if number == signal.SIGINT else -number)
    assert out.read_text() == "old"
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    measured_before = [line for line in lines[1:] if line["times"]]
    launch_s = next(line["times"][0][1][0] for line in measured_before if line["visit"] == ["launch"])
    done = roofline("ceilings", "--device", "cpu", "--passes", 1, "-o", out)
    assert done.code == 0, done.err
    assert f"continuing with {len(measured_before)} measurements" in done.err
    measured = load_device(out)
    assert measured.measured.launch_s is not None
    assert measured.measured.launch_s.value == pytest.approx(launch_s, rel=1e-4)
    assert measured.calibration is not None
    assert not journal.exists()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_ceilings_that_are_ended_after_a_pass_leave_a_file_of_it(
    number: int, start: Callable[..., Child], tmp_path: Path
) -> None:
    out = tmp_path / "here.yaml"
    child = start("ceilings", "--device", "cpu", "--passes", 1000, "-o", out)
    until(lambda: "pass 3 " in child.log.read_text(), child)
    assert child.send(number) == (130 if number == signal.SIGINT else -number)
    device = load_device(out)
    assert device.calibration is not None
    begun = max(int(line.split()[1]) for line in child.log.read_text().splitlines() if "pass " in line[:5])
    why = "an interrupt" if number == signal.SIGINT else "nothing yet"
    source = device.sources["measured"]
    # Those before the last that was begun; that one, too, where it ended before the next was.
    assert any(f"medians of {passes} passes, ended by: {why}" in source for passes in (begun - 1, begun))
    assert (tmp_path / "here.passes.jsonl").exists()


@pytest.mark.usefixtures("brief")
def test_of_two_ceilings_into_one_file_one_is_refused(start: Callable[..., Child], tmp_path: Path) -> None:
    words = ("ceilings", "--device", "cpu", "--passes", 1000, "-o", tmp_path / "here.yaml")
    first = start(*words)
    until((tmp_path / "here.passes.jsonl").exists, first)
    second = start(*words)
    assert second.wait() == 2
    assert "here.passes.jsonl: another command is writing there" in second.log.read_text()
    assert first.running()


@pytest.mark.parametrize(
    ("most_bytes", "sentence"),
    [
        (3_000, "cannot be written (File too large); make room"),
        (13_000, "was cut short while it was written"),
    ],
)
def test_a_full_disk_ends_a_profile_in_one_sentence(
    most_bytes: int, sentence: str, start: Callable[..., Child], small_llama: Path, tmp_path: Path
) -> None:
    """The first limit holds run.json but no table, the second tables but no trace; both say why."""
    out = tmp_path / "run"
    child = start("profile", small_llama, "-o", out, *PROFILE, 3, most_bytes=most_bytes)
    assert child.wait() == 2, child.log.read_text()
    said = child.log.read_text().strip().splitlines()
    assert sentence in said[-1]
    assert not any("Traceback" in line for line in said)
    head = open_run(out).head
    assert head.status == "failed"
    assert any(note.startswith("stopped: ") and sentence in note for note in head.notes)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("small_campaign")
@pytest.mark.parametrize("save_every_s", [0, float("inf")], ids=["table", "journal"])
def test_a_full_disk_ends_a_campaign_in_one_sentence(
    save_every_s: float, start: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table outgrows the limit with the first row, the journal beside it after some."""
    monkeypatch.setattr(tables, "SAVE_EVERY_S", save_every_s)
    out = tmp_path / "campaign"
    child = start(
        "campaign", "--device", "cpu", "--no-models", "-o", out, "--budget", "10h", most_bytes=3_000
    )
    assert child.wait() == 2, child.log.read_text()
    assert "operators.parquet: cannot be written (File too large); make room" in child.log.read_text()


def test_of_two_profiles_into_one_folder_one_is_refused(
    start: Callable[..., Child], small_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    both = [start("profile", small_llama, "-o", out, *PROFILE, 2) for _ in range(2)]
    assert sorted(child.wait() for child in both) == [0, 2]
    refused = next(child for child in both if child.wait() == 2)
    assert "already there" in refused.log.read_text()
    assert open_run(out).head.status == "complete"
    assert len(open_run(out).table("steps")) == 2  # with ranges and without
