"""Every notebook runs from its first cell to its last, and is stored without what it printed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = ("nbclient", "nbformat", "ipykernel", "torch", "transformers")
TIMEOUT_S = 600  # of a cell

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The notebook after all its cells have run, in a folder of its own and away from the user's settings."""
    for package in NEEDED:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    before = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOFLINE_NOTEBOOK_FAST", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), before))))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        patch.setenv("TMPDIR", str(folder))
        notebook = read(request.param)
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            startup_timeout=TIMEOUT_S,
            iopub_timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        )
        yield client.execute()


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_every_cell_runs(executed: Any) -> None:
    """`execute` raises where a cell does; here each has run and none has complained."""
    for cell in executed.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None
            assert not [o for o in cell.outputs if o.output_type == "error"]
            complaints = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
            for kind in ("Deprecation", "Future", "Runtime", "User"):  # other libraries have their own
                assert f"{kind}Warning" not in complaints


def test_figures_are_drawn_and_something_is_said(executed: Any) -> None:
    outputs = [o for cell in executed.cells if cell.cell_type == "code" for o in cell.outputs]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 1
    assert any("plotly" in kind for kind in kinds)
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "bound" in said
    assert "nan" not in said.lower().split()


@each
def test_nothing_is_stored_but_what_was_written(path: Path) -> None:
    """Outputs are large, change with every run, and may hold what a machine or a user is called."""
    for number, cell in enumerate(read(path).cells):
        if cell.cell_type == "code":
            assert cell.outputs == [], f"{path.name}, cell {number}: clear the outputs before committing"
            assert cell.execution_count is None, f"{path.name}, cell {number}: clear the execution count"


@each
def test_the_kernel_is_the_one_that_everybody_has(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@each
def test_it_explains_itself(path: Path) -> None:
    """A notebook is read before it is run: it begins with words, and they accompany the code."""
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= kinds.count("code") / 2
