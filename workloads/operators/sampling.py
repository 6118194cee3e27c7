"""Choosing the next token from the logits."""

from __future__ import annotations

from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class Sampling(Operator):
    """One token from each of `rows` rows of logits[rows, vocabulary].

    Greedy is an argmax; with `softmax` every logit is exponentiated too, in the same pass.
    """

    kind: ClassVar[str] = "sampling"

    rows: Size
    vocabulary: Size
    dtype: DtypeLike = "bf16"
    softmax: bool = False

    def work(self) -> Work:
        """One comparison (and one exponential, one add) per logit; logits read once, an index written."""
        logits = self.rows * self.vocabulary
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("logits", Role.INPUT, logits * bytes_per_element(self.dtype)),
                Traffic("tokens", Role.OUTPUT, self.rows * 8),  # int64 indices
            ),
            vector_flops=(2 if self.softmax else 1) * logits,
            special_ops=logits if self.softmax else 0,
            outputs=self.rows,
        )
