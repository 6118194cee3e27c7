"""What a million tokens cost: an hour of all devices over the tokens of that hour."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofline.cost import with_cost
from specfiles.errors import InputError

PRICES = st.floats(0.01, 1000)
RATES = st.floats(1e-3, 1e6)


def point(devices: int, tokens_per_s: float) -> dict[str, Any]:
    return {"devices": devices, "totals": {"tokens_per_s": tokens_per_s, "time_s": 1.0}}


@given(PRICES, st.integers(1, 64), RATES)
def test_the_tokens_of_an_hour_pay_for_that_hour(usd_per_hour: float, devices: int, rate: float) -> None:
    (found,) = with_cost([point(devices, rate)], usd_per_hour)
    millions = rate * 3600 / 1e6
    assert found["totals"]["usd_per_million_tokens"] * millions == pytest.approx(usd_per_hour * devices)
    assert found["totals"]["time_s"] == 1.0


def test_without_a_price_nothing_is_said_of_cost() -> None:
    assert with_cost([point(1, 10.0)], None) == [point(1, 10.0)]


@pytest.mark.parametrize("price", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_price_is_refused(price: float) -> None:
    with pytest.raises(InputError, match="USD per hour"):
        with_cost([], price)
