"""The values of device and node files: numbers with a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from specfiles.strict import Positive, Strict, Text

LinkName = Literal["nvlink", "ici", "xgmi", "pcie", "ethernet", "chip", "upi", "disk", "host_memory"]


class Sourced(Strict, frozen=True, kw_only=True):
    """One number in SI base units, and its source: a key of the file's `sources`."""

    value: Positive
    source: Text
    note: Text | None = None


def walk(record: Strict, path: str = "") -> list[tuple[str, Sourced]]:
    """Every sourced value below a record, with the path of its key.

    A nested record that has its own `sources` is skipped: its values cite those.
    """
    found: list[tuple[str, Sourced]] = []
    for key in type(record).__struct_fields__:
        value = getattr(record, key)
        here = f"{path}.{key}" if path else key
        children = value.items() if isinstance(value, dict) else [("", value)]
        for name, child in children:
            at = f"{here}.{name}" if name else here
            if isinstance(child, Sourced):
                found.append((at, child))
            elif isinstance(child, Strict) and not hasattr(child, "sources"):
                found.extend(walk(child, at))
    return found


def check_sources(record: Strict, sources: Mapping[str, str]) -> None:
    """Raise ValueError for the first value whose source is not a key of `sources`."""
    for path, sourced in walk(record):
        if sourced.source not in sources:
            known = ", ".join(sources)
            raise ValueError(f"{path}: source {sourced.source!r} is not in `sources` (it has: {known}).")
