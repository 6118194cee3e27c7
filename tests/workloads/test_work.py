"""FLOP of elementwise operators and the elements that operators own, as their formulas say on paper."""

from __future__ import annotations

import pytest

from workloads.operators import Activation, Gemm, IndexScores, Modulation, Norm, Residual, Rope, Sampling
from workloads.work import Role

TOKENS, WIDTH = 3, 10


@pytest.mark.parametrize(
    ("norm", "flops"),
    [
        (Norm(TOKENS, WIDTH), 4),  # RMSNorm: square, add, divide by the root, scale
        (Norm(TOKENS, WIDTH, scale=False), 3),
        (Norm(TOKENS, WIDTH, bias=True), 5),
        (Norm(TOKENS, WIDTH, center=True, bias=True), 7),  # LayerNorm: also sums, subtracts the mean, adds
    ],
)
def test_norms(norm: Norm, flops: int) -> None:
    work = norm.work()
    assert work.vector_flops == flops * TOKENS * WIDTH
    assert work.special_ops == TOKENS
    assert norm.parameters() == WIDTH * (norm.scale + norm.bias)


@pytest.mark.parametrize(("gated", "flops"), [(False, 2), (True, 3)])
@pytest.mark.parametrize(("function", "exponentials"), [("silu", 1), ("gelu", 1), ("relu", 0)])
def test_activations(gated: bool, flops: int, function: str, exponentials: int) -> None:
    """x / (1 + exp(-x)), times the other half of a gated MLP's first product."""
    work = Activation(TOKENS, WIDTH, function=function, gated=gated).work()
    assert work.vector_flops == flops * TOKENS * WIDTH
    assert work.special_ops == exponentials * TOKENS * WIDTH
    assert work.activation_bytes == (3 if gated else 2) * TOKENS * WIDTH * 2


def test_rotations_and_residuals() -> None:
    assert Rope(TOKENS, 4, WIDTH).work().vector_flops == 3 * TOKENS * 4 * WIDTH  # x cos + rotated(x) sin
    assert Residual(TOKENS, WIDTH).work().vector_flops == TOKENS * WIDTH


def test_a_norm_that_adds_reads_and_writes_the_stream_too() -> None:
    """x + block in, the stream and its norm out; what it computes is the norm's."""
    plain, adds = Norm(TOKENS, WIDTH).work(), Norm(TOKENS, WIDTH, adds=True).work()
    rows = TOKENS * WIDTH * 2
    assert (plain.bytes_as(Role.INPUT), plain.bytes_as(Role.OUTPUT)) == (rows, rows)
    assert (adds.bytes_as(Role.INPUT), adds.bytes_as(Role.OUTPUT)) == (2 * rows, 2 * rows)


def test_modulation() -> None:
    """x (1 + scale) + shift: 1 + scale is made once for the positions of a sequence; or x gate."""
    sequences, positions = 2, 7
    made, applied = sequences * WIDTH, 2 * sequences * positions * WIDTH
    assert Modulation(sequences, positions, WIDTH).work().vector_flops == made + applied
    assert Modulation(sequences, positions, WIDTH, gate=True).work().vector_flops == applied / 2


def test_scores_of_an_index() -> None:
    """w_h relu(Q_h K') summed over 4 heads of 16: of the last 3 of 20 positions, which see 18, 19 and 20."""
    work = IndexScores(2, 3, 20, 4, 16).work()
    assert work.outputs == 2 * (18 + 19 + 20)
    assert work.matrix_flops == work.outputs * 4 * (2 * 16 + 2)


def test_choosing_a_token() -> None:
    """The largest by one comparison per logit; a softmax also exponentiates and adds each."""
    greedy, drawn = (Sampling(TOKENS, 1000, softmax=softmax).work() for softmax in (False, True))
    assert (greedy.vector_flops, greedy.special_ops) == (TOKENS * 1000, 0)
    assert (drawn.vector_flops, drawn.special_ops) == (2 * TOKENS * 1000, TOKENS * 1000)


def test_a_tied_matrix_is_read_and_owned_by_another() -> None:
    own, tied = (Gemm(TOKENS, 8, WIDTH, weights="fp8", tied=tied) for tied in (False, True))
    assert own.work() == tied.work()
    assert (own.parameters(), own.stored_bytes()) == (80, 80)
    assert (tied.parameters(), tied.stored_bytes()) == (0, 0)
