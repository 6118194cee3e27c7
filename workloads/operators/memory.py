"""Operators that only move data: embedding gather, KV append, copies."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class Embedding(Operator):
    """Rows of table[vocabulary, width], one per token: a gather, not a GEMM."""

    kind: ClassVar[str] = "embedding"

    tokens: Size
    vocabulary: Size
    width: Size
    weights: DtypeLike = "bf16"
    outputs: DtypeLike = "bf16"
    tied: bool = False  # the table belongs to another operator

    def work(self) -> Work:
        """One row read and one written per token; the table as a whole is not moved."""
        elements = self.tokens * self.width
        return Work(
            dtype=self.outputs,
            traffic=(
                Traffic("rows", Role.WEIGHT, elements * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * bytes_per_element(self.outputs)),
            ),
            outputs=elements,
        )

    def parameters(self) -> int:
        """The whole table, unless it is tied."""
        return 0 if self.tied else int(self.vocabulary * self.width)


@dataclass(frozen=True)
class KvAppend(Operator):
    """Write the new tokens' keys and values into the cache."""

    kind: ClassVar[str] = "kv_append"

    tokens: Size  # new tokens of all sequences
    kv_heads: Size
    head_dim: Size
    dtype: DtypeLike = "bf16"
    kv_dtype: DtypeLike = "bf16"
    fused: bool = False  # written by the kernel that computes them
    latent: bool = False  # one vector serves as key and value (MLA)

    def work(self) -> Work:
        """K and V of the new tokens: read once unless fused, written once."""
        elements = (1 if self.latent else 2) * self.tokens * self.kv_heads * self.head_dim
        written = (Traffic("cache", Role.KV_WRITE, elements * bytes_per_element(self.kv_dtype)),)
        read = () if self.fused else (Traffic("new", Role.INPUT, elements * bytes_per_element(self.dtype)),)
        return Work(dtype=self.dtype, traffic=read + written, outputs=elements, fused=self.fused)


@dataclass(frozen=True)
class Copy(Operator):
    """A copy within the device's memory."""

    kind: ClassVar[str] = "copy"

    size_bytes: Size

    def work(self) -> Work:
        """Read once, written once. No FLOP."""
        return Work(
            dtype="bf16",
            traffic=(
                Traffic("source", Role.INPUT, self.size_bytes),
                Traffic("target", Role.OUTPUT, self.size_bytes),
            ),
        )
