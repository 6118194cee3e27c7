"""Metadata of a Kineto trace: versions, rank and devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiler.traces.columns import whole_number
from profiler.traces.tables import DeviceFacts, Origin


def origin(path: Path, header: Mapping[str, Any]) -> Origin:
    """The origin of a trace: file, versions, rank and the zero of its clock."""
    rank = _inside(header, "distributedInfo", "rank")
    zero = header.get("baseTimeNanoseconds")
    versions = {key: header[key] for key in header if str(key).endswith("_version")}
    return Origin(
        file=path.name,
        format="kineto",
        version=", ".join(f"{k} {str(v)[:40]}" for k, v in list(versions.items())[:8]),
        rank=rank if isinstance(rank, int) and not isinstance(rank, bool) else None,
        zero_ns=whole_number(zero),
    )


def devices(header: Mapping[str, Any]) -> tuple[DeviceFacts, ...]:
    """The devices described in a trace."""
    listed = header.get("deviceProperties")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            major, minor = entry.get("computeMajor"), entry.get("computeMinor")
            found.append(
                DeviceFacts(
                    source=0,
                    device=entry["id"],
                    name=str(entry.get("name") or "")[:200],
                    processors=whole_number(entry.get("numSms")),
                    memory_bytes=whole_number(entry.get("totalGlobalMem")),
                    capability=f"{major}.{minor}" if major is not None else "",
                )
            )
    return tuple(found[:1024])


def _inside(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data
