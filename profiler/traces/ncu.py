"""Counters of Nsight Compute from `ncu --csv`: the raw page, the details page and single sections.

A raw page has a row per kernel under a row of units; other pages have a row per kernel and metric, each with
its unit. Output of the profiled program and of ncu itself (==PROF==) may be interleaved.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from profiler.traces.columns import Words
from profiler.traces.ncumetrics import DECIMAL_COMMA, Readings, derived, reading
from profiler.traces.sound import Losses
from profiler.traces.tables import Origin, Trace, make_table
from specfiles.errors import InputError

ID, KERNEL, METRIC, UNIT, VALUE = "ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value"
# The column of `ncu --nvtx`: a thread's number and, quoted, each open range's domain, name and attributes.
RANGES = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
_RANGE = re.compile(r'"roofline:([^:"]+):[^"]*"')
MOST_PROLOGUE = 1 << 22  # maximum characters of program output before the header
MOST_LINE = 1 << 20
MOST_KERNELS = 1_000_000


@dataclass
class Measured:
    """One profiled kernel: process and device, and its metrics in SI units by ncu's names.

    `ranges` are the NVTX ranges of the domain `roofline` around its launch, the outermost first.
    """

    process: int
    device: int
    name: str
    ranges: tuple[str, ...] = ()
    metrics: Readings = field(default_factory=dict)


def read(path: Path) -> Trace:
    """The counters of a CSV page; InputError for other files."""
    losses = Losses()
    return as_trace(path, profiled(path, losses), losses)


def profiled(path: Path, losses: Losses) -> list[Measured]:
    """The kernels of a CSV page, in launch order; InputError for other files."""
    kernels: dict[tuple[int, int], Measured] = {}
    with opened(path) as lines:
        header = _header(lines)
        if header is None:
            raise InputError(
                f"{path}: is no CSV of Nsight Compute (no header with 'ID' and 'Kernel Name'); "
                "`ncu --csv --page raw` prints one."
            )
        try:
            for count in _added(_records(lines, header, losses), header, losses, kernels):
                if count > MOST_KERNELS:
                    raise InputError(f"{path}: holds more than {MOST_KERNELS} kernels; export fewer.")
        except _DecimalCommaError as error:
            raise InputError(
                f"{path}: has numbers with decimal commas ({str(error)[:40]}), where 1.234 may be 1234; "
                "export it in the C locale: `LC_ALL=C ncu --import REPORT.ncu-rep --csv --page raw`."
            ) from None
    return list(kernels.values())


def as_trace(path: Path, kernels: list[Measured], losses: Losses) -> Trace:
    """Profiled kernels, in order of launch, as a trace of counters only."""
    losses.note("noted", int(not kernels), "page without any kernel")
    words = Words()
    rows = []
    for order, kernel in enumerate(kernels):
        name = words.known[words.codes([kernel.name])[0]]
        found = derived(kernel.metrics)
        rows += [(0, kernel.process, kernel.device, name, order, m, v) for m, v in found.items()]
    names = ("source", "process", "device", "name", "order", "metric", "value")
    columns = dict(zip(names, zip(*rows, strict=True) if rows else [[]] * len(names), strict=True))
    table = make_table("counters", {key: list(values) for key, values in columns.items()})
    origin = Origin(file=path.name, format="ncu")
    return Trace((origin,), {"counters": table}, (), losses.found())


def is_page(path: Path) -> bool:
    """Whether a file is such a CSV page, with any text before its header."""
    with path.open("rb") as file:
        head = file.read(MOST_PROLOGUE).replace(b"\0", b"")  # of UTF-16 too
    if KERNEL.encode() not in head:
        return False
    with opened(path) as lines:
        return _header(lines) is not None


def opened(path: Path) -> TextIO:
    """The file as text: UTF-8, or UTF-16 as a Windows shell writes it; other bytes are replaced."""
    with path.open("rb") as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return path.open(encoding=encoding, errors="replace", newline="")


def _header(lines: TextIO) -> list[str] | None:
    """The fields of the header line; None where there is none within a few megabytes."""
    seen = 0
    while seen < MOST_PROLOGUE and (line := lines.readline(MOST_LINE)):
        seen += len(line)
        if ID in line and KERNEL in line:
            fields = _fields(line)
            if fields and fields[0].lstrip("\ufeff") == ID and KERNEL in fields:
                return [ID, *fields[1:]]
    return None


def _records(lines: TextIO, header: list[str], losses: Losses) -> Iterator[dict[str, str]]:
    """The rows under a header. Another header (of a further process) is skipped, a broken row counted."""
    least = header.index(VALUE) + 1 if VALUE in header else len(header)  # rows without a rule may end there
    while line := lines.readline(MOST_LINE):
        if not line.strip() or line.startswith("=="):
            continue
        fields = _fields(line)
        if fields[:1] == [ID]:
            continue
        if least <= len(fields) <= len(header) and line.count('"') % 2 == 0:
            yield dict(zip(header, fields, strict=False))
        elif fields and fields[0].isdecimal() and len(fields) > 3:
            losses.note("dropped", 1, _BROKEN)
        else:
            losses.note("noted", 1, _OTHER)


class _DecimalCommaError(Exception):
    """A number that is valid only in a locale with decimal commas."""


_BROKEN = "rows of the CSV that are cut short or too long"
_NUMBERLESS = "rows of the CSV whose ID is no number of a kernel"
_OTHER = "lines of the profiled program among the rows"
_UNREADABLE = "metrics whose value or unit cannot be read"


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _added(
    rows: Iterator[dict[str, str]],
    header: list[str],
    losses: Losses,
    kernels: dict[tuple[int, int], Measured],
) -> Iterator[int]:
    """Add each row to the kernels, and tell how many there are.

    A row has one metric of a kernel (those of rules have none) or, on a raw page, all of them: then the first
    row, without an ID, holds the units.
    """
    units: dict[str, str] = {}
    metrics = [name for name in header if "__" in name]
    for row in rows:
        if not row[ID].strip():
            units = row
        elif not (key := _key(row)):
            losses.note("dropped", 1, _NUMBERLESS)
        elif METRIC in header:
            kernel = kernels.get(key) or kernels.setdefault(key, _kernel(row))
            _take(kernel, row.get(METRIC, ""), row.get(VALUE, ""), row.get(UNIT, ""), losses)
        else:
            kernels[key] = _kernel(row)
            for name in metrics:
                _take(kernels[key], name, row[name], units.get(name, ""), losses)
        yield len(kernels)


def _take(kernel: Measured, metric: str, value: str, unit: str, losses: Losses) -> None:
    if not metric or value.strip().lower() in ("", "n/a", "nan", "(null)"):
        return
    found = reading(metric, value, unit)
    if found is None and DECIMAL_COMMA.fullmatch(value.strip()):
        raise _DecimalCommaError(value.strip())
    if found is None:
        losses.note("dropped", 1, _UNREADABLE)
    elif found:
        kernel.metrics[found[0]] = found[1]


def _key(row: dict[str, str]) -> tuple[int, int] | None:
    """The kernel's key: ids are per process, and a file may contain pages of several processes."""
    number = _integer(row[ID])
    return (_integer(row.get("Process ID", "")), number) if number >= 0 else None


def _kernel(row: dict[str, str]) -> Measured:
    process, device = _integer(row.get("Process ID", "")), _integer(row.get("Device", ""))
    return Measured(process, device, row[KERNEL], tuple(_RANGE.findall(row.get(RANGES) or "")))


def _integer(text: str) -> int:
    digits = text.strip().replace(",", "")
    return int(digits) if digits.isdecimal() and len(digits) < 10 else -1
