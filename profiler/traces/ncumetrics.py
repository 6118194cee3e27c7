"""A kernel's FLOP by unit, bytes by memory level and time from Nsight Compute's metrics, in SI units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

Readings = dict[str, float]  # by ncu's name of the metric

PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
SECONDS = {"s": 1.0, "second": 1.0, "sec": 1.0, "ms": 1e-3, "msecond": 1e-3, "us": 1e-6, "usecond": 1e-6}
SECONDS |= {"ns": 1e-9, "nsecond": 1e-9, "min": 60.0, "minute": 60.0}
COUNTED = ("byte", "sector", "inst", "cycle", "hz", "request", "warp", "thread", "block", "flop", "op", "ops")
# Thousands are grouped with commas; a metric of several instances lists them in brackets behind its value.
NUMBER = re.compile(r"(?P<whole>[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?)(?:\s*[(;{].*)?")
# Numbers valid only in locales that write 1.234,5 or 1 234,5: then no number of the page is reliable.
DECIMAL_COMMA = re.compile(r"[+-]?(?:(?:\d{1,3}(?:[.\s'’]\d{3})+|\d+),\d+|\d{1,3}(?:\.\d{3}){2,})")
# Labels of details pages. Only these metrics are kept.
LABELS = {
    "Duration": "gpu__time_duration.sum",
    "Elapsed Cycles": "sm__cycles_elapsed.max",
    "SM Frequency": "sm__cycles_elapsed.avg.per_second",
    "DRAM Bandwidth": "dram__bytes.sum.per_second",
    "Achieved Occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "Predicated-On FADD Thread Instructions Executed Per Cycle": "fadd",
    "Predicated-On FMUL Thread Instructions Executed Per Cycle": "fmul",
    "Predicated-On FFMA Thread Instructions Executed Per Cycle": "ffma",
    "Predicated-On DADD Thread Instructions Executed Per Cycle": "dadd",
    "Predicated-On DMUL Thread Instructions Executed Per Cycle": "dmul",
    "Predicated-On DFMA Thread Instructions Executed Per Cycle": "dfma",
}
PER_CYCLE = "smsp__sass_thread_inst_executed_op_{}_pred_on.sum.per_cycle_elapsed"
LABELS = {label: name if "__" in name else PER_CYCLE.format(name) for label, name in LABELS.items()}
WANTED = re.compile(
    r"gpu__time_duration|sm(?:sp)?__cycles_elapsed|dram__(bytes|sectors)|lts__t_(bytes|sectors)|"
    r"(derived__)?sm(?:sp)?__sass_thread_inst_executed_op_([fhd](add|mul|fma)|f(add|mul|fma)2)_pred_on|"
    r"sm__ops_path_tensor_|sm__(inst_executed_)?pipe_(tensor|tc)_?\w*\.(sum$|avg\.pct)|sm__warps_active\.avg\.pct"
)
# FLOP of one thread instruction. Half precision works on pairs (HADD2, HFMA2), as ncu's own roofline counts.
PIPES = {
    "fp32": {"fadd": 1, "fmul": 1, "ffma": 2},
    "fp16": {"hadd": 2, "hmul": 2, "hfma": 4},
    "fp64": {"dadd": 1, "dmul": 1, "dfma": 2},
}
# Two at once (add.f32x2, fma.rn.f32x2 of PTX): counted apart, on compute capability 10.0 and 10.3 alone.
PACKED = {"fp32": {"fadd2": 2, "fmul2": 2, "ffma2": 4}}
SECTOR_BYTES = 32
TENSOR = re.compile(r"(sm__ops_path_tensor_\w+)\.sum(?:\.per_cycle_elapsed|\.per_second)?$")
TENSOR_ACTIVE = [
    f"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_{s}" for s in ("active", "elapsed")
]
# Anything that tells of work on the tensor units, those of Blackwell's tensor memory (tc) among them.
ACTIVITY = re.compile(r"sm__(inst_executed_)?pipe_(tensor|tc)_?\w*\.(sum|avg\.pct_of_peak_sustained_\w+)")
# The instruction, where a metric counts only one (op_hgmma), and the source format with its qualifiers.
PATH = re.compile(r"sm__ops_path_tensor_(?:op_(?P<op>[a-z0-9]+)_)?src_(?P<source>\w+)")


def reading(metric: str, value: str, unit: str) -> tuple[str, float] | tuple[()] | None:
    """A metric's name and its value in SI units; () for unused metrics, None for unreadable values."""
    name = LABELS.get(metric, metric)
    if not WANTED.match(name):
        return ()
    number = NUMBER.fullmatch(value.strip())
    if number is None or not number["whole"].strip("+-"):
        return None
    try:
        found = float(number["whole"].replace(",", ""))
    except ValueError:
        return None
    scale = unit_scale(unit.strip(), name)
    if scale is None or not math.isfinite(found) or found < 0:
        return None
    return name, found * scale


def unit_scale(unit: str, metric: str = "") -> float | None:
    """The factor from a unit to SI units; None for an unknown unit.

    >>> unit_scale("Kbyte"), unit_scale("Gbyte/s"), unit_scale("cycle/nsecond"), unit_scale("us")
    (1000.0, 1000000000.0, 1000000000.0, 1e-06)
    """
    if not unit:  # pages stripped of their units are in ncu's base units: nanoseconds, bytes, counts
        return 1e-9 if "time_duration" in metric else 1.0
    above, _, below = unit.partition("/")
    scales = [_one_scale(part) for part in (above, below or "1")]
    return None if None in scales else scales[0] / scales[1]  # type: ignore[operator]


def _one_scale(unit: str) -> float | None:
    word = unit.strip().lower()
    if word in ("1", ""):
        return 1.0
    if word in ("%", "percent"):
        return 0.01
    if word in SECONDS:
        return SECONDS[word]
    for counted in COUNTED:
        for ending in (counted, counted + "s"):
            if word.endswith(ending) and word[: -len(ending)] in PREFIXES:
                return PREFIXES[word[: -len(ending)]]
    return None


def derived(metrics: Readings) -> Readings:
    """The measured metrics of a kernel, in SI units, under our names.

    `flops` is present only where both vector and tensor units were counted.
    """
    time_s = _first(metrics, ("gpu__time_duration.sum", "gpu__time_duration.max", "gpu__time_duration.avg"))
    cycles = _cycles(metrics, time_s)
    found: dict[str, float | None] = {"time_s": time_s}
    for pipe in PIPES:
        found[f"{pipe}_flops"] = _pipe(metrics, pipe, time_s, cycles)
    found |= _tensor(metrics, time_s, cycles)
    if found["fp32_flops"] is not None and found["tensor_flops"] is not None:
        # ncu's smaller sets lack half and double precision, which are minor in language models.
        found["flops"] = sum(
            found[name] or 0.0 for name in (*(f"{pipe}_flops" for pipe in PIPES), "tensor_flops")
        )
    read = _bytes(metrics, "dram__{}_read", "dram__{}_op_read", time_s, cycles)
    write = _bytes(metrics, "dram__{}_write", "dram__{}_op_write", time_s, cycles)
    both = read + write if read is not None and write is not None else None
    found |= {"dram_read_bytes": read, "dram_write_bytes": write}
    whole = _bytes(metrics, "dram__{}", "dram__{}_op", time_s, cycles)
    found["dram_bytes"] = whole if whole is not None else both
    found["l2_bytes"] = _bytes(metrics, "lts__t_{}", "lts__t_{}_op", time_s, cycles)
    found["sm_clock_hz"] = _clock(metrics, time_s)
    found["occupancy"] = metrics.get("sm__warps_active.avg.pct_of_peak_sustained_active")
    return {name: value for name, value in found.items() if value is not None}


def _first(metrics: Readings, names: Iterable[str]) -> float | None:
    return next((metrics[name] for name in names if name in metrics), None)


def _sum(metrics: Readings, name: str, time_s: float | None, cycles: float | None) -> float | None:
    """A sum over the chip, from the total, or the rate per second or cycle (ncu's sets have rates)."""
    if f"{name}.sum" in metrics:
        return metrics[f"{name}.sum"]
    if time_s is not None and f"{name}.sum.per_second" in metrics:
        return metrics[f"{name}.sum.per_second"] * time_s
    if cycles is not None and f"{name}.sum.per_cycle_elapsed" in metrics:
        return metrics[f"{name}.sum.per_cycle_elapsed"] * cycles
    return None


def _cycles(metrics: Readings, time_s: float | None) -> float | None:
    """Cycles of the SMs from the kernel's begin to its end."""
    names = [f"{unit}__cycles_elapsed.{how}" for unit in ("sm", "smsp") for how in ("max", "avg")]
    found = _first(metrics, names)
    clock = _first(metrics, [f"{name}.per_second" for name in names])
    return clock * time_s if found is None and clock is not None and time_s is not None else found


def _clock(metrics: Readings, time_s: float | None) -> float | None:
    names = [f"{unit}__cycles_elapsed.{how}" for unit in ("sm", "smsp") for how in ("avg", "max")]
    clock, cycles = _first(metrics, [f"{name}.per_second" for name in names]), _first(metrics, names)
    return cycles / time_s if clock is None and cycles is not None and time_s else clock


def _pipe(metrics: Readings, pipe: str, time_s: float | None, cycles: float | None) -> float | None:
    """FLOP of a vector unit; None unless additions, products and multiply-adds were all counted."""
    single, packed = (
        [_operation(metrics, name, weight, time_s, cycles) for name, weight in weights.items()]
        for weights in (PIPES[pipe], PACKED.get(pipe, {}))
    )
    return None if None in single else sum(flops or 0.0 for flops in (*single, *packed))


def _operation(
    metrics: Readings, operation: str, weight: int, time_s: float | None, cycles: float | None
) -> float | None:
    """FLOP of one kind of thread instruction; None where it was not counted."""
    for unit in ("smsp", "sm"):
        name = f"{unit}__sass_thread_inst_executed_op_{operation}_pred_on"
        if (count := _sum(metrics, name, time_s, cycles)) is not None:
            return weight * count
        weighted = metrics.get(f"derived__{name}_x{weight}")  # per cycle, in ncu's roofline sections
        if weighted is not None and cycles is not None:
            return weighted * cycles
    return None


def _tensor(metrics: Readings, time_s: float | None, cycles: float | None) -> dict[str, float | None]:
    """FLOP of the tensor units, whole and by source format.

    Only metrics not included in another: instructions and sparsities are included in their format. An H100
    has both, and bf16 may be counted by instruction beside fp8 as a whole. Their peak metrics are not used:
    on an H100 that of `src_bf16_dst_fp32` is the sparse one. Chips without these metrics (GA102) still tell
    kernels whose tensor units were never active. There is no whole where they were active and all that was
    counted is zero: a page with `op_hmma` alone says so of Hopper's `hgmma` and Blackwell's `utchmma`.
    """
    names = {match[1] for name in metrics if (match := TENSOR.match(name))}
    found: dict[str, float | None] = {}
    for name in sorted(names):
        value = _sum(metrics, name, time_s, cycles)
        if value is not None and not any(_part_of(name, other) for other in names - {name}):
            path = PATH.fullmatch(name)
            source = re.sub(r"_dst_.*|_sparsity_.*", "", path["source"]) if path else "other"
            key = f"tensor_{source}_flops"
            found[key] = (found.get(key) or 0.0) + value
    whole = sum(value or 0.0 for value in found.values())
    active = any(value > 0 for name, value in metrics.items() if ACTIVITY.fullmatch(name))
    known = whole > 0 or (not active and (found or _first(metrics, TENSOR_ACTIVE) == 0))
    return {**found, "tensor_flops": whole if known else None}


def _part_of(name: str, other: str) -> bool:
    """Whether another metric includes a tensor metric's counts."""
    part, whole = PATH.fullmatch(name), PATH.fullmatch(other)
    if part is None or whole is None:
        return name.startswith(f"{other}_")
    source, rest = whole["source"], part["source"].removeprefix(whole["source"])
    inside = source == part["source"] or (rest != part["source"] and rest.startswith(("_dst_", "_sparsity_")))
    return whole["op"] in (None, part["op"]) and inside


def _bytes(
    metrics: Readings, name: str, other: str, time_s: float | None, cycles: float | None
) -> float | None:
    """Bytes of a level of memory, counted in bytes or in sectors."""
    for pattern in (name, other):
        found = _sum(metrics, pattern.format("bytes"), time_s, cycles)
        if found is not None:
            return found
        sectors = _sum(metrics, pattern.format("sectors"), time_s, cycles)
        if sectors is not None:
            return sectors * SECTOR_BYTES
    return None
