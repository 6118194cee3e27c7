"""Everything that is worth measuring on a GPU, step by step, also on a machine without internet.

    python benchmarks/gpu.py run                        # where the project is installed: everything
    python benchmarks/gpu.py missing                    # on the GPU's machine: which packages it lacks
    python benchmarks/gpu.py pack NAME.. --python 3.12  # where there is internet: wheels, into gpu-wheels/
    python benchmarks/gpu.py run --seconds 560          # on the GPU's machine: installs wheels, measures
    python benchmarks/gpu.py home --device NAME         # where results were brought: what needs no GPU

Each step leaves RESULTS/STEP.tar.gz before the next begins: what it wrote, and what it said. `run` leaves out
steps whose results are there, so that calls can follow each other on machines that keep nothing but RESULTS;
a campaign goes on where it ended. `--brief` does a little of everything, to find out what fails: under 600 s.
A step that is stopped from outside (SIGTERM) packs what it has; each command of one is packed when it ends.
Nothing but Python is needed to start this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (  # by name on PyPI; the module that it installs, where that has another name
    *((name, "") for name in ("torch", "transformers", "accelerate", "numpy", "pandas", "pyarrow", "scipy")),
    *((name, "") for name in ("matplotlib", "click", "rich", "jinja2", "psutil", "msgspec", "isal", "nvtx")),
    *((name, "") for name in ("adbc-driver-manager", "adbc-driver-sqlite", "pytest", "hypothesis")),
    ("scikit-learn", "sklearn"),
    ("PyYAML", "yaml"),
    ("nvidia-ml-py", "pynvml"),
)
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28)] + ["manylinux2014_x86_64"]
UNMATCHED = 5  # pytest found no test that was asked for
TRIES, REFUSED = 4, 2  # of a command that ends with this code: the device was lost, or an input is wrong
GRACE_S = 20.0  # to end in order, and to pack what there is
WITH = (  # a kernel that faults takes the device from what follows: those that few use come late
    *("cuda-graphs", "flash-attention", "gqa:kv_heads=2", "prefix-caching:hit=0.75", "layer-pruning"),
    *("window-attention:window=128", "speculative:k=4", "weight-offloading", "kv-offloading"),
    *("fp8", "weight-only:format=int4_g128", "2:4", "torch-compile"),  # the last is among the modes, too
)
MOST_PACKED = 15_000_000  # bytes of an archive's files, which is to stay small enough to be carried
COUNTED, COUNTED_LAYERS = "llama-3.2-1b", 2  # a kernel runs again for each group of counters: some 20 times
ON_CPU = ("ceilings", "model", "campaign")  # to try this file on a machine without a GPU
# Of a campaign, in hwspecs/measured/DEVICE.
SHIPPED = ("campaign.json", "operators.parquet", "device.yaml", "calibration.json")


@dataclass(frozen=True)
class Step:
    """Commands of `python -m`, which write into `folder` below that of the results."""

    name: str
    folder: str
    least_s: float  # less time than this is not worth a beginning
    most_s: float
    brief_s: float
    commands: tuple[str, ...]
    brief: tuple[str, ...]  # a little of the same
    resumed: bool = False  # goes on with what an earlier call left
    gpus: int = 1  # that it needs
    each_s: float = float("inf")  # of a command: one that hangs leaves the others their time


def steps(device: str) -> list[Step]:
    """In order of value."""
    file, on, profile = "{out}/campaign/device.yaml", f"--device {device}", "profiler profile"
    asked, few = f"{on} --hw {file}", "--prompt 256 --output 8 --repeats 3"
    whole, gains = "--prompt 2048 --output 256", " ".join(f"--with {name}" for name in WITH)
    modes, counted = ("graph", "compile"), f"{{out}}/models/{COUNTED}"
    shared = "torch.distributed.run --nproc-per-node 2 -m profiler profile"
    test = "pytest -p no:cacheprovider -q -rfEs --durations=3"
    found = [
        Step(
            *("ceilings", "campaign", 60, 300, 100),
            (f"profiler ceilings {on} --passes 5 --budget 150s -o {file}",),
            (f"profiler ceilings {on} --passes 1 -o {file}",),
        ),
        Step(
            *("model", "model", 60, 300, 90),
            (f"{profile} Llama-3.2-3B {asked} {whole} -o {{out}}/model/eager",),
            (f"{profile} SmolLM2-135M {asked} {few} -o {{out}}/model/eager",),
        ),
        Step(
            *("campaign", "campaign", 60, 480, 75),
            (f"profiler campaign {on} --no-models --budget {{left}}s -o {{out}}/campaign",),
            (f"profiler campaign {on} --no-models --budget {{brief}}s -o {{out}}/campaign",),
            resumed=True,
        ),
        Step(
            *("counters", "counters", 90, 300, 150),
            (
                f"{profile} {counted} {asked} --ncu --no-alone --repeats 4 --prompt 1024 --output 2 "
                "--budget 200s -o {out}/counters/run",
            ),
            (
                f"{profile} {counted} {asked} --ncu --no-alone --repeats 3 --phase prefill --prompt 1024 "
                "--budget 60s -o {out}/counters/run",
            ),
        ),
        Step(  # a process for each file: an illegal access takes the device from all that follows in its own
            *("tests", "tests", 120, 580, 180),
            tuple(f"{test} -m gpu {where}" for where in gpu_tests()),
            tuple(f"{test} -m 'gpu and not slow' {where}" for where in gpu_tests(slow_too=False)),
            each_s=200,
        ),
        Step(
            *("modes", "modes", 90, 360, 90),
            tuple(
                f"{profile} Llama-3.2-3B {asked} {whole} --no-alone --mode {mode} -o {{out}}/modes/{mode}"
                for mode in modes
            ),
            tuple(
                f"{profile} SmolLM2-135M {asked} {few} --no-alone --mode {mode} -o {{out}}/modes/{mode}"
                for mode in modes
            ),
        ),
        Step(
            *("techniques", "techniques", 90, 480, 60),
            (
                f"{profile} Llama-3.2-3B {asked} --prompt 2048 --output 2 --no-alone {gains} "
                "-o {out}/techniques/run",
            ),
            (f"{profile} Llama-3.2-3B {asked} {few} --no-alone {gains} -o {{out}}/techniques/run",),
        ),
        Step(
            *("ranks", "ranks", 90, 300, 60),
            (f"{shared} Llama-3.2-1B {asked} --tp 2 {whole} --no-alone -o {{out}}/ranks/run",),
            (f"{shared} Llama-3.2-1B {asked} --tp 2 {few} --no-alone -o {{out}}/ranks/run",),
            gpus=2,
        ),
    ]
    return found if device != "cpu" else [step for step in found if step.name in ON_CPU]


def gpu_tests(slow_too: bool = True) -> list[str]:
    """Files with tests that need a GPU, those of what a profile must keep first."""
    marked = re.compile(r"mark\.gpu" if slow_too else r"mark\.gpu(?!\W+pytest\.mark\.slow)")
    files = sorted((ROOT / "tests" / "profiler").rglob("test_*.py"))
    found = [file for file in files if marked.search(file.read_text(encoding="utf-8"))]
    found.sort(key=lambda file: file.stem not in ("test_on_gpu", "test_counted", "test_kernels"))
    return [file.relative_to(ROOT).as_posix() for file in found]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("missing", help="print which packages this Python lacks")
    pack = verbs.add_parser("pack", help="download wheels for a machine without internet")
    pack.add_argument("names", nargs="+", help="as `missing` printed them")
    pack.add_argument("--python", required=True, help="the other machine's version, as 3.12")
    pack.add_argument("--wheels", type=Path, default=ROOT / "gpu-wheels")
    run = verbs.add_parser("run", help="measure; needs a GPU")
    run.add_argument("names", nargs="*", help="steps, in this order; all of them where none is named")
    run.add_argument(
        "--wheels", type=Path, default=ROOT / "gpu-wheels", help="installed first, where it is there"
    )
    run.add_argument(
        "--results", type=Path, default=ROOT / "demo" / "gpu", help="of this call and of earlier ones"
    )
    run.add_argument("--also", type=Path, help="a second folder for the results of this call alone")
    run.add_argument("--seconds", type=float, default=float("inf"), help="end before that")
    run.add_argument("--brief", action="store_true", help="a little of everything")
    run.add_argument("--device", default="cuda")
    home = verbs.add_parser("home", help="calibrate, validate and report from results")
    home.add_argument("--results", type=Path, default=ROOT / "demo" / "gpu")
    home.add_argument("--device", help="any name of it; its measurements then go to hwspecs/measured")
    asked = parser.parse_args()
    for name, given in vars(asked).items():
        if isinstance(given, Path):
            setattr(asked, name, given.resolve())  # as meant where the command was given
    os.chdir(ROOT)
    if asked.verb == "missing":
        print(*missing())
        return 0
    if asked.verb == "pack":
        return packed(asked.names, asked.python, asked.wheels)
    if asked.verb == "home":
        return at_home(asked.results, asked.device)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt: what there is is packed
    try:
        return measured(asked)
    except KeyboardInterrupt:
        print(f"stopped; what was measured is in {asked.results}")
        return 130


def missing() -> list[str]:
    """The packages that this Python does not find."""
    return [
        name for name, module in NEEDED if importlib.util.find_spec(module or name.replace("-", "_")) is None
    ]


def packed(names: list[str], python: str, wheels: Path) -> int:
    """Download a wheel of each, at the version that the project is tested with, without what it needs."""
    known = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted = [f"{name}=={known[name]}" if name in known else name for name in names]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = f"pip download --no-deps --only-binary=:all: --implementation cp --python-version {python}"
    return subprocess.call([sys.executable, "-m", *command.split(), *platforms, "-d", str(wheels), *wanted])


def measured(asked: argparse.Namespace) -> int:
    """Run the steps that have no results, as long as there is time; 1 where one failed."""
    begin, known = time.monotonic(), steps(asked.device)
    if strangers := set(asked.names) - {step.name for step in known}:
        print(f"no steps named {', '.join(sorted(strangers))}; known: {', '.join(s.name for s in known)}.")
        return 2
    asked.results.mkdir(parents=True, exist_ok=True)
    environment = installed(asked.wheels, asked.results)
    if lacking := missing():
        print(f"this Python lacks {', '.join(lacking)}; their wheels belong in {asked.wheels}.")
        return 2
    for archive in sorted(asked.results.glob("*.tar.gz")):
        unpacked(archive, asked.results)
    shortened(asked.results / "models" / COUNTED)
    failed = []
    for step in order(known, asked.names, asked.results):
        left = min(
            step.brief_s if asked.brief else step.most_s, asked.seconds - (time.monotonic() - begin) - GRACE_S
        )
        if left < (20 if asked.brief else step.least_s):
            print(f"{step.name}: no time left")
        elif step.gpus > 1 and gpus() < step.gpus:
            print(f"{step.name}: needs {step.gpus} GPUs")
        elif one(step, asked, left, environment):
            failed.append(step.name)
    print(f"failed: {', '.join(failed)}" if failed else "nothing that was run failed")
    return 1 if failed else 0


def shortened(folder: Path) -> None:
    """The config of the model whose kernels are counted, with few layers."""
    fields = json.loads((ROOT / "workloads" / "models" / f"{COUNTED}.json").read_text())["config"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": COUNTED_LAYERS}))


def order(known: list[Step], names: list[str], results: Path) -> list[Step]:
    """What was never tried, then what failed, then what goes on with its results."""
    chosen = [step for step in known if step.name in names or not names]
    fresh = [step for step in chosen if not (results / f"{step.name}.done").exists()]
    fresh.sort(key=lambda step: (results / f"{step.name}.txt").exists())
    return fresh + [step for step in chosen if step not in fresh and (step.resumed or names)]


def gpus() -> int:
    """How many torch sees; asked in a process of its own, so that this one holds none."""
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def one(step: Step, asked: argparse.Namespace, left: float, environment: dict[str, str]) -> int:
    """Run a step's commands, keep what they say, and pack all of it, after each of them."""
    said, done = (asked.results / f"{step.name}{ending}" for ending in (".txt", ".done"))
    folder, begin, codes = asked.results / step.folder, time.monotonic(), []
    if step.folder == step.name and not step.resumed:
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier try left
    done.unlink(missing_ok=True)
    said.unlink(missing_ok=True)
    print(f"{step.name} ...", flush=True)
    for command in step.brief if asked.brief else step.commands:
        try:
            codes.append(tried(step, command, asked.results, begin + left, environment))
        finally:
            archive = kept(asked, step, [said, done, *folder.rglob("*")])
    code = next(filter(None, codes), 0)
    if code == 0:
        done.touch()
        archive = kept(asked, step, [said, done, *folder.rglob("*")])
    last = said.read_text(errors="replace").splitlines()[-(8 if code == 0 else 30) :]
    print(*(f"  {line[:200]}" for line in last), sep="\n")
    spent, size = time.monotonic() - begin, archive.stat().st_size
    print(f"{step.name}: ended with {code} after {spent:.0f} s, {size / 1e6:.1f} MB", flush=True)
    return code


def tried(step: Step, command: str, results: Path, end: float, environment: dict[str, str]) -> int:
    """The exit code of one command, begun again where a campaign lost the device."""
    ended = 0
    with (results / f"{step.name}.txt").open("a") as log:
        # A campaign's commands go on without what the device was lost in.
        for _ in range(TRIES if step.folder == "campaign" else 1):
            remaining = end - time.monotonic()
            budget = max(1, int(remaining) - 15)
            words = command.format(out=results, left=budget, brief=min(30, budget))
            if not (results / "campaign" / "device.yaml").exists():
                words = words.replace(f"--hw {results}/campaign/device.yaml", "")
            log.write(f"$ python -m {words}\n")
            if remaining <= 0:
                log.write("no time left\n")
                return 1
            log.flush()
            ended = bounded(words, min(remaining, step.each_s), log, environment)
            log.write(f"ended with {ended}\n")
            if ended != REFUSED or remaining < step.least_s:
                break
    return 0 if ended == UNMATCHED and command.startswith("pytest") else ended


def kept(asked: argparse.Namespace, step: Step, paths: Iterable[Path]) -> Path:
    """The archive of a step, also in the second folder; whole, whenever this is ended."""
    archive = asked.results / f"{step.name}.tar.gz"
    packed_up(archive.with_suffix(".part"), asked.results, paths)
    archive.with_suffix(".part").replace(archive)
    if asked.also:
        asked.also.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive, asked.also / "part")
        (asked.also / "part").replace(asked.also / archive.name)
    return archive


def packed_up(archive: Path, results: Path, paths: Iterable[Path]) -> None:
    """An archive of the files, smallest first: what does not fit, as a tool's report, is named and left."""
    spent = 0
    with tarfile.open(archive, "w:gz", compresslevel=3) as pack:
        for path in sorted(filter(Path.is_file, paths), key=lambda path: path.stat().st_size):
            name, size = path.relative_to(results).as_posix(), path.stat().st_size
            if spent + size > MOST_PACKED:
                print(f"  {name} of {size / 1e6:.0f} MB stays behind")
                continue
            pack.add(path, arcname=name)
            spent += size


def bounded(words: str, seconds: float, log: object, environment: dict[str, str]) -> int:
    """The exit code of a command, interrupted when its time is over, and killed where that is no help."""
    # Background jobs of a shell ignore interrupts, and so do their children unless this is set again.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(words)],
        stdin=subprocess.DEVNULL,
        stdout=log,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    stopped = False
    try:
        for how, wait in ((signal.SIGINT, seconds), (signal.SIGTERM, 0.6 * GRACE_S), (signal.SIGKILL, 2.0)):
            try:
                return process.wait(None if wait == float("inf") else max(1.0, wait))
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                stopped = True
            os.killpg(process.pid, how)
        return process.wait()
    finally:
        end_rest(process.pid)
        if stopped:
            raise KeyboardInterrupt


def end_rest(session: int) -> None:
    """Kill what a command left on the device: a tool that it started in a group of its own, as ncu."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), signal.SIGKILL)


def installed(wheels: Path, results: Path) -> dict[str, str]:
    """The environment of the commands, in which the wheels that are missing here are installed.

    Into a folder of their own: the machine's packages stay as they are, and a new environment would not see
    those of an environment that this Python itself belongs to.
    """
    site = (results / "site").resolve()
    there = [] if site.is_dir() else sorted(wheels.glob("*.whl"))
    if lacking := [str(wheel) for wheel in there if not _present(wheel)]:
        command = "pip install -q --no-index --no-deps --target"
        subprocess.run([sys.executable, "-m", *command.split(), str(site), *lacking], check=True)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    path = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}


def _present(wheel: Path) -> bool:
    """Whether a distribution of a wheel's name is installed, in whatever version."""
    try:
        metadata.distribution(wheel.name.partition("-")[0])
    except metadata.PackageNotFoundError:
        return False
    return True


def unpacked(archive: Path, into: Path) -> None:
    """Results of an earlier call, unless they still lie here."""
    name = archive.name.removesuffix(".tar.gz")
    if (into / f"{name}.txt").exists() or not tarfile.is_tarfile(archive):
        return
    try:
        with tarfile.open(archive) as pack:
            pack.extractall(into, filter="data")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:  # as where it was carried in part
        print(f"{archive} is not whole ({error}); what lies before its break is used")


def at_home(results: Path, device: str | None) -> int:
    """Fit, validate and draw what was measured; then put the campaign where the project keeps it."""
    for archive in sorted(results.glob("*.tar.gz")):
        unpacked(archive, results)
    file, campaign = results / "campaign" / "device.yaml", results / "campaign"
    shelf = shelf_of(device, campaign) if device else None
    if isinstance(shelf, str):
        print(shelf)
        return 2
    runs = [path.parent for path in sorted(results.glob("*/*/run.json"))]
    commands = [f"calibrate {campaign}"] if (campaign / "campaign.json").exists() else []
    commands += [f"validate {run} --hw {file}" for run in runs if file.exists()]
    commands += [f"report {' '.join(map(str, runs))} -o {results / 'report.html'}"] if runs else []
    if not commands:
        print(f"{results} holds no campaign and no run; `run` makes them.")
        return 2
    failed = 0
    for command in commands:
        print(f"$ roofline {command}", flush=True)
        failed |= subprocess.call([sys.executable, "-m", "profiler", *command.split()]) != 0
    if shelf:
        lacking = [name for name in SHIPPED if not (campaign / name).exists()]
        if lacking:
            print(f"{shelf} is not made: there is no {', '.join(lacking)} in {campaign}")
            return 1
        shelf.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            shutil.copy(campaign / name, shelf / name)
        print(f"{shelf} is made; tests/hwspecs/test_measured.py says whether it may stay")
    return failed


def shelf_of(device: str, campaign: Path) -> Path | str:
    """The folder of a device's measurements, by the name in its file; or why a campaign is not for it."""
    sys.path.insert(0, str(ROOT))
    from hwspecs import load_device
    from hwspecs.measured import FOLDER
    from profiler.campaign.folder import open_campaign
    from specfiles.errors import InputError

    try:
        name, on = load_device(device).name, open_campaign(campaign).device
    except InputError as error:
        return str(error)
    try:
        measured_on = load_device(on).name
    except InputError:  # as of a CPU
        return f"{campaign} was measured on {on}, which no device file describes, not on {name}."
    if name != measured_on:
        return f"{campaign} was measured on {measured_on}, not on {name}; name that one."
    return FOLDER / name


if __name__ == "__main__":
    sys.exit(main())
