"""Steps on a machine that keeps nothing: each leaves its results, and what has them is not repeated."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "benchmarks" / "gpu.py"
HOUR_S = 3600.0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_file_location("gpu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "missing", lambda: [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module to run as `python -m tool`: writes a file, or fails, or never ends."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tool.py").write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "out, what = sys.argv[1:3]\n"
        "Path(out).mkdir(parents=True, exist_ok=True)\n"
        "file = Path(out, 'found')\n"
        "file.write_text((file.read_text() if file.exists() else '') + what)\n"
        "if what == 'long':\n"
        "    time.sleep(600)\n"
        "sys.exit(3 if what == 'bad' else 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "tools"))
    return tmp_path


def run(gpu: ModuleType, results: Path, monkeypatch: pytest.MonkeyPatch, **words: str) -> tuple[int, str]:
    """Run a step per word, and return the exit code and the order of archives."""
    steps = [
        gpu.Step(
            name,
            name,
            1.0,
            HOUR_S,
            HOUR_S,
            (f"tool {{out}}/{name} {word}",),
            (f"tool {{out}}/{name} few",),
            name == "on",
        )
        for name, word in words.items()
    ]
    monkeypatch.setattr(gpu, "steps", lambda _: steps)
    asked = Namespace(
        device="cuda",
        names=[],
        results=results,
        wheels=results / "none",
        seconds=10 * HOUR_S,
        brief=False,
        also=None,
    )
    code = gpu.measured(asked)
    return code, "".join(path.read_text() for path in sorted(results.glob("*/found")))


def test_each_step_leaves_what_it_wrote_and_said(
    gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found = run(gpu, tool / "out", monkeypatch, a="one", b="bad", c="two")
    assert (code, found) == (1, "onebadtwo")  # one that fails stops no other
    with tarfile.open(tool / "out" / "b.tar.gz") as pack:
        assert {"b/found", "b.txt"} <= set(pack.getnames())
        assert "b.done" not in pack.getnames()


def test_counted_is_a_model_of_few_layers(gpu: ModuleType, tmp_path: Path) -> None:
    """Whose config is known: Nsight Compute repeats each kernel for each group of its counters."""
    from workloads.catalogue import load_model

    folder = tmp_path / "models" / gpu.COUNTED
    gpu.shortened(folder)
    model, whole = load_model(folder).model, load_model("Llama-3.2-1B").model
    assert len(model.layers) == gpu.COUNTED_LAYERS < len(whole.layers)
    assert model.layers[0] == whole.layers[0]
    (counters,) = [step for step in gpu.steps("cuda") if step.name == "counters"]
    for command in (*counters.commands, *counters.brief):
        assert command.format(out=tmp_path, left=60).split()[2] == str(folder)


def test_a_report_too_large_to_be_carried_stays_behind(
    gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "MOST_PACKED", 1000)
    (tool / "out" / "on").mkdir(parents=True)
    (tool / "out" / "on" / "report.ncu-rep").write_bytes(bytes(1001))
    assert run(gpu, tool / "out", monkeypatch, on="one")[0] == 0
    with tarfile.open(tool / "out" / "on.tar.gz") as pack:
        assert {"on/found", "on.txt"} <= set(pack.getnames())
        assert "on/report.ncu-rep" not in pack.getnames()
    assert "on/report.ncu-rep of 0 MB stays behind" in capsys.readouterr().out


def test_an_archive_that_came_in_part_gives_what_it_holds(
    gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are packed by size."""
    (tool / "out" / "on").mkdir(parents=True)
    (tool / "out" / "on" / "trace").write_bytes(random.Random(1).randbytes(100_000))
    run(gpu, tool / "out", monkeypatch, on="one")
    whole = (tool / "out" / "on.tar.gz").read_bytes()
    (tool / "part").mkdir()
    (tool / "part" / "on.tar.gz").write_bytes(whole[: len(whole) // 2])
    gpu.unpacked(tool / "part" / "on.tar.gz", tool / "part")
    assert (tool / "part" / "on" / "found").read_text() == "one"
    assert "is not whole" in capsys.readouterr().out


def test_results_that_were_brought_along_are_not_measured_again(
    gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is, and what is resumed goes on with what it had, after what is new."""
    run(gpu, tool / "out", monkeypatch, a="one", b="bad", on="half")
    (tool / "elsewhere").mkdir()
    for archive in (tool / "out").glob("*.tar.gz"):
        (tool / "elsewhere" / archive.name).write_bytes(archive.read_bytes())
    code, found = run(gpu, tool / "elsewhere", monkeypatch, a="again", b="good", on="+rest")
    assert (code, found) == (0, "onegoodhalf+rest")


@pytest.mark.parametrize(("folder", "calls"), [("campaign", 3), ("other", 1)])
def test_a_campaign_that_lost_the_device_goes_on_at_once(
    folder: str, calls: int, gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that lost it has it no more: the next leaves out what it was lost in."""
    codes = iter([gpu.REFUSED, gpu.REFUSED, 0])
    asked: list[str] = []

    def bounded(words: str, *_: Any) -> int:
        asked.append(words)
        return next(codes)

    monkeypatch.setattr(gpu, "bounded", bounded)
    step = gpu.Step("step", folder, 60.0, HOUR_S, HOUR_S, ("tool all",), ("tool few",), True)
    code = gpu.one(step, Namespace(results=tmp_path, brief=False, also=None), HOUR_S, {})
    assert (code == 0, len(asked)) == (calls == 3, calls)


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.default_int_handler], ids=["behind", "ahead"])
def test_a_step_is_interrupted_when_its_time_is_over(
    before: Any, gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, so that it writes what it has; also where a shell started all this in the background."""

    class Popen(subprocess.Popen[bytes]):
        """Of which the time is over when it has written."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout != 5.0:
                return super().wait(HOUR_S)
            while not (tool / "x" / "found").exists() and self.poll() is None:
                time.sleep(0.01)
            raise subprocess.TimeoutExpired("tool", timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", Popen)
    usual = signal.signal(signal.SIGINT, before)
    try:
        with (tool / "log").open("w") as log:
            environment = {**gpu.os.environ, "PYTHONPATH": str(tool / "tools")}
            assert gpu.bounded(f"tool {tool}/x long", 5.0, log, environment) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (tool / "x" / "found").exists()
    assert "KeyboardInterrupt" in (tool / "log").read_text()


def stepped(gpu: ModuleType, tmp_path: Path, *commands: str, each_s: float = HOUR_S) -> int:
    """Run commands as one step, and return its exit code."""
    step = gpu.Step("a", "a", 1.0, HOUR_S, HOUR_S, commands, (), each_s=each_s)
    asked = Namespace(results=tmp_path / "out", brief=False, also=tmp_path / "also")
    asked.results.mkdir()
    environment = {**gpu.os.environ, "PYTHONPATH": str(tmp_path / "tools")}
    code: int = gpu.one(step, asked, HOUR_S, environment)
    return code


def test_a_file_of_tests_that_hangs_leaves_the_others_their_time(gpu: ModuleType, tool: Path) -> None:
    code = stepped(gpu, tool, "tool {out}/a/x long", "tool {out}/a/y bad", "tool {out}/a/z good", each_s=1.0)
    assert code == -signal.SIGINT
    with tarfile.open(tool / "also" / "a.tar.gz") as pack:
        assert {"a/x/found", "a/y/found", "a/z/found"} <= set(pack.getnames())
    assert [path.name for path in (tool / "also").iterdir()] == ["a.tar.gz"]


def test_each_command_comes_home_before_the_next(gpu: ModuleType, tool: Path) -> None:
    """As when all is stopped in the second; nothing that a command started goes on."""
    (tool / "tools" / "stop.py").write_text(
        "import os, signal, subprocess, sys, time\n"
        "left = subprocess.Popen(['sleep', '600'], process_group=0)\n"
        "open(sys.argv[1], 'w').write(str(left.pid))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(600)\n"
    )
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            stepped(gpu, tool, "tool {out}/a/x one", f"stop {tool}/pid", "tool {out}/a/y two")
    finally:
        signal.signal(signal.SIGINT, usual)
    with tarfile.open(tool / "also" / "a.tar.gz") as pack:
        assert {"a.txt", "a/x/found"} <= set(pack.getnames())
        assert "a.done" not in pack.getnames()
    state = Path(f"/proc/{(tool / 'pid').read_text()}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_tests_run_file_by_file(gpu: ModuleType) -> None:
    """What a fault in one leaves behind ends with its process; all that need a GPU are there."""
    (tests,) = [step for step in gpu.steps("cuda") if step.name == "tests"]
    files, few = ([command.split()[-1] for command in some] for some in (tests.commands, tests.brief))
    assert set(files) - set(few) >= {"tests/profiler/test_on_gpu.py", "tests/profiler/test_counted.py"}
    assert "tests/profiler/test_kernels.py" in few
    assert files[0] == "tests/profiler/test_counted.py"
    marked = subprocess.run(
        ["git", "grep", "-l", "pytest.mark.gpu", "--", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if marked.returncode == 0:
        assert sorted(files) == sorted(
            f for f in marked.stdout.split() if f != "tests/benchmarks/test_gpu.py"
        )


def test_what_fails_again_and_again_keeps_nothing_from_being_tried(
    gpu: ModuleType, tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(gpu, tool / "out", monkeypatch, a="one", b="bad")
    more = [gpu.Step(name, name, 1.0, 1.0, 1.0, (), ()) for name in ("a", "b", "c", "d")]
    assert [step.name for step in gpu.order(more, [], tool / "out")] == ["c", "d", "b"]


def test_a_little_of_everything_takes_less_than_a_call(gpu: ModuleType) -> None:
    """What is worth most is certain to be begun in the 540 s of one that has ten minutes."""
    found = {step.name: step for step in gpu.steps("cuda")}
    assert list(found)[:5] == ["ceilings", "model", "campaign", "counters", "tests"]
    assert sum(found[name].brief_s for name in ("ceilings", "model", "campaign", "counters")) <= 420


def test_wheels_that_are_missing_are_installed_beside_the_packages(gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    name = "a_package_of_no_one-1.0"
    with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_package_of_no_one.py", "ANSWER = 42\n")
        wheel.writestr(
            f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: a-package-of-no-one\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    environment = gpu.installed(tmp_path / "wheels", tmp_path)
    asked = [sys.executable, "-c", "import a_package_of_no_one as a; print(a.ANSWER)"]
    found = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout == "42\n", found.stderr
    gpu.installed(tmp_path / "wheels", tmp_path)  # a second call finds it there


def test_the_script_starts_with_nothing_but_python(tmp_path: Path) -> None:
    asked = [sys.executable, "-I", "-S", str(FILE), "missing"]
    found = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert {"torch", "msgspec", "PyYAML"} <= set(found.stdout.split())


def test_every_command_of_a_step_is_one_of_the_program(gpu: ModuleType) -> None:
    """Its options, too: a step that is refused on the device would have cost its time."""
    from click.testing import CliRunner

    from profiler.cli import app

    for device in ("cuda", "cpu"):
        for step in gpu.steps(device):
            for command in (*step.commands, *step.brief):
                words = gpu.shlex.split(command.format(out="demo", left=60, brief=30))
                if words[0] != "profiler":
                    continue
                options = [word for word in words[2:] if word.startswith("--")]
                told = CliRunner().invoke(app, [words[1], "--help"]).output
                assert all(option.removeprefix("--no-") in told for option in options), command


def test_results_lie_where_the_command_was_given(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands run in the project's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu.py", "home", "--results", "mine"])
    assert gpu.main() == 2
    assert f"{tmp_path / 'mine'} holds no campaign and no run" in capsys.readouterr().out


def campaign_of(device: str, folder: Path) -> None:
    """The files of a campaign as far as they are copied and not read."""
    folder.mkdir(parents=True)
    head = {"created": "2026-01-01", "command": "", "device": device, "dtypes": ["bf16"], "environment": {}}
    (folder / "campaign.json").write_text(json.dumps(head))
    for name in ("operators.parquet", "device.yaml", "calibration.json"):
        (folder / name).write_text(name)


def test_results_come_where_the_device_is_looked_up(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever name it is asked for, and only those of that device."""
    from hwspecs import measured

    said: list[list[str]] = []
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "shelf")
    monkeypatch.setattr(gpu.subprocess, "call", lambda words: said.append(words) or 0)
    campaign_of("a processor", tmp_path / "cpu" / "campaign")
    assert gpu.at_home(tmp_path / "cpu", "h100_sxm") == 2
    assert "on a processor, which no device file describes, not on H100-SXM5-80GB." in capsys.readouterr().out
    campaign_of("H100 80GB HBM3", tmp_path / "all" / "campaign")
    for name, why in (("h200_sxm", "was measured on H100-SXM5-80GB, not on H200"), ("h", "no device named")):
        assert gpu.at_home(tmp_path / "all", name) == 2
        assert why in capsys.readouterr().out
    assert not said
    assert gpu.at_home(tmp_path / "all", "h100_sxm") == 0
    assert [words[3] for words in said] == ["calibrate"]
    made = tmp_path / "shelf" / "H100-SXM5-80GB"
    assert sorted(path.name for path in made.iterdir()) == sorted(gpu.SHIPPED)
    assert measured.measured_file("H100-SXM5-80GB", "device.yaml") == made / "device.yaml"
