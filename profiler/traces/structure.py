"""Begin and end of JSON values, vectorised over a buffer, without parsing them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
# Between two events, in any writer's style; the lookahead has the keys with which events begin.
BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:ph|name|cat|pid|tid|ts|dur|args|id|bp|s)"\s*:)')
CONTROL = bytes(range(0x20))
SPACES = bytes.maketrans(CONTROL, b" " * len(CONTROL))
OUTSIDE = re.compile(
    r'("(?:[^"\\]|\\.)*")|-?\b(?:NaN|nan|Infinity|inf)\b|-Infinity|(?<=[:\[,\s])[+](?=\d)', re.DOTALL
)
ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')


def spans(buffer: bytes) -> tuple[Any, int]:
    """Begin and end [objects, 2] of each complete object of a list, and the offset of its closing bracket.

    `buffer` starts after the opening bracket; the offset is -1 where the list does not end. Values other than
    objects are skipped.
    """
    data = np.frombuffer(buffer, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    if len(quotes):
        quotes = quotes[~_escaped(data, quotes)]
    marks = np.flatnonzero((data == 123) | (data == 125) | (data == 91) | (data == 93))
    marks = marks[np.searchsorted(quotes, marks) % 2 == 0]  # outside strings
    opens = (data[marks] == 123) | (data[marks] == 91)
    depth = np.cumsum(np.where(opens, 1, -1))
    ended = np.flatnonzero(depth < 0)
    end = int(marks[ended[0]]) if len(ended) else -1
    if len(ended):
        marks, opens, depth = marks[: ended[0]], opens[: ended[0]], depth[: ended[0]]
    closed = np.flatnonzero(~opens & (depth == 0) & (data[marks] == 125))
    opened = np.flatnonzero(opens & (depth == 1) & (data[marks] == 123))[: len(closed)]
    closed = closed[: len(opened)]  # brackets may not match, which decoding detects
    return np.stack([marks[opened], marks[closed] + 1], axis=1), end


def _escaped(data: Any, at: Any) -> Any:
    """Whether an odd number of backslashes precedes each position."""
    slash = np.flatnonzero(data == ord("\\"))
    if not len(slash):
        return np.zeros(len(at), bool)
    # The length of the run of backslashes that ends at each backslash.
    index = np.arange(len(slash))
    first = np.concatenate([[True], np.diff(slash) > 1])
    length = index - np.maximum.accumulate(np.where(first, index, 0)) + 1
    found = np.searchsorted(slash, at) - 1
    inside = (found >= 0) & (slash[np.maximum(found, 0)] == at - 1)
    return inside & (length[np.maximum(found, 0)] % 2 == 1)


def list_begin(buffer: bytes, key: bytes) -> int:
    """The offset after the opening bracket of the list `key` of the outer object; -1 where it is not found.

    Equal keys of inner objects, or in strings, are skipped.
    """
    depth, wanted, last = 0, b'"' + key + b'"', -1
    for token in TOKEN.finditer(buffer):
        text = token.group()
        if text in (b"{", b"["):
            if text == b"[" and depth == 1 and last >= 0 and buffer[last : token.start()].strip() == b":":
                return token.end()
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        last = token.end() if depth == 1 and text == wanted else -1
    return -1


def mended(text: bytes) -> bytes:
    """JSON with common errors of trace writers repaired, and its structure unchanged.

    Control characters become spaces, invalid UTF-8 the replacement character, NaN and infinities null;
    invalid escapes become backslashes.
    """
    words = text.translate(SPACES).decode("utf-8", "replace")

    def value(found: re.Match[str]) -> str:
        string = found.group(1)
        if string is None:
            return "" if found.group() == "+" else "null"
        if "\\" not in string:
            return string
        return ESCAPE.sub(lambda e: e.group() if len(e.group()) > 1 else "\\\\", string)

    return OUTSIDE.sub(value, words).encode("utf-8")
