"""What measured and predicted steps of a report share: fidelities, sizes in words, roofs."""

from __future__ import annotations

import math
from typing import Any

from hwspecs import Device, Sourced
from reports.step_records import Origin, Roof, RoofKind
from roofline.ceilings import Fidelity, available, ceilings
from roofline.predict import Prediction, in_mode, step_rows
from roofline.run_tables import step_of
from roofline.scenario import Scenario, sized
from workloads.dtypes import Precision, compute_dtype

INPUTS = "its own inputs"  # of a module, returned by its function
Key = tuple[str, int, int, int, int]  # phase, batch, q_len, kv_len, encoder_len


def best_fidelity(device: Device) -> Fidelity:
    """The most refined prediction that the device file supports."""
    return (Fidelity.DATASHEET, *available(device))[-1]


def at_step(
    scenario: Scenario, key: Key, device: Device, fidelity: Fidelity, mode: str = "eager"
) -> Prediction:
    """The prediction for one step, which may also be a chunk (q_len < kv_len)."""
    asked, limits = sized(scenario, key), in_mode(ceilings(device, fidelity), mode)
    rows = step_rows(asked, step_of(key), limits, asked.phase)
    return Prediction(asked, device, limits, asked.schedule(), rows)


def sizes(batch: int, q_len: int, kv_len: int, encoder_len: int = 0) -> str:
    """A step's sizes in words."""
    if q_len == 1:
        encoded = f" ({encoder_len:,} of the encoder)" if encoder_len else ""
        return f"batch {batch}, context {kv_len:,}{encoded}"
    chunk = f" of {kv_len:,}" if kv_len != q_len else ""
    return f"batch {batch}, {q_len:,}{chunk} tokens"


def roof_s_of(prediction: Prediction, phase: str | None = None) -> float:
    """The step at the ceilings: the prediction without launches."""
    return float(
        sum(
            r.count * (r.times.time_s - r.times.launch_s) for r in prediction.rows if phase in (None, r.phase)
        )
    )


def roofs(device: Device, precision: Precision) -> tuple[Roof, ...]:
    """The ceilings to draw, each with its origin, without duplicates of the data sheet's."""
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
        for unit in units:  # dtypes without tensor units use vector units
            value = section.tensor_flop_per_s.get(unit) or section.vector_flop_per_s.get(unit)
            add("matrix", f"{unit} matrix", value, origin)
        add("vector", "fp32 vector", section.vector_flop_per_s.get("fp32"), origin)
        add("memory", "memory", bandwidth, origin)
    return tuple(found.values())


def finite(value: Any) -> float | None:
    """A number, or None for missing, NaN and infinite values."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
