"""Find and load device files."""

from __future__ import annotations

import re
from pathlib import Path

from hwspecs.schema import Device
from specfiles.catalogue import Catalogue
from specfiles.reading import parse_yaml, read_text, read_yaml
from specfiles.strict import validated

_HEAD = re.compile(r"^(?:name|aliases):.*$", re.MULTILINE)


def _names(path: Path) -> list[str]:
    """The name and the aliases: the two lines that hold them, so that a look-up parses no whole file."""
    head = parse_yaml("\n".join(_HEAD.findall(read_text(path))), str(path))
    return [str(head["name"]), *map(str, head.get("aliases", []))]


DEVICES = Catalogue("device", Path(__file__).parent / "devices", (".yaml", ".yml"), _names, "hw")


def load_device(asked: str | Path) -> Device:
    """The device for a name, an alias or the path of a YAML file.

    Raises InputError where no such device exists or its file breaks the schema; the sentence names
    the file and the key.
    """
    path = DEVICES.find(str(asked))
    return validated(Device, read_yaml(path), str(path))


def device_names() -> list[str]:
    """The name of every shipped device."""
    return [_names(path)[0] for path in DEVICES]
