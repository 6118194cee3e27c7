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
    """The name and the aliases; only their two lines are parsed, which keeps look-ups fast."""
    head = parse_yaml("\n".join(_HEAD.findall(read_text(path))), str(path))
    return [str(head["name"]), *map(str, head.get("aliases", []))]


_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
DEVICES = Catalogue("device", _FOLDER / "devices", _SUFFIXES, _names, "hw")
NODES = Catalogue("node", _FOLDER / "nodes", _SUFFIXES, _names, "hw")
HARDWARE = Catalogue("device", DEVICES.folder, _SUFFIXES, _names, "hw", more=(NODES.folder,))


def load_device(asked: str | Path) -> Device:
    """The device of a name, an alias or the path of a YAML file; for a node, its device with `node` set.

    Raises InputError where no such device exists, or naming the file and key that breaks the schema.
    """
    path = HARDWARE.find(str(asked).removeprefix("NVIDIA "))  # as drivers report names
    data = _filled(path)
    if data.get("kind") != "node":
        return _device(path, data)
    node = validated(Node, data, str(path))
    own = path.parent / node.device  # a user's node file may name a device file in the same folder
    found = own if exists(own, Path.is_file) else DEVICES.find(node.device)
    data = _filled(found)
    if data.get("kind") == "node":
        raise InputError(f"{path}: device: {node.device} is a node itself; name a device.")
    return _device(found, data).replace(node=node)


def _device(path: Path, data: dict[str, Any]) -> Device:
    device = validated(Device, data, str(path))
    return with_measured(device) if path.parent == DEVICES.folder else device


def _filled(path: Path) -> dict[str, Any]:
    data = read_yaml(path)
    _refuse_blanks(data, str(path))
    return data


def new_device(name: str) -> str:
    """The text of a commented device file with this name, for the user to fill in."""
    import json

    template = read_text(_FOLDER / "template.yaml")
    return template.replace("name: NAME", f"name: {json.dumps(name, ensure_ascii=False)}")


def _refuse_blanks(value: Any, origin: str, path: str = "") -> None:
    """Raise InputError for the first value of a template that has not been filled in."""
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
