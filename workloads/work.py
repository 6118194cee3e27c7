"""The work of one operator: FLOP by unit and bytes by tensor.

The counting convention: a multiply-add is 2 FLOP; each tensor moves once between memory and the chip, a lower
bound; exponentials and roots are `special_ops`, one per result. Of the softmax inside attention only the
exponentials are counted: its additions never bind on any known device.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Any

from specfiles.frozen import dataclass
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
    DISK = "disk"  # bytes that the host reads from or writes to its disks
    HOST_MEMORY = "host_memory"  # bytes that the host's processors read from their own memory to compute


KV = (Role.KV_READ, Role.KV_WRITE)
HOSTS = (Role.DISK, Role.HOST_MEMORY)  # traffic inside the host, over no link of the device


@dataclass(frozen=True)
class Traffic:
    """The bytes of one tensor that one execution of an operator moves."""

    tensor: str
    role: Role
    bytes: Size


@dataclass(frozen=True)
class Work:
    """The work of one execution of an operator; sizes are numbers or arrays over a grid."""

    dtype: DtypeLike  # selects the matrix peak
    traffic: tuple[Traffic, ...]
    matrix_flops: Size = 0
    vector_flops: Size = 0
    special_ops: Size = 0
    outputs: Size = 0  # elements of the result
    spread: Size | None = None  # processors that can work on it in parallel; None: no limit
    filled: Size = 1.0  # share of the rows multiplied on matrix units that are not padding
    fused: bool = False  # computed inside a neighbouring operator's kernel, on units that are idle there

    @property
    def flops(self) -> Any:
        """FLOP on matrix and vector units."""
        return self.matrix_flops + self.vector_flops

    def bytes_as(self, *roles: Role) -> Any:
        """Bytes of the tensors that have these roles."""
        return sum([t.bytes for t in self.traffic if t.role in roles])

    @cached_property
    def _sums(self) -> tuple[Any, Any, Any, Any, Any]:
        """Bytes of weights, activations, cache, links and host; cached, as they are read often."""
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
        """Bytes over the link to the host's memory, both directions."""
        return self._sums[4]

    @property
    def disk_bytes(self) -> Any:
        """Bytes read from or written to the host's disks."""
        return self.bytes_as(Role.DISK)

    @property
    def host_memory_bytes(self) -> Any:
        """Bytes that the host's processors read from their own memory."""
        return self.bytes_as(Role.HOST_MEMORY)

    @property
    def bytes(self) -> Any:
        """Bytes of the device's memory traffic: weights, activations and cache."""
        weights, activations, cached, _, _ = self._sums
        return weights + activations + cached
