"""Scores that pick positions for sparse attention."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.attention import Attention
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class IndexScores(Operator):
    """sum over heads of w_h relu(Q_h K'): one score per visible position (DeepSeek-V3.2, section 2.1).

    Q[batch, heads, q_len, head_dim], one key per position shared by the heads, w[batch, q_len, heads].
    """

    kind: ClassVar[str] = "index_scores"

    batch: Size
    q_len: Size
    kv_len: Size
    heads: Size
    head_dim: Size
    dtype: DtypeLike = "bf16"
    kv_dtype: DtypeLike = "bf16"
    causal_exact: bool = True

    def work(self) -> Work:
        """QK': 2 FLOP per pair, head and element; the sum: 2 per pair and head. Scores stay on the chip."""
        pairs = (
            self.batch
            * Attention(self.batch, self.q_len, self.kv_len, 1, 1, 1, causal_exact=self.causal_exact).pairs()
        )
        rows = self.batch * self.q_len * self.heads
        element = bytes_per_element(self.dtype)
        keys = self.batch * self.kv_len * self.head_dim
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("query", Role.INPUT, rows * self.head_dim * element),
                Traffic("weights", Role.INPUT, rows * element),
                Traffic("key", Role.KV_READ, keys * bytes_per_element(self.kv_dtype)),
            ),
            matrix_flops=2 * pairs * self.heads * (self.head_dim + 1),
            outputs=pairs,
        )
