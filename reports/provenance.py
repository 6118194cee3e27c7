"""Provenance of a report's numbers: measuring, conventions, and the source of each hardware number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwspecs.values import walk
from reports.points import finite
from reports.records import Provenance, Source
from reports.wording import moment
from roofline.energy import told
from roofline.throttle import reasons
from roofline.totals import power_of

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.ceilings import Ceilings
    from roofline.run import Run
    from workloads.phases import Setting

MOST_ENTRIES = 200  # of an environment, which comes from an untrusted file
UNITS = (  # the unit of a device file's value by the end of its key
    ("flop_per_s", "FLOP/s"),
    ("op_per_s", "op/s"),
    ("byte_per_s", "B/s"),
    ("bit_per_s", "bit/s"),
    ("bytes_per_processor", "B"),
    ("_bytes", "B"),
    ("_bits", "bit"),
    ("_hz", "Hz"),
    ("_w", "W"),
    ("_s", "s"),
    ("usd_per_hour", "USD/h"),
)


def of_run(run: Run, device: Device, limits: Ceilings, setting: Setting) -> Provenance:
    """The provenance of a measured run beside its device file."""
    base = of_device(device, limits, setting)
    return replace(
        base,
        measuring=tuple(_measuring(run)),
        environment=tuple(_flat(run.head.environment))[:MOST_ENTRIES],
        notes=tuple(run.head.notes),
    )


def of_device(
    device: Device, limits: Ceilings, setting: Setting, notes: Iterable[str] | None = None
) -> Provenance:
    """The conventions of a prediction and the sources of its device's numbers.

    `notes` are the prediction's, by default those on the ceilings.
    """
    fit = device.calibration if limits.constants else None
    return Provenance(
        device=device.name,
        conventions=tuple(_conventions(limits, setting, device.datasheet.tdp_w is not None)),
        device_notes=(*(limits.told() if notes is None else notes), *device.conflicts),
        sources=tuple(
            Source(path, s.value, _unit(path), s.source, device.sources.get(s.source, ""), s.note)
            for path, s in walk(device)
        ),
        calibration=tuple(
            (kind, each) for kind, entries in (fit.operators if fit else {}).items() for each in entries
        ),
        calibration_source=fit.source if fit else "",
    )


def _conventions(limits: Ceilings, setting: Setting, has_tdp: bool) -> Iterator[tuple[str, str]]:
    precision, convention = setting.precision, setting.convention
    yield "Fidelity", str(limits.fidelity)
    yield "Counting convention", f"{convention.name}: {convention.explanation}"
    yield (
        "Formats",
        f"weights {precision.stored}, activations {precision.multiplied}, KV cache {precision.kv}, "
        f"results {precision.wide}",
    )
    yield "Devices that share each layer", str(setting.tensor_parallel)
    if setting.expert_parallel > 1:
        yield "Devices that experts are spread over", str(setting.expert_parallel)
    if setting.pipeline_parallel > 1:
        yield "Stages of layers", str(setting.pipeline_parallel)
    if has_tdp:
        yield "Predicted energy", told(power_of(limits))


def _measuring(run: Run) -> Iterator[tuple[str, str]]:
    head = run.head
    yield "Command", head.command
    yield "Made", moment(head.created)
    yield "State of the run", head.status
    yield "Mode", head.mode
    yield "Weights", head.weights
    yield "Seed", str(head.seed)
    for name, what in (("steps", "Repeats of a whole step"), ("operators", "Repeats of an operator")):
        yield what, _range(run.table(name)["repeats"], "{:.0f}")
    steps = run.table("steps")
    yield "Steps to warm up", _range(steps["warm_ups"], "{:.0f}")
    yield "Repeats ended by", ", ".join(sorted(set(steps["ended"].dropna()))) or NOTHING
    yield "Outliers among whole steps", _range(steps["outliers"], "{:.0f}")
    yield from _power(run.table("power"))


def _power(samples: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if samples.empty:
        return
    yield "Power monitor samples", f"{len(samples):,}"
    columns = (
        ("power_w", "Power", 1.0, "{:.0f}", " W"),
        ("sm_clock_hz", "Processor clock", 1e-6, "{:.0f}", " MHz"),
        ("memory_clock_hz", "Memory clock", 1e-6, "{:.0f}", " MHz"),
        ("temperature_c", "Temperature", 1.0, "{:.0f}", " °C"),
    )
    for column, what, scale, shown, unit in columns:
        found = _range(samples[column], shown, scale)
        yield what, found if found == NOTHING else found + unit
    seen = {reason for bits in samples["throttle"] for reason in reasons(bits)}
    yield "Throttling", ", ".join(sorted(seen)) or "none seen"


NOTHING = "–"


def _range(values: pd.Series[Any], shown: str, scale: float = 1.0) -> str:
    """The range of a column, one number where minimum and maximum agree."""
    numbers = [number for value in values if (number := finite(value)) is not None]
    if not numbers:
        return NOTHING
    least, most = (shown.format(scale * n) for n in (min(numbers), max(numbers)))
    return least if least == most else f"{least} to {most}"


def _flat(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested entries as dotted keys."""
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, here)
        elif isinstance(value, list | tuple):
            yield here, ", ".join(map(str, value))
        else:
            yield here, NOTHING if value is None else str(value)


def _unit(path: str) -> str:
    """The unit at the end of a key; for keys by dtype or link that of the parent key."""
    keys = path.split(".")
    for key in reversed(keys):
        for ending, unit in UNITS:
            if key.endswith(ending):
                return unit
    return "B/s" if "links" in keys else ""
