"""Does a node file agree with its device's file, with its topology and with the sums that vendors print?"""

from __future__ import annotations

from collections.abc import Iterator

from hwspecs.check import Finding, Severity, compared, lanes_byte_per_s
from hwspecs.node import Node
from hwspecs.schema import Device

_Said = Iterator[tuple[Severity, str]]


def check_node(node: Node, device: Device) -> list[Finding]:
    """Every rule on every value that it can judge; no finding where a file states too little."""
    rules = (_device_link, _link_lanes, _aggregate, _bisection, _memory)
    return [Finding(node.name, r.__name__.strip("_"), *said) for r in rules for said in r(node, device)]


def _device_link(node: Node, device: Device) -> _Said:
    """A fabric gives a device at most what its own link can do; less where not all links are wired."""
    within = node.within
    if within and (link := device.datasheet.links.get(within.link)):
        part = within.byte_per_s.value / link.byte_per_s.value
        verdict: Severity = "ok" if part <= 1 + 1e-9 else "error"
        yield (
            verdict,
            f"within.byte_per_s: {100 * part:.1f} % of the {link.byte_per_s.value:g} of {device.name}.",
        )


def _link_lanes(node: Node, device: Device) -> _Said:
    """Bytes/s of one direction against links x rate; twice that counts both directions."""
    for key, fabric in (("within", node.within), ("between", node.between)):
        if fabric and (most := lanes_byte_per_s(fabric.type)):
            yield compared(f"{key}.byte_per_s", fabric.byte_per_s, most, f"{fabric.type} in one direction")


def _aggregate(node: Node, device: Device) -> _Said:
    """What a vendor adds up: every device, both directions."""
    if node.within and node.within.aggregate_byte_per_s:
        rate = node.within.byte_per_s.value
        how = f"{node.count} devices x {rate:g} x 2 directions"
        expected = 2 * node.count * rate
        yield compared("within.aggregate_byte_per_s", node.within.aggregate_byte_per_s, expected, how)


def _bisection(node: Node, device: Device) -> _Said:
    """Between two halves, from the topology; printed for every node, compared where a document states it."""
    if not node.within:
        return
    expected, stated = node.within.bisection(node.count), node.within.bisection_byte_per_s
    how = f"a {node.within.topology} of {node.count} devices"
    if stated:
        yield compared("within.bisection_byte_per_s", stated, expected, how)
    else:
        yield "ok", f"within: {expected:g} bytes/s in one direction between two halves of {how}."


def _memory(node: Node, device: Device) -> _Said:
    """Memory of all devices together."""
    if node.memory_bytes:
        each = device.datasheet.dram.capacity_bytes.value
        yield compared("memory_bytes", node.memory_bytes, node.count * each, f"{node.count} x {each:g}")
