"""Whose constants make a kernel's time: its own, those of one like it, or another device's, carried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwspecs import Kernel, kernels_of, load_device
from hwspecs.calibrations import cell_of, shipped_calibrations
from hwspecs.correctors import Corrector, fingerprint
from roofline.physics import models
from roofline.physics.attention import compiled
from roofline.physics.base import Constant, Gpu
from roofline.physics.columns import dtypes_of
from roofline.physics.corrector.correction import Correction
from roofline.physics.libraries import (
    attends_by,
    fitted_on_integers,
    multiplies_integers,
    runs_on,
)
from roofline.physics.stand_ins import (
    MEASURED_WELL,
    Asked,
    Pair,
    attends,
    best,
    formats_of,
    in_another_format,
    lent,
    pools,
)
from roofline.physics.transfer import averaged, carried, distance
from workloads.dtypes import FORMATS, compute_dtype

_NO_BAND = [(np.inf, np.nan, np.nan)]  # of an interval that nobody knows
# The library whose attention is meant where none is named: of those that were measured the first here.
USUAL = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True)
class Chosen:
    """Constants for some rows, and where they come from."""

    values: Mapping[str, float]
    bands: Sequence[tuple[float, float, float]]  # up to this time in s; measured / predicted from, to
    provenance: str  # calibrated | calibrated (any backend) | transferred from NAME | who published it
    domain: Mapping[str, tuple[float, float]]
    kernel: str = ""  # whose constants they are
    backend: str = ""  # its library; empty where they are of several
    correction: Correction | None = None  # learned beside these very constants


class Choice:
    """The constants of one device's kernels, and of kernels elsewhere that stand in for those it lacks."""

    def __init__(self, gpu: Gpu, own: Sequence[Kernel], correctors: Sequence[Corrector] = ()) -> None:
        """`own`: the constants of the device itself; `correctors`: what was learned beside them."""
        self.gpu, self._own, self._correctors = gpu, own, correctors

    @cached_property
    def _sources(self) -> list[tuple[Gpu, Sequence[Kernel]]]:
        """This device first, then calibrated ones by likeness."""
        others = [load_device(path.stem) for path in shipped_calibrations().values()]
        pairs = [
            (Gpu.of(other), [k for k in kernels_of(other) if runs_on(k, self.gpu)])
            for other in others
            if other.name != self.gpu.name
        ]
        return [(self.gpu, self._own), *sorted(pairs, key=lambda pair: distance(pair[0], self.gpu))]

    @property
    def transferred_from(self) -> str | None:
        """The device whose constants are used where this one has none of its own."""
        return None if self._own or len(self._sources) < 2 else self._sources[1][0].name

    def of(self, op: str, dtype: str, kv_dtype: str, backend: str, kernel: str) -> Chosen | None:
        """The constants of a cell: the kernel's, the backend's, any backend's; of this device or the nearest.

        None where no kernel model knows the kind or nobody measured it.
        """
        model = models().get(op)
        if model is None:
            return None
        if self._widens(op, dtype, kv_dtype):
            return self._widened(op, dtype, backend, kernel)
        usual = "" if backend or kernel else self._usual(op, dtype, kv_dtype)
        if usual and (found := self.of(op, dtype, kv_dtype, usual, "")):
            return self._of_any(found, op, dtype, kv_dtype)
        kernel = kernel or model.by_default(backend)
        kernel = attends_by(kernel, self.gpu) if attends(op) else kernel
        formats = formats_of(op, dtype, kv_dtype, kernel)
        stored = dtypes_of(dtype, kv_dtype)
        constants = model.carried_constants(kernel, self.gpu, stored)
        unit = compute_dtype(stored.inputs)
        asked = Asked(op, formats, constants, unit, backend, kernel)
        if like := self._nearest_of_its_library(op, dtype, backend):
            return self._of_its_library(op, dtype, like, constants, backend)
        if near := self._from_its_generation(asked) or self._from_a_kind_alike(asked):
            return self._completed(near, asked, dtype)
        if dtype.endswith("_wo") and backend and not self._measured(op, backend, dtype=dtype):
            # The library's own product, its weights widened on the way.
            asked = replace(asked, formats=[("bfloat16", ""), ("float16", "")])
        if attends(op) and kv_dtype == "fp8" and "fp8" not in self.gpu.tensor_flop_per_s:
            # Its cache is widened and multiplied in 16 bits, by the kernels of a cache of 16 bits.
            asked = replace(asked, formats=sorted(formats, key=lambda one: one[1] == "fp8"))
        return self._completed(self._from_other_generations(asked) or _as_published(asked), asked, dtype)

    def _widens(self, op: str, dtype: str, kv_dtype: str) -> bool:
        """Whether a cache is in a narrow format that nobody measured beside any queries."""
        if not attends(op) or kv_dtype in ("", dtype) or FORMATS[dtypes_of(dtype, kv_dtype).kv][0] >= 16:
            return False
        return not any((k.op, k.kv_dtype) == (op, kv_dtype) for _, kernels in self._sources for k in kernels)

    def _widened(self, op: str, dtype: str, backend: str, kernel: str) -> Chosen | None:
        """The kernel of a cache in the format of queries, in which a narrow one is multiplied."""
        found = self.of(op, dtype, dtype, backend, kernel)
        if found is None or found.provenance.startswith("transferred"):
            return found
        return replace(found, provenance=f"transferred from a cache of {dtype}", correction=None)

    def _usual(self, op: str, dtype: str, kv_dtype: str) -> str:
        """The library that attends in a row which names none, or none.

        Constants of all libraries together are of no kernel that exists: tiles, splits and overlap differ.
        None is meant where the device's own file has constants without a name.
        """
        if not attends(op):
            return ""
        for _, kernels in self._sources:
            measured = [k for k in kernels if (k.op, k.dtype) == (op, dtype) and k.kv_dtype in (kv_dtype, "")]
            if any(cell_of(k)[3:] == ("", "") and k.coverage is not None for k in measured):
                return ""
            known = {k.backend for k in measured if k.points >= MEASURED_WELL}
            if known:
                return next((library for library in USUAL if library in known), "")
        return ""

    def _of_any(self, found: Chosen, op: str, dtype: str, kv_dtype: str) -> Chosen:
        """The usual library's time where any may run, as sure as the libraries of this device are alike."""
        formats = (op, dtype, kv_dtype, "", "")
        together = next((k for k in self._own if cell_of(k) == formats), None)
        if together is None or found.provenance != "calibrated":
            return found
        said, bands = "calibrated (any backend)", _bands(together, True)
        return replace(found, provenance=said, bands=bands, correction=None)

    def _completed(self, found: Chosen | None, asked: Asked, dtype: str) -> Chosen | None:
        """With the constants of the kernel that this GPU runs in place of the one asked for."""
        instead = models()[asked.op].left_to(asked.kernel, self.gpu)
        if found is None or instead is None:
            return found
        (backend, kernel), names = instead
        other = self.of(asked.op, dtype, "", backend, kernel)
        values = {name: value for name, value in other.values.items() if name in names} if other else {}
        return replace(found, values={**found.values, **values})

    def _from_its_generation(self, asked: Asked) -> Chosen | None:
        """What was fitted to the device itself, else to another one of its generation."""
        op, backend, kernel = asked.op, asked.backend, asked.kernel
        for gpu, kernels in self._sources:
            if gpu.generation != self.gpu.generation:
                continue
            for near, kv in asked.formats:
                found = best(gpu, kernels, op, near, kv, backend, kernel)
                if found is None or self._another_algorithm(found, asked.formats[0][0], backend):
                    continue
                if in_another_format(found, kernels, asked, gpu):
                    continue
                own, model = gpu.name == self.gpu.name, models()[op]
                if attends(op) and compiled(found.kernel) and not compiled(kernel):
                    continue  # Triton's, at a tenth of the others' rate, are taken by shape or by name
                wanted, there = (
                    model.source(model.alias(name, at, asked.formats[0][0]))
                    for name, at in ((kernel, self.gpu), (found.kernel, gpu))
                )
                another = wanted not in (None, there)
                elsewhere = kernel and found.kernel != kernel and not self._at_home(gpu)
                known = elsewhere and self._measured(op, backend, kernel)
                if attends(op) and (another or known):
                    break  # attention differs more by kernel than by generation
                values = carried(found.values, asked.constants, gpu, self.gpu, asked.unit)
                said = "calibrated" if found.backend == backend else "calibrated (any backend)"
                if (near, kv) != asked.formats[0]:
                    said = f"transferred from {near}" + (f" with a cache of {kv}" if kv else "")
                if not own:
                    said = f"transferred from {gpu.name}"
                learned = self._correction(found) if said == "calibrated" else None
                return Chosen(
                    values, _bands(found, own), said, found.domain, found.kernel, found.backend, learned
                )
        return None

    def _at_home(self, gpu: Gpu) -> bool:
        """Whether a device is this one or has the same die: engines run the same kernels on both.

        Dies of a generation differ in their kind of memory or in what their processors hold.
        """
        dies = [(one.generation, one.stacked, one.shared_bytes) for one in (gpu, self.gpu)]
        return gpu.name == self.gpu.name or dies[0] == dies[1]

    def _from_a_kind_alike(self, asked: Asked) -> Chosen | None:
        """The constants of the like kind in its generation, where nobody measured this one there.

        As sure as this kind is carried to another generation, where what it measures is known.
        """
        like = models()[asked.op].like
        known = [k for _, kernels in self._sources for k in kernels if k.op == asked.op]
        cached = [(near, kv or near) for near, kv in asked.formats]
        found = like and self._from_its_generation(replace(asked, op=like, formats=cached, kernel=""))
        if not (found and known):
            return None
        most = max(known, key=lambda k: k.points)
        said = found.provenance if found.provenance.startswith("transferred") else f"transferred from {like}"
        return Chosen(found.values, _bands(most, False), said, most.domain, asked.kernel, found.backend)

    def _nearest_of_its_library(self, op: str, dtype: str, backend: str) -> str:
        """The format by whose product of the library one that it was not measured in is known best, or none.

        Libraries differ more in weight-only products and those of integers than devices do: what was measured
        of one speaks for no other. Where none is asked for, a device's own measurements do, of kernels that
        do what the format says. Weights are widened to 16 bits; where both operands have 8, FP8 does, too.
        """
        if not (dtype.endswith("_wo") or dtype == "sq") or not models()[op].everyone_s:
            return ""
        here = (k for gpu, kernels in self._sources if self._at_home(gpu) for k in kernels)
        own = (k for k in here if (k.op, k.dtype) == (op, dtype) and not fitted_on_integers(k))
        if self._measured(op, backend, dtype=dtype) if backend else any(own):
            return ""
        integers = dtype == "sq" or multiplies_integers(backend, dtype, self.gpu, op)
        return "fp8" if integers else "bfloat16"

    def _of_its_library(
        self, op: str, dtype: str, like: str, constants: Sequence[Constant], backend: str
    ) -> Chosen | None:
        """The library's product of another format; as sure as the format is carried."""
        product = self.of(op, like, "", backend, "")
        if product is None:
            return None
        alike = [k for _, kernels in self._sources for k in kernels if (k.op, k.dtype) == (op, dtype)]
        bands = _bands(max(alike, key=lambda k: k.points), False) if alike else product.bands
        carried_here = product.provenance.startswith("transferred")
        said = product.provenance if carried_here else f"transferred from {like}"
        values = {c.name: product.values.get(c.name, c.start) for c in constants}
        return replace(product, values=values, bands=bands, provenance=said, correction=None, kernel="")

    def _correction(self, kernel: Kernel) -> Correction | None:
        """What was learned beside these constants of this device; others are none of its business."""
        wanted = (*cell_of(kernel), fingerprint(kernel)) if self._correctors else ()
        found = next((c for c in self._correctors if (*cell_of(c), c.beside) == wanted), None)
        return Correction(found) if found else None

    def _another_algorithm(self, found: Kernel, dtype: str, backend: str) -> bool:
        """Weight-only formats are widened by one library and multiplied as integers by another.

        So a library's kernel of another generation comes before another library's of this one, and where no
        library is asked for, weights are widened, which is what the format says.
        """
        if not dtype.endswith("_wo"):
            return False
        if not backend:
            return fitted_on_integers(found)
        return found.backend != backend and self._measured(found.op, backend, dtype=dtype)

    def _measured(self, op: str, backend: str, kernel: str = "", dtype: str = "") -> bool:
        """Whether a library's kernel, or its kernels for a format, were measured well on any device."""
        return any(
            (k.op, k.backend) == (op, backend)
            and (kernel or k.kernel, dtype or k.dtype) == (k.kernel, k.dtype)
            and k.points >= MEASURED_WELL
            and not models()[op].renamed(kernel, gpu, self.gpu)
            for gpu, kernels in self._sources
            for k in kernels
        )

    def _from_other_generations(self, asked: Asked) -> Chosen | None:
        """The mean of the same kernel's constants on other devices, else of all kernels that do the same."""
        op, formats, backend, kernel = asked.op, asked.formats, asked.backend, asked.kernel
        every = [
            (gpu, k)
            for gpu, kernels in self._sources
            for k in kernels
            if k.op == op and k.backend and (backend or not fitted_on_integers(k))
        ]
        if formats[0][0].endswith("_wo") and backend and models()[op].everyone_s:
            every = [pair for pair in every if pair[1].backend == backend] or every
        if models()[op].ampere_apart:
            every = [pair for pair in every if pair[0].grouped == self.gpu.grouped] or every
        for pool, (near, kv) in pools(every, self.gpu, op, formats, backend, kernel):
            found = [(gpu, k) for gpu, k in pool if k.dtype == near and k.kv_dtype in (kv, "")]
            if any(lent(gpu, k, self.gpu, asked) for gpu, k in found):
                values = self._means(asked, found, pool, every)
                names = dict.fromkeys(gpu.name for gpu, _ in found)
                most = max((k for _, k in found), key=lambda k: (k.backend == backend, k.points))
                said = f"transferred from {' and '.join(names)}"
                # Another library's kernels say nothing about this one's tiles, nor how wide its loads are.
                nameless = most.backend != backend
                named = kernel or ("" if models()[op].ruled_by_name and nameless else most.kernel)
                return Chosen(values, _bands(most, False), said, most.domain, named, most.backend)
        return None

    def _means(
        self, asked: Asked, found: list[Pair], pool: list[Pair], every: list[Pair]
    ) -> dict[str, float]:
        """The means of the constants of `found`: of each those of the kernels that know it best.

        Where other kernels stand in for one, what no format decides is a mean over their formats (`pool`);
        kernels that an engine brings are known from that engine, whatever attends there; what a kernel of
        any library takes to start is known from all.
        """
        model, name = models()[asked.op], (asked.backend, asked.kernel)
        stand_in = any(
            (k.backend, k.kernel) != name or model.renamed(asked.kernel, gpu, self.gpu) for gpu, k in found
        )
        alike = pool if stand_in and model.starts_alike else found
        near = {(k.dtype, k.kv_dtype) for _, k in found}
        means: dict[str, float] = {}
        for constant in asked.constants:
            rules, sources = constant.scales_with.split(), alike
            if "launches" in rules:
                sources = [(g, k) for g, k in every if k.points >= MEASURED_WELL] or alike
            elif "format" in rules:
                sources = found
            elif "engine" in rules and (stand_in or all(constant.name not in k.values for _, k in found)):
                own = [(g, k) for g, k in every if k.backend == asked.backend and constant.name in k.values]
                own = [(g, k) for g, k in own if k.points >= MEASURED_WELL] or own
                sources = [(g, k) for g, k in own if (k.dtype, k.kv_dtype) in near] or own or alike
            theirs = [(gpu, lent(gpu, k, self.gpu, asked)) for gpu, k in sources]
            means |= averaged(theirs, [constant], self.gpu, asked.unit)
        return means


def _as_published(asked: Asked) -> Chosen | None:
    """The values that a model starts with, where these were published."""
    said = models()[asked.op].published
    return Chosen({c.name: c.start for c in asked.constants}, _NO_BAND, said, {}) if said else None


def _bands(kernel: Kernel, own: bool) -> list[tuple[float, float, float]]:
    """The intervals of a kernel's times, on its own device or carried to another; none where it has none."""
    if own and kernel.bands:
        return kernel.bands
    lower, upper = (kernel.lower, kernel.upper) if own else (kernel.carried_lower, kernel.carried_upper)
    return [(np.inf, lower or np.nan, upper or np.nan)]
