"""The ceilings that a prediction divides by, read from a device file for one fidelity."""

from __future__ import annotations

import math
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from hwspecs import Constants, Device, Sourced
from specfiles.errors import InputError, choose
from specfiles.frozen import dataclass
from workloads.dtypes import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hwspecs.values import LinkName
    from roofline.physics.kernels import Kernels
    from roofline.times import Times
    from workloads.operators import Operator
    from workloads.work import Work

LINKS: tuple[LinkName, ...] = ("nvlink", "ici", "xgmi", "chip", "ethernet", "upi", "pcie")  # to peers


class Fidelity(StrEnum):
    """What a prediction is based on; each level adds to the one before."""

    DATASHEET = "datasheet"  # the classic roofline of vendor peaks: a lower bound on time
    MEASURED = "measured"  # the roofline of ceilings that were measured on the device
    CALIBRATED = "calibrated"  # fitted constants per operator class, or the kernel models of GPUs
    CORRECTED = "corrected"  # kernel models and a learned correction; never a default

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise choose(str(value), list(cls), "fidelity")

    @property
    def calibrates(self) -> bool:
        """Whether operator constants or kernel models are used."""
        return self in (Fidelity.CALIBRATED, Fidelity.CORRECTED)


EXPLAINED = (Fidelity.DATASHEET, Fidelity.MEASURED, Fidelity.CALIBRATED)  # every term has a physical reason
HOST_LINKS: tuple[LinkName, ...] = ("chip", "pcie")


@dataclass(frozen=True)
class Island:
    """The devices of a node, which are linked directly, and their network to other nodes."""

    node: str
    devices: int
    mesh: bool = False  # one link per pair of devices: a smaller group uses fewer of a device's links
    network_byte_per_s: float | None = None  # to other nodes, per device and direction


@dataclass(frozen=True)
class Ceilings:
    """The highest rates of one device, in SI units. A ceiling without a source is absent.

    Asking for an absent ceiling raises InputError, except in a `floor`, which omits its term. `unmeasured`
    names the data-sheet values that are used where nothing was measured.
    """

    device: str
    fidelity: Fidelity
    matrix_by_dtype: Mapping[str, float]
    vector_flop_per_s: float | None
    special_op_per_s: float | None
    dram_byte_per_s: float
    link_byte_per_s: float | None  # to the other devices of its node, all links together, one direction
    island: Island | None = None  # absent where only the device is known, not the node
    host_byte_per_s: float | None = None  # to the host's memory, one direction
    disk_byte_per_s: float | None = None  # of the host's disks, for this device alone
    host_memory_byte_per_s: float | None = None  # of the host's memory where it computes itself
    processors: float | None = None  # of a GPU
    launch_s: float = 0.0
    graph_launch_s: float | None = None  # of a node of a replayed graph
    # (capacity in bytes, bandwidth) from the nearest cache outwards: activations that fit are served there
    caches: tuple[tuple[float, float], ...] = ()
    # No time is below that of the data sheet: the fidelities stay ordered.
    floor: Ceilings | None = None
    is_floor: bool = False
    constants: Mapping[tuple[str, str], Constants] = field(default_factory=dict)
    kernels: Kernels | None = None  # of a GPU at the calibrated fidelity; `constants` come first
    unmeasured: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    # Work and times of operators that were met before, where many predictions are made under one roof.
    known: dict[Operator, tuple[Work, Times]] | None = field(default=None, compare=False, repr=False)

    def told(self, formats: Collection[str] | None = None) -> tuple[str, ...]:
        """The notes; of peaks of products only those of the `formats` multiplied in, if they are known."""
        idle = () if formats is None else self.matrix_by_dtype.keys() - set(formats)
        stated = [what for what in self.unmeasured if what not in map(_peak, idle)]
        told = f"not measured, data-sheet values used: {', '.join(stated)}"
        return (*([told] if stated else []), *self.notes)

    def matrix_flop_per_s(self, dtype: Any) -> Any:
        """The dense peak of matrix products in a dtype."""
        unit = compute_dtype(dtype)
        if unit not in self.matrix_by_dtype:
            if self.is_floor:
                return math.inf
            known = ", ".join(sorted(self.matrix_by_dtype)) or "none"
            raise InputError(
                f"{self.device} has no dense peak for {unit} (it has: {known}); choose another dtype "
                "(of a model --activations) or add the peak with its source to the device file."
            )
        return self.matrix_by_dtype[unit]

    def count(self) -> Any:
        """Streaming multiprocessors or compute units of a GPU; 1 in a floor where it is unknown."""
        missing = (
            "is no GPU whose file states its processors, so the rate of one of them is unknown; leave out"
        )
        return self._stated(self.processors, f"{missing} --without flash-decoding.", in_floor=1.0)

    def host(self) -> float:
        """Bandwidth to the host's memory, one direction."""
        return self._stated(self.host_byte_per_s, "has no link to a host in its file; add `links.pcie`.")

    def disk(self) -> float:
        """Bandwidth of the host's disks."""
        return self._stated(self.disk_byte_per_s, "has no disk in its file; add `links.disk`.")

    def host_memory(self) -> float:
        """Bandwidth of the host's memory to its own processors."""
        missing = "has no host memory in its file; add `links.host_memory`."
        return self._stated(self.host_memory_byte_per_s, missing)

    def _stated(self, value: float | None, missing: str, in_floor: float = math.inf) -> float:
        """A value of the device file; without one what leaves its term out of a floor, else an error."""
        if value is not None or self.is_floor:
            return in_floor if value is None else value
        raise InputError(f"{self.device} {missing}")

    def link(self, devices: Any = None) -> Any:
        """Bandwidth [B/s] of one device to the others of a group, one direction.

        A group larger than the node is limited by the network between nodes.
        """
        if not isinstance(devices, int | float | None):
            import numpy as np

            return np.vectorize(self.link, otypes=[float])(devices)
        missing = "has no link to other devices in its file; use --tp 1 or add `links`."
        rate, island = self._stated(self.link_byte_per_s, missing), self.island
        if island is None or devices is None or devices == island.devices or rate == math.inf:
            return rate
        if devices > island.devices:
            if island.network_byte_per_s is None:
                raise InputError(
                    f"{island.node} joins {island.devices} devices and its file states no network to other "
                    f"nodes; {devices} devices were asked for."
                )
            return min(rate, island.network_byte_per_s)
        return rate * max(devices - 1, 1) / (island.devices - 1) if island.mesh else rate


def _caches(device: Device) -> tuple[tuple[float, float], ...]:
    """Measured cache levels, nearest first: bandwidth may only fall as the footprint grows."""
    best: dict[float, float] = {}
    for point in device.measured.bandwidth_curve:
        best[point.footprint_bytes] = max(point.byte_per_s, best.get(point.footprint_bytes, 0.0))
    if device.measured.l2_byte_per_s and device.datasheet.l2:
        best[device.datasheet.l2.capacity_bytes.value] = device.measured.l2_byte_per_s.value
    levels: list[tuple[float, float]] = []
    beyond = device.measured.dram_byte_per_s
    fastest = beyond.value if beyond else 0.0
    for footprint in sorted(best, reverse=True):
        if best[footprint] > fastest:
            fastest = best[footprint]
            levels.append((footprint, fastest))
    return tuple(reversed(levels))


def ceilings(
    device: Device,
    fidelity: Fidelity | str = Fidelity.DATASHEET,
    backend: str = "",
    named: Mapping[str, str] | None = None,
) -> Ceilings:
    """The ceilings of a device at a fidelity; `backend` names the library whose kernels are modelled.

    `named` are the kernels that a run was told to use, by kind of operator, where it was; else the engine's
    own source says it (`roofline.engine_libraries`). Raises InputError where the device file lacks a value
    that the fidelity needs.
    """
    fidelity = Fidelity(fidelity)
    kernels = _kernels(device, fidelity, backend, named) if fidelity.calibrates else None
    _check_stated(device, fidelity, kernels)
    plain = _drawn(device, fidelity)
    if fidelity is Fidelity.DATASHEET:
        return plain
    notes: tuple[str, ...] = ()
    if kernels is not None and kernels.transferred_from:
        notes += (f"kernel constants transferred from {kernels.transferred_from}: not calibrated itself",)
    if fidelity is Fidelity.CORRECTED:
        notes += ("corrected: learned corrections where an operator says so, else its calibrated time",)
    return replace(
        plain,
        launch_s=device.measured.launch_s.value if device.measured.launch_s else 0.0,
        graph_launch_s=device.measured.graph_launch_s.value if device.measured.graph_launch_s else None,
        caches=_caches(device),
        constants=_constants(device) if fidelity.calibrates else {},
        kernels=kernels,
        floor=replace(_drawn(device, Fidelity.DATASHEET), is_floor=True),
        notes=notes,
    )


def known_backend(backend: str | None, fidelity: Fidelity) -> str:
    """A library with kernels measured on any device, "" for none; InputError lists those that there are."""
    if not backend:
        return ""
    if not fidelity.calibrates:
        raise InputError(f"--backend chooses kernels, and fidelity {fidelity} has none; use calibrated.")
    from hwspecs.calibrations import measured_backends

    if backend not in (known := measured_backends()):
        raise choose(backend, list(known), "backend")
    return backend


def _check_stated(device: Device, fidelity: Fidelity, kernels: Kernels | None) -> None:
    """Raise InputError for a fidelity that the device file does not support."""
    if fidelity is Fidelity.DATASHEET and device.datasheet.dram.byte_per_s is None:
        raise InputError(
            f"{device.name} has no data-sheet memory bandwidth; use --fidelity measured, "
            "or add dram.byte_per_s with its source to the device file."
        )
    if fidelity is not Fidelity.DATASHEET and device.measured.dram_byte_per_s is None and kernels is None:
        raise InputError(
            f"{device.name} has no measured memory bandwidth; use --fidelity datasheet, "
            "or measure the device with `roofline ceilings`."
        )


def _constants(device: Device) -> dict[tuple[str, str], Constants]:
    operators = device.calibration.operators if device.calibration else {}
    return {(kind, c.dtype): c for kind, entries in operators.items() for c in entries}


def _kernels(
    device: Device, fidelity: Fidelity, backend: str, named: Mapping[str, str] | None
) -> Kernels | None:
    """The kernel models of a GPU; None for a device that has only constants of its own operators.

    Raises InputError where the device has neither, or no kernel models to correct.
    """
    from roofline.engine_libraries import EngineLibraries
    from roofline.physics.kernels import Kernels

    by_engine = backend and not named and device.vendor == "NVIDIA"
    try:
        return (EngineLibraries if by_engine else Kernels)(
            device, backend=backend, corrects=fidelity is Fidelity.CORRECTED, named=named
        )
    except InputError:
        if fidelity is Fidelity.CORRECTED:
            raise InputError(
                f"nothing can be corrected on {device.name}: corrections are learned beside the kernel "
                "models of GPUs; use --fidelity calibrated or measured."
            ) from None
        if device.calibration is not None and device.calibration.operators:
            return None
        raise InputError(
            f"{device.name} is not calibrated; use --fidelity measured, or calibrate it with "
            "`roofline ceilings` on the device, or with `roofline calibrate` from a table of a GPU's "
            "measured operators."
        ) from None


def _peak(dtype: str) -> str:
    return f"{dtype} peak"


def _drawn(device: Device, fidelity: Fidelity) -> Ceilings:
    """The ceilings without caches and constants: measured values if the fidelity uses them, else stated."""
    sheet, measured = device.datasheet, device.measured
    unmeasured: list[str] = []

    def pick(stated: Sourced | None, reached: Sourced | None, what: str) -> float | None:
        if fidelity is Fidelity.DATASHEET:
            return stated.value if stated else None
        if reached is None and stated is not None:
            unmeasured.append(what)
        chosen = reached or stated
        return chosen.value if chosen else None

    def peak(dtype: str) -> float | None:
        """Matrix products run on tensor units where these support the dtype, else on vector units.

        A measurement on one kind of unit is no evidence for the other.
        """
        tensor = dtype in sheet.tensor_flop_per_s
        if fidelity is not Fidelity.DATASHEET:
            tensor = tensor or dtype in measured.tensor_flop_per_s
        stated = sheet.tensor_flop_per_s if tensor else sheet.vector_flop_per_s
        reached = measured.tensor_flop_per_s if tensor else measured.vector_flop_per_s
        return pick(stated.get(dtype), reached.get(dtype), _peak(dtype))  # type: ignore[call-overload]

    peaks: list[Mapping[Any, Any]] = [sheet.vector_flop_per_s, sheet.tensor_flop_per_s]
    peaks += [measured.vector_flop_per_s, measured.tensor_flop_per_s]
    known = dict.fromkeys(str(dtype) for by_dtype in peaks for dtype in by_dtype)
    dram = pick(sheet.dram.byte_per_s, measured.dram_byte_per_s, "memory bandwidth")
    matrix = {dtype: found for dtype in known if (found := peak(dtype)) is not None}
    vector = pick(
        sheet.vector_flop_per_s.get("fp32"), measured.vector_flop_per_s.get("fp32"), "fp32 vector peak"
    )
    return Ceilings(
        device=device.name,
        fidelity=fidelity,
        matrix_by_dtype=matrix,
        vector_flop_per_s=vector,
        special_op_per_s=pick(sheet.special_op_per_s, measured.special_op_per_s, "special functions"),
        dram_byte_per_s=math.inf if dram is None else dram,  # absent only in a floor: no term
        link_byte_per_s=_link(device, fidelity),
        host_byte_per_s=_to_host(device, fidelity, HOST_LINKS),
        disk_byte_per_s=_to_host(device, fidelity, ("disk",)),
        host_memory_byte_per_s=_to_host(device, fidelity, ("host_memory",)),
        processors=sheet.processors.value if sheet.processors and device.kind == "gpu" else None,
        island=_island(device),
        unmeasured=tuple(unmeasured),
    )


def _link(device: Device, fidelity: Fidelity) -> float | None:
    """Bandwidth to the other devices: over the node's fabric, or the fastest kind of link of the device."""
    if device.node is None:
        return _link_byte_per_s(device, fidelity, LINKS, device.datasheet.links)
    within = {w.link: w} if (w := device.node.within) else {}
    return _link_byte_per_s(device, fidelity, tuple(within), within)  # only the links that the node uses


def _to_host(device: Device, fidelity: Fidelity, kinds: Sequence[LinkName]) -> float | None:
    """Bandwidth to the host's memory or disks, over the first of `kinds` that the device has."""
    return _link_byte_per_s(device, fidelity, kinds, device.datasheet.links)


def _link_byte_per_s(
    device: Device, fidelity: Fidelity, kinds: Sequence[LinkName], stated: Mapping[LinkName, Any]
) -> float | None:
    """Bandwidth of the first known one of `kinds`, measured if the fidelity takes that, else as stated."""
    rates = {name: link.byte_per_s for name, link in stated.items()}
    if fidelity is not Fidelity.DATASHEET:
        rates |= device.measured.links
    return next((rates[name].value for name in kinds if name in rates), None)


def _island(device: Device) -> Island | None:
    node = device.node
    if node is None:
        return None
    mesh = node.within is not None and node.within.topology == "mesh"
    return Island(node.name, node.count, mesh, node.between.byte_per_s.value if node.between else None)


def reference_fidelity(device: Device) -> Fidelity:
    """The ceilings that attained fractions refer to: measured ones, which can be reached, if in the file."""
    return Fidelity.MEASURED if device.measured.dram_byte_per_s else Fidelity.DATASHEET


def available(device: Device) -> list[Fidelity]:
    """The fidelities that a device file supports, `corrected` excepted, in order."""
    found = []
    for fidelity in EXPLAINED:
        try:
            ceilings(device, fidelity)
        except InputError:
            continue
        found.append(fidelity)
    return found
