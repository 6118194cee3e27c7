"""One operator of a campaign's table, checked and timed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.kernels import TOLERANCE, Kernel, Place, company, kernel, paged
from profiler.repeats import Effort, Sample
from profiler.timing import measure, measure_replayed
from roofline.optable import one_operator
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.campaign.shapes import Row
    from workloads.operators import Operator

MOST_CHECKED_FLOPS = 2e9  # of an operator that is recomputed in fp64; larger ones run the same kernels
EFFORT = Effort(repeats=25, budget_s=0.4, precision=0.02)


def measured_row(row: Row, device: str, cold_bytes: float) -> Row:
    """The row with its time: on CUDA by graph replay, with weights and KV out of the cache, else by calls.

    `tag` in the row asks for another way: `warm` leaves the buffers in the cache, `by call` launches each
    call from the host. Raises InputError where there is no kernel or its result is wrong.
    """
    operator = one_operator(row)
    asked = row.get("tag") or ""
    place = Place(device, row["dtype"], 0.0 if "warm" in asked else cold_bytes)
    error = None
    if operator.work().flops <= MOST_CHECKED_FLOPS:
        error = _made(row, operator, replace(place, cold_bytes=0.0)).error()
        if not error <= TOLERANCE[row["dtype"]]:
            raise InputError(f"the result deviates by {error:.2g} from fp64")
    made = _made(row, operator, place)
    by_call = device == "cpu" or "by call" in asked
    timed = _timed(made, place, by_call)
    name = f"{made.name} ({asked})" if asked else made.name  # another way has constants of its own
    told = {"tag": way(device, asked), "backend": made.backend, "kernel": name}
    return {**row, **told, **timed.micros(), "max_error": error}


def way(device: str, asked: str | None) -> str:
    """How a row is measured, in the words of its column `tag`."""
    by_call = device == "cpu" or "by call" in (asked or "")
    return f"{'warm' if 'warm' in (asked or '') else 'cold'}, {'by call' if by_call else 'graph replay'}"


def _made(row: Row, operator: Operator, place: Place) -> Kernel:
    if row.get("page"):
        return paged(operator, place, row["page"])  # type: ignore[arg-type] # rows with pages are attention
    return kernel(operator, place)


def _timed(made: Kernel, place: Place, by_call: bool) -> Sample:
    if by_call:
        between = company(place) if place.cold_bytes else None
        return measure(made.run, place.device, EFFORT, between=between)
    return measure_replayed(made.run, place.device, EFFORT, cold_bytes=place.cold_bytes)
