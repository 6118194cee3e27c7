"""Read untrusted YAML and JSON: bounded size and depth, safe types, no duplicate keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specfiles.errors import InputError

MOST_BYTES = 4_000_000  # a bigger file is not a spec
MOST_JSON_BYTES = 16_000_000  # the config.json of Nemotron 3 Super in NVFP4 has 5.7 MB: it lists all experts
MOST_DEPTH = 40  # real configs nest 4 deep


def exists(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Whether there is a file (`Path.is_file`) or folder (`Path.is_dir`); False for an impossible name."""
    try:
        return kind(path)
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def read_text(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file. Raises InputError, naming the path, where it cannot be read."""
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise InputError(f"{path}: {size} bytes is too large for a spec file (at most {most_bytes}).")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return parse_json(read_text(path, most_bytes=MOST_JSON_BYTES), str(path))


def parse_json(text: str, origin: str) -> dict[str, Any]:
    """A JSON object from text; `origin` is named in errors."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, origin))
    except json.JSONDecodeError as error:
        raise InputError(f"{origin}: not valid JSON ({error.msg}, line {error.lineno}).") from None
    except InputError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"{origin}: not valid JSON ({str(error).partition(';')[0]}).") from None
    except RecursionError:
        raise InputError(f"{origin}: JSON nested deeper than {MOST_DEPTH} levels.") from None
    return _mapping(data, origin)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """A YAML mapping: safe types only, no aliases, no duplicate keys, bounded depth."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc,valid-type]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _unique([(self.construct_object(key, True), None) for key, _ in node.value], origin)
            return super().construct_mapping(node, deep)

    try:
        _refuse_bombs(yaml.parse(text, base), origin)
        # YAML 1.1 of PyYAML reads 3.35e12 as text: numbers need a point and a signed exponent.
        data = yaml.load(text, Loader)  # noqa: S506  (a SafeLoader subclass)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{origin}: not valid YAML ({getattr(error, 'problem', error)}{where}).") from None
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # an unhashable key, a date that does not exist
        raise InputError(f"{origin}: not valid YAML ({error}).") from None
    return _mapping(data, origin)


def _refuse_bombs(events: Any, origin: str) -> None:
    """Raise for aliases, which expand without bound, and for deep nesting, which overflows the C stack."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        if kind == "AliasEvent":
            raise InputError(f"{origin}: YAML aliases are not accepted; write the value out.")
        depth += kind in ("MappingStartEvent", "SequenceStartEvent")
        depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
        if depth > MOST_DEPTH:
            raise InputError(f"{origin}: nested deeper than {MOST_DEPTH} levels.")


def _mapping(data: Any, origin: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise InputError(f"{origin}: expected a mapping of keys to values, found {found}.")
    if _deeper_than(data, MOST_DEPTH):
        raise InputError(f"{origin}: nested deeper than {MOST_DEPTH} levels.")
    return data


def _unique(pairs: list[tuple[Any, Any]], origin: str) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f"{origin}: key {key!r} stands twice; keep one.")
        result[key] = value
    return result


def _deeper_than(data: Any, levels: int) -> bool:
    layer = [data]
    for _ in range(levels):
        layer = [
            child
            for node in layer
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not layer:
            return False
    return True
