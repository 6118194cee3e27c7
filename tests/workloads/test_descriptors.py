"""Workload files: the shipped ones run, and a wrong one is refused by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from roofline.asked import Asked, scenarios
from specfiles.errors import InputError
from workloads.descriptor import DESCRIPTORS, MOST_POINTS, is_descriptor, load_descriptor

FILES = DESCRIPTORS.paths()
GOOD: dict[str, Any] = {"schema": 1, "name": "mine", "model": "Llama-2-7B", "batch": 2, "prompt": [10, 20]}


def write(folder: Path, data: dict[str, Any]) -> Path:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def refusal(folder: Path, data: dict[str, Any]) -> str:
    file = write(folder, data)
    with pytest.raises(InputError) as error:
        load_descriptor(file)
    sentence = str(error.value)
    assert sentence.startswith(f"{file}: ")
    return sentence


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_workload_gives_scenarios(path: Path) -> None:
    file = load_descriptor(path)
    assert file.name == path.stem
    assert file.description
    assert is_descriptor(path.stem)
    assert is_descriptor(str(path))
    loaded, found = scenarios(path.stem, Asked())
    assert len(found) == file.points_in_grid() == len(set(found))
    assert {scenario.model for scenario in found} == {loaded.model}
    axes = {"batch": file.batch, "prompt": file.prompt, "output": file.output}
    for name, asked in axes.items():
        assert {getattr(s, name) for s in found} == set(asked if isinstance(asked, list) else [asked])


def test_there_are_six_of_them() -> None:
    assert len(FILES) == 6


def test_the_edge_workload_has_four_bit_weights() -> None:
    _, (scenario,) = scenarios("single-stream-edge", Asked())
    precision = scenario.setting.precision
    assert (precision.weights, precision.activations, precision.kv) == ("int4", "fp16", "fp16")


def test_the_grid_is_every_combination_in_the_order_written(tmp_path: Path) -> None:
    grid = {**GOOD, "batch": [4, 1], "prompt": [10, 20, 30], "output": [2]}
    points = load_descriptor(write(tmp_path, grid)).points()
    assert [(p["batch"], p["prompt"]) for p in points] == [
        (4, 10),
        (4, 20),
        (4, 30),
        (1, 10),
        (1, 20),
        (1, 30),
    ]


def test_a_flag_overrides_the_file_and_folds_the_grid(tmp_path: Path) -> None:
    file = write(tmp_path, {**GOOD, "batch": [1, 2], "dtypes": {"weights": "int8"}})
    _, found = scenarios(str(file), Asked(batch=7, kv="fp8", phase="decode"))
    assert [(s.batch, s.prompt, s.phase) for s in found] == [(7, 10, "decode"), (7, 20, "decode")]
    assert {(s.setting.precision.weights, s.setting.precision.kv) for s in found} == {("int8", "fp8")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bacth": 2}, "unknown key 'bacth'; did you mean 'batch'?"),
        ({"dtypes": {"wieghts": "int4"}}, "unknown key 'dtypes.wieghts'; did you mean 'weights'?"),
        ({"operators": [{"op": "gemm"}]}, "give either `model` or `operators`, one of the two"),
        ({"model": 5}, "model: expected text, not 5"),
        ({"phase": "training"}, "phase: "),
        ({"batch": 0}, "batch"),
        ({"batch": []}, "batch"),
        ({"batch": "4"}, "batch"),
        ({"batch": [1, -1]}, "batch"),
        ({"output": True}, "output"),
        ({"tensor_parallel": 0}, "tensor_parallel: "),
        ({"schema": 2}, "schema: "),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, {**GOOD, **changes})


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    for key in ("schema", "name"):
        assert f"key '{key}' is missing" in refusal(tmp_path, {k: v for k, v in GOOD.items() if k != key})


def test_a_grid_that_never_ends_is_refused(tmp_path: Path) -> None:
    side = list(range(1, 102))  # 101 x 101 is a little more than the limit
    sentence = refusal(tmp_path, {**GOOD, "batch": side, "prompt": [*side]})
    assert f"the grid has {101 * 101} points; at most {MOST_POINTS}" in sentence
    assert load_descriptor(write(tmp_path, {**GOOD, "batch": side[1:], "prompt": side[:-1]}))


def test_an_unknown_workload_lists_what_exists() -> None:
    with pytest.raises(InputError, match=r"no workload named 'sumarisation'; did you mean summarisation"):
        load_descriptor("sumarisation")
