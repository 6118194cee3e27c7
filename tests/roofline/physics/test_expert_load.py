"""How many tokens reach the experts of a rank: counts known on paper, and draws that quantiles stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofline.physics.expert_load import GROUPED, INDEPENDENT, TILES, Load, expert_load, exponent
from specfiles.errors import InputError
from workloads.operators.experts import expected_distinct, popularity

SHAPE = st.sampled_from([(8, 2), (16, 1), (128, 8), (256, 8), (512, 10)])
TOKENS = st.integers(1, 20_000)
ALPHA = st.sampled_from([0.0, 1.01, 1.2, INDEPENDENT])


def load(tokens: float, experts: float, top_k: float, ranks: float = 1, alpha: float = 0.0) -> Load:
    return expert_load(*(np.array([float(v)]) for v in (tokens, experts, top_k, ranks, alpha)))


@given(SHAPE)
def test_one_token_touches_exactly_its_choices(shape: tuple[int, int]) -> None:
    found = load(1, *shape)
    assert found.touched == found.chosen == shape[1]


@given(TOKENS, st.sampled_from([2, 8, 16]))
def test_all_experts_chosen_is_a_dense_layer(tokens: int, experts: int) -> None:
    found = load(tokens, experts, experts)
    assert found.touched == experts
    assert found.chosen == tokens * experts
    for size, tiles in zip(TILES, found.tiles, strict=True):
        assert tiles == experts * np.ceil(tokens / size)


@given(TOKENS, SHAPE, st.sampled_from([1, 2, 4, 8]), ALPHA)
def test_a_rank_holds_no_more_than_there_is(
    tokens: int, shape: tuple[int, int], ranks: int, alpha: float
) -> None:
    experts, top_k = shape
    found = load(tokens, experts, top_k, ranks, alpha)
    assert 0 <= found.touched <= experts / ranks + 1e-9
    assert found.touched <= found.chosen + 1e-9
    assert found.chosen <= tokens * min(top_k, experts / ranks) * 1.03 + 1  # whole tokens: rounding
    assert found.tokens <= tokens + 1e-9
    assert (np.diff(found.tiles, axis=0) <= 1e-9).all()  # larger tiles, fewer of them
    assert (found.tiles * np.array(TILES)[:, None] >= found.chosen - 1e-6).all()


@given(TOKENS, SHAPE, ALPHA)
def test_one_rank_has_all_choices(tokens: int, shape: tuple[int, int], alpha: float) -> None:
    found = load(tokens, *shape, alpha=alpha)
    assert found.chosen == pytest.approx(tokens * shape[1], rel=0.06, abs=2)


@given(st.integers(64, 20_000), SHAPE, st.sampled_from([2, 4, 8]), st.sampled_from([1.01, 1.2]))
def test_the_hottest_rank_has_more_than_its_share(
    tokens: int, shape: tuple[int, int], ranks: int, alpha: float
) -> None:
    assert load(tokens, *shape, ranks, alpha).chosen >= tokens * shape[1] / ranks * 0.98


def drawn(tokens: int, experts: int, top_k: int, ranks: int, alpha: float) -> Any:
    """Mean choices and tiles of 64 on the hottest rank, over random draws of the law itself."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        power, high = 1 - alpha, 0.8 * tokens
        loads = ((high**power - 1) * rng.random(experts) + 1) ** (1 / power)
        loads *= tokens * top_k / loads.sum()
        for _ in range(50):
            over = np.maximum(loads - tokens, 0).sum()
            loads = np.minimum(loads, tokens)
            loads[loads < tokens] += over / max((loads < tokens).sum(), 1)
        sums = loads.reshape(ranks, -1)
        hottest = np.round(sums[sums.sum(axis=1).argmax()])
        found.append((hottest.sum(), np.ceil(hottest / 64).sum()))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("shape", [(8, 2), (128, 8), (256, 8)])
@pytest.mark.parametrize("alpha", [1.01, 1.2])
@pytest.mark.parametrize("tokens", [1024, 16384])
def test_quantiles_are_what_draws_average_to(
    tokens: int, shape: tuple[int, int], ranks: int, alpha: float
) -> None:
    found = load(tokens, *shape, ranks, alpha)
    expected = drawn(tokens, *shape, ranks, alpha)
    assert [found.chosen[0], found.tiles[TILES.index(64)][0]] == pytest.approx(expected, rel=0.16)


@pytest.mark.parametrize("shape", [(8, 2), (128, 8), (512, 10)])
@pytest.mark.parametrize("tokens", [1, 16, 300, 5000])
def test_tokens_that_choose_for_themselves(tokens: int, shape: tuple[int, int]) -> None:
    """Counts of drawn routings, and the closed form of the experts that are touched."""
    experts, top_k = shape
    rng = np.random.default_rng(1)
    drawn = [
        np.bincount(np.argsort(rng.random((tokens, experts)))[:, :top_k].ravel(), minlength=experts)
        for _ in range(20)
    ]
    found = load(tokens, experts, top_k, alpha=INDEPENDENT)
    assert found.chosen == pytest.approx(tokens * top_k, rel=0.005)
    assert found.touched == pytest.approx(expected_distinct(experts, top_k, tokens), rel=1e-6)
    for size in (16, 64):
        tiles = np.mean([np.ceil(loads / size).sum() for loads in drawn])
        assert found.tiles[TILES.index(size)] == pytest.approx(tiles, rel=0.06), size


@pytest.mark.parametrize("skew", [0.25, 0.75, 1.0])
@pytest.mark.parametrize("tokens", [1, 32, 1000])
def test_favourites_leave_fewer_experts_to_touch(tokens: int, skew: float) -> None:
    found = load(tokens, 128, 4, alpha=INDEPENDENT - skew)
    even = load(tokens, 128, 4, alpha=INDEPENDENT)
    assert found.chosen == pytest.approx(4 * tokens)
    assert found.touched == pytest.approx(expected_distinct(128, 4, tokens, skew))
    assert found.touched <= even.touched


@pytest.mark.parametrize("skew", [0.05, 0.75, 1.5])
@pytest.mark.parametrize("ranks", [2, 8, 32, 512])
def test_popular_experts_meet_on_the_hottest_rank_as_often_as_chance_has_it(ranks: int, skew: float) -> None:
    """Against experts that are dealt to the ranks at random."""
    rng, popular = np.random.default_rng(1), np.array(popularity(512, 10, skew))
    dealt = [rng.permutation(popular).reshape(ranks, -1).sum(axis=1).max() for _ in range(2000)]
    found = load(4096, 512, 10, ranks, INDEPENDENT - skew)
    assert found.chosen == pytest.approx(4096 * np.mean(dealt), rel=0.01)
    assert found.touched <= 512 / ranks * (1 + 1e-9)


@pytest.mark.parametrize("ranks", [2, 8, 32])
def test_hardly_any_skew_is_none(ranks: int) -> None:
    even, hardly, a_little = (
        load(4096, 256, 8, ranks, INDEPENDENT - skew).chosen for skew in (0.0, 1e-6, 0.01)
    )
    assert hardly == pytest.approx(even, rel=1e-5)
    assert even < a_little < 1.02 * even


def test_exponents_are_read_and_nonsense_is_refused() -> None:
    assert exponent("balanced") == exponent("") == 0
    assert exponent("power_law_1.2") == 1.2
    assert exponent("independent") == INDEPENDENT
    for name in ("power_law_", "power_law_-1", "power_law_nan", "zipf"):
        with pytest.raises(InputError, match="power_law_A"):
            exponent(name)


@pytest.mark.parametrize("tokens", [3, 32, 1000])
def test_a_router_with_groups_halves_what_balanced_choices_touch(tokens: int) -> None:
    """Of 256 experts in 8 groups the first 4 open; what a token wants elsewhere its first experts take."""
    plain, grouped = load(tokens, 256, 8), load(tokens, 256, 8, alpha=GROUPED)
    assert grouped.chosen == plain.chosen == 8 * tokens
    assert plain.touched / 2 <= grouped.touched <= plain.touched / 2 + 5  # and the fifth, where one is wanted
    first = load(tokens, 256, 8, ranks=32, alpha=GROUPED)
    assert first.chosen == pytest.approx(4 * tokens, rel=0.1)
    assert load(tokens, 256, 8, ranks=32).chosen <= tokens


def test_groups_of_one_expert_leave_all_tokens_to_the_first_experts() -> None:
    found = load(100, 8, 2, alpha=GROUPED)
    assert (found.touched, found.chosen, found.tokens) == (2, 200, 100)
    assert load(100, 8, 2, ranks=8, alpha=GROUPED).chosen == 100
