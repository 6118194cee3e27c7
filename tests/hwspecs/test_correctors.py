"""Files of correctors are untrusted: what is not whole trees over known features is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwspecs import kernels_of, load_device
from hwspecs.correctors import CORRECTORS, MOST_BYTES, MOST_NODES, fingerprint, read_correctors
from specfiles.errors import InputError

GOOD: dict[str, Any] = {
    "op": "gemm",
    "dtype": "bfloat16",
    "beside": "0123456789abcdef",
    "features": ["m", "n"],
    "box": [[0, 1], [0, 1]],
    "base": 0.0,
    "splits": [1, -1, -1],
    "numbers": [0.5, -0.1, 0.1],
    "points": 1,
    "families": 1,
    "calibrated_error": 0.1,
    "held_out_error": 0.05,
    "applied": 1,
    "bands": [[1.0, 0.9, 1.1]],
    "coverage": 0.8,
    "source": "a test",
}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "device": "X", "correctors": [{**GOOD, **changes}]}))
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert read_correctors(written(tmp_path / "good.json")).correctors[0].splits == [1, -1, -1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"splits": [2, -1, -1]}, "compares feature 2 of 2"),
        ({"splits": [-2, -1, -1]}, "compares feature -2"),
        ({"splits": [1, -1, 1]}, "not whole"),
        ({"splits": [1, -1]}, "2 nodes need as many numbers, not 3"),
        ({"box": [[0, 1]]}, "2 features need as many ranges"),
        ({"splits": [1] * 200 + [-1] * 201, "numbers": [0.0] * 401}, "deeper"),
        ({"splits": [-1] * (MOST_NODES + 1), "numbers": [0.0] * (MOST_NODES + 1)}, "splits"),
        ({"numbers": [0.5, "x", 0.1]}, "numbers"),
        ({"numbers": [0.5, 1e40, 0.1]}, "numbers"),
        ({"bands": []}, "bands"),
        ({"bands": [[1.0, -0.9, 1.1]]}, "bands"),
        ({"pickle": "x"}, "pickle"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "bad.json", **changes)
    with pytest.raises(InputError, match=r"bad\.json") as told:
        read_correctors(path)
    assert said in str(told.value)


def test_a_cut_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    cut = written(tmp_path / "cut.json")
    cut.write_text(cut.read_text()[:-20])
    with pytest.raises(InputError, match="not valid JSON"):
        read_correctors(cut)
    huge = tmp_path / "huge.json"
    huge.write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(InputError, match="too large"):
        read_correctors(huge)


SHIPPED = sorted(CORRECTORS.glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_correctors_help_and_are_small(path: Path) -> None:
    shipped = read_correctors(path)
    assert path.stat().st_size < 2_500_000
    kernels = {fingerprint(kernel) for kernel in kernels_of(load_device(shipped.device))}
    for one in shipped.correctors:
        assert one.held_out_error < one.calibrated_error
        assert all(low <= high for low, high in one.box)
    if not kernels & {one.beside for one in shipped.correctors}:
        pytest.skip("constants were fitted since: `python -m benchmarks.accuracy` trains these again")
