"""Techniques ranked by gain, as text, CSV or JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reports import terminal
from reports.naming import workload_name
from reports.units import si, text, usd
from roofline.tables import csv_text
from roofline.whatif import Outcome
from workloads.techniques.base import QUALITIES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from roofline.scenario import Scenario
    from roofline.target import Answer, Found, Goal
    from roofline.whatif import WhatIf


MOST_UNMET = 10  # devices that are named; the JSON has all
ASKED = ("model", "hardware", "phase", "batch", "prompt", "context", "output", "fidelity", "convention")


def as_json(found: WhatIf) -> dict[str, Any]:
    """The baseline, the outcomes, fastest first, and inapplicable techniques."""
    from roofline.tables import as_json as prediction

    baseline = prediction(found.baseline)
    return {
        "schema": 1,
        **{key: baseline[key] for key in ASKED},
        "energy_by": found.baseline.energy_by,
        **({"engine": served.record()} if (served := found.baseline.served) else {}),
        "baseline": baseline["totals"],
        "bound": {phase: found.baseline.bound(phase) for phase in found.baseline.phases},
        "outcomes": [outcome.record() for outcome in found.outcomes],
        "counted": [_without(outcome) for outcome in found.counted],
        "not_applicable": found.refused,
    }


def as_csv(found: WhatIf) -> str:
    """The baseline, every outcome, then the baseline without each technique that it counts."""
    asked = Outcome((), found.baseline, found.baseline).record()
    rows = [
        {"compared": "as asked", **asked},
        *({"compared": "with", **outcome.record()} for outcome in found.outcomes),
        *({"compared": "without", **_without(o), "names": [o.techniques[0].name]} for o in found.counted),
    ]
    return csv_text(rows, ["compared", *asked])


def _without(outcome: Outcome) -> dict[str, Any]:
    """The baseline without a technique that it counts; `gain` is the technique's speedup."""
    turned = replace(outcome, techniques=(), before=outcome.after, after=outcome.before)
    return {
        **turned.record(),
        "name": outcome.techniques[0].name,
        "gain": outcome.speedup,
        "why": outcome.why(),
    }


COLUMNS: terminal.Columns = {
    "named": ("technique", text),
    "speedup": ("speedup", lambda v: f"{v:.2f}x"),
    **terminal.RATES,
    "held": ("memory", text),
    **terminal.ENERGY,
    "bound": ("bound by", text),
}
VISIBLE = 0.005
FITTING = 5  # maximum techniques named that make the model fit
TOO_MUCH = "*"  # mark of memory beyond the device's


LABELS = {
    "exact": "with the same output",
    "lossy": "with another output",
    "retrained": "with another output, after training",
}


def as_text(found: WhatIf, quality: str = "lossy", top: int = 5, *, every: bool = False) -> str:
    """A table for each label of quality up to one, the reason of each line, then what was not applicable.

    Each shows the `top` fastest techniques that gain time or memory and the best of their pairs, and names
    the others; with `every` these are lines, too, and each that is not applicable has its reason.
    """
    from roofline.tables import asked

    data = as_json(found)
    head = terminal.heading(asked(found.baseline.scenario, found.baseline.device, found.baseline.ceilings))
    before, baseline = data["bound"], data["baseline"]
    base = _row({**baseline, "bound_before": before, "bound_after": before}, "(as asked)")
    unserved = {t.name for outcome in found.outcomes for t in outcome.techniques if not t.served}
    parts = []
    for label in QUALITIES:
        rows = [outcome for outcome in data["outcomes"] if outcome["quality"] == label]
        gaining = rows if every else [row for row in rows if _gains(row, baseline)]
        if QUALITIES.index(label) > QUALITIES.index(quality):
            parts.append(_in_one_line(label, rows, gaining))
        else:
            whole = every or label == "retrained"  # what is trained makes another model, which may be served
            parts.append(_of_label(label, rows, gaining, top, unserved, whole))
    rows = [_row(r, f"without {r['name']}") for r in data["counted"] if _tells(r, baseline)]
    if rows:
        parts.append(terminal.table(rows, COLUMNS, "counted already: what it would be without"))
        parts.append("".join(f"- {row['name']}: {row['why']}\n" for row in rows) + "\n")
    body = "".join(parts) + _not_applicable(data["not_applicable"], every)
    return f"{head}\n{terminal.table([base], COLUMNS)}{_legend(found, data, body)}\n{body}"


def _in_one_line(label: str, rows: Sequence[dict[str, Any]], gaining: Sequence[dict[str, Any]]) -> str:
    """How many outcomes a label that is not shown has, and the fastest; nothing where it has none."""
    if not rows:
        return ""
    best = f", the fastest {_called(gaining[0])} {gaining[0]['speedup']:.2f}x" if gaining else ""
    return f"{LABELS[label]} ({label}): {len(rows)} with --quality {label}{best}\n\n"


def _of_label(
    label: str,
    rows: Sequence[dict[str, Any]],
    gaining: Sequence[dict[str, Any]],
    top: int,
    unserved: set[str],
    every: bool,
) -> str:
    """The table of a label's gaining outcomes with their reasons, then the names of the others.

    Of what no inference engine serves a name and a gain, unless every row is asked for.
    """
    said, title = "", f"{LABELS[label]} ({label})"
    served = [row for row in gaining if every or not unserved.intersection(row["names"])]
    if shown := _shown(served, top):
        more = f"; {len(served) - len(shown)} more with --top" if len(served) > len(shown) else ""
        said += terminal.table(shown, COLUMNS, f"{title}{more}")
        said += "".join(f"- {row['named']}: {row['why']}\n" for row in shown)
        said += _served_by_none({name for row in shown for name in row["names"] if name in unserved})
    if others := [row for row in gaining if row not in served and len(row["names"]) == 1]:
        told = ", ".join(f"{_called(row)} {row['speedup']:.2f}x" for row in others)
        said += f"{'Served' if shown else f'{title}: served'} by no inference engine: {told} (--only NAME).\n"
    if idle := [_called(row) for row in rows if row not in gaining and len(row["names"]) == 1]:
        said += f"{'Slower' if said else f'{title}: slower'}, or no gain: {', '.join(idle)}.\n"
    return said and f"{said}\n"


def _not_applicable(refused: dict[str, str], every: bool) -> str:
    """The techniques that do not apply, with their reasons where every one is asked for."""
    if not refused:
        return ""
    if every:
        return "".join(["not applicable:\n", *(f"- {name}: {why}\n" for name, why in refused.items())])
    return f"Not applicable (--only NAME says why): {', '.join(refused)}.\n"


def _gains(record: dict[str, Any], baseline: dict[str, Any]) -> bool:
    """Whether a technique saves time in the printed digits, or memory at no cost or so that it fits."""
    lighter = record["memory_bytes"] < baseline["memory_bytes"] * (1 - VISIBLE)
    needed = record["fits"] and not baseline["fits"]
    return bool(record["speedup"] > 1 + VISIBLE or (lighter and (needed or record["speedup"] > 1 - VISIBLE)))


def _called(outcome: dict[str, Any]) -> str:
    return " + ".join(outcome["called"])


def _legend(found: WhatIf, data: dict[str, Any], body: str) -> str:
    """A legend of the columns, and remedies where memory is insufficient."""
    limits = f"Bound by: the limit on most of each phase ({', '.join(data['bound'])})."
    lines = [f"{limits} Energy: {found.baseline.energy_by}."]
    if "engine" in data:
        lines.append(f"In every line: engine {data['engine']['told']}.")
    fits = data["baseline"]["fits"]
    if not fits or f"B{TOO_MUCH}" in body:
        capacity = si(found.baseline.device.capacity_bytes, "B")
        lines.append(
            f"{TOO_MUCH} more than the {capacity} of a device: times are those of one that holds it."
        )
    if not fits:
        lines.append(_what_fits(data["outcomes"]))
    return "".join(f"{line}\n" for line in lines)


def _what_fits(outcomes: Sequence[dict[str, Any]]) -> str:
    """A sentence on the single techniques with which the model fits in memory, the fastest first."""
    names = [o["called"][0] for o in outcomes if o["fits"] and len(o["names"]) == 1]
    if not names:
        return "No technique that was tried alone makes it fit."
    more = f" and {len(names) - FITTING} more" if len(names) > FITTING else ""
    return f"It fits with {', '.join(names[:FITTING])}{more}."


def _tells(record: dict[str, Any], baseline: dict[str, Any]) -> bool:
    """Whether a record without a technique differs in the printed digits."""
    return any(abs(record[name] / baseline[name] - 1) > VISIBLE for name in ("time_s", "memory_bytes"))


def _shown(outcomes: Sequence[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """The fastest alone, and a third as many pairs, from the fastest."""
    pairs = [outcome for outcome in outcomes if len(outcome["names"]) > 1]
    alone = [outcome for outcome in outcomes if len(outcome["names"]) == 1]
    chosen = sorted(alone[:top] + pairs[: -(-top // 3)], key=lambda outcome: -outcome["speedup"])
    return [_row(outcome, _called(outcome)) for outcome in chosen]


def _row(record: dict[str, Any], named: str) -> dict[str, Any]:
    """A record with its name, its memory and its bounds as text."""
    held = si(record["memory_bytes"], "B") + ("" if record["fits"] else TOO_MUCH)
    before, after = record["bound_before"], record["bound_after"]
    moved = (
        now if before.get(phase, now) == now else f"{before[phase]} > {now}" for phase, now in after.items()
    )
    return {"speedup": 1.0, **record, "named": named, "held": held, "bound": ", ".join(moved)}


def answers_json(found: Found, scenario: Scenario, goal: Goal, target: str) -> dict[str, Any]:
    """Devices and techniques that meet a target, and the nearest, as `target.Found` has them."""
    return {
        "schema": 1,
        "model": scenario.model.name,
        "batch": scenario.batch,
        "prompt": scenario.prompt,
        "output": scenario.output,
        "target": target,
        "fidelity": next((str(a.prediction.ceilings.fidelity) for a in (*found.met, *found.nearest)), None),
        "answers": [_answer(answer) for answer in found.met],
        "nearest": [_answer(answer) | _missing(answer, goal) for answer in found.nearest],
        "unmet": list(found.unmet),
    }


def answers_csv(found: Found, scenario: Scenario, goal: Goal, target: str) -> str:
    """A line per answer; before them, where no served one meets the target, those with a missed goal."""
    data = answers_json(found, scenario, goal, target)
    rows = [*data["nearest"], *data["answers"]]
    return csv_text(rows, list(rows[0]) if rows else ["hardware"])


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "hardware": answer.device.name,
        "devices": answer.devices,
        "tdp_w": answer.watts,
        "usd_per_hour": answer.usd_per_hour,
        "usd_per_million_tokens": answer.usd_per_million_tokens,
        "techniques": [t.told() for t in answer.techniques],
        "names": [t.name for t in answer.techniques],
        "called": [t.called() for t in answer.techniques],
        "assumed": ", ".join(filter(None, (t.assumes() for t in answer.techniques))),
        "served": answer.served,
        **{k: v for k, v in answer.totals.items() if k in ANSWERED},
    }


def _missing(answer: Answer, goal: Goal) -> dict[str, Any]:
    """The goal missed by most, the factor, and the bounds of the phases."""
    misses = goal.misses(answer.totals)
    worst = max(misses, key=lambda name: float(misses[name]))
    bounds = {phase: answer.prediction.bound(phase) for phase in answer.prediction.phases}
    return {"missed": {"goal": worst, "times": float(misses[worst])}, "bound": bounds}


ANSWERED = ("ttft_s", "tpot_s", "tokens_per_s", "memory_bytes")


PRICES: terminal.Columns = {"usd_per_hour": ("USD per hour", usd), **terminal.COST}


def answers_text(found: Found, scenario: Scenario, goal: Goal, target: str) -> str:
    """The same as tables."""
    data = answers_json(found, scenario, goal, target)
    met, near = data["answers"], data["nearest"]
    if not met and not near:
        return f"no device meets {target}: none can run {scenario.model.name} as asked\n"
    priced = any(row["usd_per_hour"] is not None for row in (*met, *near))
    unpriced = [row["hardware"] for row in met if row["usd_per_hour"] is None] if priced and not near else []
    met = [row for row in met if row["hardware"] not in unpriced]
    first = f"{'the cheapest token' if priced else 'the least power'} first"
    served, others = ([row for row in near if row["served"] == there] for there in (True, False))
    if not near:
        parts = [(f"what meets {target}, {first}", met)]
    elif not served or not (met or others):
        tried = "with the techniques that were tried"
        parts = [(f"no device meets {target} {tried}; nearest are", near)]
    else:
        unserved = "with techniques that no inference engine serves"
        parts = [
            (f"no device meets {target} with what inference engines serve; nearest are", served),
            (f"what meets it {unserved}, {first}" if met else f"nearer {unserved}", met or others),
        ]
    asked = f"{workload_name(scenario)}, {scenario.formats_told}; fidelity {data['fidelity']}"
    table = "\n".join(_answers_table(rows, f"{asked}: {title}", priced) for title, rows in parts)
    used = {t.name for answer in (*found.met, *found.nearest) for t in answer.techniques if not t.served}
    table += _served_by_none(used)
    if met and found.unmet:
        more = len(found.unmet) - MOST_UNMET
        beside = f" and {more} more (--format json)" if more > 0 else ""
        table += f"Nothing that was tried meets it on {', '.join(found.unmet[:MOST_UNMET])}{beside}.\n"
    if unpriced:
        table += f"Without a price, though they meet it, too: {', '.join(unpriced)}.\n"
    kernels = {a.device.name: a.prediction.ceilings.kernels for a in (*found.met, *found.nearest)}
    if carried := [
        f"{name} (of {k.transferred_from})" for name, k in kernels.items() if k and k.transferred_from
    ]:
        table += f"Kernel constants transferred from another device: {', '.join(carried)}.\n"
    if "ttft" in goal.goals and scenario.batch > 1:
        table += (
            f"TTFT: {scenario.batch} prompts read together; `roofline serve` has them arrive one by one.\n"
        )
    return table


def _answers_table(rows: list[dict[str, Any]], title: str, priced: bool) -> str:
    columns: terminal.Columns = {
        "hardware": ("device", text),
        "devices": ("devices", text),
        **(PRICES if priced else {"tdp_w": ("power", lambda v: si(v, "W"))}),
        **terminal.RATES,
        **terminal.MEMORY,
        **({"short": ("misses", text), "binds": ("bound by", text)} if "missed" in rows[0] else {}),
        "used": ("techniques", text),
        **({"assumed": ("assumed", text)} if any(row["assumed"] for row in rows) else {}),
    }
    return terminal.table([_answer_row(row) for row in rows], columns, title)


def _served_by_none(names: Collection[str]) -> str:
    """A line on the techniques that no inference engine offers, if any."""
    return f"Served by no inference engine: {', '.join(sorted(names))}.\n" if names else ""


def _answer_row(row: dict[str, Any]) -> dict[str, Any]:
    used = _called(row) or "none"
    if "missed" not in row:
        return {**row, "used": used}
    missed = row["missed"]
    binds = ", ".join(row["bound"].values())
    return {**row, "used": used, "short": f"{missed['goal']} {missed['times']:.3g} times", "binds": binds}
