"""The schema of a node file: devices of one kind, and their links to each other, the host and other nodes.

Every value has its source, as in a device file. Bandwidths are of one device in one direction.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

import msgspec

from hwspecs.values import LinkName, Sourced, check_sources
from specfiles.strict import Strict, Text

Extent = Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]


class Fabric(Strict, frozen=True, kw_only=True):
    """The interconnect of a node.

    switch: any two devices communicate at the full rate of one. mesh: one link per pair of devices.
    torus and grid: links to the neighbours along each axis of `shape`, with and without wrap-around.
    host: through PCIe switches and the host's processors.
    """

    link: LinkName  # which of the device's links it is made of
    type: Text
    topology: Literal["switch", "mesh", "torus", "grid", "host"]
    byte_per_s: Sourced
    shape: Annotated[list[Extent], msgspec.Meta(max_length=4)] = []
    links: Extent | None = None  # of one device that lie inside the node, where these are not two per axis
    switches: Sourced | None = None  # switch chips
    aggregate_byte_per_s: Sourced | None = None  # all devices and both directions, as vendors add it up
    bisection_byte_per_s: Sourced | None = None  # one direction, between two halves

    def bisection(self, devices: int) -> float:
        """Bytes/s in one direction between two halves of the node, from the topology."""
        rate, half = self.byte_per_s.value, devices / 2
        if self.topology == "mesh":
            return half * half * rate / (devices - 1)
        if self.topology in ("torus", "grid"):
            per_link = rate / (self.links or 2 * len(self.shape))
            cut = prod(self.shape) / max(self.shape)  # links across the middle of the longest axis
            return (2 if self.topology == "torus" else 1) * cut * per_link
        return half * rate


class Network(Strict, frozen=True, kw_only=True):
    """The network to other nodes: InfiniBand, Ethernet, a data-centre network."""

    type: Text
    byte_per_s: Sourced


class Host(Strict, frozen=True, kw_only=True):
    """The host that the devices are attached to; a value that no document states is absent."""

    processor: Text
    processors: Sourced | None = None
    memory_bytes: Sourced | None = None
    storage_bytes: Sourced | None = None  # NVMe


class Node(Strict, frozen=True, kw_only=True):
    """Several devices of one kind."""

    schema_version: Literal[1] = msgspec.field(name="schema")
    name: Text
    aliases: list[Text] = []
    vendor: Text
    kind: Literal["node"]
    device: Text  # name of the device file
    devices: Sourced
    sources: dict[Text, Text]
    conflicts: list[Text] = []
    memory_bytes: Sourced | None = None  # of all devices together, as the vendor states it
    within: Fabric | None = None
    between: Network | None = None
    host: Host | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for an unlisted source, a fractional count, and a shape that contradicts it."""
        check_sources(self, self.sources)
        if self.devices.value != int(self.devices.value):
            raise ValueError(f"devices: {self.devices.value:g} is not a whole number.")
        shape = self.within.shape if self.within else []
        grid = self.within is not None and self.within.topology in ("torus", "grid")
        if grid != bool(shape):
            raise ValueError("within.shape: a torus or a grid has one, the other topologies have none.")
        if shape and prod(shape) != self.devices.value:
            raise ValueError(
                f"within.shape: {shape} holds {prod(shape)} devices, not {self.devices.value:g}."
            )

    @property
    def count(self) -> int:
        """How many devices it has."""
        return int(self.devices.value)
