"""What campaigns measured on real devices: a folder of results per device, shipped with the project.

`measured/NAME/` is the result of `roofline campaign` and `roofline calibrate` on the device NAME: its
ceilings (`device.yaml`) stand in the device's measured section, its constants (`calibration.json`) come
before those that were fitted to other teams' tables.
"""

from __future__ import annotations

from pathlib import Path

from hwspecs.schema import Device, Measured
from hwspecs.values import walk
from specfiles.errors import InputError
from specfiles.reading import exists, read_yaml
from specfiles.strict import validated

FOLDER = Path(__file__).parent / "measured"


def measured_file(device: str, name: str) -> Path | None:
    """A file of a device's results, where there is one."""
    path = FOLDER / device / name
    return path if exists(path, Path.is_file) else None


def with_measured(device: Device) -> Device:
    """The device with its campaign's ceilings; what the campaign did not measure stays as it was.

    Its sources are those of its values, as in a file: without those of ceilings that were replaced.
    Raises InputError where a source of the campaign would change what one of the device's own keys means.
    """
    path = measured_file(device.name, "device.yaml")
    if path is None:
        return device
    found = validated(Device, read_yaml(path), str(path))
    reached = {
        field: getattr(found.measured, field) or getattr(device.measured, field)
        for field in Measured.__struct_fields__
    }
    clash = {
        key
        for key in found.sources.keys() & device.sources.keys()
        if found.sources[key] != device.sources[key]
    }
    if clash:
        raise InputError(
            f"{path}: its source {min(clash)!r} is another one in the device file; rename either."
        )
    made = device.replace(measured=Measured(**reached), sources={**device.sources, **found.sources})
    cited = {value.source for _, value in walk(made)}
    return made.replace(sources={key: text for key, text in made.sources.items() if key in cited})
