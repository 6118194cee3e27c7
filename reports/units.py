"""Formatting of SI values. Only formatters scale."""

from __future__ import annotations

import math
from typing import Any

PREFIXES = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)

DIVISIBLE = ("s", "J", "W")  # units that have thousandths


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with its SI prefix: si(3.35e12, "B/s") is "3.35 TB/s"; a dash where there is none.

    Bytes, FLOP and rates below one have no prefix: a millibyte is not a thing.
    """
    if value is None:
        return "–"
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return f"0 {unit}".strip() if value == 0 else "–"
    scale, prefix = next(((s, p) for s, p in PREFIXES if abs(value) >= s * (1 - 1e-9)), PREFIXES[-1])
    if not unit.startswith(DIVISIBLE) and scale < 1:
        scale, prefix = 1.0, ""
    scaled = value / scale
    whole = len(str(int(abs(scaled))))
    return f"{scaled:.{max(0, digits - whole)}f} {prefix}{unit}".rstrip()


def seconds(value: float | None) -> str:
    """A time, for columns."""
    return si(value, "s")


def in_bytes(value: float | None) -> str:
    """A size, for columns."""
    return si(value, "B")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * float(value):.{digits}f} %"


def usd(value: float | None) -> str:
    """Dollars, for columns; tokens of a prompt cost cents a million."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def text(value: Any) -> str:
    """Anything else; a dash for nothing."""
    return "–" if value is None else str(value)
