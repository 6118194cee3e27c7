"""The benchmarks run and print what they promise; how fast they find it is nobody's assertion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import end_to_end, published_serving
from benchmarks.accuracy import carried_coverage, carried_intervals
from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table

ROOT = Path(__file__).resolve().parents[2]
# stages.py asks nothing itself: it runs the stages of others
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "stages")
ON_GPU = ("gpu",)  # test_gpu.py
TABLES = ("accuracy", "closed_loop", "end_to_end", "power")  # scripts that need measured tables
BY_ROW = ("published_kernels", "published_serving")  # whose rows are tried, here or by kernel
SMALL = {
    "predict_speed": ("-n", "12", "-r", "1"),
    "cold_start": ("-n", "1"),
    "nsys_speed": ("-n", "1", "--kernels", "3000"),
    "conformance": (),
    "table_speed": ("-n", "2000", "--repeats", "2"),
    "trace_speed": ("-n", "1", "--megabytes", "3"),
}


def printed(path: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(path), *options],
        check=False,  # what it said is worth more than that it failed
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_export_is_read_beside_sqlite(results: dict[str, dict[str, Any]]) -> None:
    found = results["nsys_speed"]
    assert set(found["stages"]) == {"floor", "kernels", "linked"}
    assert all(stage["wall_s"] > 0 and stage["memory_bytes"] > 0 for stage in found["stages"].values())


def test_tables_are_predicted_beside_reading_and_writing(results: dict[str, dict[str, Any]]) -> None:
    found = results["table_speed"]["tables"]
    assert set(found) == {"products", "experts"}
    assert all(set(times) == {"read and written", "calibrated", "corrected"} for times in found.values())
    assert all(each["wall_s"] > 0 for times in found.values() for each in times.values())


def test_every_benchmark_is_tried_and_explained() -> None:
    assert {path.stem for path in SCRIPTS} == {*SMALL, *TABLES, *BY_ROW, *ON_GPU}
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert all(f"benchmarks/{path.name}" in readme for path in SCRIPTS)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return {
        path.stem: json.loads(printed(path, *SMALL[path.stem], "--json"))
        for path in SCRIPTS
        if path.stem in SMALL
    }


def test_a_grid_gives_what_single_predictions_give(results: dict[str, dict[str, Any]]) -> None:
    found = results["predict_speed"]
    assert found["scenarios"] == 12
    assert found["largest_deviation"] < 1e-9
    assert all(found[name] > 0 for name in ("grid_s", "grid_us_per_scenario", "floor_s", "single_s"))


def test_a_trace_is_set_beside_unpacking_and_decoding(results: dict[str, dict[str, Any]]) -> None:
    found = results["trace_speed"]
    assert set(found["stages"]) == {"unpack", "decode", "kernels", "import"}
    assert found["events"] > 1000
    assert all(stage["wall_s"] > 0 and stage["memory_bytes"] > 0 for stage in found["stages"].values())


def test_a_cold_start_is_set_beside_python_and_numpy(results: dict[str, dict[str, Any]]) -> None:
    found = results["cold_start"]
    assert set(found["cpu_s"]) == {"python -c pass", "import numpy", "roofline predict"}
    assert set(found["over"]) == {"python -c pass", "import numpy"}
    assert all(seconds > 0 for seconds in found["cpu_s"].values())


def test_hand_checked_floors_are_explained_to_the_last_term(results: dict[str, dict[str, Any]]) -> None:
    found = results["conformance"]
    assert len(found["rows"]) == 16
    for row in found["rows"]:
        assert abs(row["deviation"]) < 0.02
        last_digit = 10.0 ** -len(row["reference_ms"].partition(".")[2])
        assert abs(row["by_hand_s"] * 1e3 - float(row["reference_ms"])) < last_digit
        assert abs(row["unexplained_s"]) < 1e-12 * row["predicted_s"]
        assert all(term >= 0 for term in row["terms_s"].values())


def test_the_page_of_conformance_is_what_the_script_prints(results: dict[str, dict[str, Any]]) -> None:
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert page == printed(ROOT / "benchmarks" / "conformance.py")
    tests = (ROOT / "tests" / "workloads" / "test_faults.py").read_text(encoding="utf-8")
    assert all(f"def {test}(" in tests for test in results["conformance"]["faults"].values())


@pytest.mark.parametrize(
    "path", [p for p in SCRIPTS if p.stem not in (*ON_GPU, *BY_ROW)], ids=lambda path: path.stem
)
def test_help_says_what_it_measures(path: Path) -> None:
    text = printed(path, "--help")
    measures_no_time = path.stem in ("conformance", *TABLES)
    assert "--repeats" in text or "--runs" in text or measures_no_time
    assert "?" in text  # the question that it answers


def test_accuracy_lists_every_cell_on_shapes_and_devices_not_seen(tmp_path: Path) -> None:
    """Two imaginary backends that reach half of the data sheet, ten shape families each."""
    rng = np.random.default_rng(0)
    sizes = dict(zip("mnk", 2 ** rng.integers(6, 12, (3, 40)), strict=True))
    table = pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "gpu": "h100_sxm", **sizes})
    bound = predict_table(table, ceilings(load_device("h100_sxm")))["predicted_us"]
    table = pd.concat([table.assign(backend=name, latency_us=5 + 2 * bound) for name in ("one", "two")])
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables" / "products.parquet")
    path = ROOT / "benchmarks" / "accuracy.py"
    found = json.loads(printed(path, str(tmp_path / "tables"), "--work", str(tmp_path / "work"), "--json"))
    for part in ("shapes_not_seen", "device_not_seen"):
        assert {(cell["gpu"], cell["backend"], cell["rows"]) for cell in found[part]} == {
            ("h100_sxm", "one", 40),
            ("h100_sxm", "two", 40),
        }
    assert all(cell["mape"] < 0.2 for cell in found["shapes_not_seen"])
    kept = sorted(path.name for path in (tmp_path / "work").iterdir() if "h100" in path.name)
    ends = (".json", ".parquet", "-folds.json", "-trees.json", "-trees.parquet")  # 40 rows teach no tree
    assert kept == sorted(f"h100_sxm-products{end}" for end in ends)
    assert not any(cell["shipped"] for cell in found["shapes_not_seen"])


def test_the_table_of_the_page_is_replaced_and_nothing_else() -> None:
    page = end_to_end.PAGE.read_text()
    assert page.count(end_to_end.BEGIN) == page.count(end_to_end.END) == 1
    changed = end_to_end.between(page, "| other |\n")
    before, after = (each.split(end_to_end.BEGIN)[0] for each in (page, changed))
    assert before == after
    assert page.split(end_to_end.END)[1] == changed.split(end_to_end.END)[1]
    assert "| other |" in changed
    assert "sglang" not in changed.split(end_to_end.BEGIN)[1].split(end_to_end.END)[0]


@pytest.mark.parametrize(("gpu", "prompt", "output"), [("h200_sxm", 1000, 1000), ("gb200", 5000, 500)])
def test_published_throughputs_of_devices_without_constants_are_met(
    gpu: str, prompt: int, output: int
) -> None:
    """Of Llama-3.3-70B under TensorRT-LLM 1.0, which no constant was fitted to."""
    rows = pd.read_csv(published_serving.ROWS)
    chosen = rows.query("model == 'Llama-3.3-70B' and release == '1.0' and gpu == @gpu")
    (row,) = chosen.query("prompt == @prompt and output == @output").to_dict("records")
    assert abs(published_serving.simulated(row)["tokens/s"]) < 0.15


def test_accuracy_tells_which_kind_s_carried_intervals_hold() -> None:
    """Two of three devices err alike, the third by ten times: its rows are in no interval that they set."""
    rng = np.random.default_rng(0)
    errors = {"attention_decode": (1.0, 1.0, 1.0), "mla_decode": (1.0, 1.0, 10.0)}
    pieces = [
        pd.DataFrame({"op": op, "dtype": "bfloat16", "gpu": gpu, "predicted_us": np.full(400, 10.0)}).assign(
            latency_us=10 * off * np.exp(0.1 * rng.standard_normal(400))
        )
        for op, each in errors.items()
        for gpu, off in zip("abc", each, strict=True)
    ]
    held = carried_coverage(pd.concat(pieces))
    assert set(held) == {"attention_decode", "mla"}
    assert min(held["attention_decode"]) > 0.75
    assert held["mla"][2] == 0.0
    page = "\n".join(carried_intervals(held))
    assert f"| mla | {np.mean(held['mla']):.0%} | 0% | 3 |" in page
