"""The phases of a prediction as records: one step of each, its operators and their roofs."""

from __future__ import annotations

from collections.abc import Iterator

from reports.points import INPUTS, roof_s_of, roofs, sizes
from reports.step_records import PASS, Operator, Point
from roofline.ceilings import Fidelity, reference_fidelity
from roofline.engines import KIND as ENGINE
from roofline.predict import Prediction, Row, predict
from roofline.scenario import Scenario
from workloads.traced_model import TRACED


def predicted_points(prediction: Prediction, prefix: str = "") -> Iterator[Point]:
    """A point per phase of a prediction: one step of it, decode over many contexts as the mean step."""
    limits = _reference_of(prediction)
    again = limits is not prediction.ceilings.fidelity
    roof = predict(prediction.scenario, prediction.device, limits) if again else prediction
    for phase in dict.fromkeys(row.phase for row in prediction.rows):
        steps = _steps(prediction, phase)
        # Engine overheads have no roof: all of their time counts as launches.
        limits_of = (row for row in roof.rows if row.phase == phase and row.kind != ENGINE)
        pairs = [
            (row, row if row.kind == ENGINE else next(limits_of))
            for row in prediction.rows
            if row.phase == phase
        ]
        passes = prediction.scenario.model.family == TRACED
        yield Point(
            phase=PASS if passes else phase,
            sizes=INPUTS if passes else _predicted_sizes(prediction.scenario, phase, steps),
            tokens=_tokens(prediction.scenario, phase),
            predicted_s=prediction.time_s(phase) / steps,
            roof_s=roof_s_of(roof, phase) / steps,
            operators=tuple(_predicted_operator(row, at_roof, steps) for row, at_roof in pairs),
            roofs=roofs(prediction.device, prediction.scenario.setting.precision),
            prefix=prefix,
        )


def _reference_of(prediction: Prediction) -> Fidelity:
    """The ceilings that a prediction's times are compared with: those that its fidelity is built on."""
    fidelity = prediction.ceilings.fidelity
    return reference_fidelity(prediction.device) if fidelity.calibrates else fidelity


def _steps(prediction: Prediction, phase: str) -> int:
    """The number of steps that the rows of a phase represent."""
    if phase == "denoise":
        return prediction.scenario.denoise_steps if prediction.scenario.phase == "generate" else 1
    tpot = prediction.totals()["tpot_s"] if phase == "decode" else None
    return round(prediction.time_s("decode") / tpot) if tpot else 1


def _tokens(scenario: Scenario, phase: str) -> float:
    positions = {"prefill": scenario.prompt, "denoise": scenario.longest}
    return float(scenario.batch * positions.get(phase, 1))


def _predicted_sizes(scenario: Scenario, phase: str, steps: int) -> str:
    if phase == "prefill":
        return sizes(scenario.batch, scenario.prompt, scenario.prompt)
    if phase == "denoise":
        return sizes(scenario.batch, scenario.longest, scenario.longest)
    if steps == 1:
        return sizes(
            scenario.batch, 1, scenario.decode_context if scenario.phase == "decode" else scenario.longest
        )
    first = scenario.longest - steps + 1
    return f"batch {scenario.batch}, context {first:,} to {scenario.longest:,}, mean of {steps} steps"


def _predicted_operator(row: Row, roof: Row, steps: int) -> Operator:
    return Operator(
        name=row.name,
        kind=row.kind,
        count=row.count / steps,
        flops=float(row.work.flops),
        bytes=float(row.work.bytes),
        bound=str(row.times.bound),
        predicted_s=float(row.times.time_s),
        bound_s=float(roof.times.time_s - roof.times.launch_s),
        compute_s=float(row.times.compute_s),
        memory_s=float(row.times.memory_s),
        fused=row.work.fused,
    )
