"""Predictions and tables as plain records, JSON and CSV: the documented columns, SI units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwspecs import Device
from roofline.ceilings import Ceilings, Fidelity
from roofline.notes import notes, without_kernels
from roofline.predict import Prediction, Row
from roofline.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

OF_WORK = (
    "flops", "matrix_flops", "vector_flops", "special_ops", "bytes", "weight_bytes", "activation_bytes",
    "kv_bytes", "comm_bytes", "host_bytes", "disk_bytes", "host_memory_bytes",
)  # fmt: skip
OF_TIMES = ("compute_s", "memory_s", "comm_s", "launch_s", "time_s", "bound")
OPERATOR_COLUMNS = ("name", "kind", "phase", "count", *OF_WORK, "intensity", *OF_TIMES)


def record(row: Row) -> dict[str, Any]:
    """One operator as a record in the order of OPERATOR_COLUMNS; intensity is null without bytes."""
    work = {name: getattr(row.work, name) for name in OF_WORK}
    return {
        **{name: getattr(row, name) for name in ("name", "kind", "phase", "count")},
        **work,
        "intensity": work["flops"] / work["bytes"] if work["bytes"] else None,
        **{name: getattr(row.times, name) for name in OF_TIMES},
    }


def as_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction in the documented schema; at fidelity corrected its operators say whether they are."""
    corrects = prediction.ceilings.fidelity is Fidelity.CORRECTED
    return {
        **asked(prediction.scenario, prediction.device, prediction.ceilings),
        "notes": list(prediction.notes),
        "operators": [
            {**record(row), **({"corrected": row.times.corrected} if corrects else {})}
            for row in prediction.rows
        ],
        **({"engine": prediction.served.record()} if prediction.served else {}),
        "energy_by": prediction.energy_by,
        "totals": prediction.totals(),
    }


def of_points(
    scenarios: Sequence[Scenario],
    device: Device,
    limits: Ceilings,
    totals: Mapping[str, Any],
    bounds: Sequence[Mapping[str, str]],
    uncalibrated: Sequence[Mapping[str, float]],
) -> list[dict[str, Any]]:
    """The points of a grid in the documented schema, with what binds each phase in place of operators.

    `totals` are arrays over points; `bounds` and `uncalibrated` those of `roofline.predict_grid.grid_limits`.
    """
    schedule = scenarios[0].schedule(device)
    said = notes(schedule, limits, schedule.multiplied())  # points differ in sizes alone
    columns = {name: [None if v != v else v for v in values.tolist()] for name, values in totals.items()}
    return [
        {
            **asked(scenario, device, limits),
            "notes": [*said, *without_kernels(uncalibrated[i], totals["time_s"][i])],
            "bound": bounds[i],
            "totals": {name: values[i] for name, values in columns.items()},
        }
        for i, scenario in enumerate(scenarios)
    ]


def asked(scenario: Scenario, device: Device, limits: Ceilings) -> dict[str, Any]:
    """What was asked, in the documented schema."""
    setting = scenario.setting
    precision = setting.precision
    return {
        "schema": 1,
        "model": scenario.model.name,
        "family": scenario.model.family,
        "hardware": device.name,
        "node": device.node.name if device.node else None,
        "phase": scenario.phase,
        "batch": scenario.batch,
        "prompt": scenario.prompt,
        "context": scenario.decode_context if scenario.phase == "decode" else scenario.longest,
        "output": scenario.output if scenario.phase in ("generate", "denoise") else None,
        "steps": scenario.denoise_steps if scenario.denoises else None,
        "images": scenario.images,
        "dtypes": {
            "weights": precision.weights,
            "activations": precision.activations,
            "kv": precision.kv,
            "experts": precision.expert_weights,
            "expert_activations": precision.expert_activations,
            **({"others": scenario.other_formats()} if scenario.model.mixed else {}),
        },
        "techniques": [technique.told() for technique in scenario.techniques],
        "devices": setting.devices,
        "tensor_parallel": setting.tensor_parallel,
        "expert_parallel": setting.expert_parallel,
        "pipeline_parallel": setting.pipeline_parallel,
        "expert_skew": setting.expert_skew,
        "convention": setting.convention.name,
        "fidelity": str(limits.fidelity),
        **({"backend": limits.kernels.backend} if limits.kernels and limits.kernels.backend else {}),
        "notes": list(limits.told()),
    }


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, with None for what is missing."""
    rows = table.astype(object).to_dict("records")
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value != value else value


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A line per row under the names of its columns; the parts of a list or mapping stand in one cell."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def as_data(records: Sequence[Mapping[str, Any]], format: str, nested: Collection[str] = ()) -> str:
    """Records as JSON or CSV, whose cells have no place for `nested` ones."""
    if format == "json":
        import json

        return json.dumps(list(records), indent=1)
    columns = dict.fromkeys(name for record in records for name in record if name not in nested)
    return csv_text(records, list(columns))


def _cell(value: Any) -> Any:
    """What a cell holds: `a; b` of a list, `a=1; b=2` of a mapping, nothing of None.

    >>> _cell(["awq", "kv8"]), _cell({"prefill": "compute"}), _cell(0.5)
    ('awq; kv8', 'prefill=compute', 0.5)
    """
    if isinstance(value, dict):
        return "; ".join(f"{key}={each}" for key, each in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def as_csv(points: list[dict[str, Any]]) -> str:
    """Operator rows of one or several predictions, each with its point's sizes."""
    sizes = ("model", "hardware", "batch", "prompt", "context", "output", "fidelity")
    corrects = any("corrected" in row for point in points for row in point["operators"])
    columns = [*sizes, *OPERATOR_COLUMNS, *(("corrected",) if corrects else ())]
    rows = ({**point, **row} for point in points for row in point["operators"])
    return csv_text(rows, columns)
