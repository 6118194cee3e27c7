"""Engines against queueing theory, limits known on paper, and what must be conserved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.engines import find_engine
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.serve.capacity import capacity
from roofline.serve.cluster import Cluster
from roofline.serve.engine import BATCHINGS, Engine, Log, Policy
from roofline.serve.memory import Room
from roofline.serve.outcome import Limits, _weighted, outcome
from roofline.serve.requests import Requests, drawn
from roofline.serve.step_times import StepTimes
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.phases import Setting
from workloads.techniques.registry import parse
from workloads.traffic import Traffic

DEVICE = load_device("h100_sxm")
SCENARIO = Scenario(load_model("Llama-3.1-8B").model, "generate", 1, 1000, output=100)
SCHEDULE = SCENARIO.schedule(DEVICE)
LIMITS = ceilings(DEVICE, "datasheet")
TIMES = StepTimes(SCHEDULE, LIMITS)
ROOM = Room.of(SCHEDULE, DEVICE, 1e9, 20_000)
PREFILL_S = TIMES.mixed_s(0, 0.0, [(1000, 0)], 1)


def requests(count: int, prompt: int = 1000, output: int = 100, **traffic: float) -> Requests:
    return drawn(Traffic(requests=count, **traffic), prompt, output, 20_000)  # type: ignore[arg-type]


def served(policy: Policy, asked: Requests, room: Room = ROOM) -> Log:
    return Engine(TIMES, room, policy).serve(asked)


def waited_s(log: Log) -> float:
    """All gaps between tokens, of all requests."""
    return float(sum((gaps * counts).sum() for gaps, counts in zip(log.gaps_s, log.weights, strict=True)))


@pytest.mark.parametrize("batching", BATCHINGS.values())
def test_a_request_alone_waits_for_its_own_steps_only(batching: str) -> None:
    asked = requests(3, burstiness=0).at_rate(0.01)
    log = served(Policy(batching, budget=8192), asked)  # type: ignore[arg-type]
    totals = predict(SCENARIO, DEVICE).totals()
    assert log.first_s - asked.arrival_s == pytest.approx(totals["ttft_s"], rel=0.01)
    assert (log.last_s - log.first_s) / 99 == pytest.approx(totals["tpot_s"], rel=0.01)


@pytest.mark.parametrize("batching", BATCHINGS.values())
@pytest.mark.parametrize("hit", [0.5, 1.0])
def test_a_cached_prefix_is_not_read(batching: str, hit: float) -> None:
    """Whoever is alone waits as predicted; of several, the tokens that are read fill the budget."""
    scenario = replace(SCENARIO, techniques=(parse(f"prefix-caching:hit={hit}"),))
    times = StepTimes(scenario.schedule(DEVICE), LIMITS)
    new = 500 if hit == 0.5 else 1
    engine = Engine(times, ROOM, Policy(batching, max_batch=3, budget=4 * new))  # type: ignore[arg-type]
    alone = engine.serve(requests(1))
    assert alone.first_s[0] == pytest.approx(predict(scenario, DEVICE).totals()["ttft_s"], rel=0.01)
    three = engine.serve(replace(requests(3), arrival_s=np.zeros(3)))
    read = [(new, 1000 - new)] * 3
    assert three.first_s == pytest.approx(times.mixed_s(0, 0.0, read, 3))
    assert three.peak_bytes == pytest.approx(3 * ROOM.held[1099])


@pytest.mark.parametrize("batching", BATCHINGS.values())
def test_the_engines_own_time_is_added_to_each_step(batching: str) -> None:
    """A prompt that fits the budget is one step, each further token another."""
    asked = requests(3, burstiness=0).at_rate(0.01)
    plain, slow = (served(Policy(batching, budget=8192, step_s=own), asked) for own in (0.0, 0.125))  # type: ignore[arg-type]
    assert slow.first_s - plain.first_s == pytest.approx(0.125)
    assert (slow.last_s - slow.first_s) - (plain.last_s - plain.first_s) == pytest.approx(99 * 0.125)


def test_what_comes_before_the_queue_is_part_of_the_first_token() -> None:
    """Admission and tokenising delay who waits for nobody by just their own time."""
    asked = requests(20, burstiness=0).at_rate(0.01)
    policies = Policy(), Policy(request_s=0.25, token_s=1e-3)
    plain, late = (outcome(asked, Cluster(TIMES, ROOM, policy), Limits()) for policy in policies)
    assert late["ttft_p50_s"] - plain["ttft_p50_s"] == pytest.approx(0.25 + 1000 * 1e-3)
    assert late["tpot_p50_s"] == pytest.approx(plain["tpot_p50_s"])


def test_the_time_per_token_is_of_all_but_the_first() -> None:
    """Who is alone gets the first of five tokens with its prompt and the other four by a step each."""
    asked = requests(20, output=5, burstiness=0).at_rate(0.01)
    found = outcome(asked, Cluster(TIMES, ROOM, Policy()), Limits())
    steps = TIMES.decode_s(1, 1001 + np.arange(4.0))
    assert found["ttft_p50_s"] == pytest.approx(PREFILL_S, rel=1e-6)
    assert found["tpot_p50_s"] == pytest.approx(steps.mean(), rel=1e-6)


def test_the_load_of_engines_whose_requests_never_meet() -> None:
    """While busy each decodes one sequence unless it reads; each has half of the requests."""
    asked = requests(20, burstiness=0).at_rate(0.5)
    found = outcome(asked, Cluster(TIMES, ROOM, Policy(), engines=2), Limits())
    decoding = TIMES.decode_s(1, 1001 + np.arange(99.0)).sum()
    each = PREFILL_S + decoding
    assert found["mean_batch"] == pytest.approx(decoding / each, rel=1e-6)
    span = asked.arrival_s[-1] - asked.arrival_s[0] + each
    assert found["busy"] == pytest.approx(20 * each / 2 / span, rel=1e-6)


def test_goodput_is_of_those_within_the_limits_after_the_warm_up() -> None:
    """Of 20 requests that never meet the first two and every other one behind them have long prompts."""
    prompts = np.where((np.arange(20) < 2) | (np.arange(20) % 2 == 1), 4000, 1000)
    asked = replace(requests(20, burstiness=0).at_rate(0.1), prompt=prompts)
    found = outcome(asked, Cluster(TIMES, ROOM, Policy()), Limits(ttft_s=2 * PREFILL_S))
    assert found["within_limits"] == 0.5
    assert found["goodput_per_s"] == 0.5 * found["served_per_s"]


def test_gaps_between_tokens_count_for_every_request_that_waits() -> None:
    """98 sequences wait for a step of 10 ms, two for one of 1 s: the 99th of a hundred waits is that."""
    gaps, weights = [np.array([1.0]), np.array([0.01])], [np.array([2.0]), np.array([98.0])]
    log = Log(*np.zeros((3, 1)), gaps_s=gaps, weights=weights)
    assert [_weighted(log, share) for share in (0.5, 0.98, 0.99)] == [0.01, 0.01, 1.0]


def test_the_fullest_cache_and_all_evictions_are_told() -> None:
    """Two engines take requests in turn; the second one's answers are long and do not all have a place."""
    asked = replace(requests(40).at_rate(100), output=np.tile([1, 400], 20))
    room = replace(ROOM, bytes=float(5.5 * ROOM.held[1400]))
    found = outcome(asked, Cluster(TIMES, room, Policy(), engines=2), Limits())
    assert found["preempted"] > 0
    assert 5 / 5.5 < found["cache_peak"] <= 1


def test_an_answer_of_one_token_is_late_by_its_first_alone() -> None:
    ttft, tpot = np.array([1.0, 1.0, 3.0]), np.array([np.nan, 0.2, np.nan])
    assert Limits(ttft_s=2.0, tpot_s=0.1).met(ttft, tpot).tolist() == [True, False, False]


@pytest.mark.parametrize("batching", ["continuous", "chunked"])
def test_a_scheduler_that_runs_ahead_has_launched_one_more_step(batching: str) -> None:
    """Who comes during a step waits for that one and, if the next is decided on already, for that too."""
    first = served(Policy(batching), requests(1, output=1000))  # type: ignore[arg-type]
    step_s = (first.last_s[0] - first.first_s[0]) / 999
    arrivals = np.array([0.0, first.first_s[0] + 100.5 * step_s])
    asked = Requests(arrivals, np.full(2, 1000), np.full(2, 1000))
    seen, ahead = (served(Policy(batching, ahead=a), asked).first_s[1] for a in (False, True))  # type: ignore[arg-type]
    assert ahead - seen == pytest.approx(step_s, rel=0.05)


def test_who_comes_while_a_prompt_is_read_ahead_waits_for_one_step_of_decoding() -> None:
    asked = Requests(np.array([0.0, PREFILL_S / 2]), np.full(2, 1000), np.full(2, 100))
    seen, ahead = (served(Policy(ahead=a), asked).first_s[1] for a in (False, True))
    assert (seen, ahead - seen) == pytest.approx((2 * PREFILL_S, TIMES.decode_s(1, np.array([1001.0]))[0]))


def test_tokens_of_prompts_leave_when_the_next_prompts_are_launched() -> None:
    """SGLang's loop sends a step's results after launching the next: at once where that replays a graph."""
    engine = find_engine("sglang")
    assert engine is not None
    times = StepTimes(SCHEDULE, ceilings(DEVICE, "datasheet"), engine)
    asked = replace(requests(3), arrival_s=np.zeros(3))
    told, late = (
        Engine(times, ROOM, Policy(budget=1000, ahead=ahead)).serve(asked).first_s for ahead in (False, True)
    )
    assert times.launching_s > 0
    assert late - told == pytest.approx([times.launching_s, times.launching_s, 0.0])
    assert TIMES.launching_s == 0


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_prompts_one_at_a_time_are_an_m_d_1_queue(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait before a fixed service s is load * s / (2 * (1 - load))."""
    asked = requests(10_000, output=1, seed=3).at_rate(load / PREFILL_S)
    log = served(Policy(max_batch=1, budget=1), asked)
    wait = (log.first_s - asked.arrival_s - PREFILL_S).mean()
    assert wait == pytest.approx(load * PREFILL_S / (2 * (1 - load)), rel=0.12)
    assert log.busy_s == pytest.approx(10_000 * PREFILL_S)


@pytest.mark.parametrize("batching", BATCHINGS.values())
def test_requests_at_once_leave_at_the_pace_of_a_full_batch(batching: str) -> None:
    """Equal requests that come together are a batch: as quick as `predict` says of one that size."""
    asked = replace(requests(32), arrival_s=np.zeros(32))
    log = served(Policy(batching, budget=40_000), asked)  # type: ignore[arg-type]
    batch = predict(replace(SCENARIO, batch=32), DEVICE)
    assert log.last_s.max() == pytest.approx(batch.time_s(), rel=0.02)


@settings(deadline=None)
@given(
    batching=st.sampled_from(list(BATCHINGS.values())),
    rate=st.floats(0.5, 200),
    seed=st.integers(0, 1000),
    tokens=st.integers(3000, 20_000),
    max_batch=st.integers(1, 64),
)
def test_every_request_is_served_once_in_order_and_within_the_room(
    batching: str, rate: float, seed: int, tokens: int, max_batch: int
) -> None:
    """Also in a room so small that running requests are preempted."""
    asked = requests(60, 700, 200, prompt_cv=0.7, output_cv=0.7, seed=seed).at_rate(rate)
    whole = asked.prompt + asked.output
    room = replace(ROOM, bytes=float(ROOM.held[max(tokens, int(whole.max()))]))
    log = served(Policy(batching, max_batch, budget=512), asked, room)  # type: ignore[arg-type]
    assert (log.first_s > asked.arrival_s).all()
    assert (log.last_s >= log.first_s).all()
    assert log.peak_bytes <= room.bytes
    if not log.preempted:  # else some are read again, later than others
        assert (np.diff(log.first_s) >= 0).all()
    assert sum(weights.sum() for weights in log.weights) == (asked.output - 1).sum()
    assert waited_s(log) == pytest.approx((log.last_s - log.first_s).sum())
    assert log.busy_s <= log.last_s.max() - asked.arrival_s[0] + 1e-9


def test_a_prompt_that_is_half_read_holds_its_cache() -> None:
    """The first answer grows until the second prompt, read by a chunk, has no place to be read on."""
    first, second, chunk = (100, 1500), (2000, 10), 512
    asked = Requests(np.zeros(2), *(np.array(sizes) for sizes in zip(first, second, strict=True)))
    tokens = first[0] + 2 + second[0] + 1  # the second fits beside the first's second token, no later
    room = replace(ROOM, bytes=float(ROOM.held[tokens]))
    log = served(Policy("chunked", budget=chunk), asked, room)
    assert log.preempted
    assert log.peak_bytes <= room.bytes
    assert log.peak_bytes > ROOM.held[tokens - 2]  # it was held while the first went on


def test_littles_law() -> None:
    """Requests in the system on average = their rate x the time that each spends there."""
    asked = requests(2000, 600, 150, prompt_cv=0.5, output_cv=0.5).at_rate(15)
    log = served(Policy("chunked", budget=512), asked)
    times = np.linspace(asked.arrival_s[200], asked.arrival_s[1800], 4001)
    inside = [((asked.arrival_s <= t) & (log.last_s > t)).sum() for t in times]
    spent = (log.last_s - asked.arrival_s)[200:1800].mean()
    assert np.mean(inside) == pytest.approx(15 * spent, rel=0.1)


def test_chunks_bound_the_wait_for_the_next_token_and_whole_prompts_do_not() -> None:
    """Sarathi-Serve's point: nobody who decodes waits for a whole prompt."""
    asked = requests(300, 4000, 100, prompt_cv=0.3).at_rate(5)
    whole = served(Policy("continuous"), asked)
    chunked = served(Policy("chunked", budget=512), asked)
    longest = max(gaps.max() for gaps in chunked.gaps_s if len(gaps))
    assert longest < 1.5 * TIMES.mixed_s(64, 4000.0, [(448, 8000)], 1)
    assert max(gaps.max() for gaps in whole.gaps_s if len(gaps)) > TIMES.mixed_s(0, 0.0, [(4000, 0)], 1)
    assert np.median(chunked.first_s - asked.arrival_s) > np.median(whole.first_s - asked.arrival_s)


def test_a_static_batch_keeps_newcomers_waiting_for_its_longest_answer() -> None:
    asked = Requests(np.array([0.0, 0.001, 0.002]), np.full(3, 500), np.array([10, 400, 10]))
    log = served(Policy("static", max_batch=2), asked)
    joined = served(Policy("continuous", max_batch=3), asked)
    assert log.first_s[1] > log.last_s[0]
    assert log.first_s[2] == pytest.approx(log.first_s[1])  # both waited for the first to end
    assert joined.first_s[2] < joined.last_s[1]


@pytest.mark.parametrize("batching", BATCHINGS.values())
def test_users_of_a_closed_loop_send_when_they_are_answered(batching: str) -> None:
    """One user's requests follow each other, each seen when it has been tokenised; two start together."""
    policy = Policy(batching, request_s=0.5, token_s=1e-4)  # type: ignore[arg-type]
    alone = served(policy, requests(5).from_users(1))
    assert np.diff(alone.arrival_s) == pytest.approx(np.diff(alone.last_s))
    assert alone.arrival_s[1:] - alone.last_s[:-1] == pytest.approx(0.5 + 1000 * 1e-4)
    assert served(policy, requests(5).from_users(2)).arrival_s[:2] == pytest.approx(0)


def test_a_prompt_is_seen_after_those_that_were_sent_before_it() -> None:
    """Two users are answered at once; the first's next prompt takes 2 s to tokenise."""
    asked = replace(requests(4, 10, 20), prompt=np.array([10, 10, 2000, 10])).from_users(2)
    log = served(Policy("static", token_s=1e-3), asked)
    assert log.last_s[0] == log.last_s[1]
    assert log.arrival_s[2:] - log.last_s[0] == pytest.approx(2.0)


@settings(deadline=None, max_examples=20)
@given(batching=st.sampled_from(list(BATCHINGS.values())), users=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_closed_loop_has_its_users_in_the_system(batching: str, users: int, seed: int) -> None:
    """Never more of them, and while requests are left to send as many: Little's law with nobody thinking."""
    asked = requests(200, 300, 60, prompt_cv=0.5, output_cv=0.5, seed=seed).from_users(users)
    log = served(Policy(batching), asked)  # type: ignore[arg-type]
    assert np.isfinite(log.last_s).all()
    times = np.linspace(0, log.arrival_s[-1], 500, endpoint=False)[1:]
    inside = [((log.arrival_s <= t) & (log.last_s > t)).sum() for t in times]
    assert set(inside) == {users}


def test_copies_share_the_users_of_a_closed_loop() -> None:
    asked = requests(60).from_users(5)
    log, logs = Cluster(TIMES, ROOM, Policy(), engines=2).serve(asked)
    assert [int((each.arrival_s < 1e-9).sum()) for each in logs] == [3, 2]
    assert [float(each.first_s.min()) for each in logs] == pytest.approx([PREFILL_S] * 2)  # one alone
    assert np.isfinite(log.last_s).all()


@pytest.mark.parametrize(("users", "engines"), [(1, 2), (3, 2), (8, 3)])
def test_users_of_copies_send_as_many_requests_each(users: int, engines: int) -> None:
    """Nobody is left to send alone on an engine of few users; an engine without one stays idle."""
    asked = requests(40 * users).from_users(users)
    log, logs = Cluster(TIMES, ROOM, Policy(), engines=engines).serve(asked)
    assert [len(each.last_s) // 40 for each in logs] == [
        len(range(engine, users, engines)) for engine in range(min(users, engines))
    ]
    ends = [each.last_s.max() for each in logs]
    assert min(ends) > 0.9 * max(ends)
    assert np.isfinite(log.last_s).all()


def test_who_comes_first_is_read_alone_where_prompts_do_not_wait_for_a_batch() -> None:
    asked = requests(8).from_users(4)
    apart, static = (served(Policy(batching), asked).first_s[:4] for batching in ("continuous", "static"))
    assert apart[0] == pytest.approx(PREFILL_S)
    assert apart[0] < apart[1] == apart[3]
    assert static == pytest.approx(static[0])


def test_an_engine_that_looks_seldom_lets_arrivals_wait_for_whole_rounds_of_steps() -> None:
    """The second comes while the first decodes: it is read after the thirtieth step, and at once without."""
    asked = Requests(np.array([0.0, PREFILL_S + 1e-3]), np.full(2, 1000), np.full(2, 100))
    first = served(Policy(poll_steps=30), asked)
    steps = TIMES.decode_s(1, 1001 + np.arange(30.0)).sum()
    assert first.first_s[1] == pytest.approx(2 * PREFILL_S + steps, rel=1e-6)
    assert served(Policy(), asked).first_s[1] < first.first_s[1]


def test_rounds_of_steps_are_counted_from_the_last_look() -> None:
    """Also where an answer of 16 tokens ends within one: who comes after 20 steps is read after 30."""
    steps = [*TIMES.decode_s(2, 1001 + np.arange(15.0)), *TIMES.decode_s(1, 1016 + np.arange(15.0))]
    read_s = TIMES.mixed_s(0, 0.0, [(1000, 0)] * 2, 2)
    arrivals = np.array([0.0, 0.0, read_s + sum(steps[:20])])
    log = served(Policy(poll_steps=30), Requests(arrivals, np.full(3, 1000), np.array([16, 100, 100])))
    assert log.first_s[2] == pytest.approx(read_s + sum(steps) + PREFILL_S)


@pytest.mark.parametrize("batching", ["static", "continuous"])
@pytest.mark.parametrize("prompt", [100, 400, 1000])
def test_an_answer_looks_back_at_the_prompt_that_an_encoder_read(batching: str, prompt: int) -> None:
    """However long the prompt is that was asked for, on average."""
    scenario = replace(SCENARIO, model=load_model("T5-large").model)
    schedule = scenario.schedule(DEVICE)
    times, room = StepTimes(schedule, LIMITS), Room.of(schedule, DEVICE, 1e9, 2000)
    asked = replace(requests(64, prompt), arrival_s=np.zeros(64))
    log = Engine(times, room, Policy(batching, budget=64_000)).serve(asked)  # type: ignore[arg-type]
    totals = predict(replace(scenario, batch=64, prompt=prompt), DEVICE).totals()
    assert (log.last_s - log.first_s) / 99 == pytest.approx(totals["tpot_s"], rel=0.01)
    mixed = times.decode_s(64, np.array([550.0]), 500.0)[0]  # between two sizes that are predicted
    own = predict(replace(scenario, phase="generate", batch=64, prompt=500, output=100), DEVICE).totals()
    assert mixed == pytest.approx(own["tpot_s"], rel=0.01)


def test_readers_free_decoding_from_prompts() -> None:
    asked = requests(200, 3000, 100).at_rate(16)
    together = Cluster(TIMES, ROOM, Policy(), engines=2)
    apart = Cluster(TIMES, ROOM, Policy(), engines=1, readers=1, link_byte_per_s=50e9)
    before, after = (outcome(asked, cluster, Limits()) for cluster in (together, apart))
    assert after["itl_p99_s"] < before["itl_p99_s"] / 2
    whole, _ = apart.serve(asked)
    sent = ROOM.held[3000] / 50e9
    assert ((whole.last_s - whole.first_s) > sent).all()
    assert waited_s(whole) == pytest.approx((whole.last_s - whole.first_s).sum())  # for the cache, too


@pytest.mark.parametrize(("readers", "engines"), [(1, 1), (2, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("link_byte_per_s", [1e9, 450e9])
def test_what_is_slowest_of_reading_sending_and_decoding_bounds_the_rate(
    readers: int, engines: int, link_byte_per_s: float
) -> None:
    """Of equal requests that come all at once: each link sends a cache at a time, each step is full."""
    asked = replace(requests(1500, 3000, 60), arrival_s=np.zeros(1500))
    cluster = Cluster(TIMES, ROOM, Policy(max_batch=64), engines, readers, link_byte_per_s)
    found = outcome(asked, cluster, Limits())
    reading = readers * 2 / TIMES.mixed_s(0, 0.0, [(3000, 0)] * 2, 2)
    sending = readers * link_byte_per_s / ROOM.held[3000]
    decoding = engines * 64 / TIMES.decode_s(64, 3001 + np.arange(59.0)).sum()
    assert found["served_per_s"] == pytest.approx(min(reading, sending, decoding), rel=0.03)


def test_a_link_that_is_free_sends_a_cache_at_once() -> None:
    asked = requests(20, 3000, 60, burstiness=0).at_rate(0.5)
    log, _ = Cluster(TIMES, ROOM, Policy(), readers=1, link_byte_per_s=1e9).serve(asked)
    alone = ROOM.held[3000] / 1e9 + TIMES.decode_s(1, 3001 + np.arange(59.0)).sum()
    assert log.last_s - log.first_s == pytest.approx(alone)


@pytest.mark.parametrize(("batching", "steps"), [("mixed", 4), ("chunked", 3)])
def test_prompts_are_read_whole_unless_in_chunks(batching: str, steps: int) -> None:
    """After the first, two prompts of 600 do not fit a step of 1000 tokens, and chunks of three fit two."""
    log = served(Policy(batching, budget=1000), requests(4, 600, 50, burstiness=0).at_rate(1e6))  # type: ignore[arg-type]
    assert len(np.unique(log.first_s)) == steps


def test_prompts_that_just_fill_the_budget_are_one_step() -> None:
    asked = requests(3).at_rate(1.0)
    log = served(Policy(budget=2000), replace(asked, arrival_s=np.zeros(3)))
    assert log.first_s[0] == log.first_s[1] < log.first_s[2]


def test_a_prompt_beyond_the_budget_is_read_whole_beside_decoding() -> None:
    asked = requests(2, 3000, 50)
    log = served(Policy("mixed", budget=512), asked)
    assert log.first_s[0] - asked.arrival_s[0] == pytest.approx(TIMES.mixed_s(0, 0.0, [(3000, 0)], 1))


def test_an_engine_may_take_a_share_of_what_weights_leave() -> None:
    capacity = DEVICE.capacity_bytes
    rest = capacity - SCHEDULE.main.weight_bytes() - 1e9
    assert Room.of(SCHEDULE, DEVICE, 1e9, 100, "trtllm").bytes == pytest.approx(0.9 * rest)
    assert Room.of(SCHEDULE, DEVICE, 1e9, 100, "vllm").bytes == pytest.approx(rest - 0.1 * capacity)
    with pytest.raises(InputError, match=r", and the memory of H100-SXM5-80GB is 85\.5 GB"):
        Room.of(SCHEDULE, DEVICE, capacity, 100, "trtllm")
    with pytest.raises(InputError, match=r", and 90 % of the memory of H100-SXM5-80GB is 77\.0 GB"):
        Room.of(SCHEDULE, DEVICE, capacity, 100)


@pytest.mark.parametrize("batching", ["continuous", "mixed", "chunked"])
def test_an_engine_that_reserves_whole_answers_evicts_nobody(batching: str) -> None:
    """TensorRT-LLM's GUARANTEED_NO_EVICT: at most as many as the room holds to their ends run at once."""
    room = replace(ROOM, bytes=float(5.5 * ROOM.held[1000 + 400]))
    asked = requests(40, output=400).at_rate(100)
    logs = [served(Policy(batching, reserves=kept), asked, room) for kept in (False, True)]  # type: ignore[arg-type]
    assert logs[0].preempted > 0
    assert logs[1].preempted == 0
    assert all(np.isfinite(log.last_s).all() for log in logs)
    begun = np.sort(logs[1].first_s)
    assert all(((logs[1].first_s <= at) & (logs[1].last_s > at)).sum() <= 5 for at in begun)


def test_copies_share_the_load() -> None:
    """Each of two engines sees half of the requests, in turn: as one does at half the rate."""
    asked = requests(400, burstiness=0).at_rate(10)
    two = outcome(asked, Cluster(TIMES, ROOM, Policy(), engines=2), Limits())
    one = outcome(requests(200, burstiness=0).at_rate(5), Cluster(TIMES, ROOM, Policy()), Limits())
    assert two["tpot_p50_s"] == pytest.approx(one["tpot_p50_s"], rel=1e-6)
    assert two["ttft_p99_s"] == pytest.approx(one["ttft_p99_s"], rel=1e-3)


def test_the_capacity_is_the_edge_of_the_limits() -> None:
    asked, limits = requests(300, prompt_cv=0.3, output_cv=0.3), Limits(ttft_s=0.5, tpot_s=0.012)
    cluster = Cluster(TIMES, ROOM, Policy("chunked", budget=512))
    edge = capacity(asked, cluster, limits)
    assert edge["within_limits"] >= 0.9
    assert edge["keeps_up"]
    beyond = outcome(asked.at_rate(edge["rate_per_s"] * 1.1), cluster, limits)
    assert beyond["within_limits"] < 0.9 or not beyond["keeps_up"]


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95, 1.15, 1.3, 2.0])
def test_the_queue_of_one_server_grows_beyond_a_load_of_one(load: float) -> None:
    """M/D/1 is stable up to there, whatever arrivals a run of 2000 happens to have."""
    cluster = Cluster(TIMES, ROOM, Policy(max_batch=1, budget=1))
    runs = (requests(2000, output=1, seed=seed).at_rate(load / PREFILL_S) for seed in range(5))
    assert [outcome(run, cluster, Limits())["keeps_up"] for run in runs] == [load < 1] * 5


@pytest.mark.parametrize("count", [60, 200])
def test_no_queue_grows_where_everybody_is_served_at_once(count: int) -> None:
    """M/G/inf: a light load of long answers, of which many last until after the last arrival."""
    asked = requests(count, 10, 2000).at_rate(4)
    found = outcome(asked, Cluster(TIMES, ROOM, Policy()), Limits())
    assert found["rate_per_s"] * found["latency_mean_s"] > 0.1 * count  # Little: so many are in the system
    assert found["keeps_up"] is not False


def test_a_run_that_ends_before_the_server_is_full_tells_of_no_queue() -> None:
    """Little: 40 of 100 requests a second that stay 2 s and more are never 80 at once."""
    asked, cluster = requests(40, output=300), Cluster(TIMES, ROOM, Policy())
    short = outcome(asked.at_rate(100), cluster, Limits())
    assert short["latency_mean_s"] * 100 > 40
    assert short["keeps_up"] is None
    edge = capacity(asked, cluster, Limits(ttft_s=1e9))
    assert edge["keeps_up"] is True
    assert edge["rate_per_s"] * edge["latency_mean_s"] <= 40 * 1.1


def test_a_run_that_drains_where_it_should_queue_is_not_called_steady() -> None:
    """500 requests at 1.3 times of what a server of 200 sequences serves: the last leave an emptier one."""
    cluster = Cluster(TIMES, ROOM, Policy(max_batch=200))
    asked = requests(4000, 1000, 256)
    most = outcome(asked.at_rate(1e4), cluster, Limits())["served_per_s"]
    short = outcome(asked.take(np.arange(500)).at_rate(1.3 * most), cluster, Limits())
    assert short["keeps_up"] is not True
    assert outcome(asked.at_rate(1.3 * most), cluster, Limits())["keeps_up"] is False
    assert outcome(asked.at_rate(0.7 * most), cluster, Limits())["keeps_up"] is True


def test_the_capacity_of_one_server_is_a_load_of_one() -> None:
    """M/D/1 where nobody minds to wait."""
    cluster = Cluster(TIMES, ROOM, Policy(max_batch=1, budget=1))
    edge = capacity(requests(5000, output=1), cluster, Limits(ttft_s=1e9), first=500)
    assert edge["rate_per_s"] * PREFILL_S == pytest.approx(1, abs=0.05)


def test_the_capacity_is_that_of_a_long_run() -> None:
    """As many requests are simulated as that takes, starting from few, in which the limit is no limit."""
    cluster, limits = Cluster(TIMES, ROOM, Policy()), Limits(tpot_s=0.015)
    edge = capacity(requests(2500), cluster, limits, first=100)
    long = capacity(requests(2000, seed=1), cluster, limits)
    assert 100 < edge["requests"] < 2500
    assert edge["rate_per_s"] == pytest.approx(long["rate_per_s"], rel=0.05)


def test_limits_that_no_request_meets_alone_have_no_capacity() -> None:
    with pytest.raises(InputError, match="no rate is within the limits"):
        capacity(requests(50), Cluster(TIMES, ROOM, Policy()), Limits(tpot_s=1e-4))


def test_weights_that_do_not_fit_leave_no_room() -> None:
    scenario = replace(SCENARIO, model=load_model("Llama-3.1-70B").model)
    with pytest.raises(InputError, match="choose --tp"):
        Room.of(scenario.schedule(DEVICE), DEVICE, 0.0, 100)


@pytest.mark.parametrize("technique", ["h2o:share=0.2", "streaming-llm", "kv8", "paged-attention", "awq"])
@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gpt-oss-20b"])
def test_a_request_holds_what_is_predicted_of_its_cache(name: str, technique: str) -> None:
    """Also where a technique drops what is not attended to again."""
    scenario = replace(SCENARIO, model=load_model(name).model, prompt=2000, techniques=(parse(technique),))
    schedule = scenario.schedule(DEVICE)
    room = Room.of(schedule, DEVICE, 1e9, 2200)
    assert room.held[2099] == pytest.approx(schedule.main.cache_bytes(), rel=0.01)


def test_a_request_longer_than_the_room_is_refused_by_its_sizes() -> None:
    room = replace(ROOM, bytes=float(ROOM.held[500]))
    with pytest.raises(InputError, match=r"400 \+ 200 tokens"):
        room.check(np.array([10, 400]), np.array([10, 200]))


def test_a_request_has_the_room_of_one_part_of_the_batch() -> None:
    """Its keys and values lie where its attention runs: the other three parts have no place for them."""
    room = replace(ROOM, bytes=4 * float(ROOM.held[500]), parts=4)
    room.check(np.array([400]), np.array([100]))
    with pytest.raises(InputError, match=rf" {ROOM.held[500] / 1e9:.1f} GB are free"):
        room.check(np.array([400]), np.array([200]))


@pytest.mark.parametrize("batching", BATCHINGS.values())
def test_parts_of_a_batch_are_served_as_one_is(batching: str) -> None:
    """Four requests at once, one for each device's attention, take as long as predicted. One alone is read
    sooner, as experts have a quarter of the tokens, and decodes as long: all wait for the largest part."""
    setting = Setting(expert_parallel=4, precision=Precision.of("fp8", "fp8"))
    scenario = Scenario(load_model("Mixtral-8x7B").model, "generate", 4, 1000, output=20, setting=setting)
    schedule = scenario.schedule(DEVICE)
    times, room = StepTimes(schedule, LIMITS), Room.of(schedule, DEVICE, 1e9, 2000)
    policy = Policy(batching, max_batch=4, budget=4 * 256)  # type: ignore[arg-type]
    four, one = (
        Engine(times, room, policy).serve(Requests(np.zeros(n), np.full(n, 1000), np.full(n, 20)))
        for n in (4, 1)
    )
    predicted = predict(scenario, DEVICE)
    assert np.ptp(four.last_s) == 0
    if batching == "chunked":  # each chunk reads the weights again
        assert four.last_s[0] > predicted.time_s()
    else:
        assert four.last_s[0] == pytest.approx(predicted.time_s(), rel=0.01)
    assert one.first_s[0] < four.first_s[0]
    assert four.last_s[0] - four.first_s[0] == pytest.approx(one.last_s[0] - one.first_s[0])
    assert four.peak_bytes == pytest.approx(4 * one.peak_bytes)
    assert four.peak_bytes / room.bytes == pytest.approx(room.held[1019] / (room.bytes / room.parts))
