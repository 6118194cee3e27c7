"""Measurements beside the file that they are for, a line each as they come: none is lost with the process."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from profiler.ceilings.plan import Findings, Key
from profiler.environment import device_name, environment
from specfiles.errors import InputError
from specfiles.reading import exists, parse_json, read_text
from specfiles.strict import Strict, plain_data, validated
from specfiles.writing import hold, is_stream, refusal

MOST_DEATHS = 2  # of processes in a measurement, before it is left out: one may have been killed by hand
MOST_BYTES = 200_000_000  # a hundred passes need a tenth
# What two sittings must have in common for their times to be repeats of one figure.
SAME = ("processor", "threads", "torch", "gpu", "cuda", "driver", "power_limit_w")


class Head(Strict, frozen=True, kw_only=True):
    """The first line: on what was measured."""

    schema_version: Literal[1] = 1
    on: dict[str, Any]


class Line(Strict, frozen=True, kw_only=True):
    """A visit to a probe or a step: its beginning, the seconds of every key, or why it lost the device."""

    visit: list[Any]
    times: list[tuple[list[Any], list[float]]] = []
    lost: str = ""
    begun: int = 0  # 1: it was begun; -1: it ended without a time, by an error that was heard


def journal_of(out: Path) -> Path:
    """Where the measurements for a device file stand until it is whole."""
    return out.with_name(f"{out.stem}.passes.jsonl")


class Journal:
    """An open journal: what it held when it was opened, and where lines are added."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle

    def add(self, visit: Key, times: list[tuple[Key, list[float]]], lost: str = "") -> None:
        """Append a line and hand it to the system, which keeps it when this process is killed."""
        self._write(Line(visit=list(visit), times=[(list(key), found) for key, found in times], lost=lost))

    def begin(self, visit: Key, by: int = 1) -> None:
        """Note that a visit begins, or that it ended otherwise: what kills this process is known by it."""
        self._write(Line(visit=list(visit), begun=by))

    def begin_anew(self, head: Head) -> None:
        """The first line."""
        self._write(head)

    def _write(self, record: Strict) -> None:
        try:
            self._handle.write(json.dumps(plain_data(record)) + "\n")
            self._handle.flush()
        except OSError as error:
            raise refusal(self.path, error) from None

    def remove(self) -> None:
        """When the device file is whole."""
        self.path.unlink(missing_ok=True)


@contextmanager
def kept(out: Path | None, device: str, found: Findings) -> Iterator[Journal | None]:
    """The journal of a device file, its measurements among `found`; None where there is no place beside it.

    Raises InputError where it holds another machine's measurements, is broken, or another process writes it.
    """
    if out is None or is_stream(out):
        yield None
        return
    path = journal_of(out)
    try:
        handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 - the errors of opening are told apart
    except OSError as error:
        raise refusal(path, error) from None
    with handle:
        hold(handle.fileno(), path)
        journal = Journal(path, handle)
        head = Head(on=_machine(device))
        lines = _whole_lines(path)
        if lines:
            _read(lines, head, path, found)
        else:
            journal.begin_anew(head)
        try:
            yield journal
        finally:
            if exists(path, Path.is_file) and not found.visits and not found.failed:
                journal.remove()


def _machine(device: str) -> dict[str, Any]:
    facts = environment(device)
    return {"device": device_name(device), **{key: facts[key] for key in SAME if key in facts}}


def _whole_lines(path: Path) -> list[str]:
    """All but a last one that was cut short, which is cut off."""
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
            f"{path} holds measurements of {', '.join(others)}, which is not so here; "
            "name another file, or remove it to begin anew."
        )
    open_ends: Counter[Key] = Counter()
    for number, text in enumerate(lines[1:], 2):
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
