"""Totals of a trace: kernel time, busy, span and idle time of the devices, and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profiler.traces.intervals import length
from profiler.traces.tables import Trace

SUMS = ("kernels", "kernel_time_s", "gpu_busy_s", "gpu_span_s", "gpu_idle_s")


@dataclass(frozen=True)
class DeviceTotals:
    """One device of one trace file, in seconds."""

    source: int
    device: int
    kernels: int
    kernel_time_s: float
    gpu_busy_s: float  # union of kernels, copies, sets and graphs over all streams
    gpu_span_s: float  # from the first start to the last end

    @property
    def gpu_idle_s(self) -> float:
        """Time inside the span in which nothing ran."""
        return self.gpu_span_s - self.gpu_busy_s


def device_totals(trace: Trace) -> list[DeviceTotals]:
    """A row per device that ran anything."""
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    if trace.of_kind("activities", "host").any():  # of a trace that has nothing else
        return []
    kernel = trace.of_kind("activities", "kernel")
    return [
        DeviceTotals(
            source=source,
            device=device,
            kernels=int((mine & kernel).sum()),
            kernel_time_s=int((end - start)[mine & kernel].sum()) / 1e9,
            gpu_busy_s=length(start[mine], end[mine]) / 1e9,
            gpu_span_s=int(end[mine].max() - start[mine].min()) / 1e9,
        )
        for source, device, mine in trace.by_device("activities")
    ]


def device_records(trace: Trace, devices: Sequence[DeviceTotals]) -> list[dict[str, Any]]:
    """The devices of the JSON of `show`: file, number and name, and the SUMS of each."""
    names = {(d.source, d.device): d.name for d in trace.devices}
    return [
        {
            "source": d.source,
            "trace": trace.origins[d.source].file if d.source < len(trace.origins) else None,
            "device": d.device,
            "name": names.get((d.source, d.device)) or None,
            **{name: getattr(d, name) for name in SUMS},
        }
        for d in devices
    ]


def totals(trace: Trace, known: Sequence[DeviceTotals] | None = None) -> dict[str, Any]:
    """SUMS over the devices, and unattributed time and events; `known` are the device totals, if at hand."""
    devices = device_totals(trace) if known is None else known
    return {
        **{name: sum(getattr(d, name) for d in devices) for name in SUMS},
        "unattributed_s": unattributed_s(trace),
        "host_time_s": host_time_s(trace),
        **{
            f"{what}_events": sum(loss.count for loss in trace.losses if loss.what == what)
            for what in ("dropped", "repaired")
        },
    }


def loss_records(trace: Trace) -> list[dict[str, Any]]:
    """The losses of the JSON of `show`."""
    return [{"what": x.what, "count": x.count, "sentence": x.sentence} for x in trace.losses]


def host_time_s(trace: Trace) -> float:
    """Time in operators of the host, of a trace without any device; summed over its threads."""
    return int(trace.spent_ns[trace.of_kind("activities", "host")].sum()) / 1e9


def unattributed_s(trace: Trace) -> float:
    """Kernel time without a launch or a host range."""
    kernel = trace.of_kind("activities", "kernel")
    loose = kernel & (trace.column("activities", "launch") < 0) & (trace.column("activities", "range") < 0)
    return int(trace.spent_ns[loose].sum()) / 1e9
