"""How far off is the calibrated fidelity? Every cell of the measured tables, the bad ones first.

    python -m benchmarks.accuracy TABLES --work build/accuracy --write

TABLES is a folder of measured operator tables (the columns of `roofline ops` and latency_us). Each device is
fitted on each table; every row is predicted by constants that did not see its shape family, and again by
constants that did not see its device. With --write the constants go to hwspecs/calibrations/ and the page to
docs/accuracy.md. What stands in --work is not fitted again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hwspecs import Device, Kernel, kernels_of, load_device
from hwspecs.calibrations import FOLDER, read_calibration
from hwspecs.correctors import Corrector
from reports.calibration import as_file
from reports.scores import cell_name
from roofline.ceilings import ceilings
from roofline.optable import OUTPUT_COLUMNS, predict_table
from roofline.physics import models
from roofline.physics.calibration import Fitted, calibrate, calibration, measured_on
from roofline.physics.corrector.stored import corrected_rows, folds_as_json, write_correctors
from roofline.physics.intervals import interval, within
from roofline.physics.kernels import Kernels
from roofline.scores import REGIMES, compared, scores
from specfiles.errors import InputError
from specfiles.writing import write_text

ROOT = Path(__file__).parents[1]
DEVICES = ("a100_sxm", "h100_sxm", "b200_sxm")
AIC = "aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0), measured table"
SOURCES = {"vidur_ops": "Vidur (microsoft/vidur@7d47513, MIT), profiling tables"}
TARGETS = {
    ("gemm", "bfloat16"): 0.07,
    ("gemm", "fp8"): 0.09,
    ("attention_prefill", ""): 0.06,
    ("attention_decode", ""): 0.06,
    ("moe", ""): 0.10,
    ("mla", ""): 0.10,
    ("collectives", ""): 0.08,
}
LEAST_CARRIED = 30  # rows that set an interval of carried times
UNSEEN = 0.13  # the next generation, which nobody has measured
COLLECTIVES = ("allreduce", "allgather", "reduce_scatter", "alltoall", "sendrecv")


def fitted_rows(path: Path, name: str, work: Path) -> tuple[list[Kernel], pd.DataFrame]:
    """The constants of one device on one table, and the rows with their held-out prediction."""
    stored = _stored(path, name, work)
    device, table = load_device(name), _table(path)
    if not stored.exists():
        source = SOURCES.get(path.stem, f"{AIC} {path.stem}")
        try:
            found = calibrate(table, device, source, lambda line: _told(f"{name}: {line}"))
        except InputError:  # the table has no row of this device
            found = []
        work.mkdir(parents=True, exist_ok=True)
        if found:
            record = calibration(one.kernel for one in found)
            write_text(stored.with_suffix(".json"), as_file(device, record, ".json"))
            write_text(stored.with_name(f"{stored.stem}-folds.json"), folds_as_json(found))
        _held_out(table, found).to_parquet(stored)
    constants = stored.with_suffix(".json")
    kernels = read_calibration(constants).kernels if constants.exists() else []
    return kernels, pd.read_parquet(stored)


def _stored(path: Path, name: str, work: Path) -> Path:
    return work / f"{name}-{path.stem}.parquet"


def _table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).reset_index(drop=True)


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _held_out(table: pd.DataFrame, found: list[Fitted]) -> pd.DataFrame:
    pieces = []
    for one in found:
        if len(one.rows):
            lower, upper = within(one.kernel.bands or [], one.held_out_s)
            times = {"predicted_us": 1.0, "lower_us": lower, "upper_us": upper}
            times = {name: one.held_out_s * 1e6 * ratio for name, ratio in times.items()}
            pieces.append(table.iloc[one.rows].assign(**times, coverage_claimed=one.kernel.coverage))
    return pd.concat(pieces) if pieces else table.iloc[:0].assign(predicted_us=[])


def unseen(path: Path, name: str) -> pd.DataFrame:
    """The rows of a device, predicted by constants of the other devices alone."""
    device, table = load_device(name), pd.read_parquet(path)
    kinds = table["op"].isin(models()).to_numpy() & (table["latency_us"] > 0).to_numpy()
    rows = table[measured_on(table, device) & kinds]
    limits = replace(ceilings(device, "calibrated"), kernels=Kernels(device, unseen=True))
    return predict_table(rows, limits) if len(rows) else rows.assign(predicted_us=[])


def cells_of(rows: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Scores per cell with those of each regime."""
    if rows.empty:
        return []
    plain = rows[[n for n in rows if n not in (set(OUTPUT_COLUMNS) - {"predicted_us"}) | {"provenance"}]]
    table = compared(plain, load_device(name))
    keys = ["op", "dtype", "kv_dtype", "backend", "kernel", "distribution"]
    found = []
    for key, group in table.groupby(keys, sort=True):
        one = {**dict(zip(keys, key, strict=True)), "gpu": name, **scores(group)}
        one |= {r: scores(g)["mape"] if len(g := group[group["regime"] == r]) else None for r in REGIMES}
        found.append(one | _corrected(group))
    return found


def _corrected(group: pd.DataFrame) -> dict[str, Any]:
    """Error and coverage with the learned correction, where one was tried; `shipped` where it helped."""
    if "corrected_us" not in group or group["corrected_us"].isna().any():
        return {"corrected": None, "shipped": False, "corrected_coverage": None}
    time, known = group["latency_us"], group[group["corrected_lower_us"].notna()]
    inside = known["latency_us"].between(known["corrected_lower_us"], known["corrected_upper_us"])
    return {
        "corrected": float(np.mean(np.abs(group["corrected_us"] / time - 1))),
        "shipped": bool(group["shipped"].all()),
        "corrected_coverage": float(inside.mean()) if len(known) else None,
    }


def expected(cell: dict[str, Any]) -> float:
    """The error of a cell at fidelity corrected, which is the calibrated one where nothing is shipped."""
    return float(cell["corrected"] if cell["shipped"] else cell["mape"])


def with_bands(kernels: list[Kernel], carried: pd.DataFrame) -> list[Kernel]:
    """Kernels with the error band of being carried: by kind and format, else by kind, else by all kinds.

    Of a kind that one device alone has, nobody knows how it carries: as kinds do, the bad ones among them.
    """
    done = []
    for kernel in kernels:
        kind = carried[carried["op"] == kernel.op] if len(carried) else carried
        same = kind[kind["dtype"] == kernel.dtype] if len(kind) else kind
        rows = next((r for r in (same, kind) if len(r) >= LEAST_CARRIED), carried)
        if rows.empty:
            done.append(kernel)
            continue
        ratio = (rows["latency_us"] / rows["predicted_us"]).to_numpy(dtype=float)
        lower, upper = interval(ratio, rows["gpu"].to_numpy())
        error = float(np.mean(np.abs(1 / ratio - 1)))
        done.append(kernel.replace(carried_error=error, carried_lower=lower, carried_upper=upper))
    return done


def carried_coverage(carried: pd.DataFrame) -> dict[str, list[float]]:
    """Of each kind's formats and devices, the share of rows in the interval that the other devices set."""
    found: dict[str, list[float]] = {}
    for (op, _), rows in carried.groupby(["op", "dtype"]):
        ratio = (rows["latency_us"] / rows["predicted_us"]).to_numpy(dtype=float)
        gpus = rows["gpu"].to_numpy()
        for held in (gpus == name for name in dict.fromkeys(gpus)):
            if (~held).sum() >= LEAST_CARRIED:
                lower, upper = interval(ratio[~held], gpus[~held])
                inside = float(np.mean((ratio[held] >= lower) & (ratio[held] <= upper)))
                found.setdefault(_group(op), []).append(inside)
    return found


def carried_intervals(held: dict[str, list[float]]) -> list[str]:
    """What the intervals of carried times are worth, where other devices can set them."""
    if not held:
        return []
    every = [inside for each in held.values() for inside in each]
    return [
        "Intervals of carried times are set by these errors, those of another generation, for every device:",
        "the tables have no GPU of a measured generation with another memory or without stacks of it. On the",
        "same die they are probably wider than they need be; on GDDR nobody has tested them. Those that",
        f"the other devices set alone hold {np.mean(every):.0%} of the rows of a device, for 80 % that they",
        "claim: two devices set wider ones than three.",
        "",
        "| kind | of rows in the interval | least | formats and devices |",
        "|---|---|---|---|",
        *(f"| {k} | {np.mean(v):.0%} | {np.min(v):.0%} | {len(v)} |" for k, v in sorted(held.items())),
        "",
    ]


def write_calibration(device: Device, kernels: list[Kernel]) -> None:
    """The shipped file of one device."""
    write_text(FOLDER / f"{device.name}.json", as_file(device, calibration(kernels), ".json"))
    read_calibration.cache_clear()


def _group(op: str) -> str:
    return "collectives" if op in COLLECTIVES else "mla" if op.startswith("mla") else op


def medians(cells: list[dict[str, Any]], everywhere: float | None = None) -> list[str]:
    """Median over cells by kind and format against its target, or one for all kinds."""
    table = pd.DataFrame(cells).assign(group=lambda t: t["op"].map(_group))
    learned = everywhere is None  # corrections hold on the devices that they were learned on
    lines = [
        f"| kind | format | cells | rows | median of MAPE | worst | target |{' corrected |' * learned}",
        f"|---|---|---|---|---|---|---|{'---|' * learned}",
    ]
    by_kind = [((group, ""), rows) for group, rows in table.groupby("group")]
    by_format = [((group, dtype), rows) for (group, dtype), rows in table.groupby(["group", "dtype"])]
    for (group, dtype), rows in sorted([*by_kind, *by_format], key=lambda pair: pair[0]):
        target = TARGETS.get((group, dtype)) if everywhere is None else None if dtype else everywhere
        errors = f"{rows['mape'].median():.1%} | {rows['mape'].max():.1%}"
        counts = f"{len(rows)} | {rows['rows'].sum()}"
        wanted = f"{target:.0%}" if target else ""
        after = rows.apply(expected, axis=1).median() if learned else 0.0
        better = f" {after:.1%} ({rows['shipped'].sum()}) |" if learned else ""
        lines.append(f"| {group} | {dtype or 'all'} | {counts} | {errors} | {wanted} |{better}")
    return lines


def listing(cells: list[dict[str, Any]], learned: bool = False) -> list[str]:
    """Every cell, the worst first; with what learned corrections make of it, in brackets if not shipped."""
    head = "| cell | rows | MAPE | median | bias | R2 of log | compute | memory | tiny | in interval |"
    more = (" corrected | in its interval |", "---|---|") if learned else ("", "")
    lines = [
        head + more[0],
        f"|---|---|---|---|---|---|---|---|---|---|{more[1]}",
    ]
    for one in sorted(cells, key=lambda cell: -cell["mape"]):
        regimes = " | ".join("" if one[r] is None else f"{one[r]:.1%}" for r in REGIMES)
        inside = "" if one["coverage"] != one["coverage"] else f"{one['coverage']:.0%}"
        lines.append(
            f"| {one['gpu']} {cell_name(one)} | {one['rows']} | {one['mape']:.1%} | {one['median_ape']:.1%} "
            f"| {one['bias']:+.1%} | {one['r2']:.3f} | {regimes} | {inside} |{_after(one) if learned else ''}"
        )
    return lines


def _after(one: dict[str, Any]) -> str:
    if one["corrected"] is None:
        return "  |  |"
    if not one["shipped"]:
        return f" ({one['corrected']:.1%}) |  |"
    held = one["corrected_coverage"]
    return f" {one['corrected']:.1%} | {'' if held is None else f'{held:.0%}'} |"


def elsewhere(others: dict[str, list[Kernel]]) -> list[str]:
    """Cells that stand in calibration files but whose tables were not fitted for this page."""
    rows = [(n, k) for n, each in others.items() for k in each if k.held_out_error is not None and k.backend]
    if not rows:
        return []
    lines = [
        "## Kinds whose tables were not fitted again",
        "",
        "From the calibration files, worst first.",
        "",
    ]
    lines += ["| cell | rows | MAPE on families held out | interval holds |", "|---|---|---|---|"]
    for name, k in sorted(rows, key=lambda pair: -(pair[1].held_out_error or 0.0)):
        kv = f" KV {k.kv_dtype}" if k.kv_dtype else ""
        inside = "" if k.coverage is None else f"{k.coverage:.0%}"
        cell = f"{name} {k.op} {k.dtype}{kv} {k.backend} {k.kernel}"
        lines.append(f"| {cell} | {k.points} | {k.held_out_error:.1%} | {inside} |")
    return [*lines, ""]


def correction(held: list[dict[str, Any]], learned: list[Corrector]) -> list[str]:
    """What `--fidelity corrected` adds, and where it does not help."""
    tried = [cell for cell in held if cell["corrected"] is not None]
    if not learned:
        return []
    worse = sum(cell["shipped"] and cell["corrected"] > cell["mape"] for cell in tried)
    claims = [c.coverage for c in learned]
    applied, shipped = np.mean([c.applied for c in learned]), sum(cell["shipped"] for cell in tried)
    return [
        "The column *corrected* is the median at `--fidelity corrected`, in brackets the cells with a",
        "corrector. For each fold of families, constants are fitted without it, trees learn what these",
        "leave on the other folds, and only then both predict it. A corrector is shipped where its kernel's",
        "error falls by 3 % of itself or more, and in most folds; that the printed score chose it flatters",
        "the column a little. Kernels for experts learn with those of their library: where their mean error",
        "does so, those are shipped whose own falls at all. Rows outside the box of the other folds stay as",
        "calibrated, and are counted",
        f"so ({applied:.0%} are inside). Tried in {len(tried)} of {len(held)} cells, those whose fits kept",
        f"their folds, shipped in {shipped}; of these {worse} are worse than calibrated: distributions of",
        "tokens of a kernel that gains as a whole. Intervals that claim 80 %",
        f"hold {np.mean(claims):.0%} of the rows on folds",
        f"that did not set them (mean; {np.min(claims):.0%} to {np.max(claims):.0%}).",
        "",
    ]


def page(
    held: list[dict[str, Any]],
    carried: list[dict[str, Any]],
    claims: list[float],
    others: dict[str, list[Kernel]],
    learned: list[Corrector],
    elsewhere_claims: dict[str, list[float]],
) -> str:
    """The whole page."""
    inside = np.average([c["coverage"] for c in held], weights=[c["rows"] for c in held])
    spread = f"{np.min(claims):.0%} to {np.max(claims):.0%}"
    text = "\n".join(
        [
            "# Accuracy of the calibrated fidelity",
            "",
            "Made by `python -m benchmarks.accuracy TABLES --work build/accuracy --write` from public",
            "measurements that each calibration names as its source. A cell is one GPU, operator kind,",
            "format, backend, kernel and distribution of tokens. MAPE is the mean absolute relative error",
            "over its rows. No cell is left out, but one of fewer than four rows is not fitted.",
            "",
            "## Shapes that the fit has not seen",
            "",
            "Every row is predicted by constants that were fitted without its shape family (five folds over",
            "families, never over rows; the prior that cells share is fitted without it too).",
            "",
            *medians(held),
            "",
            f"Intervals claim 80 %. On folds that did not set them they hold {np.mean(claims):.0%} of the",
            f"rows (mean over cells; {spread}); over all rows {inside:.0%}.",
            "",
            *correction(held, learned),
            "## Devices that the fit has not seen",
            "",
            "Each of the three generations is predicted by the constants of the other ones, carried",
            "over by the scaling that each constant states, and without the peaks that were measured on it.",
            "Kernels of a backend stand in for each other. Elementwise kernels were measured on one device,",
            "so that nothing can be carried to it: theirs is the error of published latencies. To other",
            "devices they are carried with the band of all kinds together.",
            "",
            *carried_intervals(elsewhere_claims),
            *(medians(carried, UNSEEN) if carried else ["nothing was carried"]),
            "",
            *elsewhere(others),
            "## Every cell: shapes not seen, worst first",
            "",
            *listing(held, learned=True),
            "",
            "## Every cell: device not seen, worst first",
            "",
            *listing(carried),
            "",
        ]
    )
    return _spaced(text)


def _spaced(text: str) -> str:
    """Percentages with the space that SI asks for, which Python's format leaves out."""
    return re.sub(r"(?<=\d)%", " %", text)


def main() -> None:
    """Fit what is missing, then print the medians or write everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", type=Path, help="folder of measured tables (Parquet)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "accuracy")
    parser.add_argument("--only", help="fit tables whose name contains this; others only from --work")
    parser.add_argument("--write", action="store_true", help="write the constants and docs/accuracy.md")
    parser.add_argument("--json", action="store_true", help="print every cell as one JSON object")
    options = parser.parse_args()
    paths = [p for p in sorted(options.tables.glob("*.parquet")) if "latency_us" in pd.read_parquet(p)]
    asked = [p for p in paths if (options.only or "") in p.stem]
    known = [p for p in paths if p in asked or all(_stored(p, n, options.work).exists() for n in DEVICES)]
    found = {(n, p): fitted_rows(p, n, options.work) for n in DEVICES for p in known}
    kernels = {n: [k for p in known for k in found[n, p][0]] for n in DEVICES}
    fitted = {k.op for each in kernels.values() for k in each}
    others = {n: [k for k in kernels_of(load_device(n)) if k.op not in fitted] for n in DEVICES}
    kernels = {n: [*kernels[n], *others[n]] for n in DEVICES}
    if options.write:
        for name in DEVICES:
            write_calibration(load_device(name), kernels[name])
    carried = {(n, p): unseen(p, n) for n in DEVICES for p in paths}
    everything = pd.concat([rows for rows in carried.values() if len(rows)])
    everything = everything[everything["provenance"].str.startswith("transferred")]
    trained = {
        (n, p): corrected_rows(
            _table(p), n, _stored(p, n, options.work).with_suffix(""), found[n, p][0], _told
        )
        for n in DEVICES
        for p in known
    }
    learned = {n: [c for p in known for c in trained[n, p][0]] for n in DEVICES}
    if options.write:
        for name in DEVICES:
            write_calibration(load_device(name), with_bands(kernels[name], everything))
            write_correctors(load_device(name), kernels[name], learned[name], fitted)
    held_cells = [
        c for n in DEVICES for p in known for c in cells_of(found[n, p][1].join(trained[n, p][1]), n)
    ]
    carried_cells = [c for n in DEVICES for p in paths for c in cells_of(carried[n, p], n)]
    claims = [k.coverage for ks in kernels.values() for k in ks if k.coverage is not None]
    correctors = [c for each in learned.values() for c in each]
    text = page(held_cells, carried_cells, claims, others, correctors, carried_coverage(everything))
    if options.write:
        write_text(ROOT / "docs" / "accuracy.md", text)
    if options.json:
        print(json.dumps({"shapes_not_seen": held_cells, "device_not_seen": carried_cells}, indent=1))
        return
    lines = [*medians(held_cells), "", *(medians(carried_cells, UNSEEN) if carried_cells else [])]
    print(_spaced("\n".join(lines)))


if __name__ == "__main__":
    main()
