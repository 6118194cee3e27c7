"""Chrome trace JSON as typed events in chunks: fast on valid JSON, tolerant of errors.

A chunk is cut between two events. Decoding verifies the cut: the part before it must be a complete list. Only
chunks that fail are examined more closely.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from profiler.timing import without_collection
from profiler.traces.bytestream import ByteStream
from profiler.traces.structure import BETWEEN, list_begin, mended, spans
from specfiles.errors import InputError

E = TypeVar("E", bound=msgspec.Struct)
MOST_HEADER = 64 << 20  # bytes before the events
MOST_EVENT = 32 << 20  # bytes of one event: longer is garbage or an unterminated string
TAIL = 1 << 16
MOST_DOCUMENTS = 64  # concatenated in a file by a program that appends


class Events(Generic[E]):
    """Events of a trace file as records of a type, and counts of dropped and repaired ones.

    `header` holds the values beside the events, the first document's where there are several. `dropped`
    counts unreadable events, `repaired` those read after repair; `broken` says how the file ended too early
    ("" if it did not).
    """

    def __init__(self, stream: ByteStream, kind: type[E]) -> None:
        self.stream = stream
        self.kind = kind
        self.header: dict[str, Any] = {}
        self.dropped = self.repaired = 0
        self.broken = ""
        self.documents = 0
        self._typed = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(kind)
        self._closed = self._empty = False

    def __iter__(self) -> Iterator[list[E]]:
        """Lists of events in the file's order; InputError where the file is not a Chrome trace."""
        pieces = iter(self.stream)
        begun = self._begin(b"", pieces)
        if begun is None:
            raise InputError(self._no_trace())
        while begun is not None:
            self.documents += 1
            behind, opening = yield from self._document(*begun, pieces)
            again = self._closed and self.documents < MOST_DOCUMENTS and behind[:1] in (b"{", b"[")
            begun = self._begin(behind, pieces) if again else None
        self.broken = self.stream.broken or self._why(opening, behind)

    def _document(
        self, rest: bytes, opening: bytes, pieces: Iterator[bytes]
    ) -> Generator[list[E], None, tuple[bytes, bytes]]:
        """The events of one document; returns the bytes after it and its opening bracket."""
        self._closed = False
        with without_collection():  # events have no cycles, and traversing them takes as long as decoding
            for piece in itertools.chain([b""] if rest else [], pieces):
                rest += piece
                events, rest = self._cut(rest)
                if events:
                    yield events
                if self._closed:
                    break
            if not self._closed:
                events, rest = self._last(rest)
                yield events
        while self._closed and len(rest) < MOST_HEADER and (piece := next(pieces, b"")):
            rest += piece
        if opening == b"{" and self._closed:
            rest = self._end(b"{" + rest.lstrip(b", \n\r\t"))
        return rest.lstrip(b"\xef\xbb\xbf\x1e \n\r\t\0"), opening

    def _end(self, text: bytes) -> bytes:
        """Add the values after the events to the header; returns the bytes after the document."""
        found, _ = spans(text)
        if not len(found):
            return b""
        self._read_header(text[: int(found[0][1])])
        return text[int(found[0][1]) :]

    def _why(self, opening: bytes, behind: bytes) -> str:
        if not self._closed:
            return "" if opening == b"[" else "the JSON ends too early"
        return "the file goes on behind the end of its JSON" if behind.strip(b" \n\r\t\0") else ""

    def _begin(self, buffer: bytes, pieces: Iterator[bytes]) -> tuple[bytes, bytes] | None:
        """The bytes from the first event on, and whether the document is a list or an object."""
        for piece in itertools.chain([b""] if buffer else [], pieces):
            buffer += piece
            text = buffer.removeprefix(b"\xef\xbb\xbf").lstrip()
            opening = text[:1]
            if opening == b"[":
                return text[1:], opening
            if text and opening != b"{":
                break
            if (at := list_begin(text, b"traceEvents")) >= 0:
                self._read_header(text[:at] + b"]}")
                return text[at:], opening
            if len(buffer) > MOST_HEADER:
                break
        self._empty = not buffer.strip()
        return None

    def _no_trace(self) -> str:
        name = self.stream.path
        if self._empty:
            why = f"; {self.stream.broken}" if self.stream.broken else ""
            return f"{name}: holds no trace, it is empty{why}."
        return f"{name}: is not a Chrome or Kineto trace; expected JSON with a list `traceEvents`."

    def _read_header(self, text: bytes) -> None:
        for attempt in (text, mended(text)):
            try:
                found = msgspec.json.decode(attempt)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(found, dict):
                self.header = {k: v for k, v in found.items() if k != "traceEvents"} | self.header
            return

    def _cut(self, buffer: bytes) -> tuple[list[E], bytes]:
        """The complete events of a buffer, and the remaining bytes."""
        found = list(BETWEEN.finditer(buffer, max(0, len(buffer) - TAIL)))
        if found:
            last = found[-1]
            try:
                return self._typed.decode(b"[" + buffer[: last.start() + 1] + b"]"), buffer[last.end() :]
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # the cut is wrong, the list ends here, or the JSON is invalid
        return self._careful(buffer)

    def _careful(self, buffer: bytes) -> tuple[list[E], bytes]:
        found, end = spans(buffer)
        if not len(found) and end < 0 and len(buffer) > MOST_EVENT:
            return self._salvage(buffer), b""  # e.g. a quote too many: brackets cannot be trusted
        self._closed = end >= 0
        stop = int(found[-1][1]) if len(found) else 0
        rest = buffer[end + 1 :] if self._closed else buffer[stop:].lstrip(b", \n\r\t")
        if not len(found):
            return [], rest
        whole = b"[" + buffer[int(found[0][0]) : stop] + b"]"
        for text in (whole, mended(whole)):
            try:
                events = self._typed.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            return events, rest
        return [event for a, b in found for event in self._single(buffer[int(a) : int(b)])], rest

    def _last(self, buffer: bytes) -> tuple[list[E], bytes]:
        """The remainder at the end of the file: complete events, then a truncated one."""
        if not buffer.strip():
            return [], b""
        events, rest = self._careful(buffer)
        if not self._closed and rest.strip(b", \n\r\t"):
            if BETWEEN.search(rest):
                events += self._salvage(rest)
            else:
                self.dropped += 1
            rest = b""
        return events, rest

    def _salvage(self, buffer: bytes) -> list[E]:
        """Events between likely borders, where brackets and quotes do not balance."""
        ends = [match.start() + 1 for match in BETWEEN.finditer(buffer)]
        begins = [0, *(match.end() for match in BETWEEN.finditer(buffer))]
        events: list[E] = []
        for begin, end in zip(begins, [*ends, len(buffer)], strict=True):
            events += self._single(buffer[begin:end], split=False)
        return events

    def _single(self, text: bytes, split: bool = True) -> list[E]:
        """One event alone: unchanged, repaired, or without its invalid values."""
        try:
            return [self._one.decode(text)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        if split and BETWEEN.search(text):
            return self._salvage(text)
        try:
            plain = msgspec.json.decode(mended(text))
            event = _converted(plain, self.kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = None
        if event is None:
            self.dropped += 1
            return []
        self.repaired += 1
        return [event]


def _converted(plain: Any, kind: type[E]) -> E | None:
    """A decoded event as a record, without fields of a wrong type."""
    if not isinstance(plain, dict):
        return None
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        value = plain.get(field.encode_name)
        if value is None:
            continue
        try:
            kept[field.name] = msgspec.convert(_raw(value, field.type), field.type)
        except msgspec.ValidationError:
            if isinstance(value, dict) and isinstance(nested := _struct_in(field.type), type):
                kept[field.name] = _converted(value, nested)
    return kind(**kept)


def _raw(value: Any, kind: Any) -> Any:
    if kind is msgspec.Raw or msgspec.Raw in getattr(kind, "__args__", ()):
        return msgspec.Raw(msgspec.json.encode(value))
    return value


def _struct_in(kind: Any) -> Any:
    members = getattr(kind, "__args__", (kind,))
    return next((m for m in members if isinstance(m, type) and issubclass(m, msgspec.Struct)), None)
