"""What a wheel must carry: every data file of the packages, their marker for type checkers, every licence."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
PACKAGES = [pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_data_file_is_packaged(package: str) -> None:
    """A file that no pattern names works from a checkout and is missing from an installation."""
    home = ROOT / package
    here = {path for path in home.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    packaged = {path for pattern in DATA["*"] + DATA.get(package, []) for path in home.glob(pattern)}
    assert here - packaged == set()
    assert home / "py.typed" in packaged
    used = [pattern for pattern in DATA.get(package, []) if not pattern.startswith("measured/")]  # none yet
    assert all(any(home.glob(pattern)) for pattern in used)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_modules_is_a_package(package: str) -> None:
    """setuptools finds folders with an `__init__.py` only."""
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_licence_is_packaged() -> None:
    licences = {path for pattern in PROJECT["project"]["license-files"] for path in ROOT.glob(pattern)}
    assert {ROOT / "LICENSE", ROOT / "NOTICE", *ROOT.glob("reports/assets/*LICENSE*")} == licences
    minified = {path.name.split(".")[0] for path in ROOT.glob("reports/assets/*.min.js")}
    assert minified == {path.name.split(".")[0] for path in licences if path.parent.name == "assets"}


def test_the_command_exists() -> None:
    module, function = PROJECT["project"]["scripts"]["roofline"].split(":")
    assert callable(getattr(import_module(module), function))
