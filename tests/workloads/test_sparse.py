"""Banded attention with global positions: its closed form against counting a mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.operators import Attention, RelativeBias, SparseAttention
from workloads.work import Role


def mask(op: SparseAttention) -> np.ndarray:
    """visible[query, key] without the random blocks: the papers' pattern, block by block."""
    block = np.arange(op.tokens) // op.block
    marked = block < op.global_blocks  # where the global positions stand does not change their number
    band = np.abs(block[:, None] - block[None, :]) <= op.side
    return band | marked[:, None] | marked[None, :]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 50), st.integers(0, 5))
def test_the_closed_form_counts_the_mask(blocks: int, block: int, side: int, marked: int) -> None:
    op = SparseAttention(1, blocks * block, 2, 8, side, marked, 0, block)
    assert op.pairs() == mask(op).sum()


@given(st.integers(1, 40), st.integers(1, 6))
def test_random_blocks_are_seen_by_all_but_the_global_ones(blocks: int, more: int) -> None:
    plain, drawn = (SparseAttention(1, blocks * 4, 2, 8, 1, 2, r, 4) for r in (0, more))
    expected = plain.pairs() + more * max(0, blocks - 2) * 16
    assert drawn.pairs() == min(expected, (blocks * 4) ** 2)


def test_longformer_and_bigbird_on_paper() -> None:
    """Longformer-base: 512 of 4096 keys; BigBird-base: 3 + 2 + 3 of 64 blocks (the shipped configs)."""
    longformer = SparseAttention(1, 4096, 12, 64, 256, 0, 0, 1)
    assert longformer.pairs() == 4096 * 513 - 256 * 257
    bigbird = SparseAttention(1, 4096, 12, 64, 1, 2, 3, 64)
    inner = 62 * (3 + 2 + 3) - 2  # the band's two ends have one neighbour among the inner blocks
    assert bigbird.pairs() == (inner + 2 * 64) * 64 * 64
    assert bigbird.work().matrix_flops == 4 * 12 * 64 * bigbird.pairs()


@given(st.integers(1, 60))
def test_a_band_over_everything_is_full_attention(tokens: int) -> None:
    sparse = SparseAttention(3, tokens, 4, 16, tokens, 0, 0, 1).work()
    full = Attention(3, tokens, tokens, 4, 4, 16, causal=False).work()
    assert (sparse.flops, sparse.special_ops, sparse.bytes) == (full.flops, full.special_ops, full.bytes)


def test_work_is_linear_in_the_sequence() -> None:
    short, long = (SparseAttention(1, n, 12, 64, 1, 2, 3, 64).work().matrix_flops for n in (4096, 8192))
    assert long / short == pytest.approx(2, rel=0.02)


def test_a_relative_bias_is_written_unless_attention_looks_it_up() -> None:
    op, fused = (RelativeBias(5, 7, 12, 32, fused=f) for f in (False, True))
    assert op.work().bytes_as(Role.OUTPUT) == 12 * 5 * 7 * 2
    assert fused.work().bytes == fused.work().weight_bytes == 32 * 12 * 2
    assert op.parameters() == 32 * 12
