"""The kernel models of one device, with the constants that apply to each row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs import Kernel, kernels_of, load_device
from hwspecs.calibrations import shipped_calibrations
from hwspecs.correctors import Corrector, correctors_of, fingerprint
from roofline.physics import models
from roofline.physics.base import Gpu, total
from roofline.physics.columns import CANONICAL, dtypes_of, of_operator
from roofline.physics.corrector.correction import TERM, WHY, Correction
from roofline.physics.corrector.features import prepared
from roofline.physics.elementwise import ElementwiseModel
from roofline.physics.intervals import within
from roofline.physics.transfer import averaged, carried, distance
from workloads.dtypes import compute_dtype

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.physics.base import Columns, Constant, Dtypes, Floats
    from workloads.operators import Operator

# Formats that the same units run at the same rate: one stands in where the other was not measured.
ALIKE = {
    "float16": ("bfloat16",),
    "int8": ("sq", "fp8"),
    "sq": ("int8", "fp8"),
    "fp8_block": ("fp8",),
    "nvfp4": ("fp8",),
    "int4_wo": ("int8_wo",),
    "int8_wo": ("int4_wo",),
    "w4a16_mxfp4": ("int4_wo",),
    "w4a8_mxfp4_mxfp8": ("nvfp4", "fp8"),
}


# The same for attention, whose kernels differ less by format than by generation.
ALIKE_IN_ATTENTION = {**ALIKE, "fp8": ("bfloat16",), "bfloat16": ("fp8",)}
# And for passes over rows, which move 16 bits an element in either.
PASSES = frozenset(ElementwiseModel.kinds)
ALIKE_IN_PASSES = {"float16": ("bfloat16",), "bfloat16": ("float16",)}
MEASURED_WELL = 100  # rows, from which a kernel may speak for those of another generation
# Of the 16-bit peak: no 16-bit product is fitted above 1.1. What reaches more multiplies narrower numbers.
WIDENED = 1.1

Pair = tuple[Gpu, Kernel]

CHUNK = 4096  # rows: candidates multiply the memory, and a chunk of them stays in the cache


@dataclass(frozen=True)
class Chosen:
    """Constants for some rows, and where they come from."""

    values: Mapping[str, float]
    bands: Sequence[tuple[float, float, float]]  # up to this time in s; measured / predicted from, to
    provenance: str  # calibrated | calibrated (any backend) | transferred from NAME
    domain: Mapping[str, tuple[float, float]]
    kernel: str = ""  # whose constants they are
    correction: Correction | None = None  # learned beside these very constants


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


class Kernels:
    """What the kernel models say of a device: constants of its own, or carried from the nearest one."""

    def __init__(
        self, device: Device, *, unseen: bool = False, backend: str = "", corrects: bool = False
    ) -> None:
        """`unseen` leaves out the device's own constants and peaks, as if nobody had measured it.

        `backend` is the library whose kernels run the operators of a model. `corrects` adds what was learned
        beside the device's own constants.
        """
        self.gpu = replace(Gpu.of(device), reached={}) if unseen else Gpu.of(device)
        self.backend = backend
        self._own = () if unseen else kernels_of(device)
        self.corrects = corrects
        self._correctors = correctors_of(device.name) if corrects else ()

    @cached_property
    def _sources(self) -> list[tuple[Gpu, tuple[Kernel, ...]]]:
        """This device first, then calibrated ones by likeness."""
        others = [load_device(path.stem) for path in shipped_calibrations().values()]
        pairs = [(Gpu.of(other), kernels_of(other)) for other in others if other.name != self.gpu.name]
        return [(self.gpu, self._own), *sorted(pairs, key=lambda pair: distance(pair[0], self.gpu))]

    @property
    def transferred_from(self) -> str | None:
        """The device whose constants are used where this one has none of its own."""
        return None if self._own or len(self._sources) < 2 else self._sources[1][0].name

    def formats(self, op: str) -> list[Dtypes]:
        """The formats in which a kind was measured on this device."""
        pairs = dict.fromkeys((k.dtype, k.kv_dtype) for k in self._own if k.op == op)
        return [dtypes_of(*pair) for pair in pairs]

    def choose(self, op: str, dtype: str, kv_dtype: str, backend: str, kernel: str) -> Chosen | None:
        """The constants of a cell: the kernel's, the backend's, any backend's; of this device or the nearest.

        None where no kernel model knows the kind or nobody measured it.
        """
        model = models().get(op)
        if model is None:
            return None
        attends = op.startswith(("attention", "mla"))
        alike = ALIKE_IN_ATTENTION if attends else ALIKE_IN_PASSES if op in PASSES else ALIKE
        kv_formats = [kv_dtype, *alike.get(kv_dtype, ())] if kv_dtype else [""]
        formats = [(d, kv) for d in (dtype, *alike.get(dtype, ())) for kv in kv_formats]
        stored = dtypes_of(dtype, kv_dtype)
        constants, unit = model.constants(self.gpu, stored), compute_dtype(stored.inputs)
        for gpu, kernels in self._sources:
            if gpu.generation != self.gpu.generation:
                continue
            for near, kv in formats:
                found = _best(kernels, op, near, kv, backend, kernel)
                if found is None or self._another_algorithm(found, dtype, backend):
                    continue
                own = gpu.name == self.gpu.name
                if attends and not own and found.kernel != kernel and self._measured(op, backend, kernel):
                    break  # attention differs more by kernel than by generation
                values = carried(found.values, constants, gpu, self.gpu, unit)
                said = "calibrated" if found.backend == backend else "calibrated (any backend)"
                if (near, kv) != (dtype, kv_dtype):
                    said = f"transferred from {near}" + (f" with a cache of {kv}" if kv else "")
                if not own:
                    said = f"transferred from {gpu.name}"
                learned = self._correction(found) if said == "calibrated" else None
                return Chosen(values, _bands(found, own), said, found.domain, found.kernel, learned)
        if dtype.endswith("_wo") and backend and not self._measured(op, backend, dtype=dtype):
            # The library's own product, its weights widened on the way.
            formats = [("bfloat16", ""), ("float16", "")]
        return self._from_other_generations(op, formats, constants, unit, backend, kernel)

    def _correction(self, kernel: Kernel) -> Correction | None:
        """What was learned beside these constants of this device; others are none of its business."""
        wanted = (*_names(kernel), fingerprint(kernel)) if self._correctors else ()
        found = next((c for c in self._correctors if (*_names(c), c.beside) == wanted), None)
        return Correction(found) if found else None

    def _another_algorithm(self, found: Kernel, dtype: str, backend: str) -> bool:
        """Weight-only formats are widened by one library and multiplied as integers by another.

        So a library's kernel of another generation comes before another library's of this one, and where no
        library is asked for, weights are widened, which is what the format says.
        """
        if not dtype.endswith("_wo"):
            return False
        if not backend:
            return _multiplies_integers(found)
        return found.backend != backend and self._measured(found.op, backend, dtype=dtype)

    def _measured(self, op: str, backend: str, kernel: str = "", dtype: str = "") -> bool:
        """Whether a library's kernel, or its kernels for a format, were measured well on any device."""
        return any(
            (k.op, k.backend) == (op, backend)
            and (kernel or k.kernel, dtype or k.dtype) == (k.kernel, k.dtype)
            and k.points >= MEASURED_WELL
            for _, kernels in self._sources
            for k in kernels
        )

    def _from_other_generations(
        self,
        op: str,
        formats: Sequence[tuple[str, str]],
        constants: Sequence[Constant],
        unit: str,
        backend: str,
        kernel: str,
    ) -> Chosen | None:
        """The mean of the same kernel's constants on other devices, else of all kernels that do the same."""
        every = [
            (gpu, k)
            for gpu, kernels in self._sources
            for k in kernels
            if k.op == op and k.backend and (backend or not _multiplies_integers(k))
        ]
        if getattr(models()[op], "ampere_apart", False):
            every = [pair for pair in every if pair[0].grouped == self.gpu.grouped] or every
        for pool, (near, kv) in _pools(every, op, formats, backend, kernel):
            found = [(gpu, k) for gpu, k in pool if k.dtype == near and k.kv_dtype in (kv, "")]
            if found:
                values = averaged([(gpu, k.values) for gpu, k in found], constants, self.gpu, unit)
                names = dict.fromkeys(gpu.name for gpu, _ in found)
                most = max((k for _, k in found), key=lambda k: k.points)
                said = f"transferred from {' and '.join(names)}"
                return Chosen(values, _bands(most, False), said, most.domain, kernel or most.kernel)
        return None

    def table(self, op: str, dtype: str, kv_dtype: str, rows: Columns) -> KernelTime | None:
        """Rows of one kind and format that agree in backend and kernel."""
        dtype, kv_dtype = CANONICAL.get(dtype or "bfloat16", dtype), CANONICAL.get(kv_dtype, kv_dtype)
        backend, kernel = (str(rows[name][0]) if name in rows else "" for name in ("backend", "kernel"))
        chosen = self._cached(op, dtype, kv_dtype, backend, kernel)
        if chosen is None:
            return None
        count = len(next(iter(rows.values())))
        named = {"op": np.full(count, op, object), "kernel": np.full(count, chosen.kernel or kernel, object)}
        parts = self._parts(op, dtypes_of(dtype, kv_dtype), {**rows, **named}, chosen)
        outside, learned = _outside(rows, chosen.domain), parts.pop(TERM, None)
        calibrated = total(parts)
        lower, upper = (
            np.where(outside, np.nan, calibrated * ratio) for ratio in within(chosen.bands, calibrated)
        )
        said = np.where(outside, f"{chosen.provenance}, extrapolated", chosen.provenance).astype(object)
        found = KernelTime(parts, calibrated, lower, upper, said, getattr(models()[op], "why", {}))
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
        return self.table(op, dtype, kv_dtype, rows)

    @cached_property
    def _cached(self) -> Any:
        return cache(self.choose)


def _names(record: Kernel | Corrector) -> tuple[str, ...]:
    return record.op, record.dtype, record.kv_dtype, record.backend, record.kernel


def _corrected(found: KernelTime, chosen: Chosen, learned: Any, outside: Any) -> KernelTime:
    """The time with what was learned where that applies; the others say why not and stay as they are."""
    if chosen.correction is None or learned is None:
        said = found.provenance + ", not corrected: nothing was learned beside these constants"
        return replace(found, provenance=said, corrected=np.zeros(len(said), dtype=bool))
    applies = ~(np.isnan(learned) | outside)
    time = found.time_s + np.where(applies, learned, 0.0)
    lower, upper = within(chosen.correction.corrector.bands, time)
    elsewhere = found.provenance + ", not corrected: outside the rows that it was learned on"
    return KernelTime(
        {**found.parts, TERM: np.where(applies, learned, 0.0)},
        time,
        np.where(applies, time * lower, found.lower_s),
        np.where(applies, time * upper, found.upper_s),
        np.where(applies, "corrected", elsewhere).astype(object),
        {**found.why, TERM: WHY},
        applies,
    )


def _multiplies_integers(kernel: Kernel) -> bool:
    """Whether a weight-only product does, after a kernel that quantises its activations."""
    return kernel.dtype.endswith("_wo") and kernel.values.get("compute_share", 0.0) > WIDENED


def _bands(kernel: Kernel, own: bool) -> list[tuple[float, float, float]]:
    """The intervals of a kernel's times, on its own device or carried to another; none where it has none."""
    if own and kernel.bands:
        return kernel.bands
    lower, upper = (kernel.lower, kernel.upper) if own else (kernel.carried_lower, kernel.carried_upper)
    return [(np.inf, lower or np.nan, upper or np.nan)]


def _best(
    kernels: tuple[Kernel, ...], op: str, dtype: str, kv_dtype: str, backend: str, kernel: str
) -> Kernel | None:
    """The kernel asked for, else one of its library, else the backend's most measured one, else all's fit."""
    fitting = [k for k in kernels if (k.op, k.dtype) == (op, dtype) and k.kv_dtype in (kv_dtype, "")]
    same = [k for k in fitting if (k.backend, k.kernel) == (backend, kernel)]
    library = _library(op, kernel) if kernel else None
    alike = [k for k in fitting if k.backend and library and _library(op, k.kernel) == library]
    of_backend = [k for k in fitting if k.backend == backend]
    for found in (same, alike, of_backend, [k for k in fitting if not (k.backend or k.kernel)]):
        if found:
            return max(found, key=lambda k: (k.kv_dtype == kv_dtype, k.points, k.kernel))
    return None


def _pools(
    every: list[Pair], op: str, formats: Sequence[tuple[str, str]], backend: str, kernel: str
) -> Iterator[tuple[list[Pair], tuple[str, str]]]:
    """Kernels of other devices to take the mean of, with the format that they must have: the best first."""
    same = [(gpu, k) for gpu, k in every if (k.backend, k.kernel) == (backend, kernel)]
    well = [(gpu, k) for gpu, k in every if k.points >= MEASURED_WELL]
    if (library := _library(op, kernel)) is not None:  # of few rows the library's overheads are not known
        alike = [(gpu, k) for gpu, k in every if _library(op, k.kernel) == library]
        sound = getattr(models()[op], "sound", lambda *_: True)
        tuned = [(gpu, k) for gpu, k in well if sound(k.values, gpu, dtypes_of(k.dtype))]
        known = (
            [pair for pair in pool if pair in few] for few in (tuned, well) for pool in (same, alike, every)
        )
        pools = [*known, same, alike, every]
        yield from ((pool, one) for pool in pools for one in formats)
        return
    everyone_s: frozenset[str] = getattr(models()[op], "everyone_s", frozenset())
    for one in formats:  # a kernel's name in another format says less than other kernels of the format
        yield from ((pool, one) for pool in ([well, every] if one[0] in everyone_s else [same, well, every]))


def _library(op: str, kernel: str) -> str | None:
    """Whose products a kernel runs, of the kinds whose model tells libraries apart."""
    library = getattr(models()[op], "library", None)
    return library(kernel) if library else None


def _outside(rows: Columns, domain: Mapping[str, tuple[float, float]]) -> Any:
    """Rows with a size that the fit has not seen; a tenth beyond either end still counts as seen."""
    count = len(next(iter(rows.values())))
    outside = np.zeros(count, dtype=bool)
    for name, (low, high) in domain.items():
        if name in rows:
            outside |= (rows[name] < low * 0.9) | (rows[name] > high * 1.1)
    return outside
