"""Does a device file agree with itself? Peaks against units x rate x clock, bandwidth against its pins.

Two statements of the same silicon that differ by more than `TOLERANCE` are an error (one of them is sparse,
counts both directions or belongs to another product), unless the value carries a `note` that says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from hwspecs.schema import Device
from hwspecs.values import Sourced, walk

TOLERANCE = 0.03  # data sheets round to two or three digits
Severity = Literal["ok", "note", "error"]


@dataclass(frozen=True)
class Finding:
    """What one rule found on one value; a `note` is a disagreement that the file explains."""

    device: str
    rule: str
    severity: Severity
    message: str


_Multiples = Mapping[str, float]
_Row = tuple[int, _Multiples, int, int, str]
_SM80: _Multiples = {"tf32": 0.5, "int8": 2, "int4": 4}
_ADA: _Multiples = {**_SM80, "fp8": 2}
_FORCE: _Multiples = {"tf32": 0.5, "fp8": 2, "int8": 4, "int4": 8, "fp4": 8}  # only FP32 sums are halved
_SM100: _Multiples = {"tf32": 0.5, "fp8": 2, "int8": 2, "fp4": 4}
_SM103: _Multiples = {"tf32": 0.5, "fp8": 2, "fp4": 6}  # no document states the rate that INT8 was cut to
_CDNA4: _Multiples = {"fp8": 2, "int8": 2, "fp6": 4, "fp4": 4}
# Dense FLOP per clock and processor with FP32 accumulation: the 16-bit tensor rate, the other dtypes as
# multiples of it, the FP32 and FP64 vector rates (0: not stated), and what states the rate or a peak of it.
RATES: dict[str, _Row] = {
    "Volta (sm70)": (1024, {}, 128, 64, "V100 white paper: 8 tensor cores x 64 FMA"),
    "Turing (sm75)": (1024, {"int8": 2, "int4": 4}, 128, 4, "Turing white paper: 8 tensor cores x 64 FMA"),
    "Ampere (sm80)": (2048, {**_SM80, "fp64": 1 / 16}, 128, 64, "A100 white paper: 4 tensor cores x 256 FMA"),
    "Ampere (sm86)": (1024, _SM80, 256, 4, "GA102 white paper: 4 tensor cores x 128 FMA"),
    "Ampere GeForce (sm86)": (512, _FORCE, 256, 4, "GA102 white paper: half of it with FP32 sums"),
    "Ampere Tegra (sm87)": (2048, _SM80, 256, 0, "AGX Orin: 85 INT8 TOP/s, 16 SM, 1.3 GHz"),
    "Ada (sm89)": (1024, _ADA, 256, 4, "Ada white paper: 4 tensor cores x 128 FMA"),
    "Ada GeForce (sm89)": (512, _FORCE, 256, 4, "Ada white paper: half of it with FP32 sums"),
    "Hopper (sm90)": (4096, {**_ADA, "fp64": 1 / 16}, 256, 128, "H100 white paper: 4 tensor cores x 512 FMA"),
    "Blackwell (sm100)": (8192, {**_SM100, "fp64": 1 / 64}, 256, 128, "Chips and Cheese: 4 x 1024 FMA"),
    "Blackwell Ultra (sm103)": (8192, _SM103, 256, 4, "B300: 2.25 PFLOP/s, 148 SM, 1.856 GHz"),
    "Blackwell Tegra (sm110)": (8192, _SM100, 256, 0, "Thor: 1035 FP4 TFLOP/s, 20 SM, 1.57 GHz"),
    "Blackwell GeForce (sm120)": (512, _FORCE, 256, 4, "RTX 5090: 209.5 TFLOP/s, 170 SM, 2.407 GHz"),
    "Blackwell RTX PRO (sm120)": (1024, _SM100, 256, 4, "467.8 TFLOP/s, 188 SM, 2.43 GHz"),
    "CDNA2 (gfx90a)": (1024, {"fp64": 0.25, "fp32": 0.25, "int8": 1}, 128, 128, "ROCm documentation, MI250"),
    "CDNA3 (gfx942)": (2048, {**_ADA, "fp64": 1 / 8}, 256, 128, "ROCm documentation, MI300 series"),
    "CDNA4 (gfx950)": (4096, _CDNA4, 256, 128, "MI355X: 2516.6 TFLOP/s, 256 CU, 2.4 GHz"),
    "RDNA 3.5 (gfx1151)": (512, {"int8": 1, "int4": 2}, 256, 0, "AMD GPUOpen, WMMA on RDNA 3"),
    "Xe2 (Battlemage)": (2048, {"int8": 2}, 256, 0, "Arc Pro B60: 197 INT8 TOP/s, 20 Xe cores, 2.4 GHz"),
    "Sapphire Rapids": (1024, {"int8": 2}, 64, 0, "Intel and Microsoft, DeepSpeed on 4th Gen Xeon"),
    "Zen 4": (0, {}, 32, 0, "Chips and Cheese: two 256-bit FMA"),
}
_UNKNOWN: _Row = (0, {}, 0, 0, "")
WIDER = {"bf16": "tf32", "fp8": "bf16", "int8": "fp16", "fp4": "fp8", "int4": "int8"}  # twice the bits
_PCIE = {"PCIe 3.0": 0.985e9, "PCIe 4.0": 1.969e9, "PCIe 5.0": 3.938e9, "PCIe 6.0": 7.563e9}
_NVLINK = {"NVLink 2": 25e9, "NVLink 3": 25e9, "NVLink 4": 25e9, "NVLink 5": 50e9}
LANE_BYTE_PER_S = {**_PCIE, **_NVLINK, "UPI 2.0": 48e9}  # one lane or link in one direction
_Said = Iterator[tuple[Severity, str]]


def check_device(device: Device) -> list[Finding]:
    """Every rule on every value that it can judge; no finding where a file states too little."""
    rules = (_dtype_ratios, _peaks, _bandwidth, _measured, _memory_sizes, _links)
    return [Finding(device.name, r.__name__.strip("_"), *said) for r in rules for said in r(device)]


def _judged(fine: bool, note: str | None = None) -> Severity:
    return "ok" if fine else "note" if note else "error"


def compared(key: str, value: Sourced, expected: float, how: str) -> tuple[Severity, str]:
    """The deviation of a value from what it follows from; a note where the file explains it."""
    off = value.value / expected - 1
    told = f"{key}: {value.value:g} is {100 * off:+.1f} % from {how}."
    return _judged(abs(off) <= TOLERANCE, value.note), told


def _rate(device: Device, unit: str, dtype: str) -> float:
    """Dense FLOP per clock and processor; 0 where it is not known."""
    half, multiples, fp32, fp64, _ = RATES.get(device.architecture, _UNKNOWN)
    if unit == "vector":
        return {"fp32": fp32, "fp64": fp64}.get(dtype, 0)
    return half * {"fp16": 1, "bf16": 1, **multiples}.get(dtype, 0)


def _dtype_ratios(device: Device) -> _Said:
    """Half the bits are at most twice as fast, or as the architecture states; more is a sparse peak."""
    peaks = {str(dtype): peak for dtype, peak in device.datasheet.tensor_flop_per_s.items()}
    for narrow, wide in WIDER.items():
        if narrow in peaks and wide in peaks:
            fast, slow = _rate(device, "tensor", narrow), _rate(device, "tensor", wide)
            most, ratio = max(2.0, fast / slow if slow else 0.0), peaks[narrow].value / peaks[wide].value
            verdict = _judged(ratio <= most * (1 + TOLERANCE), peaks[narrow].note)
            yield verdict, f"tensor_flop_per_s.{narrow}: {ratio:.2f} times {wide}; dense, at most {most:g}."


def _peaks(device: Device) -> _Said:
    """FLOP/s against processors x FLOP per clock (vector units: lanes x 2) x Hz."""
    sheet, source = device.datasheet, RATES.get(device.architecture, _UNKNOWN)[-1]
    for unit, peaks in (("tensor", sheet.tensor_flop_per_s), ("vector", sheet.vector_flop_per_s)):
        for dtype, peak in peaks.items():
            rate, at_vector_clock = _rate(device, unit, dtype), unit == "vector" or dtype == "fp64"
            clock = (sheet.vector_clock_hz if at_vector_clock else None) or sheet.clock_hz
            if rate and clock and sheet.processors:
                how = f"{sheet.processors.value:g} x {rate:g} FLOP x {clock.value:g} Hz ({source})"
                expected = sheet.processors.value * rate * clock.value
                yield compared(f"{unit}_flop_per_s.{dtype}", peak, expected, how)


def _bandwidth(device: Device) -> _Said:
    """DRAM bytes/s against pins x bit/s per pin / 8."""
    dram = device.datasheet.dram
    if dram.byte_per_s and dram.bus_bits and dram.pin_bit_per_s:
        expected = dram.bus_bits.value * dram.pin_bit_per_s.value / 8
        how = f"{dram.bus_bits.value:g} bits x {dram.pin_bit_per_s.value:g} bit/s / 8"
        yield compared("dram.byte_per_s", dram.byte_per_s, expected, how)


def _measured(device: Device) -> _Said:
    """What was reached (FLOP/s, operations/s, bytes/s) lies below the data sheet."""
    limits = dict(walk(device.datasheet))
    for key, value in walk(device.measured):
        stated = {"dram_byte_per_s": "dram.byte_per_s", "l2_byte_per_s": "l2.byte_per_s"}.get(key, key)
        limit = limits.get(stated) or limits.get(f"{stated}.byte_per_s")
        if limit:
            part = value.value / limit.value
            told = f"measured.{key}: {100 * part:.1f} % of the stated {limit.value:g}."
            yield _judged(part <= 1, value.note), told


def _memory_sizes(device: Device) -> _Said:
    """Caches are smaller than the DRAM; its driver reports the stated GB as 1e9 to 2**30 bytes."""
    sheet, memory = device.datasheet, device.datasheet.dram.capacity_bytes.value
    for key, cache in (("l2", sheet.l2), ("last_level_cache", sheet.last_level_cache)):
        if cache:
            size = cache.capacity_bytes.value
            yield _judged(size < memory), f"{key}.capacity_bytes: {size:g} against {memory:g} of DRAM."
    if reported := device.measured.dram_capacity_bytes:
        part = reported.value / memory
        fine = 1 - TOLERANCE <= part <= 2**30 / 1e9 * (1 + TOLERANCE)
        yield _judged(fine), f"measured.dram_capacity_bytes: {100 * part:.1f} % of the stated {memory:g}."


def _links(device: Device) -> _Said:
    """Bytes/s of one direction are at most lanes x rate; twice that counts both directions."""
    for name, link in device.datasheet.links.items():
        if most := lanes_byte_per_s(link.type):
            found = link.byte_per_s.value
            verdict = _judged(found <= most * (1 + TOLERANCE))
            yield verdict, f"links.{name}.byte_per_s: {found:g}; {link.type} gives {most:g} in one direction."


def lanes_byte_per_s(type: str) -> float | None:
    """Bytes/s in one direction of a kind of link that is named with its lanes; None for other kinds.

    >>> lanes_byte_per_s("NVLink 4, 18 links"), lanes_byte_per_s("RoCE, 21 of 24 x 200 Gbit/s")
    (450000000000.0, 525000000000.0)
    """
    if lanes := re.fullmatch(r"(PCIe [\d.]+|NVLink \d|UPI [\d.]+)(?: x|, )(\d+)(?: links)?", type):
        rate = LANE_BYTE_PER_S.get(lanes[1])
        return rate and int(lanes[2]) * rate
    if ports := re.fullmatch(r"RoCE, (?:(\d+) of )?(\d+) x (\d+) Gbit/s", type):
        return int(ports[1] or ports[2]) * int(ports[3]) * 1e9 / 8
    return None
