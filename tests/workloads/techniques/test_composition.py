"""Several techniques at once: their order does not matter, and equal ones make equal operators."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.operators import Changed, Gemm
from workloads.phases import Named
from workloads.schedule import Schedule
from workloads.techniques.changes import with_weights
from workloads.techniques.registry import known, parse

MODELS = ("SmolLM2-135M", "Mamba-2-2.7B", "T5-small", "OLMoE-1B-7B")
DEVICE = load_device("h100_sxm")
LIMITS = replace(ceilings(DEVICE), known={})
names = st.sampled_from(sorted(known()))


@cache
def scenario(model: str) -> Scenario:
    return Scenario(load_model(model).model, batch=4, prompt=250, output=16)


def predicted(model: str, *words: str) -> Prediction:
    asked = replace(scenario(model), techniques=tuple(map(parse, words)))
    return predict(asked, DEVICE, limits=LIMITS)


def asked(model: str, *words: str) -> Any:
    """The totals, or the reason why there are none."""
    try:
        return predicted(model, *words).totals()
    except InputError as error:
        return str(error)


@given(st.sampled_from(MODELS), st.lists(names, min_size=3, max_size=3, unique=True).flatmap(st.permutations))
def test_three_give_the_same_in_every_order_and_take_no_less_than_nothing(
    model: str, words: list[str]
) -> None:
    found = asked(model, *words)
    assert found == asked(model, *sorted(words))
    if isinstance(found, str):  # refused, by the name of one of them
        assert any(found.startswith(f"{name} ") for name in words)
        return
    assert 0 < found["weights_bytes"] <= found["memory_bytes"]
    assert min(found["kv_cache_bytes"], found["activation_peak_bytes"], found["time_s"]) >= 0
    for row in predicted(model, *words).rows:
        assert min(row.count, row.times.time_s, row.work.flops) >= 0, row.name
        assert all(traffic.bytes >= 0 for traffic in row.work.traffic), row.name


@given(st.sampled_from(MODELS), st.lists(names, min_size=3, max_size=3, unique=True))
def test_what_two_exclude_three_exclude(model: str, words: list[str]) -> None:
    """A third technique reconciles no two that decide the same."""
    clash = any(
        {*known()[one].decides()} & {*known()[other].decides()} for one, other in combinations(words, 2)
    )
    if clash:
        assert "cannot be combined: each decides" in asked(model, *words)


def changes(schedule: Schedule) -> list[tuple[int, list[Named]]]:
    return [(index, p.operators(p.first)) for index, p in enumerate(schedule.passes)]


@pytest.mark.parametrize("name", known())
def test_a_technique_that_is_applied_again_makes_equal_operators(name: str) -> None:
    """Operators compare by their values, those too that a technique changed: sums need each only once."""
    try:
        one, other = (predicted("OLMoE-1B-7B", name).schedule for _ in range(2))
    except InputError:
        return
    assert changes(one) == changes(other)


def test_equal_edits_of_a_matrix_are_equal() -> None:
    """So that a generation sums a row once that no step changes."""
    product = Gemm(4, 8, 16)
    assert with_weights(product, 0.5, 0.25) == with_weights(product, 0.5, 0.25)
    assert with_weights(product, 0.5) != with_weights(product, 0.25)


def test_a_change_of_a_change_knows_what_it_was() -> None:
    product = Gemm(4, 8, 16)
    twice = Changed(Changed(product, abs), abs)  # type: ignore[arg-type]
    assert twice.unchanged() is product
