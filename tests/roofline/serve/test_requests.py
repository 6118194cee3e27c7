"""Requests: the described distributions, and recorded ones with everything that can be wrong in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roofline.serve.requests import drawn, recorded
from specfiles.errors import InputError
from workloads.traffic import Traffic

FILE = Path("trace.csv")


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_mean_and_the_variation_asked_for(burstiness: float) -> None:
    found = drawn(Traffic(requests=100_000, burstiness=burstiness), 500, 100, 100_000).at_rate(4.0)
    gaps = np.diff(found.arrival_s)
    assert gaps.mean() == pytest.approx(0.25)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("variation", [0.0, 0.3, 1.0])
def test_lengths_have_the_mean_and_the_variation_asked_for(variation: float) -> None:
    found = drawn(Traffic(requests=200_000, prompt_cv=variation, output_cv=variation), 800, 200, 10**7)
    for lengths, mean in ((found.prompt, 800), (found.output, 200)):
        assert lengths.mean() == pytest.approx(mean, rel=0.02)
        assert lengths.std() / lengths.mean() == pytest.approx(variation, rel=0.05, abs=1e-9)
        assert lengths.min() >= 1


def test_lengths_stay_within_the_models_context() -> None:
    found = drawn(Traffic(requests=10_000, prompt_cv=2, output_cv=2), 900, 600, 1024)
    assert (found.prompt + found.output).max() <= 1024
    assert found.prompt.min() >= 1


def test_the_stacks_of_an_encoder_decoder_have_a_context_each() -> None:
    found = drawn(Traffic(requests=10), 1000, 500, 1024, apart=True)
    assert (found.prompt == 1000).all()
    assert (found.output == 500).all()
    table = pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt": [1024, 1], "output": [1, 1024]})
    assert len(recorded(table, FILE, 1024, apart=True)) == 2
    with pytest.raises(InputError, match=r"request 0 has 1024 \+ 1 tokens"):
        recorded(table, FILE, 1023, apart=True)


def test_a_seed_makes_the_same_requests_again() -> None:
    one, same, other = (
        drawn(Traffic(requests=50, prompt_cv=1, seed=seed), 100, 10, 10_000) for seed in (1, 1, 2)
    )
    assert (one.prompt == same.prompt).all()
    assert (one.arrival_s == same.arrival_s).all()
    assert (one.prompt != other.prompt).any()


def test_a_recorded_trace_keeps_its_order_of_arrival_and_its_rhythm() -> None:
    table = pd.DataFrame({"arrival_s": [5.0, 3.0, 4.0], "prompt": [1, 2, 3], "output": [4, 5, 6]})
    found = recorded(table, FILE, 100)
    assert found.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert found.prompt.tolist() == [2, 3, 1]
    assert np.diff(found.at_rate(10).arrival_s) == pytest.approx([0.1, 0.1])


def test_columns_and_dates_of_the_azure_traces_are_read() -> None:
    times = ["2023-11-16 18:17:03.9799600", "2023-11-16 18:17:04.0319600"]
    table = pd.DataFrame({"TIMESTAMP": times, "ContextTokens": [4808, 3180], "GeneratedTokens": [10, 8]})
    found = recorded(table, FILE, 10_000)
    assert found.arrival_s == pytest.approx([0.0, 0.052])
    assert found.prompt.tolist() == [4808, 3180]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": [1], "output": [1]}, "no column 'arrival_s'"),
        ({"arrival_s": [0.0], "prompt": ["many"], "output": [1]}, "row 1 has prompt = 'many'"),
        ({"arrival_s": [0.0], "prompt": [0], "output": [1]}, "prompt = 0; expected a number from 1"),
        ({"arrival_s": [0.0, np.inf], "prompt": [1, 1], "output": [1, 1]}, "row 2 has arrival_s"),
        ({"arrival_s": [], "prompt": [], "output": []}, "0 requests"),
        ({"arrival_s": [0.0], "prompt": [90], "output": [20]}, "90 .* 20 tokens"),
    ],
)
def test_a_broken_trace_gets_a_sentence(columns: dict[str, list[object]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recorded(pd.DataFrame(columns), FILE, 100)


def test_requests_at_one_moment_have_no_rate() -> None:
    table = pd.DataFrame({"arrival_s": [1.0, 1.0], "prompt": [1, 1], "output": [1, 1]})
    with pytest.raises(InputError, match="leave --rate out"):
        recorded(table, FILE, 100).at_rate(1.0)
