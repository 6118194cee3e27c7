"""How many experts a batch touches: the closed forms against drawing, and the cases known on paper."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.operators import GroupedGemm, RoutedExperts
from workloads.operators.experts import expected_devices, expected_distinct, popularity

EXPERTS = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
SKEWS = st.sampled_from([0.0, 0.3, 1.0, 1.2, 3.0])


@pytest.mark.parametrize(("experts", "top_k", "tokens"), [(4, 2, 2), (5, 2, 3), (4, 1, 4), (3, 2, 3)])
def test_the_closed_form_is_the_mean_over_all_choices(experts: int, top_k: int, tokens: int) -> None:
    choices = list(itertools.combinations(range(experts), top_k))
    counts = [len(set().union(*map(set, drawn))) for drawn in itertools.product(choices, repeat=tokens)]
    assert expected_distinct(experts, top_k, tokens) == pytest.approx(np.mean(counts), rel=1e-12)


def test_a_skewed_batch_touches_what_drawing_touches() -> None:
    """Experts drawn one by one with their probabilities, 20,000 batches."""
    experts, top_k, tokens = 16, 2, 12
    chosen = np.random.default_rng(0).random((20_000, tokens, experts)) < popularity(experts, top_k, 1.0)
    drawn = chosen.any(axis=1).sum(axis=1).mean()
    assert expected_distinct(experts, top_k, tokens, 1.0) == pytest.approx(drawn, rel=5e-3)


@given(EXPERTS, st.integers(1, 500), SKEWS)
def test_between_one_token_and_all_experts(shape: tuple[int, int], tokens: int, skew: float) -> None:
    experts, top_k = shape
    touched = expected_distinct(experts, top_k, tokens, skew)
    assert expected_distinct(experts, top_k, 1, skew) == pytest.approx(top_k)
    assert top_k * (1 - 1e-9) <= touched <= min(experts, top_k * tokens) * (1 + 1e-9)
    assert expected_distinct(experts, top_k, tokens + 1, skew) >= touched * (1 - 1e-12)
    assert touched <= expected_distinct(experts, top_k, tokens) * (1 + 1e-9)  # skew touches fewer


@given(EXPERTS, SKEWS)
def test_popularity_is_a_law_of_choices(shape: tuple[int, int], skew: float) -> None:
    experts, top_k = shape
    shares = popularity(experts, top_k, skew)
    assert sum(shares) == pytest.approx(top_k)
    assert all(0 <= share <= 1 + 1e-12 for share in shares)
    assert list(shares) == sorted(shares, reverse=True)


def test_known_on_paper() -> None:
    """DeepSeek-V3, 256 experts of which 8: 128 tokens touch 251.6, neither 256 nor 1024."""
    assert expected_distinct(256, 8, 128) == pytest.approx(256 * (1 - (248 / 256) ** 128))
    assert expected_distinct(8, 8, 1) == 8  # all experts: a dense layer
    touched = expected_distinct(8, 2, np.array([1, 2, 4]))
    np.testing.assert_allclose(touched, [2, 3.5, 8 * (1 - 0.75**4)])


@pytest.mark.parametrize(("experts", "top_k", "devices"), [(8, 2, 4), (6, 3, 2), (8, 1, 8), (9, 4, 3)])
def test_devices_reached_is_the_mean_over_all_choices(experts: int, top_k: int, devices: int) -> None:
    each = experts // devices
    counts = [len({e // each for e in drawn}) for drawn in itertools.combinations(range(experts), top_k)]
    assert len(counts) == comb(experts, top_k)
    assert expected_devices(experts, top_k, devices) == pytest.approx(np.mean(counts), rel=1e-12)


def test_flop_follow_the_choices_and_bytes_the_matrices_touched() -> None:
    """One token through 2 of 8 experts multiplies by 2 matrices and reads 2; FLOP never ignore top-k."""
    one = GroupedGemm(2, 48, 24, 8, 2)
    assert one.work().matrix_flops == 2 * 2 * 48 * 24
    assert one.work().weight_bytes == 2 * 48 * 24 * 2
    assert one.parameters() == 8 * 48 * 24
    assert one.active_parameters() == 2 * 48 * 24


@pytest.mark.parametrize(("weights", "size"), [("bf16", 2), ("fp8", 1), ("fp4", 0.5)])
def test_experts_are_read_in_the_format_of_their_weights(weights: str, size: float) -> None:
    """9 tokens make 18 choices, of 5 experts of 3 matrices [32, 24]."""
    work = RoutedExperts(9, 18, 5, 32, 24, 3, "bf16", weights).work()
    assert work.weight_bytes == 5 * 3 * 32 * 24 * size
    assert work.activation_bytes == 2 * 9 * 32 * 2
    assert work.matrix_flops == 2 * 18 * 3 * 32 * 24
