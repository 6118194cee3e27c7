"""Names in reports of Nsight Systems: the table of strings, ranges with PyTorch's annotations, copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiler.traces.columns import NONE, Words
from profiler.traces.database import Database
from profiler.traces.grouping import encoded
from profiler.traces.sound import constant, is_constant

MOST_CHARACTERS = 4000
UNNAMED = "(no name)"
PIECE = 1 << 20  # rows looked up at once
FIRST_OWN = -2  # names outside StringIds are numbered from here downwards
# emit_nvtx of torch: "aten::mm, seq = 3, op_id = 12, sizes = [[4, 5], [5, 6]], input_op_ids = [..]"
ANNOTATED = re.compile(
    r"(?P<name>.*?)(?:, seq = \d+)?(?:, op_id = \d+)?(?:, sizes = (?P<sizes>\[[\d, \[\]]*\]))?"
    r"(?:, input_op_ids = .*)?",
    re.DOTALL,
)
MARKS = (", seq = ", ", op_id = ", ", sizes = ")
# By CUPTI's kind of copy, from 1: host, device, array, peer.
COPIES = (
    "HtoD", "DtoH", "HtoA", "AtoH", "AtoA", "AtoD", "DtoA", "DtoD", "HtoH", "PtoP",
    "unified HtoD", "unified DtoH", "unified DtoD",
)  # fmt: skip


def copy_name(kind: int) -> str:
    """The name of a copy by CUPTI's kind of copy."""
    return f"memcpy {COPIES[kind - 1]}" if 0 < kind <= len(COPIES) else "memcpy"


class Strings:
    """StringIds: the report's table of most names, by number."""

    def __init__(self, database: Database) -> None:
        self._ids: Any = np.empty(0, np.int64)
        self._values = pa.array([], pa.binary())
        self._own: dict[bytes, int] = {}  # names stored in the tables themselves
        self._lock = Lock()
        self.cleaned = 0
        if database.has("StringIds", "id", "value"):
            text = f"substr(coalesce(value, ''), 1, {MOST_CHARACTERS})"
            tables = list(database.scan("StringIds", {"id": "id", "value": text}, _strings))
            if tables:
                whole = pa.concat_tables(tables).sort_by("id").combine_chunks()
                self._ids = whole["id"].to_numpy()
                self._values = whole["value"].combine_chunks()

    def used(self, numbers: Any, without: re.Pattern[str] | None = None) -> tuple[Any, list[str]]:
        """Numbers as codes from 0, and the strings that the codes stand for, without a pattern in them."""
        words, known = Words(), dict[int, int]()
        same = is_constant(numbers)
        codes = np.empty(1 if same else len(numbers), np.int32)
        for at in range(0, len(codes), PIECE):
            piece = slice(at, min(at + PIECE, len(codes)))
            places, distinct = encoded(numbers[piece])
            new = np.array([number for number in distinct.tolist() if number not in known], np.int64)
            texts = self._texts(new)
            found = words.codes([without.sub("", text) for text in texts] if without else texts)
            known.update(zip(new.tolist(), found.tolist(), strict=True))
            codes[piece] = np.array([known[number] for number in distinct.tolist()], np.int32)[places]
        self.cleaned += words.cleaned
        return constant(codes[0], len(numbers)) if same else codes, words.known

    def _texts(self, numbers: Any) -> list[str]:
        rows, own = self._rows(numbers), list(self._own)
        found = self._values.take(pa.array(np.maximum(rows, 0))).to_pylist() if len(self._ids) else []
        texts = []
        for at, (row, number) in enumerate(zip(rows.tolist(), numbers.tolist(), strict=True)):
            if row >= 0:
                texts.append(decoded(found[at]))
            elif 0 <= FIRST_OWN - number < len(own):
                texts.append(decoded(own[FIRST_OWN - number]))
            else:
                texts.append(f"(string {number})" if number >= 0 else UNNAMED)
        return texts

    def numbers(self, texts: pa.Array) -> pa.Array:
        """Names written out in a table as numbers that `used` understands."""
        found = _bytes(texts).dictionary_encode()
        with self._lock:
            to = [self._own.setdefault(text, len(self._own)) for text in found.dictionary.to_pylist()]
        numbers = pa.array([FIRST_OWN - place for place in to], pa.int64())
        return numbers.take(found.indices)

    def texts(self, batch: pa.RecordBatch) -> pa.Array:
        """The text of NVTX events, their own or a registered one, as a dictionary of bytes."""
        own = pa.nulls(batch.num_rows, pa.binary())
        if "text" in batch.schema.names:
            own = _bytes(batch["text"])
            own = pc.if_else(pc.equal(pc.binary_length(own), 0), pa.scalar(None, pa.binary()), own)
        if "text_id" in batch.schema.names and len(self._ids) and own.null_count:
            rows = self._rows(batch["text_id"].fill_null(NONE).to_numpy())
            registered = self._values.take(pa.array(rows, mask=rows < 0))
            own = pc.coalesce(own, registered)
        return own.fill_null(UNNAMED.encode()).dictionary_encode()

    def _rows(self, numbers: Any) -> Any:
        if not len(self._ids):
            return np.full(len(numbers), NONE)
        at = np.minimum(np.searchsorted(self._ids, numbers), len(self._ids) - 1)
        return np.where(self._ids[at] == numbers, at, NONE)


def range_names(texts: Sequence[pa.DictionaryArray]) -> tuple[dict[str, Any], dict[str, list[str]], int]:
    """Codes of the names, kinds and shapes of ranges, -1 for none, their words, and how many were cleaned.

    PyTorch's suffixes of names become shapes.
    """
    whole = pa.chunked_array(texts, pa.dictionary(pa.int32(), pa.binary())).unify_dictionaries()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks])
    raw = whole.chunk(0).dictionary.to_pylist()
    names, shapes = Words(), Words()
    kinds = np.empty(len(raw), np.int32)
    plain, sized = [], []
    for i, text in enumerate(map(decoded, raw)):
        annotated = any(mark in text for mark in MARKS)
        found = ANNOTATED.fullmatch(text) if annotated else None
        plain.append(found["name"] if found else text)
        sized.append(f'{{"dims":{found["sizes"]}}}' if found and found["sizes"] else None)
        kinds[i] = annotated
    to_name, to_shape = names.codes(plain), shapes.codes(sized)
    columns = {"name": to_name[codes], "kind": kinds[codes], "shapes": to_shape[codes]}
    return columns, {"name": names.known, "kind": ["nvtx", "operator"], "shapes": shapes.known}, names.cleaned


def decoded(raw: bytes | None) -> str:
    """Text of any bytes."""
    return (raw or b"").decode("utf-8", "replace")


def _strings(batch: pa.RecordBatch) -> pa.Table:
    return pa.table([batch["id"], _bytes(batch["value"])], ["id", "value"])


def _bytes(column: pa.Array) -> pa.Array:
    """Text as bytes, as it may not be UTF-8."""
    if pa.types.is_binary(column.type):
        return column
    return pa.Array.from_buffers(pa.binary(), len(column), column.buffers(), offset=column.offset)
