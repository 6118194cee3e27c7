"""How far off are simulated closed loops of users from measured TTFT and TPOT, beside the closed formula?

Every row of an end-to-end table with a concurrency is simulated as it was run: ten requests of each user,
prompts and answers between 80 and 100 % of their names, steps filled as the engine fills them, shipped
overheads (which were fitted to such rows with the formula, `roofline.serving.waits`). Prints median errors of
the means over all requests.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs import load_device
from hwspecs.serving import overheads_for
from roofline.ceilings import ceilings
from roofline.endtoend import MEASURED, applied, each_load
from roofline.engines import RESERVING, as_engines_run, find_engine
from roofline.predict import predict
from roofline.recipes import MEAN, SHORTEST
from roofline.scenario import Scenario
from roofline.serve.engine import Engine, Policy
from roofline.serve.memory import Room
from roofline.serve.requests import Requests
from roofline.serve.step_times import StepTimes
from roofline.serving import BUDGETS, PROMPTS_ALONE, ROUNDS, USUAL_BUDGET, Load, steps
from roofline.tablefiles import read_table
from specfiles.errors import InputError

FIDELITY = "calibrated"


def main(path: Path) -> None:
    """Simulate, print."""
    timed = cache(lambda load, gpu: vars(steps(load, load_device(gpu), FIDELITY)))
    looped = cache(simulated)

    def found(row: dict[str, Any], load: Load) -> dict[str, Any]:
        if load.static:
            raise InputError("a static batch has no users.")
        gpu = str(row["gpu"])
        return timed(load, gpu) | looped(load, gpu, int(row["poll_steps"]))

    rows, left_out = each_load(read_table(path), found)
    print(f"left out: {left_out or 'none'}")
    for (model, name), group in rows.groupby(["model", "engine"]):
        formula = applied(group, overheads_for(str(name)).overheads)
        loops = (group[f"loop_{quantity}_s"] for quantity in MEASURED)
        for how, times in (("formula", formula), ("simulated", loops)):
            errors = (_median(a, group[f"{name}_s"]) for a, name in zip(times, MEASURED, strict=True))
            print(f"{model}, {name}: {len(group)} rows, {how}: {', '.join(errors)}")


def _median(predicted: Any, measured: Any) -> str:
    error = predicted / measured - 1
    return f"{error.abs().median():.1%} (signed {error.median():+.1%})"


def simulated(load: Load, gpu: str, poll_steps: int) -> dict[str, Any]:
    """Mean TTFT and TPOT of a load's requests, simulated one step at a time."""
    how = load.backend, load.experts_by, gpu, load.release
    times, room = engine_of(load.model, load.setting, load.techniques, *how)
    random = np.random.default_rng(0)
    prompt, output = (
        random.integers(max(1, round(SHORTEST / MEAN * n)), round(n / MEAN) + 1, ROUNDS * load.concurrency)
        for n in (load.prompt, load.output)
    )
    requests = Requests(np.zeros(len(prompt)), prompt, output).from_users(load.concurrency)
    room.check(prompt, output)
    known = overheads_for(load.backend).overheads
    policy = Policy(
        "continuous" if load.backend in PROMPTS_ALONE else "chunked",
        max_batch=load.concurrency,
        budget=BUDGETS.get(load.backend, USUAL_BUDGET) * times.parts,
        request_s=known.request_s,
        token_s=known.token_s,
        poll_steps=poll_steps,
        ahead=True,
        reserves=load.backend in RESERVING,
    )
    log = Engine(times, room, policy).serve(requests)
    ttft = log.first_s - log.arrival_s + policy.before_s(prompt)
    tpot = (log.last_s - log.first_s) / np.maximum(1, output - 1)
    return {"loop_ttft_s": float(ttft.mean()), "loop_tpot_s": float(tpot.mean())}


@cache
def engine_of(
    model: Any, setting: Any, techniques: Any, backend: str, experts_by: str, gpu: str, release: str = ""
) -> tuple[StepTimes, Room]:
    """The steps of an engine, and what the largest prompts leave of its memory."""
    named = {"moe": experts_by} if experts_by else {}
    device, budget = load_device(gpu), BUDGETS.get(backend, USUAL_BUDGET)
    sizes = {"batch": setting.replicas, "prompt": 1024, "output": 1024}
    asked = Scenario(model, "generate", **sizes, setting=setting, techniques=techniques)
    schedule = as_engines_run(asked, release=release).schedule(device)
    times = StepTimes(schedule, ceilings(device, FIDELITY, backend, named), find_engine(backend))
    largest = predict(replace(asked, phase="prefill", prompt=budget), device, FIDELITY).totals()
    return times, Room.of(schedule, device, largest["activation_peak_bytes"], model.max_position, backend)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, metavar="TABLE")
    main(parser.parse_args().table)
