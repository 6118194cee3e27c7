"""The inverse question: what is answered meets the target, and nothing milder does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwspecs import load_device
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.target import Goal, answers
from specfiles.errors import InputError
from workloads.catalogue import load_model

SCENARIO = Scenario(load_model("Llama-3.1-8B").model, batch=2, prompt=1000, output=50)
DEVICES = [load_device(name) for name in ("l4", "a100_sxm", "h100_sxm")]


@pytest.mark.parametrize(
    ("text", "goals"),
    [
        ("tpot=20ms", {"tpot": 0.02}),
        ("ttft=0.5s,tpot=900us", {"ttft": 0.5, "tpot": 9e-4}),
        ("throughput=1e3", {"throughput": 1000.0}),
    ],
)
def test_targets_are_read_in_si_units(text: str, goals: dict[str, float]) -> None:
    assert Goal.parse(text).goals == pytest.approx(goals)


@pytest.mark.parametrize(
    "text", ["tpot", "tpot=fast", "tpot=-1ms", "tpot=0ms", "throughput=5ms", "speed=3", ""]
)
def test_a_target_that_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(InputError, match="target"):
        Goal.parse(text)


def test_what_is_answered_meets_the_target_and_nothing_milder_does() -> None:
    goal = Goal.parse("tpot=6ms,ttft=300ms")
    found = answers(SCENARIO, DEVICES, goal)
    assert found
    assert [a.watts for a in found] == sorted(a.watts for a in found)
    for answer in found:
        asked = replace(
            SCENARIO,
            techniques=answer.techniques,
            setting=replace(SCENARIO.setting, tensor_parallel=answer.devices),
        )
        totals = predict(asked, answer.device).totals()
        assert totals["fits"]
        assert totals["tpot_s"] <= 6e-3
        assert totals["ttft_s"] <= 0.3
        if answer.techniques:  # without them it is not met
            plain = predict(replace(asked, techniques=()), answer.device).totals()
            assert plain["tpot_s"] > 6e-3 or plain["ttft_s"] > 0.3 or not plain["fits"]


def test_a_device_that_meets_it_alone_needs_no_technique() -> None:
    (answer,) = answers(SCENARIO, [load_device("h100_sxm")], Goal.parse("tpot=100ms"))
    assert (answer.devices, answer.techniques) == (1, ())


def test_prices_rank_and_what_has_none_comes_last() -> None:
    """Nobody's prices: the H100 is said to be the cheapest, nothing is said of the L4."""
    prices = {"H100-SXM5-80GB": 1.0, "A100-SXM4-80GB": 2.0}
    found = answers(SCENARIO, DEVICES, Goal.parse("tpot=20ms"), prices=prices)
    assert [a.device.name for a in found] == ["H100-SXM5-80GB", "A100-SXM4-80GB", "L4-24GB"]
    assert [a.usd_per_hour for a in found] == [1.0 * found[0].devices, 2.0 * found[1].devices, None]


def test_what_no_device_meets_has_no_answer() -> None:
    assert answers(SCENARIO, DEVICES[:1], Goal.parse("tpot=1us")) == []


def test_only_techniques_of_the_asked_quality_are_tried() -> None:
    goal = Goal.parse("tpot=3ms")
    for answer in answers(SCENARIO, DEVICES[1:2], goal, quality="exact"):
        assert {t.quality for t in answer.techniques} <= {"exact"}


def test_a_phase_without_a_first_token_has_no_ttft() -> None:
    with pytest.raises(InputError, match="no ttft; ask for generate"):
        answers(replace(SCENARIO, phase="decode"), DEVICES[2:], Goal.parse("ttft=1s"))
