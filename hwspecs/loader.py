"""Find and load the files of devices and nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hwspecs.measured import with_measured
from hwspecs.node import Node
from hwspecs.schema import Device
from specfiles.catalogue import Catalogue
from specfiles.errors import InputError
from specfiles.reading import exists, parse_yaml, read_text, read_yaml
from specfiles.strict import validated

BLANK = "FILL-IN"
_HEAD = re.compile(r"^(?:name|aliases):.*$", re.MULTILINE)


def _names(path: Path) -> list[str]:
    """The name and the aliases: the two lines that hold them, so that a look-up parses no whole file."""
    head = parse_yaml("\n".join(_HEAD.findall(read_text(path))), str(path))
    return [str(head["name"]), *map(str, head.get("aliases", []))]


_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
DEVICES = Catalogue("device", _FOLDER / "devices", _SUFFIXES, _names, "hw")
NODES = Catalogue("node", _FOLDER / "nodes", _SUFFIXES, _names, "hw")
HARDWARE = Catalogue("device", DEVICES.folder, _SUFFIXES, _names, "hw", more=(NODES.folder,))


def load_device(asked: str | Path) -> Device:
    """The device for a name, an alias or the path of a YAML file; a node's device, which then knows its node.

    Raises InputError where no such device exists or its file breaks the schema; the sentence names
    the file and the key.
    """
    path = HARDWARE.find(str(asked).removeprefix("NVIDIA "))  # drivers put the vendor before the name
    data = read_yaml(path)
    _refuse_blanks(data, str(path))
    if data.get("kind") != "node":
        device = validated(Device, data, str(path))
        return with_measured(device) if path.parent == DEVICES.folder else device
    node = validated(Node, data, str(path))
    own = path.parent / node.device  # a user's node may name a device file that lies beside it
    return load_device(own if exists(own, Path.is_file) else node.device).replace(node=node)


def new_device(name: str) -> str:
    """The text of a commented device file of this name, to be filled in."""
    import json

    template = read_text(_FOLDER / "template.yaml")
    return template.replace("name: NAME", f"name: {json.dumps(name, ensure_ascii=False)}")


def _refuse_blanks(value: Any, origin: str, path: str = "") -> None:
    """An InputError for the first place that a template's reader has not filled in yet."""
    if value == BLANK:
        raise InputError(f"{origin}: {path} is still {BLANK}; write its value or delete the line.")
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        _refuse_blanks(child, origin, f"{path}.{key}" if path else str(key))


def device_names() -> list[str]:
    """The name of every shipped device."""
    return [_names(path)[0] for path in DEVICES]
