"""Small phrases shared by summaries and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

APART = " · "  # between a name and what tells it from others of the same name


def rate(value: float) -> str:
    """A plain number: thousands separated, three digits below a hundred."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain(value: float | None) -> str:
    """A number in four digits, or whole with its thousands separated; a dash where there is none."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"


def alike(values: Iterable[float | None]) -> Callable[[float | None], str]:
    """`plain` for the values of a column, all with as many decimals as one of them needs."""
    digits = max((len(plain(value).partition(".")[2]) for value in values), default=0)
    return lambda value: plain(value) if value is None else f"{value:,.{digits}f}"


def short(name: str, most: int) -> str:
    """A name truncated with an ellipsis to a maximum length."""
    return name if len(name) <= most else name[: most - 1] + "…"


def signed(value: float | None, digits: int = 1) -> str:
    """A relative difference with its sign."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:+.{digits}f} %".replace("-", "−")


def moment(stamp: str) -> str:
    """A time stamp as a reader writes it: "2026-11-22 18:34:55 UTC"."""
    return stamp.replace("T", " ", 1).replace("+00:00", " UTC")


def counted(number: int, noun: str) -> str:
    """How many of something: "1 kernel", "12 kernels"."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def listed(items: list[str]) -> str:
    """Items as a reader says them: "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
