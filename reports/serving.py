"""Results of simulated serving as text, CSV or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from reports import terminal
from reports.units import percent, seconds, si, text, usd
from reports.wording import alike, plain
from roofline.tables import csv_text

if TYPE_CHECKING:
    from roofline.serve.outcome import Serving

COLUMNS: terminal.Columns = {
    "batching": ("batching", text),
    "users": ("users", text),
    "rate_per_s": ("requests/s", plain),
    "served_per_s": ("served/s", plain),
    "tokens_per_s": ("tokens/s", plain),
    "usd_per_million_tokens": ("USD per million tokens", usd),
    "ttft_p50_s": ("TTFT p50", seconds),
    "ttft_p99_s": ("p99", seconds),
    "tpot_p50_s": ("TPOT p50", seconds),
    "tpot_p99_s": ("p99", seconds),
    "itl_p99_s": ("ITL p99", seconds),
    "within_limits": ("in time", percent),
    "goodput_per_s": ("goodput/s", plain),
    "mean_batch": ("batch", lambda v: f"{v:.1f}"),
    "cache_peak": ("cache", lambda v: percent(v, 0)),
    "preempted": ("preempted", text),
    "queue": ("queue", text),
}

QUEUES = {True: "steady", False: "grows", None: "unknown"}


def as_json(found: Serving) -> str:
    """Everything, in SI units."""
    return json.dumps({"schema": 1, **asdict(found)}, indent=1)


def as_csv(found: Serving) -> str:
    """A line per batching and rate."""
    return csv_text(found.rows, list(found.rows[0]))


def as_text(found: Serving) -> str:
    """A table, with a legend of its columns."""
    rows = [{**row, "queue": QUEUES[row["keeps_up"]]} for row in found.rows]
    limits = [
        f"{name} at most {si(value, 's')}"
        for name, value in (("TTFT", found.limits.ttft_s), ("TPOT", found.limits.tpot_s))
        if value is not None
    ]
    columns = {
        key: (head, alike(row[key] for row in rows) if form is plain and key in rows[0] else form)
        for key, (head, form) in COLUMNS.items()
    }
    if not any(row["users"] for row in rows):
        del columns["users"]
    if "usd_per_million_tokens" not in rows[0]:
        del columns["usd_per_million_tokens"]
    if not limits:
        del columns["within_limits"], columns["goodput_per_s"]
    fewest = min(row["requests"] for row in rows)
    count = f"{'' if fewest == found.requests else f'{fewest} to '}{found.requests}"
    layout = f" ({found.layout})" if found.layout else ""
    title = (
        f"{found.model} on {found.devices} x {found.hardware}{layout}, {found.formats}: {count} requests of "
        f"{found.prompt:.0f} + {found.output:.0f} tokens on average; fidelity {found.fidelity}"
    )
    notes = [
        f"in time: {', '.join(limits)}." if limits else "",
        "Where the queue grows, requests come faster than they leave: waits depend on how many there are."
        if any(row["keeps_up"] is False for row in found.rows)
        else "",
        "Where the queue is unknown, a run is short for the time that requests stay: take more --requests."
        if any(row["keeps_up"] is None for row in found.rows)
        else "",
        f"With {found.requests} requests a run is too short to find the highest rate; about {found.enough} "
        "are enough (--requests)."
        if found.enough
        else "",
        f"Engine {found.engine}." if found.engine else "",
        *(f"Note: {note}." for note in found.notes),
    ]
    return terminal.table(rows, columns, title) + "".join(f"{note}\n" for note in notes if note)
