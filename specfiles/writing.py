"""Write files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specfiles.errors import InputError
from specfiles.reading import exists


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without error."""
    draft = _draft(path)
    try:
        yield draft
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        draft.chmod(0o666 & ~umask)  # mkstemp makes private files; results are to be shared
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    if exists(path, Path.is_dir):
        raise InputError(f"{path}: is a folder; name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from None
    os.close(handle)
    return Path(name)


def check_writable(path: Path) -> None:
    """An InputError where a file cannot be written; asked before anything long is started."""
    _draft(path).unlink()


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")
