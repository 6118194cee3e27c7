"""A run against the prediction at every fidelity that its device supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reports.measured_points import by_key
from reports.points import Key, at_step, finite, sizes
from reports.records import Comparison, Pair, StepError
from reports.step_records import Point
from roofline.ceilings import Fidelity
from roofline.run_tables import POINT
from roofline.tables import plain_records
from roofline.validate import Validation, validate
from specfiles.errors import InputError

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.run import Run
    from roofline.scenario import Scenario


def comparison(
    run: Run, device: Device, scenario: Scenario, fidelity: Fidelity, points: Mapping[Key, Point]
) -> Comparison:
    """Errors of operators and of whole steps at one fidelity, or why there are none."""
    try:
        checked = validate(run, device, fidelity)
        steps = tuple(
            StepError(
                point.title,
                at_step(scenario, key, device, fidelity, run.head.mode).time_s(),
                point.measured_s,
                point.drift,
            )
            for key, point in points.items()
            if point.measured_s is not None
        )
    except InputError as error:
        return Comparison(str(fidelity), missing=str(error))
    return Comparison(
        str(fidelity),
        tuple(plain_records(checked.summary())),
        tuple(pair for row in checked.matched.to_dict("records") if (pair := _pair(row))),
        steps,
        tuple(_layers(checked, points)),
        drift_unknown=checked.drift_unknown,
        layers_drift_unknown=checked.layers_drift_unknown,
    )


def _layers(checked: Validation, points: Mapping[Key, Point]) -> Iterator[StepError]:
    sums = by_key(checked.layers)
    for key, point in points.items():
        for row in sums.get(key, []):
            predicted = finite(row["predicted_s"]) or 0.0
            yield StepError(point.title, predicted, finite(row["measured_s"]), finite(row["drift"]))


def _pair(row: Mapping[Any, Any]) -> Pair | None:
    """A row as a point on logarithmic axes; None for values not positive."""
    predicted, measured = finite(row["predicted_s"]), finite(row["measured_s"])
    if not predicted or not measured or min(predicted, measured) <= 0:
        return None
    return Pair(
        phase=str(row["phase"]),
        sizes=sizes(*(int(row[name]) for name in POINT[1:])),
        name=str(row["name"]),
        bound=str(row["bound"]),
        predicted_s=predicted,
        measured_s=measured,
    )
