"""Find the calibration of a device: in its own file, else the one that is shipped for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hwspecs.measured import measured_file
from hwspecs.schema import Calibration, Device, Kernel, Shipped
from specfiles.errors import plain
from specfiles.strict import read_record

if TYPE_CHECKING:
    from hwspecs.correctors import Corrector

FOLDER = Path(__file__).parent / "calibrations"
MOST_BYTES = 40_000_000


def kernels_of(device: Device) -> tuple[Kernel, ...]:
    """The fitted kernels: of the device's own file, of its shipped campaign, of the tables of others.

    Of one kernel in one format, the first of these alone.
    """
    own = device.calibration.kernels if device.calibration else []
    files = (measured_file(device.name, "calibration.json"), shipped_calibrations().get(plain(device.name)))
    found = (*own, *(kernel for file in files if file for kernel in read_calibration(file).kernels))
    first: dict[tuple[str, ...], Kernel] = {}
    for kernel in found:
        first.setdefault(cell_of(kernel), kernel)
    return tuple(first.values())


def cell_of(record: Kernel | Corrector) -> tuple[str, ...]:
    """What a table calls the rows that a record is of: op, dtype, kv_dtype, backend, kernel."""
    return record.op, record.dtype, record.kv_dtype, record.backend, record.kernel


def shipped_calibrations() -> dict[str, Path]:
    """The shipped files by plain device name, which is the name of the file."""
    return {plain(path.stem): path for path in sorted(FOLDER.glob("*.json"))}


def measured_backends() -> tuple[str, ...]:
    """The libraries whose kernels some shipped calibration knows."""
    kernels = (k for path in shipped_calibrations().values() for k in read_calibration(path).kernels)
    return tuple(sorted({kernel.backend for kernel in kernels} - {""}))


@cache
def read_calibration(path: Path) -> Calibration:
    """What a calibration file holds; raises InputError where it breaks the schema."""
    return read_shipped(path).calibration


def read_shipped(path: Path) -> Shipped:
    """A calibration file with the name of its device; raises InputError where it breaks the schema."""
    return read_record(Shipped, path, most_bytes=MOST_BYTES)
