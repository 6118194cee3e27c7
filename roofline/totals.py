"""Totals of a prediction from sums over its operators: times, rates, utilisation, memory, energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.energy import drawn
from specfiles.errors import InputError
from workloads.dtypes import bytes_per_element

if TYPE_CHECKING:
    from hwspecs import Device
    from hwspecs.serving import Power
    from workloads.schedule import Schedule


def summary(
    phase: str,
    tokens: Any,
    steps: Any,
    sums: Mapping[str, Any],
    memory: tuple[Any, Any, Any],
    peaks: tuple[Any, Any],
    capacity_bytes: Any,
    watts: Any,
    power: Power | None = None,
) -> dict[str, Any]:
    """The totals (`Prediction.totals`) from sums over operators; all numbers, or all arrays over points.

    Without `power` a device is taken to draw all its TDP.

    `tokens` are those of all sequences that the phase reads or yields, `steps` the decode steps, `memory`
    bytes of weights, cache and activations, `peaks` FLOP/s and bytes/s, `watts` those of all devices.
    """
    time = sums["time_s"]
    weights, cached, activations = memory
    flop_per_s, byte_per_s = peaks
    total = weights + cached + activations
    mfu, mbu = sums["matrix_flops"] / (time * flop_per_s), sums["bytes"] / (time * byte_per_s)
    share = 1.0 if power is None else drawn(power, mbu, mfu)
    return {
        "flops": sums["flops"],
        "bytes": sums["bytes"],
        "time_s": time,
        "ttft_s": sums["first_s"] if phase in ("prefill", "generate") else None,
        "tpot_s": _ratio(sums["decode_s"], steps),
        "tokens_per_s": tokens / time,
        "mfu": mfu,
        "mbu": mbu,
        "weights_bytes": weights,
        "kv_cache_bytes": cached,
        "activation_peak_bytes": activations,
        "memory_bytes": total,
        "fits": total <= capacity_bytes,
        "energy_j": None if watts is None else time * watts * share,
    }


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole; None for a number, NaN in an array, where either is 0: nothing comes token by token."""
    if isinstance(whole, int | float):
        return part / whole if part and whole else None
    import numpy as np

    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=(whole > 0) & (part > 0))


def held_bytes(schedule: Schedule, widest: float) -> tuple[float, float, float]:
    """Weights, cache and activations on one device; `widest` are those of the largest operator."""
    weights = sum(resident.weight_bytes() for resident in schedule.residents)
    cache = sum(resident.cache_bytes() for resident in schedule.residents)
    stream = max(
        p.batch / p.setting.replicas * p.q_len * p.model.hidden * bytes_per_element(p.setting.precision.wide)
        for p in schedule.passes
    )
    return weights, cache, float((widest + stream) * schedule.activations_here)


def reference(device: Device, known: Ceilings | None = None) -> Ceilings:
    """What utilisation is measured against: the data sheet, or what was measured where there is none."""
    if known is not None and known.fidelity is Fidelity.DATASHEET:
        return known
    try:
        return ceilings(device, Fidelity.DATASHEET)
    except InputError:
        return ceilings(device, Fidelity.MEASURED)


def power_of(limits: Ceilings) -> Power | None:
    """How much of its TDP a device draws: known where times are those of kernels and not bounds."""
    if limits.kernels is None:
        return None
    from hwspecs.serving import power

    return power()
