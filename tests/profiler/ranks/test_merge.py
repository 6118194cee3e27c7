"""Parts made by hand, and what is on paper of their whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from profiler.cli import app
from profiler.ranks.merge import merge, part_folder
from roofline.run import create_run, open_run
from roofline.run_head import Head, Part
from roofline.run_tables import TABLES

HEAD = Head(
    created="2026-01-01T00:00:00+00:00", command="roofline profile", model="a model", model_config_fields={},
    weights="random", phase="decode", dtype="fp32", convention="eager", mode="eager", device="a machine",
    environment={}, seed=0, tensor_parallel=2, parts=[Part(rank=0), Part(rank=1)],
)  # fmt: skip
POINT = {"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 9, "encoder_len": 0}
REDUCE = "layers.mlp_allreduce"


def operator(name: str, kind: str, median_s: float) -> dict[str, Any]:
    quartiles = {"median_s": median_s, "q25_s": 0.9 * median_s, "q75_s": 1.1 * median_s}
    return {**POINT, "name": name, "kind": kind, "where": "model", "count": 2, "repeats": 4, **quartiles}


def met(begin_s: float, end_s: float, repeat: int = 0, index: int = 0) -> dict[str, Any]:
    moment = {"begin_s": begin_s, "end_s": end_s, "uncertainty_s": 1e-6}
    return {**POINT, "name": REDUCE, "repeat": repeat, "index": index, **moment}


def part(out: Path, rank: int, status: Any = "complete", **tables: list[dict[str, Any]]) -> None:
    run = create_run(part_folder(out, rank), HEAD.replace(parts=[], notes=["warm"]))
    for name, rows in tables.items():
        run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))
    run.write_head(status=status)


def begun(out: Path, ranks: int = 2) -> Head:
    head = HEAD.replace(parts=[Part(rank=rank) for rank in range(ranks)])
    create_run(out, head)
    return head


def step(median_s: float) -> dict[str, Any]:
    quartiles = {"median_s": median_s, "q25_s": median_s, "q75_s": median_s, "waited_s": 0.0}
    return {**POINT, "instrumented": False, "repeats": 4, **quartiles}


def test_waits_and_transfers_on_paper(tmp_path: Path) -> None:
    """Rank 1 comes 3 ms late, once 5 ms; both leave 1 ms after the last has come, once 2 ms."""
    head = begun(tmp_path)
    first = [met(0.0, 0.004), met(0.010, 0.017, 0, 1), met(0.020, 0.024, 1), met(0.030, 0.034, 1, 1)]
    other = [met(0.003, 0.004), met(0.015, 0.017, 0, 1), met(0.023, 0.024, 1), met(0.033, 0.034, 1, 1)]
    for rank, arrivals in enumerate((first, other)):
        operators = [operator("lm_head", "gemm", 0.001 * (rank + 1)), operator(REDUCE, "allreduce", 0.004)]
        part(tmp_path, rank, arrivals=arrivals, operators=operators, steps=[step(0.02 + 0.01 * rank)])
    run = merge(tmp_path, head)
    assert run.head.status == "complete"
    (row,) = run.table("collectives").to_dict("records")
    assert row["ranks"] == 2
    assert row["count"] == 2
    assert row["repeats"] == 2
    assert row["wait_s"] == pytest.approx(0.003)
    assert row["mean_wait_s"] == pytest.approx(0.0015)
    assert row["median_s"] == pytest.approx(0.001)
    assert row["q75_s"] == pytest.approx(0.00125)  # of 1, 1, 1 and 2 ms
    assert (row["last_rank"], row["last_share"]) == (1, 1.0)
    operators = run.table("operators").set_index("name")
    assert operators.loc["lm_head", "median_s"] == pytest.approx(0.0015)  # between the ranks
    assert operators.loc[REDUCE, "median_s"] == pytest.approx(0.001)  # without the waits
    assert run.table("steps")["median_s"].tolist() == pytest.approx([0.03])  # of the slowest
    assert any(
        "rank 1 is last in 100 %" in note and "arrives 3.00 ms after" in note for note in run.head.notes
    )


def test_what_one_rank_has_not_seen_is_not_matched(tmp_path: Path) -> None:
    head = begun(tmp_path)
    part(tmp_path, 0, arrivals=[met(0.0, 0.004), met(0.010, 0.014, 0, 1)])
    part(tmp_path, 1, arrivals=[met(0.001, 0.004)])
    (row,) = merge(tmp_path, head).table("collectives").to_dict("records")
    assert row["count"] == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (None, "rank 1 is missing: it wrote nothing that can be read"),
        ("running", "rank 1 is missing its end"),
        ("failed", "rank 1 failed"),
    ],
)
def test_a_part_that_lacks_is_named(tmp_path: Path, status: Any, said: str) -> None:
    head = begun(tmp_path)
    part(tmp_path, 0, arrivals=[met(0.0, 0.004)], operators=[operator("lm_head", "gemm", 0.001)])
    if status:
        part(tmp_path, 1, status, operators=[operator("lm_head", "gemm", 0.003)])
    merge(tmp_path, head)
    run = open_run(tmp_path)
    assert run.head.status == "failed"
    assert [p.status for p in run.head.parts] == ["complete", status or "missing"]
    assert any(note.startswith(said) for note in run.head.notes), run.head.notes
    assert any(note.startswith("no collective was seen on every rank") for note in run.head.notes)
    expected = 0.002 if status else 0.001
    assert run.table("operators")["median_s"].tolist() == pytest.approx([expected])


def test_a_run_without_any_part_opens(tmp_path: Path) -> None:
    head = begun(tmp_path)
    merge(tmp_path, head)
    run = open_run(tmp_path)
    assert [p.status for p in run.head.parts] == ["missing", "missing"]
    assert run.table("operators").empty
    shown = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert "the run is not complete (status: failed), and nothing was measured in it" in shown.output
    said = CliRunner().invoke(app, ["validate", str(tmp_path)]).exception
    assert str(said) == f"{tmp_path}: nothing was measured in it (status: failed)."


def test_parts_keep_what_they_said(tmp_path: Path) -> None:
    head = begun(tmp_path, ranks=3)
    for rank in (0, 1, 2):
        part(tmp_path, rank)
    notes = merge(tmp_path, head).head.notes
    assert [f"rank {rank}: warm" in notes for rank in (0, 1, 2)] == [True] * 3
