"""A journal beside the device file, with a line per measurement, so that none is lost with the process."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from profiler.ceilings.plan import Findings, Key
from profiler.environment import device_name, environment
from specfiles.errors import InputError
from specfiles.reading import exists, parse_json, read_text
from specfiles.strict import Strict, plain_data, validated
from specfiles.writing import hold, is_stream, refusal

MOST_DEATHS = 2  # of processes during a measurement before it is left out; one may have been killed by a user
MOST_BYTES = 200_000_000  # a hundred passes need a tenth
# Facts that must be equal for the times of two processes to be repeats of one figure.
SAME = ("processor", "threads", "torch", "gpu", "cuda", "driver", "power_limit_w")


class Head(Strict, frozen=True, kw_only=True):
    """The first line: the machine."""

    schema_version: Literal[1] = 1
    on: dict[str, Any]


class Line(Strict, frozen=True, kw_only=True):
    """A visit to a probe or a step: its start, its seconds by key, or why the device was lost."""

    visit: list[Any]
    times: list[tuple[list[Any], list[float]]] = []
    lost: str = ""
    begun: int = 0  # 1: started; -1: ended by a caught error, without times


def journal_of(out: Path) -> Path:
    """The journal of a device file, removed when the file is complete."""
    return out.with_name(f"{out.stem}.passes.jsonl")


class Journal:
    """An open journal, to which lines are appended."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle

    def add(self, visit: Key, times: list[tuple[Key, list[float]]], lost: str = "") -> None:
        """Append a line and flush it, so that it survives a kill of this process."""
        self._write(Line(visit=list(visit), times=[(list(key), found) for key, found in times], lost=lost))

    def begin(self, visit: Key, by: int = 1) -> None:
        """Note that a visit starts (1) or failed (-1): a visit that only starts killed its process."""
        self._write(Line(visit=list(visit), begun=by))

    def _write(self, record: Strict) -> None:
        try:
            self._handle.write(json.dumps(plain_data(record)) + "\n")
            self._handle.flush()
        except OSError as error:
            raise refusal(self.path, error) from None

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


@contextmanager
def kept(out: Path | None, device: str, found: Findings) -> Iterator[Journal | None]:
    """The journal of a device file, with its measurements added to `found`; None for streams.

    Raises InputError where it holds another machine's measurements, is broken, or is in use by another
    process.
    """
    if out is None or is_stream(out):
        yield None
        return
    path = journal_of(out)
    with _opened(path) as journal:
        head = Head(on=_machine(device))
        lines = _whole_lines(path)
        if lines:
            _read(lines, head, path, found)
        else:
            journal._write(head)
        try:
            yield journal
        finally:
            if exists(path, Path.is_file) and not found.visits and not found.failed:
                journal.remove()


@contextmanager
def begun(out: Path, found: Findings) -> Iterator[Journal]:
    """The journal of a table: what took the device or two processes with it is added to `found.failed`."""
    path = journal_of(out)
    with _opened(path) as journal:
        _read_lines(_whole_lines(path), 1, path, found)
        yield journal


@contextmanager
def _opened(path: Path) -> Iterator[Journal]:
    """A journal for this process alone. Raises InputError where it cannot be opened or is in use."""
    try:
        handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 - errors of opening are handled here
    except OSError as error:
        raise refusal(path, error) from None
    try:
        hold(handle.fileno(), path)
        yield Journal(path, handle)
    finally:
        with suppress(OSError):  # of a line that was refused when it was written
            handle.close()


def _machine(device: str) -> dict[str, Any]:
    facts = environment(device)
    return {"device": device_name(device), **{key: facts[key] for key in SAME if key in facts}}


def _whole_lines(path: Path) -> list[str]:
    """All complete lines; an incomplete last one is cut off."""
    text = read_text(path, most_bytes=MOST_BYTES)
    whole = text[: text.rfind("\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole.encode()))
    return whole.splitlines()


def _read(lines: list[str], head: Head, path: Path, found: Findings) -> None:
    first = validated(Head, parse_json(lines[0], f"{path}, line 1"), f"{path}, line 1")
    others = [f"{k} {first.on.get(k)}" for k in {**first.on, **head.on} if first.on.get(k) != head.on.get(k)]
    if others:
        raise InputError(
            f"{path} holds measurements of {', '.join(others)}, which differs here; "
            "name another file, or remove it to start again."
        )
    _read_lines(lines[1:], 2, path, found)


def _read_lines(lines: list[str], first: int, path: Path, found: Findings) -> None:
    """Add the measurements of lines, the first of which has this number in the file."""
    open_ends: Counter[Key] = Counter()
    for number, text in enumerate(lines, first):
        where = f"{path}, line {number}"
        line = validated(Line, parse_json(text, where), where)
        visit = _key(line.visit)
        if line.lost:
            found.failed[visit] = line.lost
        elif line.begun:
            open_ends[visit] += line.begun
        else:
            open_ends[visit] = 0
            found.add(visit, [(_key(key), times) for key, times in line.times])
    found.failed |= {
        visit: f"{died} processes died in it" for visit, died in open_ends.items() if died >= MOST_DEATHS
    }


def _key(words: list[Any]) -> Key:
    return tuple(_key(word) if isinstance(word, list) else word for word in words)
