"""What techniques do to single operators."""

from __future__ import annotations

from workloads.operators import Gemm
from workloads.techniques.changes import with_weights


def test_equal_edits_of_a_matrix_are_equal() -> None:
    """So that a generation sums a row once that no step changes."""
    product = Gemm(4, 8, 16)
    assert with_weights(product, 0.5, 0.25) == with_weights(product, 0.5, 0.25)
    assert with_weights(product, 0.5) != with_weights(product, 0.25)
