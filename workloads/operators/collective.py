"""Communication between the devices that share a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from workloads.dtypes import DtypeLike, Size


PATTERNS = ("allreduce", "allgather", "reduce_scatter", "alltoall", "sendrecv")


def sent_share(pattern: str, devices: Size) -> Any:
    """What each of `devices` devices sends, as a share of the message (doi:10.1016/j.jpdc.2008.09.002).

    The message is the whole tensor: the gathered one, the one before it is scattered.
    """
    if pattern == "sendrecv":
        return 1.0 * (devices > 1)
    once = (devices - 1) / devices
    return 2 * once if pattern == "allreduce" else once


@dataclass(frozen=True)
class AllReduce(Operator):
    """Sum rows[tokens, width] over `devices` devices, the result on each."""

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
            traffic=(
                Traffic("input", Role.INPUT, size),
                Traffic("output", Role.OUTPUT, size),
                Traffic("wire", Role.WIRE, sent),
            ),
            vector_flops=elements,
            outputs=elements,
        )


@dataclass(frozen=True)
class AllToAll(Operator):
    """Send `rows` rows of `width` to other devices, and receive as many: tokens on their way to experts."""

    kind: ClassVar[str] = "alltoall"

    rows: Size  # that leave the device
    width: Size
    dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """Each row read here, sent, and written there."""
        elements = self.rows * self.width
        size = elements * bytes_per_element(self.dtype)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("input", Role.INPUT, size),
                Traffic("output", Role.OUTPUT, size),
                Traffic("wire", Role.WIRE, size),
            ),
            outputs=elements,
        )


@dataclass(frozen=True)
class Send(AllToAll):
    """The same to one device: activations on their way to the next stage of layers."""

    kind: ClassVar[str] = "sendrecv"


@dataclass(frozen=True)
class Collective(Operator):
    """A message of so many bytes in one of PATTERNS, as communication benchmarks state it."""

    kind: ClassVar[str] = "collective"

    pattern: str
    message_bytes: Size
    devices: Size

    def work(self) -> Work:
        """The part that stays on the device is read and written there; the rest is sent. No FLOP."""
        gathered, scattered = self.pattern == "allgather", self.pattern == "reduce_scatter"
        part = self.message_bytes / self.devices
        return Work(
            dtype="bf16",
            traffic=(
                Traffic("input", Role.INPUT, part if gathered else self.message_bytes),
                Traffic("output", Role.OUTPUT, part if scattered else self.message_bytes),
                Traffic("wire", Role.WIRE, sent_share(self.pattern, self.devices) * self.message_bytes),
            ),
        )
