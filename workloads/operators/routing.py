"""What routing costs around the experts' matrices: choosing, sorting tokens by expert, summing back.

Fused into the grouped products (`fused`), rows are gathered and summed by the kernels that multiply.
"""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.operators.elementwise import streamed
from workloads.work import Role, Traffic, Work

INDEX_BYTES = 4  # int32 indices of experts


@dataclass(frozen=True)
class TopK(Operator):
    """The `chosen` largest of each row of scores[rows, width], their weights normalised or as they are."""

    kind: ClassVar[str] = "topk"

    rows: Size
    width: Size
    chosen: Size
    dtype: DtypeLike = "bf16"
    fused: bool = False
    normalised: bool = True  # a router's; an index only picks

    def work(self) -> Work:
        """One comparison per score; normalised also an exponential, and a sum and a division per choice."""
        scores, choices = self.rows * self.width, self.rows * self.chosen
        element = bytes_per_element(self.dtype)
        traffic = (
            Traffic("scores", Role.INPUT, scores * element),
            Traffic("weights", Role.OUTPUT, choices * element),
            Traffic("indices", Role.OUTPUT, choices * INDEX_BYTES),
        )
        return Work(
            dtype=self.dtype,
            traffic=() if self.fused else traffic,
            vector_flops=scores + (2 * choices if self.normalised else 0),
            special_ops=scores if self.normalised else 0,
            outputs=choices,
            fused=self.fused,
        )


@dataclass(frozen=True)
class Permute(Operator):
    """Copy rows[tokens, width] into the order of the experts, `copies` times in all."""

    kind: ClassVar[str] = "moe_permute"

    tokens: Size
    copies: Size
    width: Size
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """Each row read once and written for each of its experts."""
        return streamed(self.dtype, self.fused, self.tokens * self.width, self.copies * self.width)


@dataclass(frozen=True)
class Combine(Operator):
    """Sum the experts' results[copies, width] into rows[tokens, width], weighted by the router."""

    kind: ClassVar[str] = "moe_combine"

    tokens: Size
    copies: Size
    width: Size
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """2 FLOP per element of the experts' results."""
        read, written = self.copies * self.width, self.tokens * self.width
        return streamed(self.dtype, self.fused, read, written, vector_flops=2 * read)
