"""Read any trace file, detected by content, and several files as one trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from profiler.traces.counters import gathered, timed
from profiler.traces.host import hosted
from profiler.traces.ranks import aligned
from profiler.traces.tables import Trace, merge
from specfiles.errors import InputError
from specfiles.reading import exists

HEAD_BYTES = 4096
PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
# Exports of Nsight Systems other than SQLite, by the bytes that their files begin with.
EXPORTS = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\x89HDF\r\n\x1a\n": "HDF5"}
Reader = Callable[[Path], Trace]


def read_trace(path: Path) -> Trace:
    """One trace file; the format is detected by its first bytes, not by name.

    Raises InputError for other files.
    """
    return hosted(timed(gathered(reader_of(path)(path))))


def read_traces(paths: Sequence[Path]) -> Trace:
    """Several trace files (ranks, tools) as one trace, on one clock."""
    if not paths:
        raise InputError("no trace was named; give at least one file.")
    return hosted(aligned(timed(gathered(merge([reader_of(path)(path) for path in paths])))))


def reader_of(path: Path) -> Reader:
    """The reader of a file's format."""
    from profiler.traces import kineto

    if not exists(path, Path.is_file):
        what = "is a folder; name its trace files" if exists(path, Path.is_dir) else "no such file"
        raise InputError(f"{path}: {what}.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if packer := next((name for magic, name in PACKED.items() if head.startswith(magic)), None):
        raise InputError(f"{path}: is packed with {packer}; unpack it first (only gzip is read as it is).")
    if kind := next((kind for magic, kind in EXPORTS.items() if head.startswith(magic)), None):
        raise InputError(
            f"{path}: is a file of {kind}; Nsight Systems' reports are read as SQLite: "
            "`nsys export --type sqlite REPORT.nsys-rep` writes that."
        )
    return _binary(head) or _page(path, head) or kineto.read


def _binary(head: bytes) -> Reader | None:
    """The reader of a binary format, by the bytes that it begins with."""
    from profiler.traces import database, ncurep, nsys, nsysrep

    readers = {database.MAGIC: nsys.read, nsysrep.MAGIC: nsysrep.read, ncurep.MAGIC: ncurep.read}
    return next((reader for magic, reader in readers.items() if head.startswith(magic)), None)


def _page(path: Path, head: bytes) -> Reader | None:
    """The reader of ncu's CSV, whose header may stand behind what a program printed."""
    from profiler.traces import bytestream, ncu

    return ncu.read if not head.startswith(bytestream.GZIP) and ncu.is_page(path) else None


def read_brief(path: Path) -> Trace:
    """One trace file without launches and ranges, where the format allows."""
    from profiler.traces import kineto, nsys, nsysrep

    reader = reader_of(path)
    for brief in (kineto.read, nsys.read, nsysrep.read):
        if reader is brief:
            return brief(path, brief=True)
    return hosted(timed(gathered(reader(path))))
