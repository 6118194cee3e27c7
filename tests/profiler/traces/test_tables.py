"""The common tables: documented columns always, and merging keeps every link."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from profiler.traces.tables import SCHEMAS, Loss, Origin, Trace, make_table, merge


def trace(name: str, linked: list[int]) -> Trace:
    """A kernel per entry of `linked`, which is the row of its launch; two launches in one range."""
    count = len(linked)
    return Trace(
        (Origin(file=name, format="kineto"),),
        {
            "activities": make_table(
                "activities",
                {
                    "source": [0] * count,
                    "name": [f"{name} {i}" for i in range(count)],
                    "kind": ["kernel"] * count,
                    "start_ns": np.arange(count) * 10,
                    "end_ns": np.arange(count) * 10 + 5,
                    "launch": linked,
                },
            ),
            "launches": make_table("launches", {"source": [0, 0], "name": ["a", "b"], "range": [0, -1]}),
            "ranges": make_table("ranges", {"source": [0], "name": [f"range of {name}"]}),
        },
        losses=(Loss(what="noted", count=1, sentence=name),),
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_has_its_columns_without_rows(name: str) -> None:
    assert Trace(())[name].schema == SCHEMAS[name]
    assert make_table(name, {}).schema == SCHEMAS[name]


def test_what_is_not_given_is_absent() -> None:
    table = make_table("activities", {"start_ns": [1, 2]})
    assert table["device"].to_pylist() == [-1, -1]
    assert table["name"].to_pylist() == [None, None]


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(KeyError, match="has no column colour"):
        make_table("activities", {"colour": [1]})


def test_merging_keeps_links_and_numbers_sources() -> None:
    merged = merge([trace("one", [1, -1]), trace("two", [0, 1, 1])])
    assert merged.column("activities", "source").tolist() == [0, 0, 1, 1, 1]
    assert merged.column("activities", "launch").tolist() == [1, -1, 2, 3, 3]
    assert merged.column("launches", "range").tolist() == [0, -1, 1, -1]
    assert merged["activities"]["name"].to_pylist() == ["one 0", "one 1", "two 0", "two 1", "two 2"]
    words, codes = merged.words("ranges", "name"), merged.column("ranges", "name")
    assert [words[code] for code in codes] == ["range of one", "range of two"]
    assert [loss.sentence for loss in merged.losses] == ["one", "two"]
    assert len(merged.origins) == 2


def test_a_column_is_replaced() -> None:
    changed = trace("one", [1, -1]).with_column("activities", "launch", [0, 0])
    assert changed.column("activities", "launch").tolist() == [0, 0]
    assert changed["activities"].schema == pa.schema(SCHEMAS["activities"])
