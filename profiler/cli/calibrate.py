"""`roofline calibrate`: fit the kernel models to measured times."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiler.cli.options import FILE, MEASUREMENTS, progress
from specfiles.errors import InputError

if TYPE_CHECKING:
    from hwspecs import Calibration, Device
    from profiler.campaign.folder import Head


@click.command("calibrate", epilog="Example: roofline calibrate measured.csv --hw a100 -o my-a100.yaml")
@click.argument("measurements", type=MEASUREMENTS, nargs=-1, required=True)
@click.option("--hw", help="Device name, alias or YAML file; by default a campaign's own.")
@click.option(
    "-o",
    "--output-file",
    "out",
    type=FILE,
    help="Device file (.yaml) with the constants in it, or the calibration alone (.json) "
    "[default: calibration.json in the campaign's folder].",
)
@click.option(
    "--only", "kinds", multiple=True, metavar="KIND", help="Fit rows of this operator kind; repeatable."
)
@click.option("--update", is_flag=True, help="Keep the other kinds' constants of the output file.")
@click.option("--source", help="Where the measurements come from; written to the file.")
def command(
    measurements: tuple[Path, ...],
    hw: str | None,
    out: Path | None,
    kinds: tuple[str, ...],
    update: bool,
    source: str | None,
) -> None:
    """Fit constants per operator kind, format, backend and kernel; prints the error on held-out shapes.

    MEASUREMENTS are CSV or Parquet tables with the columns of `roofline ops` and latency_us; rows of other
    devices (column gpu) are left out. The folder of a campaign is also accepted.
    """
    import importlib.util

    from hwspecs import load_device
    from profiler.campaign.folder import CALIBRATION, OPERATORS, open_campaign
    from reports.calibration import as_file, as_text
    from reports.wording import counted
    from roofline.physics.calibration import calibrate, calibration
    from roofline.tablefiles import read_table
    from roofline.tablenames import tidied
    from specfiles.writing import check_writable, write_text

    if importlib.util.find_spec("scipy") is None:
        raise InputError(
            "fitting needs scipy, which is not installed; "
            "pip install '.[calibrate]' in llm-roofline's folder."
        )
    campaigns = {path: open_campaign(path) for path in measurements if path.is_dir()}
    if campaigns:
        folder, head = next(iter(campaigns.items()))
        hw, out = hw or _own_device(folder, head), out or folder / CALIBRATION
    if hw is None or out is None:
        raise InputError(
            f"a table does not say its {'device' if hw is None else 'output'}: add "
            f"{'--hw NAME' if hw is None else '-o FILE.json'}, or give the folder of a campaign."
        )
    if out.suffix not in (".json", ".yaml", ".yml"):
        raise InputError(f"{out}: unknown ending {out.suffix!r}; expected .yaml or .json.")
    device, fitted = load_device(hw), []
    kept = _kept(out, device, update)
    check_writable(out)
    for path in measurements:
        known = campaigns.get(path)
        told = source or (known.source if known else f"{path.name}, {device.name}")
        table = tidied(read_table(path / OPERATORS if known else path))
        fitted += calibrate(table, device, told, progress, kinds)
    found = calibration((entry.kernel for entry in fitted), kept)
    write_text(out, as_file(device, found, out.suffix))
    print(as_text(fitted), end="")
    print(f"{counted(len(fitted), 'set')} of constants written to {out}", file=sys.stderr)


def _own_device(folder: Path, head: Head) -> str:
    """The shipped device with the campaign's name, else the device file that the campaign measured.

    Raises InputError for a CPU, which has no kernel models.
    """
    from hwspecs import load_device
    from profiler.campaign.folder import DEVICE

    if "gpu" not in head.environment:
        raise InputError(
            f"{folder} is the campaign of a CPU, and kernel models are for GPUs only; constants of a CPU's "
            f"operators are fitted with its ceilings: {folder / DEVICE} has them."
        )
    try:
        return load_device(head.device).name
    except InputError:
        if not (folder / DEVICE).exists():
            raise
        return str(folder / DEVICE)


def _kept(out: Path, device: Device, update: bool) -> Calibration | None:
    """The kept part of an earlier record: the machine's operators, and with `update` the file's kernels."""
    if not update:
        own = device.calibration if out.suffix != ".json" else None
        return own.replace(kernels=[]) if own else None
    name, kept = _stands_in(out)
    if name != device.name:
        raise InputError(f"{out} holds constants of {name}, not of {device.name}; name another output file.")
    return kept


def _stands_in(path: Path) -> tuple[str, Calibration | None]:
    """The device name and calibration of a file of either form."""
    from hwspecs import load_device
    from hwspecs.calibrations import read_shipped

    if path.suffix == ".json":
        found = read_shipped(path)
        return found.device, found.calibration
    device = load_device(str(path))
    return device.name, device.calibration
