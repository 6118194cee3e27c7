"""One operator of a campaign's table, checked and timed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.kernels import TOLERANCE, Place, company, kernel
from profiler.timing import measure, measure_replayed
from roofline.optable import one_operator
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.campaign.shapes import Row

MOST_CHECKED_FLOPS = 2e9  # of an operator that is recomputed in fp64; larger ones run the same kernels
REPEATS, BUDGET_S, PRECISION = 25, 0.4, 0.01


def measured_row(row: Row, device: str, cold_bytes: float) -> Row:
    """The row with its time: on CUDA by graph replay, with weights and KV out of the cache, else by calls.

    Raises InputError where there is no kernel or its result is wrong.
    """
    operator = one_operator(row)
    place = Place(device, row["dtype"], cold_bytes)
    error = None
    if operator.work().flops <= MOST_CHECKED_FLOPS:
        error = kernel(operator, replace(place, cold_bytes=0.0)).error()
        if not error <= TOLERANCE[row["dtype"]]:
            raise InputError(f"the result deviates by {error:.2g} from fp64")
    call = kernel(operator, place).run
    if device == "cpu":
        timed = measure(
            call, device, between=company(place), repeats=REPEATS, budget_s=BUDGET_S, precision=PRECISION
        )
    else:
        timed = measure_replayed(call, device, repeats=REPEATS, budget_s=BUDGET_S, precision=PRECISION)
    return {**row, **_times(timed), "max_error": error}


def _times(timed: Any) -> Row:
    return {
        "latency_us": timed.median_s * 1e6,
        "q25_us": timed.q25_s * 1e6,
        "q75_us": timed.q75_s * 1e6,
        "repeats": timed.repeats,
    }
