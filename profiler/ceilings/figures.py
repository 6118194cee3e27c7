"""The measured section of a device file: figures from times, each with its method and uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from hwspecs.schema import BandwidthPoint, Measured, Reference
from hwspecs.values import Sourced
from profiler.ceilings.constants import digits
from profiler.ceilings.plan import REFERENCE, REFERENCE_LAYERS, Findings, Key, Plan
from profiler.probes import BEYOND, INT8, PINNED_BYTES, SPECIAL, STEADY_S, fma_flops, special_ops
from profiler.repeats import Sample, uncertainty
from reports.units import percent
from workloads.dtypes import compute_dtype

MEASURED = "measured"  # key of measured figures in the file's `sources`
VECTOR = ("fp32",)  # formats of a GPU's products on vector units (PyTorch's default: no TF32)
Value = Callable[[float, Key, str], Sourced]


def measured(plan: Plan, found: Findings) -> Measured:
    """Every figure with measured times."""

    def value(number: float, key: Key, note: str) -> Sourced:
        return Sourced(value=digits(number), source=MEASURED, note=f"{note}; {_known(found, key)}")

    def timed(name: str, note: str, work: float | None = None) -> Sourced | None:
        """Seconds of one call or, with the work of a call, its rate."""
        if (name,) not in found.times:
            return None
        seconds = found.sampled((name,)).median_s
        return value(seconds if work is None else work / seconds, (name,), note)

    curve = _curve(found)
    best = max((p for p in curve if p.footprint_bytes >= far_bytes(plan)), key=lambda p: p.byte_per_s)
    steady: dict[Any, Sourced] = {
        compute_dtype(key[1]): value(_product_rate(found, key), key, f"after {STEADY_S:.0f} s of it")
        for key in found.keys("steady")
    }
    vector, tensor = _units(plan, found, value, timed("fma", "chained multiply-adds of fp32", fma_flops()))
    return Measured(
        tensor_flop_per_s=tensor,
        vector_flop_per_s=vector,
        steady_flop_per_s=steady,
        special_op_per_s=timed("special", SPECIAL[plan.kind], special_ops(plan.device)),
        dram_byte_per_s=_bandwidth(best, value),
        l2_byte_per_s=None if plan.device == "cpu" else _l2(plan, curve, value),
        launch_s=timed("launch", "one element added in place"),
        graph_launch_s=timed("graph_launch", "the same in a replayed graph"),
        links=_links(found, value),
        bandwidth_curve=curve,
        references=_references(found),
    )


def far_bytes(plan: Plan) -> float:
    """The footprint from which cached data no longer matters."""
    return BEYOND[plan.kind] * plan.cache_bytes


def _known(found: Findings, key: Key) -> str:
    """Spread and uncertainty of a figure."""
    said, known = found.sampled(key), uncertainty(found.times[key])
    aside = f", {len(said.outliers)} of them far outside" if said.outliers else ""
    sure = f", median known to {percent(known)} at 95 %" if isfinite(known) else ""
    return f"spread {percent(said.spread)} over {said.repeats} passes{aside}{sure}"


def _units(
    plan: Plan, found: Findings, value: Value, chained: Sourced | None
) -> tuple[dict[Any, Sourced], dict[Any, Sourced]]:
    """Peaks of vector and matrix units by format; a CPU's products run on its vector units."""
    peaks = _peaks(found, value)
    vector = {dtype: peak for dtype, peak in peaks.items() if plan.device == "cpu" or dtype in VECTOR}
    if chained is not None and ("fp32" not in vector or chained.value > vector["fp32"].value):
        vector["fp32"] = chained
    return vector, {dtype: peak for dtype, peak in peaks.items() if dtype not in vector}


def _peaks(found: Findings, value: Value) -> dict[Any, Sourced]:
    """The fastest product of each format, over all sizes, by the units that multiply it."""
    peaks: dict[Any, Sourced] = {}
    for dtype in dict.fromkeys(key[1] for key in found.keys("matmul")):
        keys = [key for key in found.keys("matmul") if key[1] == dtype]
        key = max(keys, key=lambda key: _product_rate(found, key))
        how = ", fp32 rows quantised on the way" if dtype == INT8 else ""
        note = f"matrix product of {key[2]} x {key[2]}, best of sizes{how}"
        peaks[compute_dtype(dtype)] = value(_product_rate(found, key), key, note)
    return peaks


def _product_rate(found: Findings, key: Key) -> float:
    """FLOP per second of a product of square matrices."""
    return float(2 * key[2] ** 3 / found.sampled(key).median_s)


def _l2(plan: Plan, curve: list[BandwidthPoint], value: Value) -> Sourced | None:
    """The highest bandwidth of footprints up to half of the L2."""
    inside = [p for p in curve if p.footprint_bytes <= plan.cache_bytes / 2]
    best = max(inside, key=lambda p: p.byte_per_s, default=None)
    return None if best is None else _bandwidth(best, value)


def _bandwidth(point: BandwidthPoint, value: Value) -> Sourced:
    key = ("bandwidth", point.pattern, int(point.footprint_bytes))
    return value(point.byte_per_s, key, f"{point.pattern} of {point.footprint_bytes:.3g} bytes")


def _links(found: Findings, value: Value) -> dict[Any, Sourced]:
    """Bandwidth to the host, of the slower direction, and to another GPU, if any."""
    links = {}
    notes = {"pcie": "page-locked memory {}, the slower direction", "nvlink": "a copy to {}"}
    for link, note in notes.items():
        if keys := found.keys(link):
            slower = max(keys, key=lambda key: found.sampled(key).median_s)
            rate = PINNED_BYTES / found.sampled(slower).median_s
            links[link] = value(rate, slower, note.format(slower[1]))
    return links


def _references(found: Findings) -> list[Reference]:
    """Times of the reference steps: whole, and of their layers."""
    return [
        Reference(
            **dict(key[1:]),
            **_quartiles(found.sampled(key)),
            layers_s=digits(found.sampled((REFERENCE_LAYERS, *key[1:])).median_s),
        )
        for key in found.keys(REFERENCE)
    ]


def _quartiles(timed: Sample) -> dict[str, Any]:
    rounded = {name: digits(getattr(timed, name)) for name in ("median_s", "q25_s", "q75_s")}
    return {**rounded, "repeats": timed.repeats}


def _curve(found: Findings) -> list[BandwidthPoint]:
    """Bandwidth by footprint; stores count once, without the lines that they may first read."""
    return [
        BandwidthPoint(
            pattern=key[1],
            footprint_bytes=float(key[2]),
            byte_per_s=digits(key[2] / found.sampled(key).median_s),
            spread=digits(found.sampled(key).spread),
        )
        for key in found.keys("bandwidth")
    ]
