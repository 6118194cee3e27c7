"""`.nsys-rep`, the binary report of Nsight Systems, exported by `nsys`, which alone can read it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from profiler.traces import nsys
from profiler.traces.tables import Trace
from specfiles.errors import InputError

MAGIC = b"NVIDIA Tegra Profiler Report"


def read(path: Path, *, brief: bool = False) -> Trace:
    """A report, exported by the installed `nsys` into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="roofline-") as folder:
        exported = Path(folder) / f"{path.stem}.sqlite"
        export(path, exported)
        return nsys.read(exported, brief=brief)


def export(report: Path, to: Path) -> None:
    """Run `nsys export`; an InputError where there is no `nsys` or it cannot read the report."""
    program = shutil.which("nsys")
    if program is None:
        raise InputError(
            f"{report}: only nsys can read a .nsys-rep, and it is not installed (not on PATH); run "
            f"`nsys export --type sqlite {report.name}` where it is, and import the .sqlite file."
        )
    command = [program, "export", "--type=sqlite", "--force-overwrite=true", f"--output={to}", str(report)]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if ended.returncode or not to.exists():
        said = " ".join((ended.stderr or ended.stdout).split())[-300:]
        raise InputError(
            f"{report}: nsys export failed ({said or ended.returncode}); a newer report needs a newer nsys."
        )
