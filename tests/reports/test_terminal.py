"""Tables in a terminal of any width show every value whole."""

from __future__ import annotations

import re

import pytest

from reports import terminal
from reports.units import text
from reports.wording import alike

COLUMNS: terminal.Columns = {
    "name": ("operator", text),
    **{f"value{i}": (f"value {i}", text) for i in range(12)},
    "why": ("why", text),
}
ROWS = [{"name": "layers.mlp.gate_proj", **{f"value{i}": 1.875 + i for i in range(12)}, "why": "word " * 60}]


@pytest.mark.parametrize("columns", [40, 80, 120, 400, None])
def test_nothing_is_cut(columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if columns is not None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
    drawn = terminal.table(ROWS, COLUMNS)
    assert "…" not in drawn
    words = drawn.split()
    assert all(str(ROWS[0][f"value{i}"]) in words for i in range(12))
    assert words.count("word") == 60
    lines = [line for line in drawn.splitlines() if "1.875" in line]
    assert len(lines) == 1
    assert "12.875" in lines[0]


def test_sentences_break_before_a_line_grows_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    drawn = terminal.table([{"name": "a", "why": "word " * 60}], {k: COLUMNS[k] for k in ("name", "why")})
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in drawn.splitlines()) == 100


def test_counts_that_are_expectations_have_four_digits() -> None:
    """As of the passes that draft: a generation takes so many of them on average."""
    shown = terminal.PREDICTION["count"][1]
    assert [shown(count) for count in (0.29434305, 17.552, 45000, 32.0)] == ["0.2943", "17.55", "45000", "32"]


def test_bars_begin_where_the_one_before_ends() -> None:
    """Aligned to the right, spaces behind a bar would be dropped, and all bars would end in one column."""
    bars = ["####      ", "    ##    ", "      ####"]
    drawn = terminal.table(
        [{"name": "a", "bar": bar} for bar in bars], {"name": ("n", text), "bar": ("", text)}
    )
    first, second, third = (line for line in drawn.splitlines() if "#" in line)
    assert second.index("#") == first.rindex("#") + 1
    assert third.index("#") == second.rindex("#") + 1


def test_parts_of_an_engine_that_take_no_time_have_no_line() -> None:
    row = {
        "name": "engine.step",
        "phase": "decode",
        "time_s": 5e-5,
        "count": 9,
        "lower_s": 4e-5,
        "upper_s": 6e-5,
    }
    idle = {**row, "name": "engine.launch_gaps", "time_s": 0.0, "lower_s": 0.0, "upper_s": 0.0}
    told = terminal.engine_lines({"told": "x", "rows": [{**each, "why": "w"} for each in (idle, row)]})
    assert told == ["engine x", "  engine.step (decode): 50.0 µs x 9, 40.0 µs to 60.0 µs: w"]


def test_numbers_of_a_column_have_as_many_decimals() -> None:
    rates = [15.0, 15.05, None]
    assert list(map(alike(rates), rates)) == ["15.00", "15.05", "–"]
    assert list(map(alike([1500, 12]), [1500, 12])) == ["1,500", "12"]
