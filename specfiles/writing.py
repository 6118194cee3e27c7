"""Atomic writing: a reader sees the old content of a file or the new, never a part of it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specfiles.errors import InputError
from specfiles.reading import exists

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # a disk, a quota or a file that has no more room


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it when the block ends without error.

    A path that is not a regular file (/dev/stdout, a pipe) is not replaced: the whole content is written to
    it.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / path.name
            yield draft
            _pour(draft, path)
        return
    with _finished(path) as draft:
        yield draft
    draft.replace(path)


def is_stream(path: Path) -> bool:
    """Whether it exists and is neither a file nor a folder: /dev/stdout, a pipe."""
    return exists(path, Path.exists) and not exists(path, Path.is_file) and not exists(path, Path.is_dir)


def _pour(draft: Path, path: Path) -> None:
    try:
        with open(draft, "rb") as whole, open(path, "wb") as out:
            shutil.copyfileobj(whole, out)
    except BrokenPipeError:  # a reader that has seen enough
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from None


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """A draft beside `path`, flushed to disk when the block ends and removed if it fails."""
    draft = _draft(path)
    try:
        yield draft
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)  # mkstemp makes private files; results are to be shared
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.errno in FULL:
            raise refusal(path, error) from None
        raise
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def refusal(path: Path, error: OSError) -> InputError:
    """The InputError for a file that the system cannot write."""
    room = "; make room" if error.errno in FULL else ""
    return InputError(f"{path}: cannot be written ({os.strerror(error.errno or 0)}){room}.")


def _draft(path: Path) -> Path:
    if exists(path, Path.is_dir):
        raise InputError(f"{path}: is a folder; name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise refusal(path, error) from None
    os.close(handle)
    return Path(name)


def write_new(path: Path, text: str) -> None:
    """Create a file atomically. Raises InputError where it exists, as when another writer was faster."""
    with _finished(path) as draft:
        draft.write_text(text, encoding="utf-8")
    try:
        os.link(draft, path)  # unlike a rename it never replaces
    except FileExistsError:
        raise InputError(f"{path}: is already there; name another folder or remove it.") from None
    except OSError:  # a file system without links: the two writers' race stays, no file is lost in it
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock a folder, made where there is none, while the block runs.

    Raises InputError where another command has it, and where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, error) from None
    if os.name == "nt":  # opens no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        hold(handle, folder)
        yield
    finally:
        os.close(handle)


def hold(handle: int, path: Path) -> None:
    """Lock an open file or folder until it is closed. Raises InputError where another command has it.

    The system releases the lock when the process ends, however it ends. Where the system has no such locks,
    nothing is locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: another command is writing there; wait for its end or name another one."
        ) from None


def check_writable(path: Path) -> None:
    """Raise InputError where a file cannot be written; called before anything long is started."""
    if not is_stream(path):
        _draft(path).unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step."""
    with atomic(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8) atomically."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")
