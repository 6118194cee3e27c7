"""Lists of arbitrary JSON values as clean columns: whole nanoseconds, integers, dictionary-coded words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

NONE = -1  # of what is not known
BAD = np.iinfo(np.int64).min  # an invalid time
MOST_NS = 4e18
# Below this a float64 of microseconds is exact to the nanosecond.
EXACT_US = 9.0e12
MOST_WORD = 2000
MOST_PROCESS = 2**31 - 1
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class InexactTimesError(Exception):
    """Microseconds since 1970 with decimals, which exceed a float's precision."""


class Words:
    """Distinct words and their codes; control characters replaced, very long words cut (and counted)."""

    def __init__(self) -> None:
        self.cleaned = 0
        self._codes = _Codes(self)
        self.known: list[str] = []

    def codes(self, words: Sequence[Any]) -> Any:
        """The code of each word as int32; -1 for None."""
        return np.fromiter(map(self._codes.__getitem__, words), np.int32, len(words))

    def array(self, codes: Any) -> pa.DictionaryArray:
        """Codes as a column of words."""
        indices = pa.array(codes, pa.int32(), mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.known, pa.string()))

    def new(self, word: Any) -> int:
        """The code of a new word."""
        if word is None:
            return NONE
        text = word if isinstance(word, str) else str(word)
        clean = UNPRINTABLE.sub("\ufffd", text[:MOST_WORD])
        if len(text) > MOST_WORD:  # the hash keeps distinct words distinct
            clean += f"… ({len(text)} characters, {hash_of(text)})"
        self.cleaned += clean != text
        self.known.append(clean)
        return len(self.known) - 1


class _Codes(dict[Any, int]):
    def __init__(self, words: Words) -> None:
        self._words = words

    def __missing__(self, word: Any) -> int:
        code = self[word] = self._words.new(word)
        return code


def hash_of(text: str) -> str:
    """A short name for a long text."""
    import zlib

    return f"{zlib.crc32(text.encode('utf-8', 'replace')):08x}"


def integers(values: Sequence[Any]) -> Any:
    """int64; numbers in strings are parsed, other values are -1."""
    try:
        return np.array(values, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        if all(value is None for value in values):
            return np.full(len(values), NONE, np.int64)
        return np.fromiter(map(integer, values), np.int64, len(values))


def integer(value: Any) -> int:
    """A whole number, or -1."""
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return NONE
    return found if abs(found) < 2**62 else NONE


def whole_number(value: Any) -> int | None:
    """The value if it is a count, else None."""
    return value if isinstance(value, int) and 0 <= value < 2**62 else None


def identities(values: Sequence[Any], words: Words) -> Any:
    """Process and thread ids: integers as they are, words ("Spans") numbered from -2 downwards."""
    try:
        return np.array(values, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        found = [integer(v) if not isinstance(v, str) or v.isdecimal() else None for v in values]
        codes = words.codes([v if isinstance(v, str) else None for v in values])
        return np.array([-2 - c if f is None else f for f, c in zip(found, codes, strict=True)], np.int64)


def processes(values: Sequence[Any], words: Words) -> Any:
    """Process ids in 32 bits; larger ones, which no system assigns, are treated as words."""
    found = identities(values, words)
    large = np.abs(found) >= MOST_PROCESS
    if large.any():
        found[large] = -2 - words.codes([str(number) for number in found[large].tolist()])
    return found


def nanoseconds(values: Sequence[Any], *, exact: bool = False, short: bool = False) -> Any:
    """Microseconds as whole nanoseconds; BAD where a value is missing, NaN or beyond any clock.

    Raises InexactTimesError where a float loses nanoseconds; `exact` takes raw JSON instead; `short` values
    are durations, which are never that long.
    """
    if exact:
        return np.fromiter(map(_exact, values), np.int64, len(values))
    try:
        floats = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        floats = np.fromiter(map(_float, values), np.float64, len(values))
    if not short and (np.abs(floats) >= EXACT_US).any():
        if any(type(value) not in (int, NoneType) for value in values):
            raise InexactTimesError
        return np.fromiter(map(_whole, values), np.int64, len(values))
    with np.errstate(over="ignore"):
        scaled = np.rint(floats * 1000)
    good = np.abs(scaled) < MOST_NS  # False for NaN
    return np.where(good, scaled, 0).astype(np.int64) + np.where(good, 0, BAD)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _whole(value: int | None) -> int:
    return value * 1000 if value is not None and abs(value) * 1000 < MOST_NS else int(BAD)


def _exact(raw: Any) -> int:
    text = bytes(raw).strip(b'" ') if isinstance(raw, msgspec.Raw) else b""
    whole, _, decimals = text.partition(b".")
    if decimals.isdigit() and whole.isdigit() and len(decimals) <= 3 and len(whole) <= 18:
        value = int(whole) * 1000 + int(decimals.ljust(3, b"0"))
        return value if value < MOST_NS else int(BAD)
    try:
        value = int((Decimal(text.decode("ascii", "replace")) * 1000).to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        return int(BAD)
    return value if abs(value) < MOST_NS else int(BAD)
