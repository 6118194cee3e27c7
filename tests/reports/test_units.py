"""Numbers as people read them: SI prefixes, three digits, a dash for what is not known."""

import math

import pytest

from reports.units import in_bytes, percent, seconds, si, usd
from reports.validation import SUMS
from reports.wording import plain, rate, signed


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (3.35e12, "B/s", "3.35 TB/s"),
        (989.4e12, "FLOP/s", "989 TFLOP/s"),
        (80e9, "B", "80.0 GB"),
        (1e12, "FLOP", "1.00 TFLOP"),
        (1e12 * (1 - 1e-12), "FLOP", "1.00 TFLOP"),  # a rounding error below
        (0.0105, "s", "10.5 ms"),
        (1.5e-6, "s", "1.50 µs"),
        (-2.5e3, "s", "-2.50 ks"),
        (0.5, "B", "0.50 B"),  # no millibytes
        (0, "B", "0 B"),
        (math.inf, "s", "–"),
        (None, "s", "–"),
    ],
)
def test_si(value: float | None, unit: str, shown: str) -> None:
    assert si(value, unit) == shown


def test_columns() -> None:
    assert (seconds(2e-3), in_bytes(2e9)) == ("2.00 ms", "2.00 GB")
    assert (percent(0.1234), percent(1.5, 0), percent(None), percent(math.nan)) == (
        "12.3 %",
        "150 %",
        "–",
        "–",
    )
    assert SUMS["drift"][1](1.25) == "25.0 %"  # of the time that the same work took before
    assert (usd(1.234), usd(0.0123), usd(None)) == ("1.23", "0.012", "–")


def test_numbers_in_sentences() -> None:
    assert (rate(12345.6), rate(12.345)) == ("12,346", "12.3")
    assert (plain(9999.4), plain(12345.6), plain(1.23456), plain(None)) == ("9999", "12,346", "1.235", "–")
    assert (signed(0.123), signed(-0.5, 0), signed(None)) == ("+12.3 %", "−50 %", "–")
