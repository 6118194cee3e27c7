"""The measured steps of a run as records: whole steps, operators, kernels, and what did not match."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reports.points import INPUTS, Key, at_step, finite, roof_s_of, roofs, sizes
from reports.step_records import PASS, Kernel, Operator, Point, Stray
from roofline.ceilings import reference_fidelity
from roofline.run_tables import POINT, step_of
from roofline.scenario import PHASES, Scenario
from workloads.traced_model import TRACED

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.run import Run
    from roofline.validate import Validation


Record = dict[str, Any]


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


def timed_steps(run: Run) -> tuple[Point, ...]:
    """The whole steps alone, of a run on a device that no file describes: nothing is predicted for it."""
    steps = by_key(run.table("steps"))
    return tuple(
        replace(_of_sizes(key, passes=not run.head.model_config_fields), **_whole_step(steps[key]))
        for key in sorted(steps, key=_order)
    )


def by_key(table: pd.DataFrame) -> dict[Key, list[Record]]:
    """The rows of a table by step, in their order."""
    found: dict[Key, list[Record]] = {}
    for row in table.to_dict("records"):
        record = {str(name): value for name, value in row.items()}
        found.setdefault(_key(record), []).append(record)
    return found


def _key(record: Record) -> Key:
    phase, batch, q_len, kv_len, encoder_len = (record[name] for name in POINT)
    return str(phase), int(batch), int(q_len), int(kv_len), int(encoder_len)


def _order(key: Key) -> int:
    """Prefill before decode before anything else."""
    return PHASES.index(key[0]) if key[0] in PHASES else len(PHASES)


def _expected(scenario: Scenario, key: Key, device: Device, predicted_s: float) -> Point:
    return replace(
        _of_sizes(key, passes=scenario.model.family == TRACED),
        predicted_s=predicted_s,
        roof_s=roof_s_of(at_step(scenario, key, device, reference_fidelity(device))),
        roofs=roofs(device, scenario.setting.precision),
    )


def _of_sizes(key: Key, *, passes: bool) -> Point:
    """A step without times; a module's is a pass of its inputs."""
    phase, *lengths = key
    tokens = float(step_of(key).tokens)
    return Point(PASS if passes else phase, INPUTS if passes else sizes(*lengths), tokens, None, None)


def _whole_step(rows: list[Record]) -> dict[str, Any]:
    plain = next((row for row in rows if not row["instrumented"]), None)
    instrumented = next((row for row in rows if row["instrumented"]), None)
    found: dict[str, Any] = {"instrumented_s": finite(instrumented["median_s"]) if instrumented else None}
    if plain:
        found |= {name: finite(plain[name]) for name in ("q25_s", "q75_s", "low_s", "high_s", "waited_s")}
        found |= {name: int(finite(plain[name]) or 0) for name in ("repeats", "outliers")}
        found["measured_s"] = finite(plain["median_s"])
    return found


def _parts(
    matched: list[Record], unmatched: list[Record], measured: list[Record], fused: set[str]
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
        if not str(row["side"]).startswith("measured")  # listed above, with all their executions
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
