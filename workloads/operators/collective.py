"""Communication between the devices that share a model."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.operators.elementwise import stream
from workloads.work import Role, Traffic, Work

PATTERNS = ("allreduce", "allgather", "reduce_scatter", "alltoall", "sendrecv")


def sent_share(pattern: str, devices: Size) -> Any:
    """The bytes that each device sends over those of the message (doi:10.1016/j.jpdc.2008.09.002).

    The message is the whole tensor: of an all-gather its result, of a reduce-scatter its input.
    """
    if pattern == "sendrecv":
        return 1.0 * (devices > 1)
    once = (devices - 1) / devices
    return 2 * once if pattern == "allreduce" else once


def _traffic(read: Any, written: Any, sent: Any) -> tuple[Traffic, ...]:
    """What a device reads, writes and sends, in bytes."""
    return (*stream(False, read, written), Traffic("wire", Role.WIRE, sent))


@dataclass(frozen=True)
class AllReduce(Operator):
    """Sum rows[tokens, width] over `devices` devices; each receives the result."""

    kind: ClassVar[str] = "allreduce"

    tokens: Size
    width: Size
    devices: Size
    dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """Each device sends 2 (n - 1) / n of the tensor: the ring (doi:10.1016/j.jpdc.2008.09.002).

        A switch that reduces in the network (NVLink SHARP) needs half of that.
        """
        elements = self.tokens * self.width
        size = elements * bytes_per_element(self.dtype)
        sent = sent_share("allreduce", self.devices) * size
        return Work(
            dtype=self.dtype,
            traffic=_traffic(size, size, sent),
            vector_flops=elements,
            outputs=elements,
        )


@dataclass(frozen=True)
class AllGather(Operator):
    """Give each of `devices` devices all of rows[tokens, width], of which each has an equal part."""

    kind: ClassVar[str] = "allgather"

    tokens: Size
    width: Size
    devices: Size
    dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """Each device's part is read, sent around the ring, and written with those of the others."""
        elements = self.tokens * self.width
        size = elements * bytes_per_element(self.dtype)
        sent = sent_share("allgather", self.devices) * size
        traffic = _traffic(size / self.devices, size, sent)
        return Work(dtype=self.dtype, traffic=traffic, outputs=elements)


@dataclass(frozen=True)
class AllToAll(Operator):
    """Send `rows` rows of `width` to other devices and receive as many: expert dispatch and combine."""

    kind: ClassVar[str] = "alltoall"

    rows: Size  # that are sent to other devices
    width: Size
    dtype: DtypeLike = "bf16"
    devices: Size = 2  # that take part

    def work(self) -> Work:
        """Each row is read, sent, and written on the other device."""
        elements = self.rows * self.width
        size = elements * bytes_per_element(self.dtype)
        return Work(dtype=self.dtype, traffic=_traffic(size, size, size), outputs=elements)


@dataclass(frozen=True)
class Send(AllToAll):
    """Send `rows` rows of `width` to one device: activations for the next pipeline stage."""

    kind: ClassVar[str] = "sendrecv"


@dataclass(frozen=True)
class Collective(Operator):
    """A collective of one of PATTERNS over `message_bytes`, as communication benchmarks state it."""

    kind: ClassVar[str] = "collective"

    pattern: str
    message_bytes: Size
    devices: Size

    def work(self) -> Work:
        """Input and output are read and written once; `sent_share` of the message is sent. No FLOP."""
        gathered, scattered = self.pattern == "allgather", self.pattern == "reduce_scatter"
        part = self.message_bytes / self.devices
        read, written = part if gathered else self.message_bytes, part if scattered else self.message_bytes
        sent = sent_share(self.pattern, self.devices) * self.message_bytes
        return Work(dtype="bf16", traffic=_traffic(read, written, sent))
