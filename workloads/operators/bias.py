"""Relative positions as a learned bias on attention scores (T5, arXiv:1910.10683)."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class RelativeBias(Operator):
    """bias[heads, q_len, kv_len] from table[buckets, heads] by the distance of query and key.

    All layers of a stack share it. A fused attention kernel looks it up itself.
    """

    kind: ClassVar[str] = "relative_bias"

    q_len: Size
    kv_len: Size
    heads: Size
    buckets: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """Table read once; per pair a logarithm and 4 FLOP find the bucket, per score it is written."""
        pairs = self.q_len * self.kv_len
        scores = pairs * self.heads
        table = self.buckets * self.heads * bytes_per_element(self.weights)
        out = () if self.fused else (Traffic("bias", Role.OUTPUT, scores * bytes_per_element(self.dtype)),)
        return Work(
            dtype=self.dtype,
            traffic=(Traffic("table", Role.WEIGHT, table), *out),
            vector_flops=4 * pairs,
            special_ops=pairs,
            outputs=scores,
            fused=self.fused,
        )

    def parameters(self) -> int:
        """The table."""
        return int(self.buckets * self.heads)
