"""The inverse question: what is answered meets the target, and nothing milder does."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hwspecs import load_device
from reports.whatif import answers_json
from roofline.bounds import Bounds
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.target import Answer, Goal, Option, answers
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.techniques.registry import parse

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
    "text", ["tpot", "tpot=20", "tpot=fast", "tpot=-1ms", "tpot=0ms", "throughput=5ms", "speed=3", ""]
)
def test_a_target_that_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(InputError, match="target"):
        Goal.parse(text)


def test_what_is_answered_meets_the_target_and_nothing_milder_does() -> None:
    goal = Goal.parse("tpot=6ms,ttft=300ms")
    found = answers(SCENARIO, DEVICES, goal).met
    assert found
    assert [a.watts for a in found] == sorted(a.watts for a in found if a.watts)
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


def test_what_an_engine_serves_is_answered_before_what_none_does() -> None:
    """Also where the other gains more by its assumption; that one where nothing else is enough."""
    h100, alone = load_device("h100_sxm"), replace(SCENARIO, batch=1)
    drafts = [parse("speculative-diffusion:accept=0.95"), parse("eagle")]
    diffusion, eagle = (predict(replace(alone, techniques=(t,)), h100).totals()["tpot_s"] for t in drafts)
    assert diffusion < eagle
    for tpot_s, chosen in ((eagle * 1.1, drafts[1]), ((diffusion + eagle) / 2, drafts[0])):
        found = answers(alone, [h100], Goal({"tpot": tpot_s}), "datasheet", "exact", techniques=drafts)
        assert found.met[0].techniques == (chosen,)


def test_power_that_nobody_states_is_unknown_and_comes_last() -> None:
    """Google's TPUs; JSON has no infinite number."""
    small, goal = replace(SCENARIO, model=load_model("SmolLM2-135M").model), Goal.parse("tpot=10s")
    found = answers(small, [load_device("tpu_v5e"), load_device("l40s")], goal, techniques=(), shared_by=(1,))
    told = json.loads(json.dumps(answers_json(found, small, goal, "tpot=10s"), allow_nan=False))
    assert [answer["tdp_w"] for answer in told["answers"]] == [350, None]


def test_more_devices_come_before_what_no_engine_serves() -> None:
    h100, goal = load_device("h100_sxm"), Goal.parse("ttft=1s,tpot=20ms")
    asked = Scenario(load_model("Llama-3.3-70B").model, batch=16, prompt=2000, output=300)
    harsher = replace(asked, techniques=(parse("w4a8"), parse("summaries")))  # what nobody serves
    assert goal.missed(Answer(h100, 1, harsher.techniques, predict(harsher, h100)).totals) < 1
    (answer,) = answers(asked, [h100], goal).met
    assert answer.devices > 1
    assert all(technique.served for technique in answer.techniques)


def test_the_formats_that_matrix_units_differ_in_are_tried() -> None:
    """Llama-3.3-70B in fp8 is too slow on one B200, in NVFP4 it is not: 4.5e15 FLOP/s or 9."""
    asked = Scenario(load_model("Llama-3.3-70B").model, batch=16, prompt=2000, output=300)
    (answer,) = answers(asked, [load_device("b200_sxm")], Goal.parse("ttft=1s,tpot=20ms")).met
    assert [t.called() for t in answer.techniques] == ["weight-activation-quantisation:format=nvfp4"]
    assert answer.devices == 1


def test_a_device_that_meets_it_alone_needs_no_technique() -> None:
    (answer,) = answers(SCENARIO, [load_device("h100_sxm")], Goal.parse("tpot=100ms")).met
    assert (answer.devices, answer.techniques) == (1, ())


def test_prices_rank_and_what_has_none_comes_last() -> None:
    """Nobody's prices: the H100 is said to be the cheapest, nothing is said of the L4."""
    prices = {"H100-SXM5-80GB": 1.0, "A100-SXM4-80GB": 2.0}
    found = answers(SCENARIO, DEVICES, Goal.parse("tpot=20ms"), prices=prices).met
    assert [a.device.name for a in found] == ["H100-SXM5-80GB", "A100-SXM4-80GB", "L4-24GB"]
    assert [a.usd_per_hour for a in found] == [1.0 * found[0].devices, 2.0 * found[1].devices, None]


def test_what_no_engine_serves_comes_last_even_where_its_token_is_the_cheapest() -> None:
    """An L4 of 242 TFLOP/s in 8 bits needs 0.13 s for 32 TFLOP of prompts; less takes fewer tokens."""
    prices = {"L4-24GB": 0.001, "H100-SXM5-80GB": 100.0}
    devices = [load_device(name) for name in ("l4", "h100_sxm")]
    first, last = answers(SCENARIO, devices, Goal.parse("ttft=100ms"), prices=prices, shared_by=(1,)).met
    assert (first.served, last.served) == (True, False)
    assert last.cost() < first.cost()


def test_an_hour_of_several_devices_costs_as_many() -> None:
    """70B parameters of 2 bytes are more than one device of 80 GB holds."""
    large = replace(SCENARIO, model=load_model("Llama-3.1-70B").model)
    goal, h100 = Goal.parse("tpot=100ms"), load_device("h100_sxm")
    (found,) = answers(large, [h100], goal, quality="exact", prices={h100.name: 3.0}).met
    assert found.devices >= 2
    assert found.usd_per_hour == 3.0 * found.devices


def test_the_cheapest_token_comes_before_the_cheapest_hour() -> None:
    """A dearer hour is worth it where it brings even more tokens, and only there."""
    goal = Goal.parse("tpot=100ms")
    slow, fast = load_device("a100_sxm"), load_device("h100_sxm")
    rates = {a.device.name: a.totals["tokens_per_s"] for a in answers(SCENARIO, [slow, fast], goal).met}
    faster = rates[fast.name] / rates[slow.name]
    assert faster > 1.1
    for times, first in ((0.9 * faster, fast), (1.1 * faster, slow)):
        prices = {slow.name: 1.0, fast.name: times}
        met = answers(SCENARIO, [slow, fast], goal, prices=prices).met
        assert met[0].device.name == first.name
        busy_usd = prices[first.name] / 3600 / rates[first.name] * 1e6
        assert met[0].usd_per_million_tokens == pytest.approx(busy_usd)


def test_where_no_device_meets_it_the_nearest_are_told() -> None:
    """What is served first, the fastest first, with the goal missed most: nothing brings a step to 1 us."""
    goal = Goal.parse("tpot=1us,ttft=10s")
    found = answers(SCENARIO, DEVICES, goal)
    assert found.met == []
    assert found.nearest[0].device.name == "H100-SXM5-80GB"
    order = [(not answer.served, goal.missed(answer.totals)) for answer in found.nearest]
    assert order == sorted(order)
    served, others = ({m for unserved, m in order if unserved == there} for there in (False, True))
    assert max(others) < min(served)
    for answer in found.nearest:
        misses = goal.misses(answer.totals)
        assert misses["tpot"] == pytest.approx(answer.totals["tpot_s"] / 1e-6) == max(misses.values())
        assert misses["ttft"] < 1
        assert misses["memory"] < 1


def test_what_nobody_serves_comes_after_the_nearest_that_engines_serve() -> None:
    """A prompt's time on two L40S falls below this goal only where less of the prompt is read."""
    l40s = load_device("l40s")
    served = answers(SCENARIO, [l40s], Goal.parse("ttft=1us")).nearest[0].totals["ttft_s"]
    goal = Goal({"ttft": 0.9 * served})
    found = answers(SCENARIO, [l40s], goal)
    assert [answer.served for answer in (*found.nearest, *found.met)] == [True, False]
    assert goal.missed(found.nearest[0].totals) == pytest.approx(1 / 0.9)
    assert goal.missed(found.met[0].totals) <= 1
    named = answers(SCENARIO, [l40s], goal, techniques=found.met[0].techniques)
    assert named.nearest == []  # who names a technique has it


def test_too_little_memory_is_a_goal_that_is_missed() -> None:
    """Llama-3.1-405B takes four times the memory of eight L4; from the host its weights come even later."""
    large = replace(SCENARIO, model=load_model("Llama-3.1-405B").model)
    goal = Goal.parse("tpot=500ms")
    found = answers(large, [load_device("l4")], goal, quality="exact")
    assert found.met == []
    (nearest,) = found.nearest
    assert goal.missed(nearest.totals) == goal.misses(nearest.totals)["memory"] > 4
    option, l4 = Option(8), load_device("l4")
    needed = predict(option.of(large), l4).totals()["memory_bytes"]
    assert Bounds(large, [l4], goal).missed(option) == needed / l4.capacity_bytes


WORDS = (
    "",
    "w4a8",
    "eagle",
    "prompt-compression",
    "h2o",
    "quest",
    "streaming-llm",
    "weight-offloading",
    "mla",
)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("count", [1, 2])
def test_bounds_are_below_every_prediction(words: str, count: int) -> None:
    """Nothing that could meet a goal is ruled out: each floor is at most what is predicted."""
    long = replace(SCENARIO, output=2000)
    goal = Goal.parse("tpot=1ms,ttft=1ms,throughput=1000")
    option = Option(count, (parse(words),) if words else ())
    missed = Bounds(long, DEVICES, goal).missed(option)
    for device, bound in zip(DEVICES, missed, strict=True):
        try:
            prediction = predict(option.of(long), device)
        except InputError:
            assert bound == np.inf
            continue
        totals = {**prediction.totals(), "capacity_bytes": device.capacity_bytes}
        assert 0.5 * goal.missed(totals) <= bound <= goal.missed(totals) * (1 + 1e-9)


def test_what_a_device_cannot_run_is_no_option_of_it() -> None:
    """An A100 does not multiply in fp8; devices without a link share no layer."""
    goal = Goal.parse("tpot=1ms")
    narrow = Bounds(SCENARIO, DEVICES, goal).missed(Option(1, (parse("fp8"),)))
    assert np.isinf(narrow).tolist() == [False, True, False]
    assert not np.isinf(Bounds(SCENARIO, DEVICES, goal).missed(Option(2))).any()
    alone = msgspec.structs.replace(
        DEVICES[0], datasheet=msgspec.structs.replace(DEVICES[0].datasheet, links={})
    )
    assert np.isinf(Bounds(SCENARIO, [alone], goal).missed(Option(2))).all()


def test_throughput_is_bounded_by_all_of_the_time() -> None:
    goal = Goal.parse("throughput=1e6")
    (bound,) = Bounds(SCENARIO, DEVICES[:1], goal).missed(Option(1))
    assert 1e6 / bound == pytest.approx(predict(SCENARIO, DEVICES[0]).totals()["tokens_per_s"], rel=0.02)


def test_what_requests_have_in_common_is_not_offered() -> None:
    """Nobody can choose that prompts begin alike or that half of them is short."""
    found = answers(SCENARIO, DEVICES, Goal.parse("tpot=20ms,ttft=20ms"), quality="retrained")
    names = {t.name for answer in (*found.met, *found.nearest) for t in answer.techniques}
    assert names
    assert not names & {"varlen-packing", "prefix-caching", "gist-tokens"}


def test_only_techniques_of_the_asked_quality_are_tried() -> None:
    goal = Goal.parse("tpot=3ms")
    found = answers(SCENARIO, DEVICES[1:2], goal, quality="exact")
    for answer in (*found.met, *found.nearest):
        assert {t.quality for t in answer.techniques} <= {"exact"}


def test_a_phase_without_a_first_token_has_no_ttft() -> None:
    with pytest.raises(InputError, match="no ttft; ask for generate"):
        answers(replace(SCENARIO, phase="decode"), DEVICES[2:], Goal.parse("ttft=1s"))


def test_the_answer_for_a_device_is_the_same_whatever_others_are_listed() -> None:
    """A B200 multiplies in NVFP4 and an L4 does not: what gains most on one may gain nothing on another."""
    listed = [load_device(name) for name in ("l4", "a100_sxm", "h20", "tpu_v4", "b200_sxm")]
    goal = Goal.parse("tpot=8ms,ttft=30ms")
    together = {a.device.name: (a.devices, a.techniques) for a in answers(SCENARIO, listed, goal).met}
    assert {"L4-24GB", "H20-96GB"} <= together.keys()
    for device in listed:
        alone = [(a.devices, a.techniques) for a in answers(SCENARIO, [device], goal).met]
        assert alone == ([together[device.name]] if device.name in together else [])
