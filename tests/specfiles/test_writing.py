"""A reader sees the old content or the new, whatever happens in between."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specfiles.errors import InputError
from specfiles.writing import atomic, check_writable, sole_writer, write_new, write_text


def test_the_text_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "deep" / "a.txt", "größer\n")
    assert (tmp_path / "new" / "deep" / "a.txt").read_bytes() == "größer\n".encode()
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["a.txt"]


def test_a_pipe_keeps_its_place_and_gets_the_whole(tmp_path: Path) -> None:
    """As root, a renamed draft would replace /dev/stdout or /dev/null by a file."""
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe)
    write_text(pipe, "whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.txt"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full on this system")
def test_a_device_that_is_full_is_one_sentence() -> None:
    with pytest.raises(InputError, match="/dev/full: cannot be written"):
        write_text(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence_and_the_old_content_stays(tmp_path: Path, code: int) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def cut_short() -> None:
        with atomic(path) as draft:
            draft.write_text("half")
            raise OSError(code, "no more")

    with pytest.raises(InputError, match=r"result.json: cannot be written \(.*\); make room"):
        cut_short()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_another_error_of_the_system_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), atomic(tmp_path / "x"):
        raise ConnectionResetError
    assert not list(tmp_path.iterdir())


def test_of_two_writers_of_a_new_file_one_is_refused(tmp_path: Path) -> None:
    write_new(tmp_path / "run.json", "first")
    with pytest.raises(InputError, match=r"run.json: is already there"):
        write_new(tmp_path / "run.json", "second")
    assert (tmp_path / "run.json").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "run"), pytest.raises(InputError, match="another command is writing there"):
        sole_writer(tmp_path / "run").__enter__()
    with sole_writer(tmp_path / "run"):
        pass


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"run: cannot be written \(File exists\)"):
        sole_writer(tmp_path / "run").__enter__()


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from specfiles.writing import sole_writer\n"
        f"with sole_writer(Path({str(tmp_path)!r})): print(flush=True); input()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="another command"), sole_writer(tmp_path):
            pass
        other.kill()
        other.wait()
        with sole_writer(tmp_path):
            pass
