"""Throttle reasons from NVML's bits."""

from __future__ import annotations

import pytest

from roofline.throttle import reasons


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (None, set()),
        (float("nan"), set()),
        (0, set()),
        (0x1 | 0x2 | 0x10 | 0x100, set()),  # idle and clocks that somebody set
        (0x4, {"power cap"}),
        (float(0x48), {"heat", "hardware slowdown"}),  # as a column with gaps holds it
        (0x60, {"heat"}),
    ],
)
def test_bits_that_held_clocks_down_are_named(bits: float | None, expected: set[str]) -> None:
    assert reasons(bits) == expected
