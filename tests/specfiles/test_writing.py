"""A reader sees the old content or the new, whatever happens in between."""

import os
from pathlib import Path

import pytest

from specfiles.errors import InputError
from specfiles.writing import atomic, write_text


def test_the_text_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "deep" / "a.txt", "größer\n")
    assert (tmp_path / "new" / "deep" / "a.txt").read_bytes() == "größer\n".encode()
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_inside_keeps_the_old_content_and_leaves_no_draft(
    tmp_path: Path, failure: BaseException
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write_half() -> None:
        with atomic(file) as draft:
            draft.write_text("half of the n")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_until_the_end_readers_see_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with atomic(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
        assert draft.parent == file.parent, "a rename between file systems is not atomic"
    assert file.read_text() == "new"


def test_the_draft_keeps_the_ending_which_decides_the_format(tmp_path: Path) -> None:
    with atomic(tmp_path / "table.parquet") as draft:
        assert draft.suffix == ".parquet"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_results_are_as_readable_as_any_other_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask, "the process's umask was changed"
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_where_no_file_can_be_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/below\.txt: cannot be written"):
        write_text(tmp_path / "file" / "below.txt", "y")
