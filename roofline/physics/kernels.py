"""Times of one device by the kernel models, of rows of tables and of operators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs import kernels_of
from hwspecs.calibrations import measured_backends
from hwspecs.correctors import correctors_of
from roofline.physics import models
from roofline.physics.base import Gpu, total
from roofline.physics.choice import Choice
from roofline.physics.columns import CANONICAL, cache_format, dtypes_of, of_operator, weight_only
from roofline.physics.corrector.correction import TERM, WHY
from roofline.physics.corrector.features import prepared
from roofline.physics.intervals import within

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.physics.base import Columns, Dtypes, Floats
    from roofline.physics.choice import Chosen
    from workloads.operators import Operator

CHUNK = 4096  # rows: candidates multiply the memory, and a chunk of them stays in the cache


@dataclass(frozen=True)
class KernelTime:
    """The time of some rows by a kernel model, as the parts that make it."""

    parts: dict[str, Floats]
    time_s: Floats
    lower_s: Floats  # NaN where there is no interval
    upper_s: Floats
    provenance: Any  # one word or sentence per row
    why: Mapping[str, str]  # the reason of each part
    corrected: Any = None  # per row whether a learned correction applies; None where none was asked for
    whose: str = ""  # the library and kernel whose constants they are; empty where they are of several


class Kernels:
    """What the kernel models say of a device: constants of its own, or carried from the nearest one."""

    def __init__(
        self,
        device: Device,
        *,
        unseen: bool = False,
        backend: str = "",
        corrects: bool = False,
        named: Mapping[str, str] | None = None,
    ) -> None:
        """`unseen` leaves out the device's own constants and peaks, as if nobody had measured it.

        `backend` is the library whose kernels run the operators of a model. `corrects` adds what was learned
        beside the device's own constants. `named` are kernels by kind of operator, as an engine was told,
            or the library whose kernels they are.
        """
        self.gpu = replace(Gpu.of(device), reached={}) if unseen else Gpu.of(device)
        self.backend, self.corrects, self.named = backend, corrects, named or {}
        self.libraries = measured_backends() if named else ()
        self._own = () if unseen else kernels_of(device)
        self._choice = Choice(self.gpu, self._own, correctors_of(device.name) if corrects else ())
        self.choose = cache(self._choice.of)

    @property
    def transferred_from(self) -> str | None:
        """The device whose constants are used where this one has none of its own."""
        return self._choice.transferred_from

    def formats(self, op: str) -> list[Dtypes]:
        """The formats in which a kind was measured on this device."""
        pairs = dict.fromkeys((k.dtype, k.kv_dtype) for k in self._own if k.op == op)
        return [dtypes_of(*pair) for pair in pairs]

    def table(self, op: str, dtype: str, kv_dtype: str, rows: Columns) -> KernelTime | None:
        """Rows of one kind and format that agree in backend and kernel."""
        dtype = CANONICAL.get(dtype or "bfloat16", dtype)
        kv_dtype = cache_format(op, dtype, kv_dtype)
        backend, kernel = (str(rows[name][0]) if name in rows else "" for name in ("backend", "kernel"))
        chosen = self.choose(op, dtype, kv_dtype, backend, kernel)
        if chosen is None:
            return None
        count = len(next(iter(rows.values())))
        names = {"op": op, "kernel": chosen.kernel or kernel}
        named = {of: np.broadcast_to(np.array(name, object), count) for of, name in names.items()}
        parts = self._parts(op, dtypes_of(dtype, kv_dtype), {**rows, **named}, chosen)
        outside, learned = _outside(rows, chosen.domain), parts.pop(TERM, None)
        calibrated = total(parts)
        lower, upper = (
            np.where(outside, np.nan, calibrated * ratio) for ratio in within(chosen.bands, calibrated)
        )
        said, why = _said(chosen, outside), models()[op].why
        found = KernelTime(parts, calibrated, lower, upper, said, why, whose=_whose(chosen))
        return _corrected(found, chosen, learned, outside) if self.corrects else found

    def _parts(self, op: str, dtype: Dtypes, rows: Columns, chosen: Chosen) -> dict[str, Floats]:
        """The parts by the kind's model and, where there is one, the correction, CHUNK rows at a time."""
        model, count = models()[op], len(next(iter(rows.values())))

        def parts(rows: Columns) -> dict[str, Floats]:
            found = model.parts(rows, self.gpu, dtype, chosen.values)
            if chosen.correction is None:
                return found
            return {**found, TERM: chosen.correction.seconds(rows, self.gpu, found)}

        if count <= CHUNK and chosen.correction is None:
            return parts(rows)
        rows = prepared(op, rows)  # what is better done once, and for all rows at once

        def piece(begin: int) -> dict[str, Floats]:
            return parts({name: column[..., begin : begin + CHUNK] for name, column in rows.items()})

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy works outside the interpreter's lock
            pieces = list(pool.map(piece, range(0, count, CHUNK)))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def operator(self, operator: Operator) -> KernelTime | None:
        """An operator of a model, by the device's default kernels."""
        found = of_operator(operator)
        if found is None:
            return None
        op, dtype, kv_dtype, sizes = found
        arrays = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in sizes.values())
        )
        rows: dict[str, Any] = dict(zip(sizes, arrays, strict=True))
        if self.backend:
            rows["backend"] = np.full(len(arrays[0]), self.backend, object)
        if op in self.named:  # another engine's kernels, or some of its own
            of = "backend" if self.named[op] in self.libraries else "kernel"
            rows[of] = np.full(len(arrays[0]), self.named[op], object)
        kernel, other = self.table(op, dtype, kv_dtype, rows), weight_only(operator)
        widening = None if other is None else self.table(op, other, kv_dtype, rows)
        return kernel if kernel is None or widening is None else _faster(kernel, widening)


def _said(chosen: Chosen, outside: Any, more: str = "") -> Any:
    """The provenance of each row; rows share its words, of which there are few."""
    known = (f"{chosen.provenance}{more}", f"{chosen.provenance}, extrapolated{more}")
    return np.array(known, dtype=object)[outside.astype(int)]


def _whose(chosen: Chosen) -> str:
    return " ".join(filter(None, (chosen.backend, chosen.kernel)))


def _faster(one: KernelTime, other: KernelTime) -> KernelTime:
    """Row by row the faster of two kernels of one kind."""
    first = one.time_s <= other.time_s

    def of(a: Any, b: Any) -> Any:
        return np.where(first, a, b)

    parts = dict.fromkeys([*one.parts, *other.parts])
    return KernelTime(
        {name: of(one.parts.get(name, 0.0), other.parts.get(name, 0.0)) for name in parts},
        of(one.time_s, other.time_s),
        of(one.lower_s, other.lower_s),
        of(one.upper_s, other.upper_s),
        of(one.provenance, other.provenance),
        {**other.why, **one.why},
        None if one.corrected is None else of(one.corrected, other.corrected),
    )


def _corrected(found: KernelTime, chosen: Chosen, learned: Any, outside: Any) -> KernelTime:
    """The time with what was learned where that applies; the others say why not and stay as they are."""
    if chosen.correction is None or learned is None:
        said = _said(chosen, outside, ", not corrected: nothing was learned beside these constants")
        return replace(found, provenance=said, corrected=np.zeros(len(said), dtype=bool))
    applies = ~(np.isnan(learned) | outside)
    time = found.time_s + np.where(applies, learned, 0.0)
    lower, upper = within(chosen.correction.corrector.bands, time)
    elsewhere = _said(chosen, outside, ", not corrected: outside the rows that it was learned on")
    return KernelTime(
        {**found.parts, TERM: np.where(applies, learned, 0.0)},
        time,
        np.where(applies, time * lower, found.lower_s),
        np.where(applies, time * upper, found.upper_s),
        np.where(applies, "corrected", elsewhere),
        {**found.why, TERM: WHY},
        applies,
        found.whose,
    )


def _outside(rows: Columns, domain: Mapping[str, tuple[float, float]]) -> Any:
    """Rows with a size that the fit has not seen; a tenth beyond either end still counts as seen."""
    count = len(next(iter(rows.values())))
    outside = np.zeros(count, dtype=bool)
    for name, (low, high) in domain.items():
        if name in rows:
            outside |= (rows[name] < low * 0.9) | (rows[name] > high * 1.1)
    return outside
