"""Devices and findings about their files, as text, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwspecs import Device, Node
from hwspecs.check import Finding
from reports import terminal
from reports.units import in_bytes, percent, si, text
from reports.wording import counted
from roofline.tables import as_data


def _record(device: Device) -> dict[str, Any]:
    sheet = device.datasheet
    peaks = {**sheet.vector_flop_per_s, **sheet.tensor_flop_per_s}
    return {
        "name": device.name,
        "aliases": device.aliases,
        "vendor": device.vendor,
        "kind": device.kind,
        "architecture": device.architecture,
        "dense_flop_per_s": {dtype: peak.value for dtype, peak in peaks.items()},
        "dram_byte_per_s": sheet.dram.byte_per_s.value if sheet.dram.byte_per_s else None,
        "dram_bytes": device.capacity_bytes,
        "tdp_w": sheet.tdp_w.value if sheet.tdp_w else None,
        "measured": device.measured.dram_byte_per_s is not None,
        "calibrated": device.calibration is not None,
    }


def _node_record(device: Device, node: Node) -> dict[str, Any]:
    """A node by the same keys: peaks, bandwidth and memory of all its devices together."""
    one, n, within = _record(device), node.count, node.within
    return {
        **one,
        "name": node.name,
        "aliases": node.aliases,
        "vendor": node.vendor,
        "kind": node.kind,
        "device": device.name,
        "devices": n,
        "dense_flop_per_s": {dtype: n * peak for dtype, peak in one["dense_flop_per_s"].items()},
        "dram_byte_per_s": one["dram_byte_per_s"] and n * one["dram_byte_per_s"],
        "dram_bytes": n * one["dram_bytes"],
        "tdp_w": one["tdp_w"] and n * one["tdp_w"],
        "link_byte_per_s": within.byte_per_s.value if within else None,
        "topology": within.topology if within else None,
        "bisection_byte_per_s": within.bisection(n) if within else None,
        "network_byte_per_s": node.between.byte_per_s.value if node.between else None,
    }


def listing(devices: Sequence[Device], format: str) -> str:
    """Every device with its dense bf16 peak (fp16 where it has no bf16) and memory; then the nodes."""
    records = [_node_record(device, device.node) if device.node else _record(device) for device in devices]
    if format != "table":
        return as_data(records, format)

    def peak(record: dict[str, Any]) -> str:
        peaks = record["dense_flop_per_s"]
        dtype = next((d for d in ("bf16", "fp16", "fp32") if d in peaks), None)
        return f"{si(peaks[dtype], 'FLOP/s')} {dtype}" if dtype else text(None)

    columns: terminal.Columns = {
        "name": ("device", text),
        "kind": ("kind", text),
        "peak": ("dense peak", text),
        "dram_byte_per_s": ("memory bandwidth", lambda v: si(v, "B/s")),
        "dram_bytes": ("memory", in_bytes),
        "aliases": ("also known as", lambda v: ", ".join(v[:4])),
    }
    single = terminal.table([{**r, "peak": peak(r)} for r in records if r["kind"] != "node"], columns)
    of_nodes: terminal.Columns = {
        "name": ("node", text),
        "kind": ("kind", text),
        "holds": ("devices", text),
        "topology": ("topology", text),
        "link_byte_per_s": ("link, one direction", lambda v: si(v, "B/s")),
        "bisection_byte_per_s": ("bisection", lambda v: si(v, "B/s")),
        "network_byte_per_s": ("to other nodes", lambda v: si(v, "B/s")),
        "dram_bytes": ("memory", in_bytes),
        "aliases": ("also known as", lambda v: ", ".join(v[:3])),
    }
    nodes = [{**r, "holds": f"{r['devices']} x {r['device']}"} for r in records if r["kind"] == "node"]
    return single + (terminal.table(nodes, of_nodes) if nodes else "")


def reached(device: Device) -> str:
    """What a machine reached, as `roofline ceilings` measured it, in a few lines."""
    found = device.measured
    peaks = {**found.vector_flop_per_s, **found.tensor_flop_per_s}
    products = [f"{dtype} {si(peak.value, 'FLOP/s')}" for dtype, peak in peaks.items()]
    told = {"matrix products": ", ".join(products)}
    told |= {name: si(s.value, "B/s") for name, s in (("memory", found.dram_byte_per_s),) if s}
    told |= {name: si(s.value, "s") for name, s in (("launch", found.launch_s),) if s}
    fits = device.calibration.operators if device.calibration else {}
    if errors := [constants.median_error for entries in fits.values() for constants in entries]:
        told["classes of operators"] = (
            f"{len(errors)} fitted, with median errors of {percent(min(errors))} to "
            f"{percent(max(errors))} on the model held out"
        )
    return "".join(f"{name}: {words}\n" for name, words in told.items() if words)


def findings(found: Sequence[Finding]) -> str:
    """Findings of the checks per file, errors first."""
    order = {"error": 0, "note": 1, "ok": 2}
    rows = [
        {"device": f.device, "severity": f.severity, "rule": f.rule, "message": f.message}
        for f in sorted(found, key=lambda f: order[f.severity])
    ]
    columns: terminal.Columns = {key: (key, text) for key in ("device", "severity", "rule", "message")}
    errors = sum(f.severity == "error" for f in found)
    drawn = terminal.table(rows, columns) if rows else ""
    return drawn + f"{counted(len(found), 'check')}, {counted(errors, 'error')}.\n"
