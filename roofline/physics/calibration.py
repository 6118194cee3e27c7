"""Fit every cell of a table of measured kernels on one device, and say how well it generalises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hwspecs import Calibration, Kernel
from roofline.ceilings import ceilings
from roofline.optable import replayed, row_operators
from roofline.physics import models
from roofline.physics.attention import compiled
from roofline.physics.base import Gpu
from roofline.physics.columns import CANONICAL, SIZES, cache_format, dtypes_of, of_table
from roofline.physics.fit import Cell, CrossFit, cross_fitted, fit, mape, of_formats
from roofline.physics.intervals import bands, covered, interval
from roofline.physics.libraries import as_run, fitted_on_integers
from roofline.physics.stand_ins import MEASURED_WELL, attends
from roofline.times import times
from specfiles.errors import InputError, choose

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.physics.base import Constant, Floats

KEY = ("op", "dtype", "kv_dtype", "backend", "kernel")
LEAST = 4  # rows; fewer say nothing about five constants or more
Entry = tuple[tuple[str, ...], Any, Cell]  # key, positions in the table, rows


@dataclass(frozen=True)
class Fitted:
    """One cell, its record for the calibration file, and each row's time with its family held out."""

    cell: Cell
    kernel: Kernel
    rows: Any  # positions in the table
    held_out_s: Floats
    folds: CrossFit  # the fits that predicted it


def calibrate(
    table: pd.DataFrame,
    device: Device,
    source: str,
    told: Callable[[str], None] = lambda _: None,
    kinds: Collection[str] = (),
) -> list[Fitted]:
    """The constants of each (op, dtype, kv_dtype, backend, kernel) of the table's rows for this device.

    Cells of one (op, dtype, kv_dtype) share a prior, the fit to all of them together, which is kept too
    as the constants of any backend; where a model tells libraries apart, a prior is one library's. `kinds`,
    where given, are the only ones to be fitted. Raises InputError where the table has nothing to fit.
    """
    kinds, found = _known(kinds), []
    for group in _groups(cells(table[table["op"].isin(kinds)] if "op" in table else table, device)):
        every, scored, kin = [cell for _, _, cell in group], list[Fitted](), _kin(group)
        priors = {own: fit([every[i] for i in own]) for own in dict.fromkeys(kin) if len(own) > 1}
        crossed = cross_fitted(every, kin=kin)
        for (key, rows, cell), folds, own in zip(group, crossed, kin, strict=True):
            predicted = folds.predicted_s(cell)
            constants = fit([cell], priors.get(own), of_formats([every[i] for i in own]))
            kernel = _record(key, cell, constants, predicted, source)
            scored.append(Fitted(cell, kernel, rows, predicted, folds))
            error = f"{kernel.held_out_error:.1%}".replace("%", " %")
            told(f"{'/'.join(filter(None, key))}: {len(rows)} rows, held-out error {error}")
        found += scored
        for own in dict.fromkeys(tuple(_of_format(group, key)) for key, _, _ in group):
            if all(attends(group[i][0][0]) and compiled(group[i][0][4]) for i in own):
                continue  # Triton's attention runs where it is named, or a shape needs it
            together = priors.get(own) or fit([every[i] for i in own])
            found += _any_backend([scored[i] for i in own], together, source)
    if not found:
        raise InputError(
            f"the table has too few rows to fit {device.name} on: it needs the columns op, dtype, latency_us "
            f"(above zero) and sizes, and {LEAST} rows or more of a format, backend and kernel; kinds are "
            f"{', '.join(sorted(kinds))}; a column gpu must name the device."
        )
    return found


def cells(table: pd.DataFrame, device: Device) -> Iterator[Entry]:
    """The table's rows on this device by cell, as (key, positions in the table, rows)."""
    for name in ("op", "latency_us"):
        if name not in table:
            raise InputError(
                f"the table has no column {name!r}; measurements need op, dtype, sizes and latency_us."
            )
    gpu, limits, known = Gpu.of(device), ceilings(device), models()
    text = {n: table[n].fillna("").astype(str) if n in table else pd.Series("", table.index) for n in KEY}
    text["dtype"] = text["dtype"].map(lambda d: CANONICAL.get(d or "bfloat16", d))
    given = zip(text["op"], text["dtype"], text["kv_dtype"], strict=True)
    text["kv_dtype"] = pd.Series([cache_format(*each) for each in given], table.index, dtype=object)
    usable = text["op"].isin(known).to_numpy() & measured_on(table, device)
    usable &= (pd.to_numeric(table["latency_us"], errors="coerce") > 0).to_numpy()
    positions = np.flatnonzero(usable)
    keys = [text[name].to_numpy()[positions] for name in KEY]
    frame = pd.DataFrame(dict(zip(KEY, keys, strict=True)))
    every = of_table(table)
    for key, chosen in frame.groupby(list(KEY), sort=True).indices.items():
        if len(chosen) < LEAST:
            continue
        rows, (op, dtype, kv_dtype, backend, kernel) = positions[chosen], key
        columns = {name: column[rows] for name, column in every.items()}
        operator = row_operators(table, rows, columns, op, as_run(dtype, backend, gpu, op), kv_dtype)
        time = table["latency_us"].iloc[rows].to_numpy(dtype=np.float64) * 1e-6
        bound = times(operator, limits)
        floor = np.broadcast_to(bound.compute_s if replayed(op, kernel) else bound.time_s, time.shape)
        name = "/".join(filter(None, (device.name, *key)))
        yield key, rows, Cell(known[op], gpu, dtypes_of(dtype, kv_dtype), columns, time, name, floor)


def calibration(kernels: Iterable[Kernel], kept: Calibration | None = None) -> Calibration:
    """The record for a device or calibration file, in the order of its cells.

    Of `kept`, the record that it takes the place of, operators stay and kernels of other kinds.
    """
    new = list(kernels)
    fitted = {kernel.op for kernel in new}
    old = [kernel for kernel in kept.kernels if kernel.op not in fitted] if kept else []
    found = sorted([*new, *old], key=lambda kernel: [getattr(kernel, name) for name in KEY])
    sources = "; ".join(dict.fromkeys(kernel.source for kernel in found))
    return Calibration(source=sources, operators=kept.operators if kept else {}, kernels=found)


def _known(kinds: Collection[str]) -> Collection[str]:
    """The kinds that kernel models know, or those of them that were asked for."""
    for kind in kinds:
        if kind not in models():
            raise choose(kind, list(models()), "operator kind with a kernel model")
    return kinds or models()


def measured_on(table: pd.DataFrame, device: Device) -> Any:
    """Rows of this device: by the column `gpu` where there is one."""
    from specfiles.errors import plain

    if "gpu" not in table:
        return np.ones(len(table), dtype=bool)
    names = {plain(name) for name in (device.name, *device.aliases)}
    given = table["gpu"].fillna("").astype(str).str.removeprefix("NVIDIA ")  # as drivers report names
    return given.map(lambda name: plain(name) in names).to_numpy()


def _groups(found: Iterator[Entry]) -> list[list[Entry]]:
    """Cells that may share a prior: of one kind and its formats, or of a kind whose model knows libraries."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for key, rows, cell in found:
        of = key[:3] if cell.model.prior_of(key[4]) is None else key[:1]
        groups.setdefault(of, []).append((key, rows, cell))
    return list(groups.values())


def _of_format(group: Sequence[Entry], key: tuple[str, ...]) -> list[int]:
    return [i for i, (other, _, _) in enumerate(group) if other[:3] == key[:3]]


def _kin(group: Sequence[Entry]) -> list[tuple[int, ...]]:
    """Of each cell, those that its prior is fitted to.

    The library's kernels of the same formats where enough of others was measured, else its kernels of any
    format, those of the same backend first, else all kernels of the formats: a library's overheads differ
    less than libraries do, but one backend tunes a library's kernels and another does not. Where few rows of
    a library speak before many of others, its kernels of any format come before those. What ran without
    tuning speaks for no other. A format here is that of the products.
    """
    found = []
    tuned = [cell.model.tuned(cell) for _, _, cell in group]
    library = [cell.model.prior_of(cell.model.alias(key[4], cell.gpu, key[1])) for key, _, cell in group]
    formats = [(cell.model.multiplied(key[4], key[1]), key[2]) for key, _, cell in group]
    for i, (key, _, _) in enumerate(group):
        same_format = [j for j, other in enumerate(formats) if other == formats[i]]
        mine = [j for j, other in enumerate(library) if other == library[i]]
        here = [j for j in mine if group[j][0][3] == key[3]]
        every = (*([j for j in pool if j in same_format] for pool in (here, mine)), here, mine, same_format)
        *pools, last = ([j for j in pool if j == i or tuned[j]] for pool in every)
        model = group[i][2].model
        if model.few_rows_speak and model.source(key[4]) and len(pools[-1]) > 1:
            last = pools[-1]
        enough = (p for p in pools if sum(len(group[j][1]) for j in p if j != i) >= MEASURED_WELL)
        found.append(tuple(next(enough, last)))
    return found


def _any_backend(scored: list[Fitted], together: dict[str, float], source: str) -> list[Fitted]:
    """The constants of all backends together, for a row that names none or an unknown one.

    Their error and interval are those on backends that took no part: each scored by the others' fit. Of a
    weight-only format they are of kernels that widen weights, which is what the format says.
    """
    widened = [one for one in scored if not fitted_on_integers(one.kernel)]
    if not widened:
        return []
    if len(widened) < len(scored):
        scored, together = widened, fit([one.cell for one in widened])
    if not scored[0].kernel.backend and not scored[0].kernel.kernel:
        return []
    apart = [
        one.cell.predicted_s(fit([o.cell for o in scored if o is not one]))
        if len(scored) > 1
        else one.held_out_s
        for one in scored
    ]
    predicted, measured = np.concatenate(apart), np.concatenate([one.cell.time_s for one in scored])
    domains = [one.kernel.domain for one in scored]
    families = np.concatenate([one.cell.families() for one in scored])
    lower, upper = interval(measured / predicted, families)
    record = Kernel(
        op=scored[0].kernel.op,
        dtype=scored[0].kernel.dtype,
        kv_dtype=scored[0].kernel.kv_dtype,
        values=together,
        points=len(measured),
        families=max(one.kernel.families for one in scored),
        held_out_error=mape(predicted, measured),
        lower=lower,
        upper=upper,
        bands=bands(predicted, measured / predicted, families),
        domain={
            name: (min(d[name][0] for d in domains), max(d[name][1] for d in domains)) for name in domains[0]
        },
        source=source,
    )
    return [replace(scored[0], kernel=record, rows=np.array([], dtype=int), held_out_s=predicted)]


def _record(
    key: tuple[str, ...], cell: Cell, values: dict[str, float], predicted: Floats, source: str
) -> Kernel:
    families, ratio = cell.families(), cell.time_s / predicted
    lower, upper = interval(ratio, families)
    return Kernel(
        op=key[0],
        dtype=key[1],
        kv_dtype=key[2],
        backend=key[3],
        kernel=key[4],
        values={name: float(f"{value:.6g}") for name, value in _telling(cell, values).items()},
        points=len(ratio),
        families=int(families.max()) + 1,
        held_out_error=mape(predicted, cell.time_s),
        lower=lower,
        upper=upper,
        bands=bands(predicted, ratio, families),
        coverage=covered(predicted, cell.time_s, families),
        domain=_domain(cell),
        source=source,
    )


def _telling(cell: Cell, values: dict[str, float]) -> dict[str, float]:
    """The constants that these rows depend on: of others a fit knows nothing, nor has it to tell others."""
    usual, ends = cell.predicted_s(values), {c.name: (c.low, c.high) for c in _constants(cell)}
    moved = {name: [cell.predicted_s({**values, name: end}) for end in ends[name]] for name in values}
    return {name: values[name] for name in values if any((time != usual).any() for time in moved[name])}


def _constants(cell: Cell) -> tuple[Constant, ...]:
    return cell.model.constants(cell.gpu, cell.dtype)


def _domain(cell: Cell) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of each size that varies or matters in these rows."""
    sizes = {name: cell.rows[name] for name in SIZES if name in cell.rows}
    return {n: (float(v.min()), float(v.max())) for n, v in sizes.items() if np.isfinite(v).all()}
