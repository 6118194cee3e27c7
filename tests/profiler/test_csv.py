"""What a command prints as a table can be had as CSV, with the values of its JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Roofline = Callable[..., Any]
Record = dict[str, Any]
KERNELS = "op,dtype,m,n,k,latency_us\ngemm,bf16,4096,4096,4096,250\ngemm,bf16,16,4096,4096,14\n"
STEPS = "model,gpu,tp,concurrency,prompt,output,ttft_ms,tpot_ms\nLlama-3.1-8B,h100,1,4,512,32,60,6\n"
GRID = (
    "schema: 1\nname: small\nmodels: [SmolLM2-135M]\nhardware: [h100]\nbatch: [1, 2]\ntechniques: [[awq]]\n"
)
LLAMA = ("Llama-3.1-8B", "--hw", "h100", "--batch", "2", "--output", "8")


def _fidelities(key: str) -> Callable[[Any], list[Record]]:
    return lambda data: [
        {"fidelity": each["fidelity"], **row} for each in data["fidelities"] for row in each[key]
    ]


COMMANDS: list[tuple[tuple[str, ...], Callable[[Any], list[Record]]]] = [
    (("hw", "list"), lambda data: data),
    (("models", "list"), lambda data: data),
    (("models", "families"), lambda data: data),
    (("techniques", "list"), lambda data: data),
    (
        ("whatif", *LLAMA, "--only", "awq"),
        lambda data: [data["baseline"], *data["outcomes"], *data["counted"]],
    ),
    (("whatif", *LLAMA, "--target", "tpot=20ms"), lambda data: data["answers"]),
    (("whatif", *LLAMA, "--target", "tpot=1us"), lambda data: data["nearest"]),
    (("sweep", "grid.yaml", "-o", "swept"), lambda data: data["best"]),
    (("validate", "kernels.csv", "--hw", "h100"), _fidelities("cells")),
    (("validate", "steps.csv"), _fidelities("cells")),
    (("predict", *LLAMA), lambda data: data["operators"]),
    (("serve", *LLAMA[:3], "--prompt", "64", "--output", "8", "--rate", "1"), lambda data: data["rows"]),
]


@pytest.mark.parametrize(
    ("words", "rows"), COMMANDS, ids=lambda v: " ".join(v[:2]) if type(v) is tuple else ""
)
def test_lines_are_the_rows_of_json(
    roofline: Roofline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    rows: Callable[[Any], list[Record]],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("kernels.csv", KERNELS), ("steps.csv", STEPS), ("grid.yaml", GRID)):
        Path(name).write_text(text)
    expected = rows(json.loads(roofline(*words, "--format", "json").out))
    lines = list(csv.DictReader(io.StringIO(roofline(*words, "--format", "csv").out)))
    assert len(lines) == len(expected) > 0
    for line, row in zip(lines, expected, strict=True):
        assert None not in line, "more cells than columns"
        numbers = {name: value for name, value in row.items() if type(value) in (int, float) and name in line}
        said = {name: value for name, value in row.items() if type(value) is str and name in line}
        assert numbers or said
        assert {name: line[name] for name in said} == said
        assert {name: float(line[name]) for name in numbers} == numbers
        assert all(line[name] == "" for name in row.keys() & line.keys() if row[name] is None)


def test_the_ending_of_a_file_is_its_format(roofline: Roofline, tmp_path: Path) -> None:
    """What is asked for comes first; a folder has no format, and other endings are text."""
    begins = {"a.json": "{", "a.csv": "model,", "a.html": "<!doctype", "a.txt": "Llama-3.1-8B on"}
    for name, begin in begins.items():
        assert roofline("predict", *LLAMA, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(begin)
    roofline("predict", *LLAMA, "--format", "csv", "-o", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text().startswith(begins["a.csv"])
    (tmp_path / "grid.yaml").write_text(GRID)
    assert "tokens/s" in roofline("sweep", tmp_path / "grid.yaml", "-o", tmp_path / "swept.csv").out


def test_a_page_is_made_by_report_of_predictions_alone(roofline: Roofline, tmp_path: Path) -> None:
    """Neither does another command write its text into one, nor does `report` take its JSON."""
    served = ("serve", *LLAMA[:3], "--prompt", 100, "--output", 4, "--rate", 1, "--requests", 9)
    for asked in (("whatif", *LLAMA, "--only", "awq"), served):
        refused = roofline(*asked, "-o", tmp_path / "page.html")
        assert (refused.code, "this command writes table, json, csv" in refused.err) == (2, True)
        assert roofline(*asked, "-o", tmp_path / "a.json").code == 0
        refused = roofline("report", tmp_path / "a.json", "-o", tmp_path / "page.html")
        assert (refused.code, "holds no prediction" in refused.err) == (2, True)
        assert not (tmp_path / "page.html").exists()
