"""Intervals hold what they claim on rows that did not set them, whatever the shape of the errors."""

from __future__ import annotations

import numpy as np
import pytest

from roofline.physics.intervals import COVERED, LEAST_WIDTH, bands, covered, interval, within


def measured(families: int, each: int, seed: int = 0, between: float = 0.1) -> tuple[np.ndarray, ...]:
    """Times over four decades; small ones are three times as uncertain, families err together."""
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), each)
    predicted = 10 ** rng.uniform(-6, -2, len(family))
    spread = np.where(predicted < 1e-5, 0.3, 0.1)
    error = between * rng.standard_normal(families)[family] + spread * rng.standard_normal(len(family))
    return predicted, predicted * np.exp(error), family


def test_every_band_holds_what_it_claims_and_small_times_get_wider_ones() -> None:
    predicted, time, family = measured(200, 20)
    ratio = time / predicted
    set_by = family % 2 == 0
    found = bands(predicted[set_by], ratio[set_by], family[set_by])
    begin = 0.0
    for edge, low, high in found:
        here = ~set_by & (predicted > begin) & (predicted <= edge)
        assert ((ratio[here] >= low) & (ratio[here] <= high)).mean() == pytest.approx(COVERED, abs=0.07)
        begin = edge
    widths = [high / low for _, low, high in found]
    assert widths[0] > 1.3 * widths[-1]


@pytest.mark.parametrize("families", [3, 5, 12, 60])
def test_coverage_of_families_held_out_is_the_claim_however_few_they_are(families: int) -> None:
    reached = [covered(*measured(families, 12, seed)) for seed in range(60)]
    assert np.mean(reached) == pytest.approx(COVERED, abs=0.08)


def test_one_family_is_no_evidence() -> None:
    assert covered(*measured(1, 50)) == COVERED


def test_few_families_say_nothing_of_the_side() -> None:
    low, high = interval(np.full(10, 1.3), np.arange(10) % 2)
    assert low == pytest.approx(1 / high)
    assert high > 1.3


def test_no_interval_is_narrower_than_measurements_repeat() -> None:
    low, high = interval(np.ones(500), np.arange(500) % 100)
    assert (np.log(low), np.log(high)) == pytest.approx((-LEAST_WIDTH, LEAST_WIDTH))


def test_times_beyond_all_bands_get_the_outer_ones() -> None:
    found = [(1e-5, 0.5, 2.0), (1e-3, 0.8, 1.2)]
    lower, upper = within(found, np.array([1e-9, 1e-5, 2e-5, 1.0]))
    assert list(lower) == [0.5, 0.5, 0.8, 0.8]
    assert list(upper) == [2.0, 2.0, 1.2, 1.2]
