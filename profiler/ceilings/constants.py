"""The constants of operator classes, fitted to the operators inside the yardsticks."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hwspecs import Calibration, Constants
from profiler.ceilings.inside import all_steps
from profiler.ceilings.plan import CLASS, Findings
from profiler.repeats import Sample, sample
from profiler.yardsticks import TERMS
from roofline.calibrate import HELD_OUT_EVERY, Measurement, fit
from roofline.times import narrow_class, operator_class
from specfiles.strict import plain_data
from workloads.phases import Named


def calibration(device: str, found: Findings, told: str) -> Calibration | None:
    """Constants per class, fitted on all yardsticks but the held-out one; None without times."""
    rows: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for (dtype, family, named), times in _operators(device, found).items():
        name = narrow_class(named.operator) or operator_class(named.operator)
        rows[name, dtype].append(_measurement(family, named.operator, sample(times)))
    operators: dict[str, list[Constants]] = defaultdict(list)
    for (name, dtype), measured in rows.items():
        if len({row.family for row in measured}) >= HELD_OUT_EVERY:  # fewer were measured
            operators[name].append(rounded(fit(measured, dtype, TERMS[name])))
    if not operators:
        return None
    return Calibration(
        source=f"operators inside the yardstick models of roofline ceilings, one model held out; {told}",
        operators=dict(operators),
    )


def _operators(device: str, found: Findings) -> dict[tuple[str, str, Named], list[float]]:
    """Times by format, model and operator, of all steps that run the operator."""
    merged: dict[tuple[str, str, Named], list[float]] = defaultdict(list)
    for dtype in dict.fromkeys(key[2] for key in found.keys(CLASS)):
        for made in all_steps(device, dtype):
            for key, inputs, named in made.operators():
                if times := found.times.get(key):
                    merged[inputs, made.loaded.model.name, named] += times
    return merged


def _measurement(family: str, operator: Any, timed: Sample) -> Measurement:
    work = operator.work()
    return Measurement(
        family,
        float(work.flops),
        float(work.special_ops),
        float(work.bytes),
        float(work.outputs),
        timed.median_s,
    )


def rounded(constants: Constants) -> Constants:
    """Rounded to five digits, more than measurements repeat."""
    floats = {k: digits(v) for k, v in plain_data(constants).items() if isinstance(v, float)}
    return constants.replace(**floats)


def digits(value: float) -> float:
    """A number rounded to five significant digits."""
    return float(f"{value:.5g}")
