"""Where JSON values begin and end: vectorised over a buffer, without parsing what lies inside."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
# Between two events, as any writer puts it; the lookahead names the keys that events begin with.
BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:ph|name|cat|pid|tid|ts|dur|args|id|bp|s)"\s*:)')
CONTROL = bytes(range(0x20))
SPACES = bytes.maketrans(CONTROL, b" " * len(CONTROL))
OUTSIDE = re.compile(
    r'("(?:[^"\\]|\\.)*")|-?\b(?:NaN|nan|Infinity|inf)\b|-Infinity|(?<=[:\[,\s])[+](?=\d)', re.DOTALL
)
ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')


def spans(buffer: bytes) -> tuple[Any, int]:
    """Begin and end of each complete object of a list whose inside starts at `buffer`, and where it ends.

    Returns an array [objects, 2] and the offset of the list's closing bracket (-1 where it is not
    reached). Values that are no objects are passed over.
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
    closed = closed[: len(opened)]  # `[ ... }` closes what it did not open: decoding will tell
    return np.stack([marks[opened], marks[closed] + 1], axis=1), end


def _escaped(data: Any, at: Any) -> Any:
    """Whether an odd number of backslashes stands before each position."""
    slash = np.flatnonzero(data == ord("\\"))
    if not len(slash):
        return np.zeros(len(at), bool)
    # The run of backslashes that ends at each backslash, by its length.
    index = np.arange(len(slash))
    first = np.concatenate([[True], np.diff(slash) > 1])
    length = index - np.maximum.accumulate(np.where(first, index, 0)) + 1
    found = np.searchsorted(slash, at) - 1
    inside = (found >= 0) & (slash[np.maximum(found, 0)] == at - 1)
    return inside & (length[np.maximum(found, 0)] % 2 == 1)


def list_begin(buffer: bytes, key: bytes) -> int:
    """Where the inside of the list under `key` of the outer object begins; -1 where it does not (yet).

    A key of the same name deeper inside, or inside a string, is passed over.
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
    """JSON with what writers of traces get wrong put right, its structure untouched.

    Control characters become spaces and bytes that are not UTF-8 the replacement character; NaN and
    infinities become null; a backslash that escapes nothing stands for itself.
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
