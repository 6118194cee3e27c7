"""The device file of the measurements: system facts, measured figures, fitted constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwspecs import Device, load_device
from hwspecs.schema import Cache, Datasheet, Dram
from hwspecs.values import Sourced
from profiler.ceilings.constants import calibration
from profiler.ceilings.figures import MEASURED, far_bytes, measured
from profiler.ceilings.plan import Findings, Plan
from profiler.environment import device_name, environment
from specfiles.errors import InputError

SYSTEM = "system"


def lacking(plan: Plan, found: Findings) -> list[str]:
    """The missing measurements among those that a device file requires."""
    needs = {
        "launch": bool(found.keys("launch")),
        "matmul": bool(found.keys("matmul")),
        "bandwidth": any(key[2] >= far_bytes(plan) for key in found.keys("bandwidth")),
    }
    return [name for name, there in needs.items() if not there]


def device_of(plan: Plan, found: Findings, state: list[str]) -> Device:
    """The device; `state` are notes on its clocks. Raises InputError where measurements are `lacking`."""
    if missing := lacking(plan, found):
        why = next((f": {why}" for key, why in found.failed.items() if key[0] == missing[0]), "")
        raise InputError(f"no device file can be made without any {' or '.join(missing)}{why}.")
    facts = environment(plan.device)
    failures = [
        f"{' '.join(map(str, key))} could not be measured: {why}" for key, why in found.failed.items()
    ]
    ended = found.ended or "nothing yet, they continue"
    told = ", ".join([*(f"{k} {v}" for k, v in facts.items()), *state, *found.left_out, *failures])
    name = plan.name or (plan.sheet.name if plan.sheet else device_name(plan.device))
    known = plan.sheet or (_known(name) if plan.device != "cpu" else None)
    vendor, architecture = _made_by(facts, name)
    return Device(
        schema_version=1,
        name=name,
        aliases=plan.sheet.aliases if plan.sheet else [],
        vendor=known.vendor if known else vendor,
        kind=known.kind if known else "gpu" if plan.device != "cpu" else "cpu",
        architecture=known.architecture if known else architecture,
        sources={
            **(known.sources if known else {}),
            SYSTEM: "what the operating system reports",
            MEASURED: f"roofline ceilings, medians of {found.done} passes, ended by: {ended}; {told}",
        },
        conflicts=known.conflicts if known else [],
        datasheet=known.datasheet if known else _system_sheet(plan),
        measured=measured(plan, found),
        calibration=calibration(plan.device, found, told),
        node=plan.sheet.node if plan.sheet else None,
    )


def _known(name: str) -> Device | None:
    """The shipped device of this name, whose data sheet is included."""
    try:
        return load_device(name)
    except InputError:
        return None


def _made_by(facts: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Vendor and architecture: the processor's name or, of a GPU, its compute capability, as (sm90)."""
    whole = str(facts.get("gpu", name)).lower()
    vendor = next((v for v in ("AMD", "Intel", "NVIDIA", "Apple") if v.lower() in whole), "unknown")
    if (capability := facts.get("compute_capability")) is None:
        return vendor, str(facts["processor"])
    return vendor, f"compute capability {capability} (sm{capability.replace('.', '')})"


def _system_sheet(plan: Plan) -> Datasheet:
    """Facts of the system for a machine without a data sheet: cores and memory size, no peaks."""
    import torch

    if plan.device == "cpu":
        import psutil

        kind, processors, memory = "system", torch.get_num_threads(), psutil.virtual_memory().total
    else:
        properties = torch.cuda.get_device_properties(plan.device)
        kind, processors, memory = "device", properties.multi_processor_count, properties.total_memory

    def told(value: float) -> Sourced:
        return Sourced(value=float(value), source=SYSTEM)

    return Datasheet(
        processors=told(processors),
        dram=Dram(type=f"{kind} memory", capacity_bytes=told(memory)),
        last_level_cache=Cache(capacity_bytes=told(plan.cache_bytes)),
    )
