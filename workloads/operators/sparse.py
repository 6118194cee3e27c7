"""Bidirectional attention that sees a band, a few global positions and a few at random."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import minimum
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class SparseAttention(Operator):
    """softmax(Q K') V over a band, global and random blocks of `block` positions.

    Q, K, V[batch, tokens, heads, head_dim]. A query block sees `side` blocks on either side of its own, all
    `global_blocks` (which see everything) and `random_blocks` more. Longformer (arXiv:2004.05150): blocks of
    one position, side = window / 2. BigBird (arXiv:2007.14062): blocks of 64, side 1, two global blocks and
    three random ones. The last block may be shorter and is counted by its share.
    """

    kind: ClassVar[str] = "sparse_attention"

    batch: Size
    tokens: Size
    heads: Size
    head_dim: Size
    side: Size
    global_blocks: Size
    random_blocks: Size
    block: Size
    dtype: DtypeLike = "bf16"

    def pairs(self) -> Any:
        """Query-key pairs of one head of one sequence; never more than all."""
        blocks = self.tokens / self.block
        marked = minimum(self.global_blocks, blocks)
        others = blocks - marked
        side = minimum(self.side, others - (others > 0))  # how far the band reaches among the others
        band = others + 2 * side * others - side * (side + 1)
        seen = band + 2 * marked * others + marked * marked + self.random_blocks * others
        return minimum(seen, blocks * blocks) * self.block * self.block

    def work(self) -> Work:
        """QK' and PV: 4 FLOP per pair and head element, one exponential per score; each tensor moved once."""
        scores = self.batch * self.heads * self.pairs()
        elements = self.batch * self.tokens * self.heads * self.head_dim
        size = elements * bytes_per_element(self.dtype)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("query", Role.INPUT, size),
                Traffic("key, value", Role.INPUT, 2 * size),
                Traffic("output", Role.OUTPUT, size),
            ),
            matrix_flops=4 * scores * self.head_dim,
            special_ops=scores,
            outputs=elements,
        )
