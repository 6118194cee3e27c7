"""Metadata of a Nsight Systems report: version, clock, GPUs, sampled metrics."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.columns import whole_number
from profiler.traces.database import Database
from profiler.traces.tables import SCHEMAS, DeviceFacts, Origin, make_table

EXPORTED = ("META_DATA_EXPORT", "EXPORT_META_DATA")  # the latter up to 2023.1
# "GPC Clock Frequency [MHz]": quantity and unit.
METRIC = re.compile(r"(?P<what>.*?)\s*(?:\[(?P<unit>[^\]]*)\])?")
QUANTITIES = {
    "GPC Clock Frequency": "sm_clock_hz",
    "SYS Clock Frequency": "system_clock_hz",
    "SMs Active": "sm_active",
    "SM Issue": "sm_issue",
    "Tensor Active": "tensor_active",
    "DRAM Read Bandwidth": "dram_read_share",
    "DRAM Write Bandwidth": "dram_write_share",
}
SCALES = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "Throughput %": 0.01, "%": 0.01}
READING = pa.schema(
    [*((name, pa.int64()) for name in ("timestamp", "typeId", "metricId")), ("value", pa.float64())]
)


def origin(database: Database) -> Origin:
    """The report's version and the Unix time of its clock's zero."""
    table = next((name for name in EXPORTED if name in database.columns), EXPORTED[0])
    said = {str(key): value for key, value in database.rows(table, "name", "value", most=1000)}
    began = database.rows("TARGET_INFO_SESSION_START_TIME", "utcEpochNs", most=1)
    zero = began[0][0] if began else None
    return Origin(
        file=database.path.name,
        format="nsys",
        version=str(said.get("EXPORT_PRODUCT_VERSION", ""))[:100],
        zero_ns=whole_number(zero),
    )


class DeviceNumbers:
    """GPU numbers of the machine by process and number in the process (CUDA_VISIBLE_DEVICES renumbers)."""

    def __init__(self, database: Database) -> None:
        rows = database.rows("TARGET_INFO_CUDA_DEVICE", "pid", "cudaId", "gpuId")
        self.known = {
            (pid, cuda): gpu
            for pid, cuda, gpu in rows
            if all(isinstance(value, int) and 0 <= value < 2**31 for value in (pid, cuda, gpu))
        }

    def __bool__(self) -> bool:
        return any(cuda != gpu for (_, cuda), gpu in self.known.items())

    def of(self, process: Any, device: Any) -> Any:
        """The GPU of each activity; its own number where not recorded."""
        found = device.copy() if self else device
        for (pid, cuda), gpu in self.known.items():
            if cuda != gpu:
                found[(process == pid) & (device == cuda)] = gpu
        return found


def devices(database: Database) -> tuple[DeviceFacts, ...]:
    """Facts of each GPU."""
    names = ("id", "name", "smCount", "totalMemory", "memoryBandwidth", "clockRate")
    version = ("computeMajor", "computeMinor")
    found = []
    for row in database.rows("TARGET_INFO_GPU", *names, *version, most=1024):
        said = dict(zip((*names, *version), row, strict=True))
        if not isinstance(said["id"], int):
            continue
        bandwidth, clock = whole_number(said["memoryBandwidth"]), whole_number(said["clockRate"])
        found.append(
            DeviceFacts(
                source=0,
                device=said["id"],
                name=str(said["name"] or "")[:200],
                processors=whole_number(said["smCount"]),
                memory_bytes=whole_number(said["totalMemory"]),
                byte_per_s=float(bandwidth) if bandwidth else None,
                clock_hz=float(clock) if clock else None,
                capability=".".join(str(said[part]) for part in version)
                if whole_number(said[version[0]])
                else "",
            )
        )
    return tuple(found)


def samples(database: Database) -> pa.Table:
    """Sampled metrics that are known: clocks in Hz, shares of a peak as fractions."""
    found = [SCHEMAS["samples"].empty_table()]
    if not database.has("GPU_METRICS", *READING.names):
        return found[0]
    table = database.table("GPU_METRICS", {name: name for name in READING.names}, READING)
    for kind, metric, name in database.rows("TARGET_INFO_GPU_METRICS", "typeId", "metricId", "metricName"):
        parsed = METRIC.fullmatch(str(name))
        if not parsed or parsed["what"] not in QUANTITIES or parsed["unit"] not in SCALES:
            continue
        rows = np.flatnonzero((table["typeId"].to_numpy() == kind) & (table["metricId"].to_numpy() == metric))
        columns = {
            "device": np.full(len(rows), kind & 0xFF, np.int32),  # the rest is the type of the source
            "time_ns": table["timestamp"].to_numpy()[rows],
            "quantity": [QUANTITIES[parsed["what"]]] * len(rows),
            "value": table["value"].to_numpy()[rows] * SCALES[parsed["unit"]],
        }
        found.append(make_table("samples", columns))
    return pa.concat_tables(found).unify_dictionaries().sort_by("time_ns")
