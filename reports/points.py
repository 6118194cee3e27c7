"""The steps of a run or a prediction as records: whole-step times, operators, roofs, what is left over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reports.records import PASS, Kernel, Operator, Origin, Point, Roof, RoofKind, Stray
from roofline.ceilings import Fidelity, ceilings
from roofline.engines import KIND as ENGINE
from roofline.predict import Prediction, Row, in_mode, predict, step_rows
from roofline.scenario import PHASES, Scenario
from specfiles.errors import InputError
from workloads.dtypes import Precision, compute_dtype
from workloads.phases import Step
from workloads.traced_model import TRACED

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device, Sourced
    from roofline.run import Run
    from roofline.validate import Validation

INPUTS = "its own inputs"  # of a module: what its function returned
Key = tuple[str, int, int, int]  # phase, batch, q_len, kv_len
Record = dict[str, Any]
KEY = ["phase", "batch", "q_len", "kv_len"]


def best_fidelity(device: Device) -> Fidelity:
    """The most refined prediction that the device file supports."""
    for fidelity in (Fidelity.CALIBRATED, Fidelity.MEASURED):
        try:
            ceilings(device, fidelity)
        except InputError:
            continue
        return fidelity
    return Fidelity.DATASHEET


def reference_fidelity(device: Device) -> Fidelity:
    """The ceilings that attained fractions refer to: reached ones, where the file has any."""
    return Fidelity.MEASURED if device.measured.dram_byte_per_s else Fidelity.DATASHEET


def at_step(
    scenario: Scenario, key: Key, device: Device, fidelity: Fidelity, mode: str = "eager"
) -> Prediction:
    """The prediction for one step, which may also be a chunk (q_len < kv_len)."""
    _, batch, q_len, kv_len = key
    asked, limits = sized(scenario, key), in_mode(ceilings(device, fidelity), mode)
    rows = step_rows(asked, Step(batch, q_len, kv_len), limits, asked.phase)
    return Prediction(asked, device, limits, asked.schedule(), rows)


def sized(scenario: Scenario, key: Key) -> Scenario:
    """The scenario of one step; of a chunk, the scenario of a prompt as long as the chunk."""
    phase, batch, q_len, kv_len = key
    asked = "decode" if phase not in PHASES and q_len == 1 else phase if phase in PHASES else "prefill"
    return replace(scenario, phase=asked, batch=batch, prompt=q_len, context=kv_len, output=1)


def measured_points(run: Run, device: Device, scenario: Scenario, checked: Validation) -> dict[Key, Point]:
    """Every measured step by its key, prefill first."""
    operators, steps, kernels = (by_key(run.table(name)) for name in ("operators", "steps", "kernels"))
    matched, unmatched = by_key(checked.matched), by_key(checked.unmatched)
    drifts = {key: finite(rows[0]["drift"]) for key, rows in by_key(checked.drift).items()}
    points = {}
    for key in sorted({**steps, **operators}, key=_order):
        expected = at_step(scenario, key, device, checked.fidelity, run.head.mode)
        fused = {row.name for row in expected.rows if row.work.fused}
        points[key] = replace(
            _expected(scenario, key, device, expected.time_s()),
            **_whole_step(steps.get(key, [])),
            **_parts(matched.get(key, []), unmatched.get(key, []), operators.get(key, []), fused),
            kernels=_kernels(kernels.get(key, [])),
            drift=drifts.get(key),
        )
    return points


def by_key(table: pd.DataFrame) -> dict[Key, list[Record]]:
    """The rows of a table by the step that they belong to, in their order."""
    found: dict[Key, list[Record]] = {}
    for row in table.to_dict("records"):
        record = {str(name): value for name, value in row.items()}
        phase, batch, q_len, kv_len = (record[name] for name in KEY)
        found.setdefault((str(phase), int(batch), int(q_len), int(kv_len)), []).append(record)
    return found


def _order(key: Key) -> int:
    """Prefill before decode before anything else."""
    return PHASES.index(key[0]) if key[0] in PHASES else len(PHASES)


def _expected(scenario: Scenario, key: Key, device: Device, predicted_s: float) -> Point:
    phase, batch, q_len, kv_len = key
    passes = scenario.model.family == TRACED
    return Point(
        phase=PASS if passes else phase,
        sizes=INPUTS if passes else sizes(batch, q_len, kv_len),
        tokens=float(Step(batch, q_len, kv_len).tokens),
        predicted_s=predicted_s,
        roof_s=_roof_s(at_step(scenario, key, device, reference_fidelity(device))),
        roofs=roofs(device, scenario.setting.precision),
    )


def sizes(batch: int, q_len: int, kv_len: int) -> str:
    """A step's sizes in words."""
    if q_len == 1:
        return f"batch {batch}, context {kv_len:,}"
    chunk = f" of {kv_len:,}" if kv_len != q_len else ""
    return f"batch {batch}, {q_len:,}{chunk} tokens"


def _roof_s(prediction: Prediction, phase: str | None = None) -> float:
    """The step at the ceilings: the prediction without the launches, which are no ceiling."""
    return float(
        sum(
            r.count * (r.times.time_s - r.times.launch_s) for r in prediction.rows if phase in (None, r.phase)
        )
    )


def _whole_step(rows: list[Record]) -> dict[str, Any]:
    plain = next((row for row in rows if not row["instrumented"]), None)
    instrumented = next((row for row in rows if row["instrumented"]), None)
    return {
        "measured_s": finite(plain["median_s"]) if plain else None,
        "q25_s": finite(plain["q25_s"]) if plain else None,
        "q75_s": finite(plain["q75_s"]) if plain else None,
        "low_s": finite(plain["low_s"]) if plain else None,
        "high_s": finite(plain["high_s"]) if plain else None,
        "repeats": int(finite(plain["repeats"]) or 0) if plain else None,
        "outliers": int(finite(plain["outliers"]) or 0) if plain else None,
        "instrumented_s": finite(instrumented["median_s"]) if instrumented else None,
        "waited_s": finite(plain["waited_s"]) if plain else None,
    }


def _parts(
    matched: list[Record],
    unmatched: list[Record],
    measured: list[Record],
    fused: set[str],
) -> dict[str, Any]:
    """Operators with both sides, then those with one side only."""
    names = {row["name"] for row in matched}
    strays = [
        Stray(str(row["name"]), "measured, not predicted", _times_count(row))
        for row in measured
        if row["where"] == "model" and row["name"] not in names
    ]
    strays += [
        Stray(str(row["name"]), str(row["side"]), finite(row["seconds"]))
        for row in unmatched
        if not str(row["side"]).startswith("measured")  # those are above, with all their executions
    ]
    return {
        "operators": tuple(_operator(row, row["name"] in fused) for row in matched),
        "strays": tuple(strays),
    }


def _times_count(row: Record) -> float | None:
    seconds = finite(row["median_s"])
    return None if seconds is None else seconds * (finite(row["count"]) or 1.0)


def _operator(row: Record, fused: bool) -> Operator:
    return Operator(
        name=str(row["name"]),
        kind=str(row["kind"]),
        count=finite(row["count"]) or 0.0,
        flops=finite(row["flops"]) or 0.0,
        bytes=finite(row["bytes"]) or 0.0,
        bound=str(row["bound"]),
        predicted_s=finite(row["predicted_s"]) or 0.0,
        bound_s=finite(row["bound_s"]),
        measured_s=finite(row["measured_s"]),
        alone_s=finite(row["alone_s"]),
        error=finite(row["error"]),
        attained=finite(row["attained"]),
        above_ceiling=bool(row["above_ceiling"]),
        fused=fused,
    )


def _kernels(rows: list[Record]) -> tuple[Kernel, ...]:
    found = (
        Kernel(
            _name_or_none(row["operator"]),
            str(row["name"]),
            int(finite(row["count"]) or 0),
            finite(row["time_s"]),
        )
        for row in rows
    )
    return tuple(sorted(found, key=lambda kernel: -(kernel.time_s or 0.0)))


def _name_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def predicted_points(prediction: Prediction, prefix: str = "") -> Iterator[Point]:
    """A point per phase of a prediction: one step of it, decode over many contexts as the mean step."""
    limits = _reference_of(prediction)
    roof = prediction if limits is prediction.ceilings.fidelity else _again(prediction, limits)
    for phase in dict.fromkeys(row.phase for row in prediction.rows):
        steps = _steps(prediction, phase)
        # What an engine adds stands under no roof: it is its own, all of it launches.
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
            roof_s=_roof_s(roof, phase) / steps,
            operators=tuple(_predicted_operator(row, at_roof, steps) for row, at_roof in pairs),
            roofs=roofs(prediction.device, prediction.scenario.setting.precision),
            prefix=prefix,
        )


def _reference_of(prediction: Prediction) -> Fidelity:
    """What a prediction's own times are compared with: the ceilings that it starts from."""
    fidelity = prediction.ceilings.fidelity
    return Fidelity.MEASURED if fidelity.calibrates else fidelity


def _again(prediction: Prediction, fidelity: Fidelity) -> Prediction:
    return predict(prediction.scenario, prediction.device, fidelity)


def _steps(prediction: Prediction, phase: str) -> int:
    """How many steps the rows of a phase stand for."""
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


def roofs(device: Device, precision: Precision) -> tuple[Roof, ...]:
    """The ceilings to draw, each with its origin; one that equals the data sheet's is drawn once."""
    units = dict.fromkeys(compute_dtype(str(d)) for d in (precision.activations, precision.wide))
    found: dict[tuple[str, float], Roof] = {}
    sheet, reached = device.datasheet, device.measured

    def add(kind: RoofKind, label: str, value: Sourced | None, origin: Origin) -> None:
        if value is not None:
            found.setdefault(
                ("memory" if kind == "memory" else "flop", value.value),
                Roof(kind, label, value.value, origin),
            )

    sections: tuple[tuple[Origin, Any, Sourced | None], ...] = (
        ("data sheet", sheet, sheet.dram.byte_per_s),
        ("measured", reached, reached.dram_byte_per_s),
    )
    for origin, section, bandwidth in sections:
        for unit in units:  # a dtype that the tensor units do not know is multiplied on the vector units
            value = section.tensor_flop_per_s.get(unit) or section.vector_flop_per_s.get(unit)
            add("matrix", f"{unit} matrix", value, origin)
        add("vector", "fp32 vector", section.vector_flop_per_s.get("fp32"), origin)
        add("memory", "memory", bandwidth, origin)
    return tuple(found.values())


def finite(value: Any) -> float | None:
    """A number, or null for what no page can show: missing, not a number, infinite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
