"""The ceilings that a prediction divides by, drawn from a device file at a stated fidelity."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from hwspecs import Constants, Device, Sourced
from specfiles.errors import InputError
from workloads.dtypes import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roofline.physics.kernels import Kernels


class Fidelity(StrEnum):
    """How far a prediction goes beyond the data sheet; each includes the one before."""

    DATASHEET = "datasheet"  # the classic roofline: a lower bound on time
    MEASURED = "measured"  # the same with ceilings that were reached on the device
    CALIBRATED = "calibrated"  # with constants per operator kind, or the kernel models of GPUs


@dataclass(frozen=True)
class Ceilings:
    """What one device can do at most, in SI units. A ceiling that no document gives is absent.

    Asking for an absent one is an error, never a guess; `notes` says which values stand in for
    others (a data-sheet value where nobody measured).
    """

    device: str
    fidelity: Fidelity
    matrix_by_dtype: Mapping[str, float]
    vector_flop_per_s: float | None
    special_op_per_s: float | None
    dram_byte_per_s: float
    link_byte_per_s: float | None
    launch_s: float = 0.0
    # (capacity in bytes, bandwidth) from the nearest cache outwards: activations that fit are served there
    caches: tuple[tuple[float, float], ...] = ()
    # No time is below that of the data sheet: the fidelities stay ordered.
    floor: Ceilings | None = None
    constants: Mapping[tuple[str, str], Constants] = field(default_factory=dict)
    kernels: Kernels | None = None  # of a GPU at the calibrated fidelity; `constants` come first
    notes: tuple[str, ...] = ()

    def matrix_flop_per_s(self, dtype: str) -> float:
        """The dense peak of matrix products in a dtype."""
        unit = compute_dtype(dtype)
        if unit not in self.matrix_by_dtype:
            known = ", ".join(sorted(self.matrix_by_dtype)) or "none"
            raise InputError(
                f"{self.device} has no dense peak for {unit} (it has: {known}); choose another dtype "
                "or add the peak with its source to the device file."
            )
        return self.matrix_by_dtype[unit]

    def link(self) -> float:
        """Bandwidth to the other devices, one direction."""
        if self.link_byte_per_s is None:
            raise InputError(
                f"{self.device} has no link to other devices in its file; use --tp 1 or add `links`."
            )
        return self.link_byte_per_s


def _caches(device: Device) -> tuple[tuple[float, float], ...]:
    """Measured cache levels. What is reached at a footprint can be reached at every smaller one."""
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


def ceilings(device: Device, fidelity: Fidelity | str = Fidelity.DATASHEET) -> Ceilings:
    """The ceilings of a device at a fidelity.

    Raises InputError where the file lacks what the fidelity needs.
    """
    fidelity = Fidelity(fidelity)
    sheet, measured = device.datasheet, device.measured
    notes: list[str] = []

    def pick(stated: Sourced | None, reached: Sourced | None, what: str) -> float | None:
        if fidelity is Fidelity.DATASHEET:
            return stated.value if stated else None
        if reached is None and stated is not None:
            notes.append(f"{what}: data-sheet value, nobody measured it")
        chosen = reached or stated
        return chosen.value if chosen else None

    kernels = _kernels(device) if fidelity is Fidelity.CALIBRATED else None
    if fidelity is not Fidelity.DATASHEET and measured.dram_byte_per_s is None and kernels is None:
        raise InputError(
            f"{device.name} has no measured memory bandwidth; use --fidelity datasheet, "
            "or measure the device with `roofline ceilings`."
        )
    if kernels is not None and kernels.transferred_from:
        notes.append(f"kernel constants transferred from {kernels.transferred_from}: not calibrated itself")
    dram = pick(sheet.dram.byte_per_s, measured.dram_byte_per_s, "memory bandwidth")
    if dram is None:
        raise InputError(
            f"{device.name} has no data-sheet memory bandwidth; use --fidelity measured, "
            "or add dram.byte_per_s with its source to the device file."
        )
    # Matrix products run on the tensor units where these know the dtype, else on the vector units.
    stated_peaks = {**sheet.vector_flop_per_s, **sheet.tensor_flop_per_s}
    reached_peaks = {**measured.vector_flop_per_s, **measured.tensor_flop_per_s}
    matrix = {
        dtype: pick(stated_peaks.get(dtype), reached_peaks.get(dtype), f"{dtype} peak")
        for dtype in {**stated_peaks, **reached_peaks}
    }
    between = [
        sheet.links[name]
        for name in ("nvlink", "ici", "xgmi", "chip", "ethernet", "pcie")
        if name in sheet.links
    ]
    vector = pick(
        sheet.vector_flop_per_s.get("fp32"), measured.vector_flop_per_s.get("fp32"), "fp32 vector peak"
    )
    operators = device.calibration.operators if device.calibration else {}
    return Ceilings(
        device=device.name,
        fidelity=fidelity,
        matrix_by_dtype={dtype: peak for dtype, peak in matrix.items() if peak is not None},
        vector_flop_per_s=vector,
        special_op_per_s=pick(sheet.special_op_per_s, measured.special_op_per_s, "special functions"),
        dram_byte_per_s=dram,
        link_byte_per_s=between[0].byte_per_s.value if between else None,
        launch_s=measured.launch_s.value if measured.launch_s and fidelity is not Fidelity.DATASHEET else 0.0,
        constants={(kind, c.dtype): c for kind, entries in operators.items() for c in entries}
        if fidelity is Fidelity.CALIBRATED
        else {},
        caches=() if fidelity is Fidelity.DATASHEET else _caches(device),
        floor=None if fidelity is Fidelity.DATASHEET or sheet.dram.byte_per_s is None else ceilings(device),
        kernels=kernels,
        notes=tuple(notes),
    )


def _kernels(device: Device) -> Kernels | None:
    """The kernel models of a GPU; None for a device that has only constants of its own operators.

    Raises InputError where the device has neither.
    """
    from roofline.physics.kernels import Kernels

    try:
        return Kernels(device)
    except InputError:
        if device.calibration is not None and device.calibration.operators:
            return None
        raise InputError(
            f"{device.name} is not calibrated; use --fidelity measured, "
            "or calibrate the device with `roofline ceilings`."
        ) from None


def available(device: Device) -> list[Fidelity]:
    """The fidelities that a device file can give, from the least to the most."""
    found = []
    for fidelity in Fidelity:
        try:
            ceilings(device, fidelity)
        except InputError:
            continue
        found.append(fidelity)
    return found
