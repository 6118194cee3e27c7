"""The work of one operator: FLOP by unit and bytes by tensor.

The counting convention, once: a multiply-add is 2 FLOP; each tensor is moved once between memory and
the chip (a lower bound); exponentials and roots are `special_ops`, one per result. FLOP of a softmax
inside attention are its exponentials only, because its few adds never bind on any known device.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from specfiles.frozen import dataclass

if TYPE_CHECKING:
    from workloads.dtypes import DtypeLike, Size


class Role(StrEnum):
    """What a tensor is to the operator that moves it."""

    WEIGHT = "weight"
    INPUT = "input"
    OUTPUT = "output"
    KV_READ = "kv_read"
    KV_WRITE = "kv_write"
    SCORES = "scores"
    WIRE = "wire"  # bytes over a link to another device
    HOST = "host"  # bytes over the link to the host's memory
    DISK = "disk"  # bytes that the host reads from its disks or writes there
    HOST_MEMORY = "host_memory"  # bytes that the host computes with, which do not leave its memory


KV = (Role.KV_READ, Role.KV_WRITE)
HOSTS = (Role.DISK, Role.HOST_MEMORY)  # what the host moves, and neither the device nor a link of it


@dataclass(frozen=True)
class Traffic:
    """One tensor's bytes moved by one execution of an operator."""

    tensor: str
    role: Role
    bytes: Size


@dataclass(frozen=True)
class Work:
    """What one execution of an operator costs; sizes are numbers or arrays over a grid."""

    dtype: DtypeLike  # which matrix peak applies
    traffic: tuple[Traffic, ...]
    matrix_flops: Size = 0
    vector_flops: Size = 0
    special_ops: Size = 0
    outputs: Size = 0  # result elements
    spread: Size | None = None  # processors that can work on it at once; None: as many as there are
    filled: Size = 1.0  # of the rows that matrix units multiply, the share that is no padding
    fused: bool = False  # computed inside a neighbour's kernel, on units that it leaves idle

    @property
    def flops(self) -> Any:
        """FLOP on matrix and vector units."""
        return self.matrix_flops + self.vector_flops

    def bytes_as(self, *roles: Role) -> Any:
        """Bytes of the tensors in these roles."""
        return sum([t.bytes for t in self.traffic if t.role in roles])

    @cached_property
    def _sums(self) -> tuple[Any, Any, Any, Any, Any]:
        """Bytes of weights, activations, cache, wires and the host: asked for often, summed up once."""
        weights: Any = 0
        activations: Any = 0
        cached: Any = 0
        sent: Any = 0
        host: Any = 0
        for tensor in self.traffic:
            role, size = tensor.role, tensor.bytes
            if role is Role.WEIGHT:
                weights = weights + size
            elif role is Role.WIRE:
                sent = sent + size
            elif role is Role.HOST:
                host = host + size
            elif role in KV:
                cached = cached + size
            elif role not in HOSTS:
                activations = activations + size
        return weights, activations, cached, sent, host

    @property
    def weight_bytes(self) -> Any:
        """Bytes of weights read."""
        return self._sums[0]

    @property
    def activation_bytes(self) -> Any:
        """Bytes of activations read and written, attention scores included."""
        return self._sums[1]

    @property
    def kv_bytes(self) -> Any:
        """Bytes of the KV cache read and written."""
        return self._sums[2]

    @property
    def comm_bytes(self) -> Any:
        """Bytes sent over links by one device."""
        return self._sums[3]

    @property
    def host_bytes(self) -> Any:
        """Bytes that come from the host's memory or go there."""
        return self._sums[4]

    @property
    def disk_bytes(self) -> Any:
        """Bytes that come from the host's disks or go there."""
        return self.bytes_as(Role.DISK)

    @property
    def host_memory_bytes(self) -> Any:
        """Bytes that the host's processors read in its memory."""
        return self.bytes_as(Role.HOST_MEMORY)

    @property
    def bytes(self) -> Any:
        """Bytes of main memory traffic: everything but what goes over links."""
        weights, activations, cached, _, _ = self._sums
        return weights + activations + cached
