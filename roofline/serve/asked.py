"""What is asked of a simulation of serving, as requests and engines, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.serving import Overheads
from roofline.asked import Asked, scenarios, scenarios_of
from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.cost import at_price, check_price
from roofline.engines import RESERVING, find_engine, kernels_of, refuse_own_host, run_by
from roofline.notes import unjoined
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.serve.budgets import default_budget
from roofline.serve.capacity import capacity, needed
from roofline.serve.cluster import Cluster
from roofline.serve.engine import BATCHINGS, Policy
from roofline.serve.memory import Room, told
from roofline.serve.outcome import Limits, Serving, outcome
from roofline.serve.requests import Requests, drawn, recorded
from roofline.serve.step_times import StepTimes
from roofline.target import Goal
from specfiles.errors import InputError, choose
from workloads.catalogue import Loaded, load_model
from workloads.checkpoint import AS_OPTION, stored_note
from workloads.descriptor import is_descriptor, load_descriptor
from workloads.traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from workloads.step import Setting

MOST_DRAWN = 10_000  # requests, where a search may choose how many it needs


@dataclass(frozen=True)
class Served:
    """What is asked of `roofline serve`; None where the user gave no flag.

    model: its name or path, a workload file, or a scenario, which says all but the traffic. trace: a file or
    table of recorded requests. rates: requests per second, each simulated. users: of closed loops, likewise.
    The other fields are the options of the command.
    """

    model: str | Scenario
    scenario: Asked = Asked()
    workload: Path | None = None
    trace: Path | pd.DataFrame | None = None
    rates: tuple[float, ...] | None = None
    users: tuple[int, ...] | None = None
    slo: str | None = None
    requests: int | None = None
    seed: int | None = None
    batching: str = "continuous"
    max_batch: int = 256
    budget: int | None = None
    engines: int = 1
    readers: int = 0
    step_overhead: float = 0.0
    poll_steps: int = 1
    engine: str = "none"
    price: float | None = None  # USD per hour of a device


def serve(asked: Served, device: Device, fidelity: Fidelity) -> Serving:
    """Simulate every batching at every rate; without a rate, find the highest within the limits.

    Raises InputError for what cannot be read, does not fit, or is no engine's way to serve.
    """
    check_price(asked.price)
    scenario, traffic, published = _scenario(asked)
    engine = find_engine(asked.engine)
    if engine is not None:
        scenario = run_by(scenario, engine)
    if scenario.model.audio_window:
        raise InputError(f"{scenario.model.name} {scenario.model.manner}; serve simulates requests of text.")
    budget, whose = (asked.budget, "") if asked.budget is not None else default_budget(asked.engine, device)
    policies = [_policy(name, asked, budget) for name in asked.batching.split(",")]
    if scenario.model.has_memory and any(policy.batching in ("mixed", "chunked") for policy in policies):
        raise InputError(
            f"{scenario.model.name} reads prompts with its encoder, where each token attends to all others, "
            "so that they are read whole in steps of their own; choose --batching static or continuous."
        )
    limits, requests = _limits(asked.slo), _requests(asked, scenario, traffic)
    comings = _comings(asked, traffic, requests)
    first = None
    if asked.slo and not comings and asked.trace is None and traffic.requests is None:
        first = len(requests)
        requests = _requests(asked, scenario, traffic.replace(requests=MOST_DRAWN))
    if not (comings or asked.trace is not None or asked.slo):
        raise InputError(
            "serve needs to know how fast requests come: give --rate or --users, a workload file with "
            "`traffic`, or --slo to look for the highest rate."
        )
    rows: list[dict[str, Any]] = []
    enough = 0
    devices = scenario.setting.devices * (asked.engines + asked.readers)
    drawn_ceilings = ceilings(device, fidelity, kernels_of(engine, fidelity))
    if engine is not None:
        refuse_own_host(engine, drawn_ceilings, device)
    several = replace(scenario, output=max(2, scenario.output))  # answers of one token have no decode pass
    schedule = several.schedule(device)
    if schedule.prompt != scenario.prompt:
        raise InputError(
            "serving is simulated with prompts as they are sent, which a technique shortens; leave it out "
            "and give shorter ones with --prompt."
        )
    times = StepTimes(schedule, drawn_ceilings, engine)
    for policy in policies:
        cluster = _cluster(asked, scenario, device, drawn_ceilings, times, policy, requests)
        found = (
            [outcome(each, cluster, limits) for each in comings]
            if comings
            else [capacity(requests, cluster, limits, first)]
            if asked.slo
            else [outcome(requests, cluster, limits)]
        )
        if asked.slo and not comings:
            enough = max(enough, *(min(MOST_DRAWN, needed(record)) for record in found))
        rows += [{"batching": policy.batching, **at_price(record, devices, asked.price)} for record in found]
    return Serving(
        scenario.model.name,
        device.name,
        str(fidelity),
        devices,
        limits,
        float(requests.prompt.mean()),
        float(requests.output.mean()),
        max(row["requests"] for row in rows),
        rows,
        engine.told(schedule) if engine else None,
        enough if enough > len(requests) else None,
        (
            *published,
            *_taken(policies, whose),
            told(asked.engine),
            *_notes(
                device,
                (*drawn_ceilings.told(schedule.multiplied()), *unjoined(scenario.setting, drawn_ceilings)),
                devices,
                asked.readers,
                scenario.setting.replicas,
            ),
        ),
        _layout(scenario.setting, asked.engines, asked.readers),
        scenario.formats_told,
    )


def _layout(setting: Setting, engines: int, readers: int) -> str:
    """How the devices are shared out: `2 engines and 1 reader of tp 4, ep 4`."""
    parts = (("tp", setting.tensor_parallel), ("ep", setting.expert_parallel))
    shared = ", ".join(f"{name} {size}" for name, size in parts if size > 1)
    counts = ((engines, "engine"), (readers, "reader"))
    named = (f"{count} {name}{'s' * (count > 1)}" for count, name in counts if count)
    several = " and ".join(named) if engines + readers > 1 else ""
    return " of ".join(filter(None, (several, shared)))


def _taken(policies: Sequence[Policy], whose: str) -> tuple[str, ...]:
    """How many tokens a step takes, where the user did not say; static batches are read whole."""
    budgets = {policy.budget for policy in policies if policy.batching != "static"}
    return tuple(f"a step takes up to {each} new tokens, {whose} (--budget)" for each in budgets if whose)


def _notes(device: Device, notes: tuple[str, ...], devices: int, readers: int, parts: int) -> tuple[str, ...]:
    """What the times take for granted: beside `notes` on ceilings, parts of a batch and several nodes."""
    if parts > 1:
        notes += (
            f"each of {parts} devices runs the attention of its own sequences, and a step waits for the one "
            "with the most; experts have their share of all",
        )
    node = device.node
    if node and devices > node.count:
        moved = ", and caches are sent over the network between nodes" if readers else ""
        notes += (
            f"{devices} devices take {-(-devices // node.count)} {node.name} of {node.count} each{moved}",
        )
    return notes


def _scenario(asked: Served) -> tuple[Scenario, Traffic, tuple[str, ...]]:
    """The mean request, one for each part of the batch, and how requests come, from flags and file.

    Last, a note where the model is published in narrower formats.
    """
    notes: tuple[str, ...] = ()
    if isinstance(asked.model, Scenario):
        parts = asked.model.setting.replicas
        file, scenario = None, replace(asked.model, phase="generate", batch=parts)
    else:
        file = asked.workload or (Path(asked.model) if is_descriptor(asked.model) else None)
        loaded, scenario = _mean_request(asked.model, file, asked)
        note = stored_note(loaded, scenario.model, scenario.setting.precision, AS_OPTION)
        notes = (note.removesuffix("."),) if note and not scenario.techniques else ()
    traffic = (load_descriptor(file).traffic if file else None) or Traffic()
    given = {name: getattr(asked, name) for name in ("requests", "seed") if getattr(asked, name) is not None}
    for name, value in given.items():
        if value < (name == "requests") or value > 1_000_000:
            raise InputError(f"{name} is {value}; expected a whole number up to 1000000.")
    setting = scenario.setting
    if setting.pipeline_parallel > 1:
        raise InputError("serving is simulated without stages of layers; leave out --pp.")
    return scenario, traffic.replace(**given), notes


def _mean_request(model: str, file: Path | None, asked: Served) -> tuple[Loaded, Scenario]:
    # As many sequences as experts' devices are enough to give each part of the batch one.
    words = replace(asked.scenario, phase="generate", batch=max(1, asked.scenario.ep or 1))
    if asked.workload is not None and not is_descriptor(model):  # the file's lengths, another model
        loaded = load_model(model)
        found = scenarios_of(loaded, words, load_descriptor(asked.workload))
    else:
        loaded, found = scenarios(str(file or model), words)
    if len(found) != 1:
        raise InputError(
            f"{file} asks for {len(found)} points; serve simulates one: give --prompt and --output."
        )
    return loaded, replace(found[0], batch=found[0].setting.replicas)


def _policy(name: str, asked: Served, budget: int) -> Policy:
    if name not in BATCHINGS:
        raise choose(name, list(BATCHINGS), "batching")
    least = {"max_batch": 1, "engines": 1, "readers": 0, "poll_steps": 1, "step_overhead": 0, "budget": 1}
    for option, fewest in least.items():
        value = budget if option == "budget" else getattr(asked, option)
        if not value >= fewest:
            raise InputError(f"{option.replace('_', '-')} is {value}; expected at least {fewest}.")
    if name in ("mixed", "chunked") and budget <= asked.max_batch:
        raise InputError(
            f"a budget of {budget} tokens leaves a full batch of {asked.max_batch} none for prompts; "
            "choose a larger --budget or a smaller --max-batch."
        )
    engine = find_engine(asked.engine)
    known = engine.fit.overheads if engine else Overheads()
    before = known.request_s, known.token_s
    how = BATCHINGS[name], asked.max_batch, budget, asked.step_overhead
    ahead = engine is not None and engine.graphs
    return Policy(*how, *before, asked.poll_steps, ahead, reserves=asked.engine in RESERVING)


def _limits(slo: str | None) -> Limits:
    if slo is None:
        return Limits()
    goals = Goal.parse(slo).goals
    if "throughput" in goals:
        raise InputError(
            "a request is served within --slo ttft=.. and tpot=..; throughput is no limit of it."
        )
    return Limits(goals.get("ttft"), goals.get("tpot"))


def _requests(asked: Served, scenario: Scenario, traffic: Traffic) -> Requests:
    longest, apart = scenario.model.max_position, scenario.model.has_memory
    if asked.trace is None:
        return drawn(traffic, scenario.prompt, scenario.output, longest, apart=apart)
    if not isinstance(asked.trace, Path):
        return recorded(asked.trace, "the trace", longest, apart=apart)
    from roofline.tablefiles import read_table

    return recorded(read_table(asked.trace), asked.trace, longest, apart=apart)


def _comings(asked: Served, traffic: Traffic, requests: Requests) -> list[Requests]:
    """The same requests as they are to come: at each rate, or from each number of users."""
    # Flags and recorded requests replace what a file says of traffic.
    flags = asked.rates is not None or asked.users is not None or asked.trace is not None
    rates = _rates(asked, traffic) if asked.rates is not None or not flags else []
    users = (asked.users or ()) if flags else traffic.loops
    if rates and users:
        raise InputError("requests come at a rate or from users in a closed loop, not both.")
    if users and asked.readers:
        raise InputError("users in a closed loop are simulated without --readers; leave one of them out.")
    return [requests.at_rate(rate) for rate in rates] or [requests.from_users(each) for each in users]


def _rates(asked: Served, traffic: Traffic) -> list[float]:
    if asked.rates is None:
        return [] if asked.slo and not asked.workload else traffic.rates
    if not all(0 < rate <= 1e6 for rate in asked.rates):
        rates = ", ".join(f"{rate:g}" for rate in asked.rates)
        raise InputError(
            f"the rates are {rates}; expected requests per second above 0 and up to 1e+06, such as 0.5,1,2."
        )
    return list(asked.rates)


def _cluster(
    asked: Served,
    scenario: Scenario,
    device: Device,
    limits: Ceilings,
    times: StepTimes,
    policy: Policy,
    requests: Requests,
) -> Cluster:
    """The engines, each with room for what its weights and its largest step leave.

    Where attention runs on parts of the batch, each part has a scheduler's limits of its own.
    """
    whole = 0 if policy.batching == "chunked" else int(requests.prompt.max())  # also beyond the budget
    tokens = min(max(policy.budget, whole), scenario.model.max_position)
    largest = replace(scenario, phase="prefill", prompt=tokens)
    activations = predict(largest, device, limits.fidelity).totals()["activation_peak_bytes"]
    longest = int((requests.prompt + requests.output).max())
    room = Room.of(scenario.schedule(device), device, activations, longest, asked.engine)
    room.check(requests.prompt, requests.output)
    count = scenario.setting.devices * (asked.engines + asked.readers)
    link = float(limits.link(count)) if asked.readers else 0.0
    parts = times.parts
    policy = replace(policy, max_batch=policy.max_batch * parts, budget=policy.budget * parts)
    return Cluster(times, room, policy, asked.engines, asked.readers, link)
