"""Predictions and reports load without torch, whatever is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = ("torch", "transformers", "nvtx", "pynvml")
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises ImportError, as where it is not installed
package = importlib.import_module({package!r})
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), *(name for name in {blocked!r} if sys.modules.get(name) is not None))
"""


@pytest.mark.parametrize("package", ["specfiles", "hwspecs", "workloads", "roofline", "reports"])
def test_every_module_loads_without_torch(package: str) -> None:
    code = IMPORT_ALL.format(blocked=BLOCKED, package=package)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr
    count, *loaded = ended.stdout.split()
    assert int(count) >= 2
    assert loaded == []


def test_the_command_line_loads_without_torch() -> None:
    code = IMPORT_ALL.format(blocked=BLOCKED, package="specfiles") + "import profiler.cli\n"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
