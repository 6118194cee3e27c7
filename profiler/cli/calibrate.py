"""`roofline calibrate`: fit the kernel models to measured times."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import FILE, hardware, progress


@click.command("calibrate")
@click.argument("measurements", type=FILE, nargs=-1, required=True)
@hardware
@click.option(
    "-o",
    "--output-file",
    "out",
    type=FILE,
    required=True,
    help="Device file (.yaml) with the constants in it, or the calibration alone (.json).",
)
@click.option("--source", help="Where the measurements come from; stands in the file.")
def command(measurements: tuple[Path, ...], hw: str, out: Path, source: str | None) -> None:
    """Fit constants per operator kind, format, backend and kernel; prints the error on held-out shapes.

    MEASUREMENTS are CSV or Parquet tables with the columns of `roofline ops` and latency_us; rows of other
    devices (column gpu) are left out.
    """
    import importlib.util

    from hwspecs import load_device
    from profiler.tables import read_table
    from reports.calibration import as_file, as_text
    from roofline.physics.calibration import calibrate
    from specfiles.errors import InputError
    from specfiles.writing import check_writable, write_text

    if importlib.util.find_spec("scipy") is None:
        raise InputError(
            "fitting needs scipy, which is not installed; pip install 'llm-roofline[calibrate]'."
        )
    if out.suffix not in (".json", ".yaml", ".yml"):
        raise InputError(f"{out}: unknown ending {out.suffix!r}; expected .yaml or .json.")
    device, fitted = load_device(hw), []
    check_writable(out)
    for path in measurements:
        told = source or f"{path.name}, {device.name}"
        fitted += calibrate(read_table(path), device, told, progress)
    write_text(
        out, as_file(device, fitted, source or ", ".join(path.name for path in measurements), out.suffix)
    )
    print(as_text(fitted), end="")
    print(f"{len(fitted)} sets of constants written to {out}", file=sys.stderr)
