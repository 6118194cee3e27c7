"""`profile --nsys` and `--ncu`: under a real nsys where one can be had, under stand-ins for refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler import nsight
from profiler.traces.nsysrep import export
from profiler.traces.runs import load
from roofline.run import open_run
from specfiles.errors import InputError

PACKAGES = ("nsight-systems", "nsight-systems-target", "libssh-4")
ORDER = (
    "layers.attention_norm",
    "layers.attention.q_proj",
    "layers.attention.core",
    "layers.attention.o_proj",
    "layers.mlp.down_proj",
)


@pytest.fixture(scope="session")
def nsys(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder with an nsys: the installed one or Debian's, unpacked aside; skipped where there is none."""
    if found := shutil.which("nsys"):
        return Path(found).parent
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("nsys is not installed, and this is no Debian to get it from")
    if (cache := getattr(pytestconfig, "cache", None)) is None:  # pytest -p no:cacheprovider
        pytest.skip("nsys is not installed, and there is no cache to unpack it into")
    home = cache.mkdir("nsys") / "root"
    if not home.exists():
        unpacked = _unpacked(tmp_path_factory.mktemp("apt"))
        _make_runnable(unpacked, home)
        draft = home.with_name(f"root-{os.getpid()}")
        shutil.move(unpacked, draft)
        with suppress(OSError):  # another worker of these tests was faster
            draft.rename(home)
    return home / "bin"


def _make_runnable(unpacked: Path, home: Path) -> None:
    """What Debian's packages leave to their place under /usr, for when they lie in `home`."""
    folder = Path("usr") / "lib" / "x86_64-linux-gnu" / "nsight-systems"
    if not (unpacked / folder / "target-linux-x64" / "nsys").exists():
        pytest.skip("Debian's nsight-systems holds no nsys for this processor")
    host = unpacked / folder / "host-linux-x64"  # looked for beside the target's folder
    host.symlink_to(home / "usr" / "lib" / "nsight-systems" / "host-linux-x64")
    program = unpacked / "bin" / "nsys"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{(home / folder).parent}:$LD_LIBRARY_PATH" '
        f'exec "{home / folder}/target-linux-x64/nsys" "$@"\n'
    )
    program.chmod(0o755)


def _unpacked(work: Path) -> Path:
    """Debian's non-free packages in a folder, through a package list of their own: nothing is installed."""
    said = {
        key: value.strip('"')
        for key, _, value in (
            line.partition("=") for line in Path("/etc/os-release").read_text().splitlines()
        )
    }
    if said.get("ID") != "debian":
        pytest.skip("nsys is not installed, and only Debian has a package of it")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    codename = said["VERSION_CODENAME"]
    sites = [line.split()[1] for line in targets.splitlines() if line.split()[:1] == [codename]]
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True)
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    site = sites[0] if sites else "http://deb.debian.org/debian"
    (work / "sources.list").write_text(f"deb {key} {site} {codename} main non-free\n")
    options = [f"-oDir::Etc::sourcelist={work}/sources.list", "-oDir::Etc::sourceparts=/dev/null"]
    options += [f"-oDir::State::lists={work}/lists", f"-oDir::Cache={work}/cache", "-oAcquire::Retries=2"]
    for command in (["update"], ["download", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", *options, *command],
                cwd=work / "debs",
                capture_output=True,
                timeout=240,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip("nsys is not installed, and Debian's mirror does not answer in time")
        if done.returncode:
            pytest.skip(
                f"nsys is not installed, and apt-get {command[0]} failed: {done.stderr.decode()[-200:]}"
            )
    (work / "root").mkdir()
    for package in (work / "debs").glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(work / "root")], check=True)
    return work / "root"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    fields = {"model_type": "llama", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    fields |= {"num_key_value_heads": 2, "intermediate_size": 80, "vocab_size": 101, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps({**fields, "max_position_embeddings": 128}))
    return tmp_path / "config.json"


SIZES = ("--phase", "decode", "--context", "9", "--repeats", "2", "--no-alone", "--device", "cpu")


@pytest.mark.slow
def test_ranges_under_a_real_nsys(
    nsys: Path, config: Path, roofline: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvtx", reason="without nvtx there are no ranges to see")
    monkeypatch.setenv("PATH", f"{nsys}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(nsight.__file__).parents[1]))
    done = roofline("profile", config, "-o", tmp_path / "run", *SIZES, "--nsys")
    assert done.code == 0, done.err
    run = open_run(tmp_path / "run" / nsight.FOLDER)
    ranges = load(run)["ranges"].to_pylist()
    if not ranges:  # this nsys cannot see this nvtx: then it must have been said
        assert nsight.UNSEEN in done.err
        return
    names = Counter(row["name"] for row in ranges)
    assert names["decode 1x1 of 9"] == 3
    assert all(names[name] == 3 * 3 for name in ORDER)  # three steps of three layers
    assert names["lm_head"] == 3
    step = next(row for row in ranges if row["name"] == "decode 1x1 of 9")
    inside = [r for r in ranges if step["start_ns"] <= r["start_ns"] and r["end_ns"] <= step["end_ns"]]
    seen = [r["name"] for r in sorted(inside, key=lambda r: r["start_ns"]) if r["name"] in ORDER]
    assert seen == list(ORDER) * 3
    assert all(ranges[row["parent"]]["name"] == "decode 1x1 of 9" for row in inside if row["name"] in ORDER)
    sized = {row["name"]: json.loads(row["shapes"]) for row in ranges if row["shapes"]}
    assert {sizes["kind"] for sizes in sized.values()} >= {"gemm", "attention", "rmsnorm", "sampling"}
    queries = sized["layers.attention.q_proj"]
    assert (queries["m"], queries["n"], queries["k"]) == (1, 48, 48)
    assert sized["layers.attention.core"]["kv_len"] == 9
    assert (sized["lm_head"]["n"], sized["lm_head"]["k"]) == (101, 48)
    assert step["shapes"] is None  # a step is no operator
    shown = json.loads(roofline("show", run.path, "--format", "json").out)  # without a GPU: times of the host
    times = {row["name"]: row for row in shown["rows"]}
    assert times["layers.attention.q_proj"]["count"] == 3 * 3
    assert times["layers.attention.q_proj"]["flops"] == 3 * 3 * 2 * 48 * 48
    kept = {path.suffix for path in run.path.iterdir()}
    assert kept == {".json", ".parquet", ".nsys-rep"}


@pytest.mark.slow
def test_a_real_nsys_refuses_rubbish(nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{nsys}:{os.environ['PATH']}")
    report = tmp_path / "x.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report 1.\n" + b"\x00\x07" * 500)
    with pytest.raises(InputError, match="nsys export failed"):
        export(report, tmp_path / "x.sqlite")


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("nsys", "--nsys needs nsys, which is not on PATH"),
        ("ncu", "and the model would run on cpu; use CUDA"),  # where ncu, if it were there, counts nothing
    ],
)
def test_a_tool_that_is_missing_or_useless_is_said_before_anything_runs(
    tool: str,
    said: str,
    config: Path,
    roofline: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    done = roofline("profile", config, "-o", tmp_path / "run", *SIZES, f"--{tool}")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_counting_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/ncu")
    with pytest.raises(InputError, match="the model would run on cpu"):
        nsight.installed(["ncu"], "cpu")
    nsight.installed(["ncu", "nsys"], "cuda:0")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="--ncu needs ncu, which is not on PATH"):
        nsight.installed(["ncu"], "cuda:0")


@pytest.fixture
def ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a script stand in for ncu."""

    def make(script: str) -> None:
        (tmp_path / "ncu").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ncu").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


DENIED = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'ERR_NVGPUCTRPERM: no permission' >&2; exit 1", "wrote no report: ERR_NVGPUCTRPERM"),
        # on stdout, where no counters may be read, while the program warns on stderr
        (f"echo '{DENIED}'; echo done; echo a warning >&2", rf"wrote no report: {DENIED}\.$"),
        (
            "echo '==ERROR== It returned an error code (2).'; echo 'roofline: no room.' >&2; exit 2",
            r"error code \(2\)\. roofline: no room\.$",
        ),
        (': > "${0%/*}/report.ncu-rep"', "counted no kernel: its report is empty"),
        (
            'if [ "$1" = --import ]; then echo "==ERROR== Failed to load." >&2; exit 1; fi; '
            ': > "${0%/*}/report.ncu-rep"',
            r"^ncu cannot read its own report: ==ERROR== Failed to load\.$",
        ),
    ],
)
def test_why_there_are_no_counters_is_passed_on(
    script: str, said: str, tmp_path: Path, ncu: Callable[[str], None]
) -> None:
    ncu(script)
    with pytest.raises(InputError, match=said):
        nsight._ncu(["true"], tmp_path)


def test_pages_of_ncu_come_from_its_own_export(tmp_path: Path, ncu: Callable[[str], None]) -> None:
    """A stand-in that answers the two calls of ncu that are made, with the options they need."""
    ncu(
        'case "$*" in\n'
        '*"--import"*"--csv --page raw"*) echo \'"ID","Kernel Name","gpu__time_duration.sum"\' ;;\n'
        '*"--set roofline --clock-control none --profile-from-start off"*"-o "*)'
        ' : > "${0%/*}/report.ncu-rep" ;;\n'
        "*) exit 9 ;;\nesac"
    )
    page, said = nsight._ncu(["true"], tmp_path)
    assert page.read_text().startswith('"ID","Kernel Name"')
    assert said == ""


LISTED = """Chip gh100
------------------------------------- --------------- --------------- -----------------------------------
Metric Name                           Metric Type     Metric Unit     Metric Description
------------------------------------- --------------- --------------- -----------------------------------
dram__bytes                           Counter         byte            # of bytes accessed in DRAM
dram__bytes_read                      Counter         byte            # of bytes read from DRAM
lts__t_bytes                          Counter         byte            # of bytes requested
lts__t_bytes_equiv_l1sectormiss       Counter         byte            # of bytes requested for L1 misses
sm__ops_path_tensor_op_hgmma_src_fp8  Counter                         # of math ops executed by HGMMA
sm__ops_path_tensor_src_bf16_dst_fp32 Counter                         # of math ops executed in Tensor path
sm__ops_path_tensor_src_fp8           Counter                         # of math ops executed in Tensor path
sm__ops_path_tensor_src_fp8_sparsity_on Counter                       # of math ops executed in Tensor path
"""


def test_totals_that_a_set_lacks_are_counted_where_ncu_lists_them(
    tmp_path: Path, ncu: Callable[[str], None]
) -> None:
    """ncu 2024.1's list of an H100, shortened: nothing that is part of another total is counted as well."""
    (tmp_path / "listed").write_text(LISTED)
    ncu(
        'case "$*" in\n'
        f'"--query-metrics") cat {tmp_path}/listed ;;\n'
        '*"--import"*) echo \'"ID","Kernel Name","gpu__time_duration.sum"\' ;;\n'
        f'*) echo "$*" > {tmp_path}/said; : > "${{0%/*}}/report.ncu-rep" ;;\nesac'
    )
    nsight._ncu(["true"], tmp_path)
    said = (tmp_path / "said").read_text().split()
    assert said[said.index("--metrics") + 1].split(",") == [
        *("dram__bytes.sum", "dram__bytes_read.sum", "lts__t_bytes.sum"),
        *("sm__ops_path_tensor_src_bf16_dst_fp32.sum", "sm__ops_path_tensor_src_fp8.sum"),
    ]
    assert said[-1] == "true"


def test_a_report_of_a_program_that_failed_in_the_end_is_read(
    tmp_path: Path, ncu: Callable[[str], None]
) -> None:
    ncu(
        'case "$*" in\n'
        '*"--import"*) echo \'"ID","Kernel Name","gpu__time_duration.sum"\' ;;\n'
        '*) : > "${0%/*}/report.ncu-rep"\n'
        "echo '==ERROR== It returned an error code (11).'; exit 11 ;;\nesac"
    )
    page, said = nsight._ncu(["true"], tmp_path)
    assert page.exists()
    assert said.startswith("ncu failed, its report is read")
    assert said.endswith("error code (11).")


def test_a_tool_that_takes_too_long_is_interrupted_and_its_report_read(
    tmp_path: Path, ncu: Callable[[str], None]
) -> None:
    """Counters of some kernels are worth more than none."""
    ncu(
        'case "$*" in\n'
        '*"--import"*) echo \'"ID","Kernel Name","gpu__time_duration.sum"\' ;;\n'
        '*"-o "*) trap \': > "${0%/*}/report.ncu-rep"; exit 1\' INT\n'
        "while :; do sleep 0.05; done ;;\nesac"
    )
    page, said = nsight._ncu(["true"], tmp_path, seconds=5)  # a shell needs some of it to begin
    assert page.exists()
    assert said.startswith("ncu failed, its report is read")
    assert "it had to be interrupted" in said


def test_a_tool_that_is_not_let_keeps_what_the_other_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters need a permission that containers lack; ranges and kernels do not."""
    heads: list[dict[str, Any]] = []
    head = SimpleNamespace(notes=["before"])
    run: Any = SimpleNamespace(path=tmp_path / "run", head=head, write_head=lambda **new: heads.append(new))
    imported: list[list[str]] = []

    def count(*_: Any) -> Path:
        raise InputError("ncu wrote no report: ==ERROR== ERR_NVGPUCTRPERM.")

    monkeypatch.setattr(nsight, "_nsys", lambda *_: (tmp_path / "report.sqlite", ""))
    monkeypatch.setattr(nsight, "_ncu", count)
    monkeypatch.setattr(nsight, "_imported", lambda files, *_: imported.append(list(files)) or ["seen"])
    loaded: Any = None
    with pytest.raises(InputError, match=r"ERR_NVGPUCTRPERM\. What else was measured is in .*run\.$"):
        nsight.record(["nsys", "ncu"], [], run, loaded, "cpu", [], lambda _: None)
    assert imported == [["nsys"]]
    assert heads == [{"notes": ["before", "seen", "ncu wrote no report: ==ERROR== ERR_NVGPUCTRPERM."]}]


@pytest.mark.parametrize(
    ("program", "patience_s", "kept"),
    [("echo program >> written; exit", None, "program\nreport\n"), ("", 0, "")],
)
def test_an_interrupt_of_the_command_alone_ends_the_program_under_the_tool(
    program: str, patience_s: float | None, kept: str, tmp_path: Path
) -> None:
    """Both write what they have when they are interrupted; a program that goes on is ended."""
    running, written, wanted = (tmp_path / name for name in ("running", "written", "wanted"))
    os.mkfifo(running)
    written.touch()
    wanted.touch()
    (tmp_path / "program.sh").write_text(  # it holds the pipe open while it runs
        f"trap '{program}' INT; exec 3>running; echo runs >&3\n"
        "while [ -e wanted ]; do sleep 0.1; done; echo survived >&3\n"
    )
    tool = f"cd {tmp_path}; trap 'echo report >> written' INT; sh program.sh"
    code = (  # a background job of a shell is born with interrupts ignored, and so are its children
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from profiler import nsight; nsight.ENDING_S = {patience_s}; nsight._run(['sh', '-c', {tool!r}])"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(nsight.__file__).parents[1], stderr=subprocess.DEVNULL
    )
    with running.open() as said:
        try:
            assert said.readline() == "runs\n"
            command.send_signal(signal.SIGINT)
            assert command.wait() == -signal.SIGINT
        finally:
            wanted.unlink()
        assert said.read() == ""
    assert written.read_text() == kept


def test_an_interrupt_keeps_what_the_tool_before_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[dict[str, Any]] = []
    head = SimpleNamespace(notes=[])
    run: Any = SimpleNamespace(path=tmp_path / "run", head=head, write_head=lambda **new: heads.append(new))

    def press(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(nsight, "_nsys", lambda *_: (tmp_path / "report.sqlite", ""))
    monkeypatch.setattr(nsight, "_ncu", press)
    monkeypatch.setattr(nsight, "_imported", lambda *_: ["seen"])
    loaded: Any = None
    with pytest.raises(KeyboardInterrupt):
        nsight.record(["nsys", "ncu"], [], run, loaded, "cpu", [], lambda _: None)
    assert heads == [{"notes": ["seen", "ncu was interrupted."]}]


def test_memory_is_given_back_before_a_tool_loads_the_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: given.append("all"))
    nsight._release("cpu")
    nsight._release("cuda:0")
    assert given == ["all"]
