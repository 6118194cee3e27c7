"""Any trace file, by what it holds: its reader, and several files as one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from profiler.traces.tables import Trace, merge
from specfiles.errors import InputError
from specfiles.reading import exists

HEAD_BYTES = 4096
Reader = Callable[[Path], Trace]


def read_trace(path: Path) -> Trace:
    """One trace file; the format is known by its first bytes, whatever its name says.

    Raises InputError for what is no trace.
    """
    return reader_of(path)(path)


def read_traces(paths: Sequence[Path]) -> Trace:
    """Several trace files (ranks, tools) as one trace."""
    if not paths:
        raise InputError("no trace was named; give at least one file.")
    return merge([read_trace(path) for path in paths])


def reader_of(path: Path) -> Reader:
    """The reader of a file's format."""
    from profiler.traces import kineto

    if not exists(path, Path.is_file):
        what = "is a folder; name its trace files" if exists(path, Path.is_dir) else "no such file"
        raise InputError(f"{path}: {what}.")
    return kineto.read


def read_brief(path: Path, *, needs_links: bool) -> Trace:
    """One trace file; without launches and ranges where they are not needed and the format allows."""
    from profiler.traces import kineto

    reader = reader_of(path)
    return kineto.read(path, brief=True) if reader is kineto.read and not needs_links else reader(path)
