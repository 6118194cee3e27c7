"""FLOP and bytes counted by Nsight Compute against the descriptor's, per operator.

A kernel belongs to the innermost NVTX range around its launch; the outermost range is the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from profiler.replay import step_name
from profiler.steps import operators_at
from profiler.tiles import tile_of, tiled_share
from profiler.traces.ncu import Measured, profiled
from profiler.traces.ncumetrics import derived
from profiler.traces.sound import Losses
from reports.units import percent
from reports.wording import signed

if TYPE_CHECKING:
    from profiler.forward import Point
    from workloads.catalogue import Loaded
    from workloads.phases import Named

COUNTED = ("flops", "dram_bytes")
NO_OPERATOR = ""  # kernels of a step outside all operators: the framework's
AGREE = {
    "gemm": 0.03,
    "attention": 0.10,
}  # expected agreement of FLOP with the descriptor, whole tiles included


def counted_rows(
    page: Path, loaded: Loaded, dtype: str, points: Sequence[Point], repeats: int
) -> list[dict[str, Any]]:
    """Rows of the table `counted`: each operator's kernels in one step, and the descriptor's work.

    Counts cover all executions of an operator in a step, averaged over `repeats` steps; metrics that ncu did
    not count are None. Operators without a kernel have no row.
    """
    grouped = _grouped(profiled(page, Losses()))
    rows = []
    for point in points:
        described = {named.name: named for named in operators_at(loaded, dtype, point)}
        for name, found in grouped.get(step_name(point), {}).items():
            known = described.get(name)
            rows.append({**vars(point), "name": name, **_row(found, known, repeats)})
    return rows


def _row(kernels: list[Measured], known: Named | None, repeats: int) -> dict[str, Any]:
    work = known.operator.work() if known else None
    count = known.count if known else 0
    metrics = [derived(kernel.metrics) for kernel in kernels]
    totals = {metric: _total(metrics, metric) for metric in COUNTED}
    tile = tile_of(kernel.name for kernel in kernels)
    share = (
        tiled_share(known.operator, tile) if tile and known and known.operator.kind == "attention" else None
    )
    return {
        "kind": known.operator.kind if known else "",
        "kernels": round(len(kernels) / repeats),
        "flops": None if work is None else float(count * work.flops),
        "tiled_flops": None if work is None or share is None else float(count * work.flops * share),
        "counted_flops": totals["flops"] and totals["flops"] / repeats,
        "bytes": None if work is None else float(count * work.bytes),
        "counted_bytes": totals["dram_bytes"] and totals["dram_bytes"] / repeats,
    }


def _total(kernels: Iterable[Mapping[str, float]], metric: str) -> float | None:
    """The sum over kernels; None where a kernel was not counted, as a partial sum would mislead."""
    values = [kernel.get(metric) for kernel in kernels]
    return None if None in values else sum(value for value in values if value is not None)


def _grouped(kernels: Iterable[Measured]) -> dict[str, dict[str, list[Measured]]]:
    """Kernels by step and operator."""
    found: dict[str, dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for kernel in kernels:
        if kernel.ranges:
            step, *inside = kernel.ranges
            found[step][inside[-1] if inside else NO_OPERATOR].append(kernel)
    return found


def told(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Deviation of FLOP and bytes from the descriptor's per kind, and operators outside AGREE."""
    notes = []
    kinds = dict.fromkeys(row["kind"] for row in rows if row["kind"])
    for kind in kinds:
        same = [row for row in rows if row["kind"] == kind]
        flops, moved = _ratios(same, "flops"), _ratios(same, "bytes")
        if flops or moved:
            told_of = [
                f"{what} {_off(ratios)}" for what, ratios in (("FLOP", flops), ("bytes", moved)) if ratios
            ]
            notes.append(f"{kind}, counted by ncu against the descriptor, median: {', '.join(told_of)}")
        notes += _explained(kind, same)
    if not kinds and rows:
        notes.append("ncu saw kernels in the steps and none in an operator's range")
    if not rows:
        notes.append(
            "ncu saw no kernel in a step: it does not see the installed nvtx package, or nothing ran"
        )
    return notes


def _explained(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What whole tiles add to the descriptor's FLOP, and operators that differ by more."""
    notes = []
    tiled = [row["tiled_flops"] / row["flops"] for row in rows if row["tiled_flops"] and row["flops"]]
    if tiled:
        notes.append(
            f"{kind} kernels compute whole tiles at the edge of the mask: by the tile in their names "
            f"{signed(median(tiled) - 1)} FLOP, which agreement is judged with"
        )
    most = AGREE.get(kind, float("inf"))
    beyond = [
        _named(row)
        for row in rows
        if row["counted_flops"]
        and (flops := row["tiled_flops"] or row["flops"])
        and abs(row["counted_flops"] / flops - 1) > most
    ]
    if beyond:
        notes.append(
            f"FLOP of {', '.join(beyond)} differ by more than {percent(most, 0)} from the "
            "descriptor's (units compute whole tiles, also of rows and masked pairs that are not needed)"
        )
    return notes


def _ratios(rows: Iterable[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Counted over described work, by operator and step."""
    return {
        _named(row): row[f"counted_{what}"] / row[what]
        for row in rows
        if row[f"counted_{what}"] and row[what]
    }


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['phase']} at {row['kv_len']})"


def _off(ratios: Mapping[str, float]) -> str:
    return signed(median(ratios.values()) - 1)
