"""Packages whose modules are imported when a name is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["workloads.blocks", "workloads.operators"]


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_those_that_type_checkers_read(package: str) -> None:
    loaded = import_module(package)
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert told == loaded.NAMES
    for name, module in loaded.NAMES.items():
        assert getattr(loaded, name) is getattr(import_module(module), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_is_not_there_is_told(package: str) -> None:
    with pytest.raises(AttributeError, match=rf"{package}.*'Gem'"):
        getattr(import_module(package), "Gem")  # noqa: B009


def test_a_dense_model_loads_no_module_of_other_kinds() -> None:
    code = """
import sys
from workloads.catalogue import load_model
load_model("Llama-3.1-8B")
print(*(name for name in sys.modules if name.startswith(("workloads.blocks.", "workloads.operators."))))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.rpartition(".")[2] for name in ended.stdout.split()}
    assert {"attention", "mlp", "gemm"} <= loaded
    assert loaded.isdisjoint({"moe", "routing", "mamba", "rwkv", "mla", "ssm", "kinds", "encoder", "vision"})
