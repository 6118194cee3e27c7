"""The same workload on other devices, at data-sheet ceilings: floors on time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from hwspecs import Device
from reports.points import Key, at_step
from reports.records import Elsewhere
from roofline.ceilings import Fidelity, ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.dtypes import FORMATS, Precision, compute_dtype

OTHERS = (
    "a100_sxm",
    "h100_sxm",
    "h200_sxm",
    "b200_sxm",
    "l4",
    "l40s",
    "rtx_a6000",
    "rtx4090",
    "mi300x",
    "jetson_agx_orin_64gb",
)
Make = Callable[[Scenario, Device], Sequence[Prediction]]


def other_devices(names: Iterable[str] = OTHERS) -> list[Device]:
    """The shipped devices that a report compares with, without missing or broken files."""
    from hwspecs import load_device

    found = []
    for name in names:
        try:
            found.append(load_device(name))
        except InputError:
            continue
    return found


def floors(scenario: Scenario, devices: Iterable[Device]) -> tuple[Elsewhere, ...]:
    """A scenario on each device, the first mention of each."""
    return _table(scenario, devices, lambda asked, device: [predict(asked, device)])


def floors_of_steps(
    scenario: Scenario, keys: Sequence[Key], devices: Iterable[Device]
) -> tuple[Elsewhere, ...]:
    """The measured steps, one per phase, on each device."""

    def make(asked: Scenario, device: Device) -> list[Prediction]:
        return [at_step(asked, key, device, Fidelity.DATASHEET) for key in keys]

    return _table(scenario, devices, make)


def _table(scenario: Scenario, devices: Iterable[Device], make: Make) -> tuple[Elsewhere, ...]:
    return tuple(_floor(scenario, device, make) for device in {d.name: d for d in devices}.values())


def _floor(scenario: Scenario, device: Device, make: Make) -> Elsewhere:
    try:
        formats = _on(device, scenario.setting.precision)
        asked = replace(scenario, setting=replace(scenario.setting, precision=formats))
        totals = [prediction.totals() for prediction in make(asked, device)]
    except InputError as error:  # a missing peak, a missing link, a split that does not divide
        return Elsewhere(device.name, error=str(error))

    def first(name: str) -> float | None:
        return next((t[name] for t in totals if t[name] is not None), None)

    stored, multiplied = formats.weights, formats.activations
    return Elsewhere(
        device.name,
        str(stored) if stored == multiplied else f"{stored} in {multiplied}",
        ttft_s=first("ttft_s"),
        tpot_s=first("tpot_s"),
        tokens_per_s=totals[-1]["tokens_per_s"] if totals else None,  # decode comes last
        memory_bytes=max((t["memory_bytes"] for t in totals), default=None),
        fits=all(t["fits"] for t in totals),
    )


def _on(device: Device, asked: Precision) -> Precision:
    """The formats asked for, none wider than 16 bits; products are in 16 where it has no narrower peak."""
    peaks = ceilings(device, Fidelity.DATASHEET).matrix_by_dtype
    wide = "fp16" if "bf16" not in peaks and "fp16" in peaks else "bf16"

    def stored(name: Any) -> Any:
        return wide if name in FORMATS and FORMATS[name][0] >= 16 else name

    def multiplied(name: Any) -> Any:
        return stored(name) if name is None or compute_dtype(name) in peaks else wide

    return Precision(
        stored(asked.weights),
        multiplied(asked.activations),
        stored(asked.kv),
        wide,
        stored(asked.experts),
        multiplied(asked.experts_in),
    )
