"""Check and time one operator of a campaign's table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.kernels import Kernel, Place, company, kernel, paged
from profiler.repeats import Effort, Sample
from profiler.timing import measure, measure_replayed
from roofline.optable import one_operator

if TYPE_CHECKING:
    from profiler.campaign.shapes import Row
    from workloads.operators import Operator

EFFORT = Effort(repeats=25, budget_s=0.4, precision=0.02)


def measured_row(row: Row, device: str, cold_bytes: float) -> Row:
    """The row with its time: on CUDA by graph replay, with weights and KV out of the cache, else by calls.

    The row's `tag` may ask for other conditions: `warm` leaves the buffers in the cache, `by call` launches
    each call from the host. Raises InputError where there is no kernel or its result is wrong.
    """
    operator = one_operator(row)
    asked = row.get("tag") or ""
    warm, by_call = _conditions(device, asked)
    place = Place(device, row["dtype"], 0.0 if warm else cold_bytes)
    error = _made(row, operator, replace(place, cold_bytes=0.0)).checked_error(row["dtype"])
    made = _made(row, operator, place)
    timed = _timed(made, place, by_call)
    name = f"{made.name} ({asked})" if asked else made.name  # with constants of its own
    told = {"tag": way(device, asked), "backend": made.backend, "kernel": name}
    return {**row, **told, **timed.micros(), "max_error": error}


def way(device: str, asked: str | None) -> str:
    """The conditions of a row as in its column `tag`."""
    warm, by_call = _conditions(device, asked or "")
    return f"{'warm' if warm else 'cold'}, {'by call' if by_call else 'graph replay'}"


def _conditions(device: str, asked: str) -> tuple[bool, bool]:
    """Whether buffers stay in the cache, and whether calls are launched from the host."""
    return "warm" in asked, device == "cpu" or "by call" in asked


def _made(row: Row, operator: Operator, place: Place) -> Kernel:
    if row.get("page"):
        return paged(operator, place, row["page"])  # type: ignore[arg-type] # rows with pages are attention
    return kernel(operator, place)


def _timed(made: Kernel, place: Place, by_call: bool) -> Sample:
    if by_call:
        between = company(place) if place.cold_bytes else None
        return measure(made.run, place.device, EFFORT, between=between)
    return measure_replayed(made.run, place.device, EFFORT, cold_bytes=place.cold_bytes)
