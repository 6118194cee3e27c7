"""The documentation is a site: every page is in its contents, every link leads somewhere."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}


def test_the_page_for_python_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    page = re.sub(
        r"^```.*$", "", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    test = doctest.DocTestParser().get_doctest(page, {"__name__": "__main__"}, "python.md", None, 0)
    assert len(test.examples) > 30
    said: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    ended = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append)
    assert ended.failed == 0, "".join(said)
