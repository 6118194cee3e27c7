"""Escaping of text from untrusted files for each place where it is shown."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from reports.wording import short

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Bidirectional control characters, which can make a name read as another.
DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """The text on one line, with control, surrogate and direction characters replaced.

    >>> visible("a\\tb\\x1b[31m")
    'a b\\ufffd[31m'
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\t\n\r\u2028\u2029":
        return " "
    return (
        REPLACEMENT
        if character in DIRECTION or unicodedata.category(character) in ("Cc", "Cs")
        else character
    )


def plotly_text(text: str, most: int = 120) -> str:
    """Text for plotly, which reads a little HTML (`<b>`, `<a href>`) in labels and hover boxes.

    Entities are decoded after tags were found, so that an escaped tag is shown and not obeyed.
    """
    return visible(short(text, most)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def json_for_script(data: Any) -> str:
    """JSON safe inside a `<script>` element: without `<`, `>`, `&` and line separators."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
