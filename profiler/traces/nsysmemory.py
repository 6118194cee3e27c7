"""Memory of devices over time, from the allocations that `nsys --cuda-memory-usage=true` records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.database import Database
from profiler.traces.nsysfacts import DeviceNumbers
from profiler.traces.samples import ALLOCATED
from profiler.traces.tables import SCHEMAS, make_table

TABLE = "CUDA_GPU_MEMORY_USAGE_EVENTS"
ASKED = ("start", "globalPid", "deviceId", "address", "bytes", "memKind", "memoryOperationType")
ON_DEVICE = (2, 3, 4, 5, 6)  # of ENUM_CUDA_MEM_KIND: device, array, managed, and both static ones
ALLOCATION = 0  # of ENUM_CUDA_DEV_MEM_EVENT_OPER; 1 frees


def allocations(database: Database, numbers: DeviceNumbers) -> pa.Table:
    """Samples of the bytes allocated on each device, after each allocation and each freeing of one."""
    if not database.has(TABLE, *ASKED):
        return SCHEMAS["samples"].empty_table()
    schema = pa.schema([(name, pa.int64()) for name in ASKED])
    asked = {name: f'coalesce("{name}", -1)' for name in ASKED}
    table = database.table(TABLE, asked, schema).sort_by("start")
    found = {name: table[name].to_numpy() for name in ASKED}
    device = numbers.of(found["globalPid"] >> 24 & 0xFFFFFF, found["deviceId"])
    change = _changes(found)
    tables = [SCHEMAS["samples"].empty_table()]
    for each in np.unique(device[change != 0]):
        mine = np.flatnonzero((device == each) & (change != 0))
        columns = {
            "device": np.full(len(mine), each).clip(-1, 2**31 - 1).astype(np.int32),
            "time_ns": found["start"][mine],
            "quantity": [ALLOCATED] * len(mine),
            "value": np.cumsum(change[mine]).astype(float),
        }
        tables.append(make_table("samples", columns))
    return pa.concat_tables(tables).unify_dictionaries().sort_by("time_ns")


def _changes(found: dict[str, Any]) -> Any:
    """Bytes that each event allocates or frees; a free releases the last allocation at its address."""
    allocated = found["memoryOperationType"] == ALLOCATION
    order = np.lexsort((found["start"], found["address"], found["globalPid"]))
    before = np.concatenate([order[:1], order[:-1]])
    same = (found["address"][order] == found["address"][before]) & (
        found["globalPid"][order] == found["globalPid"][before]
    )
    same[:1] = False
    size = found["bytes"].clip(0)
    freed = np.where(same & allocated[before] & ~allocated[order], -size[before], 0)
    change = np.where(allocated, size, 0)
    change[order] += freed
    return np.where(np.isin(found["memKind"], ON_DEVICE), change, 0)
