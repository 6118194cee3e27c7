"""Operators written as `profile --nsys` writes them are read back the same, whatever their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.replay import sizes
from profiler.traces.described import described
from workloads.operators import Attention, Operator
from workloads.operators.kinds import KINDS

Strategies = Callable[..., st.SearchStrategy[Operator]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_operator_survives_writing_and_reading(kind: type[Operator], operators_of: Strategies) -> None:
    @given(operators_of(kind))
    @settings(max_examples=5)
    def same(operator: Operator) -> None:
        assert described(sizes(operator)) == operator

    same()


def test_what_is_switched_off_stays_off() -> None:
    unfused = Attention(1, 4, 4, 2, 2, 8, causal=False, fused=False, cached=False)
    assert described(sizes(unfused)) == unfused


@pytest.mark.parametrize(
    "told",
    [
        '{"kind":"gemm","m":-1,"n":2,"k":3}',
        '{"kind":"gemm","m":1e300,"n":2,"k":3}',
        '{"kind":"gemm","m":"1","n":2,"k":3}',
        '{"kind":"gemm","m":true,"n":2,"k":3}',
        '{"kind":"gemm","m":1,"n":2,"k":3,"inputs":"fp99"}',
        '{"kind":"gemm","m":1,"n":2,"k":3,"more":4}',
        '{"kind":["gemm"],"m":1,"n":2,"k":3}',
        '{"kind":"no such kind"}',
        '{"kind":',
    ],
)
def test_sizes_that_cannot_be_say_nothing(told: Any) -> None:
    assert described(told) is None
