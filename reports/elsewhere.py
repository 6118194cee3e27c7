"""The same workload on other devices, at data-sheet ceilings: floors on time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from hwspecs import Device
from reports.points import Key, at_step
from reports.records import Elsewhere
from roofline.ceilings import Fidelity, ceilings
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from specfiles.errors import InputError
from workloads.dtypes import Precision

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
Make = Callable[["Device", Precision], Sequence[Prediction]]


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
    return _table(devices, lambda device, precision: [predict(_in(scenario, precision), device)])


def floors_of_steps(
    scenario: Scenario, keys: Sequence[Key], devices: Iterable[Device]
) -> tuple[Elsewhere, ...]:
    """The measured steps, one per phase, on each device."""

    def make(device: Device, precision: Precision) -> list[Prediction]:
        return [at_step(_in(scenario, precision), key, device, Fidelity.DATASHEET) for key in keys]

    return _table(devices, make)


def _in(scenario: Scenario, precision: Precision) -> Scenario:
    return replace(scenario, setting=replace(scenario.setting, precision=precision))


def _table(devices: Iterable[Device], make: Make) -> tuple[Elsewhere, ...]:
    return tuple(_floor(device, make) for device in {d.name: d for d in devices}.values())


def _floor(device: Device, make: Make) -> Elsewhere:
    try:
        dtype = _dtype(device)
        totals = [prediction.totals() for prediction in make(device, Precision.of(dtype))]
    except InputError as error:  # a missing peak, a missing link, a split that does not divide
        return Elsewhere(device.name, error=str(error))

    def first(name: str) -> float | None:
        return next((t[name] for t in totals if t[name] is not None), None)

    return Elsewhere(
        device.name,
        dtype,
        ttft_s=first("ttft_s"),
        tpot_s=first("tpot_s"),
        tokens_per_s=totals[-1]["tokens_per_s"] if totals else None,  # decode comes last
        memory_bytes=max((t["memory_bytes"] for t in totals), default=None),
        fits=all(t["fits"] for t in totals),
    )


def _dtype(device: Device) -> str:
    """bf16, or fp16 where the device has only that; the prediction reports missing formats."""
    peaks = ceilings(device, Fidelity.DATASHEET).matrix_by_dtype
    return "fp16" if "bf16" not in peaks and "fp16" in peaks else "bf16"
