"""What recipes say of the silicon sample: flags, formats, a split written wrongly, drafted tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from roofline.endtoend import NAMES, composed
from roofline.recipes import ACCEPT, NODE, with_recipes
from roofline.tablefiles import read_table
from workloads.techniques.decoding import expected_tokens

QWEN = "Qwen/Qwen3.5-397B-A17B"
ROW: dict[str, Any] = {
    "model_path": QWEN,
    "system": "b200_sxm",
    "backend": "sglang",
    "precision": "bf16",
    "isl": 1024,
    "osl": 1024,
    "tp_size": 8,
    "moe_tp_size": 8,
    "moe_ep_size": 1,
    "concurrency": 4,
    "silicon_ttft_ms": 300.0,
    "silicon_tpot_ms": 8.0,
}
TIMES = ["silicon_ttft_ms", "silicon_tpot_ms"]


def rows_of(*changes: dict[str, Any]) -> pd.DataFrame:
    return composed(pd.DataFrame([ROW | change for change in changes]), "datasheet")[0]


def test_engines_look_at_arrivals_as_often_as_their_recipes_say() -> None:
    """Where a column does not say it."""
    fp4 = {"precision": "fp4", "tp_size": 4, "moe_tp_size": 4}
    other = {"backend": "vllm", "model_path": "gpt-oss-120b", "system": "h100_sxm"}
    found = rows_of({}, {"concurrency": 16}, fp4, {"concurrency": 16, **other}, {"poll_steps": 7})
    assert found["poll_steps"].tolist() == [10, 30, 30, 1, 7]


def test_flags_are_those_of_the_model_and_its_device() -> None:
    """SGLang's polling is set on B200 and not on H200, nor for GLM-5; keys and values likewise."""
    narrow = {"precision": "fp8", "concurrency": 16}
    deep = {"model_path": "deepseek-ai/DeepSeek-R1-0528", "moe_tp_size": 8}
    rows = pd.DataFrame([ROW | narrow | c for c in (deep, deep | {"system": "h200_sxm"})])
    rows = pd.concat([rows, pd.DataFrame([ROW | narrow | {"model_path": "zai-org/GLM-5-FP8"}])])
    found = with_recipes(rows.rename(columns=NAMES))
    assert found["poll_steps"].tolist() == [30, 1, 1]
    assert found["kv_dtype"].tolist() == ["fp8", "bf16", "fp8"]


def test_rows_of_other_lengths_are_as_long_as_they_say() -> None:
    """InferenceX's are of 1024 and 8192 tokens, which are the most of random lengths."""
    found = with_recipes(pd.DataFrame([ROW, ROW | {"isl": 4000, "osl": 1000}]).rename(columns=NAMES))
    assert found[["prompt", "output"]].to_numpy().tolist() == [[922, 922], [4000, 1000]]


def test_a_table_that_is_not_the_sample_has_no_recipe() -> None:
    table = pd.DataFrame([ROW]).rename(columns={"silicon_ttft_ms": "ttft_ms", "silicon_tpot_ms": "tpot_ms"})
    assert composed(table, "datasheet")[0]["poll_steps"].tolist() == [1]


def test_keys_and_values_of_narrow_models_have_eight_bits() -> None:
    """A step that reads 8192 positions of each of 64 users is shorter by what their keys and values lose."""
    long = {"precision": "fp8", "isl": 8192, "concurrency": 64}
    narrow, wide = (rows_of(long | more).iloc[0] for more in ({}, {"kv_dtype": "bf16"}))
    values = 64 * (8192 + 512) * 15 * 256 * 2  # users, positions, layers, width; K and V of one head a device
    assert wide["decode_s"] - narrow["decode_s"] == pytest.approx(values / 8e12, rel=0.1)


def test_drafted_tokens_are_those_of_the_recipe() -> None:
    """Where a column does not say it."""
    drafted = {"precision": "fp8", "tp_size": 4, "moe_tp_size": 4}
    found = rows_of({}, drafted, drafted | {"drafted": 0}, drafted | {"accept": 1.0})
    assert found["tokens"].tolist() == [1, pytest.approx(3.39, abs=0.01), 1, 4]
    assert found["release"].tolist()[:2] == ["", "sglang 0.5.9"]


def test_releases_before_products_were_joined_are_told_by_version_and_day() -> None:
    versions = [
        "0.5.9",
        "nightly-dev",
        "nightly-dev-20260216-d3bae71e",
        "nightly-dev-20260402-d7256eb6",
        None,
    ]
    found = rows_of(*({"backend_version": version} for version in versions))
    assert found["release"].tolist() == ["sglang 0.5.9"] * 3 + [""] * 2
    others = rows_of({"backend_version": "0.5.9", "model_path": "zai-org/GLM-5"})
    assert others["release"].tolist() == [""]


def test_drafts_are_kept_as_often_as_was_published() -> None:
    """Tokens a step of this model with 1, 2 and 3 drafts (InferenceX, SPEED-Bench's code, thinking on)."""
    for drafted, tokens in enumerate((1.93, 2.73, 3.39), start=1):
        assert expected_tokens(ACCEPT, drafted) == pytest.approx(tokens, rel=0.02)


def test_no_row_of_the_sample_is_left_out(shared: Callable[[str], Path]) -> None:
    rows, left_out = composed(read_table(shared("data/aic_e2e_silicon.parquet")), "datasheet")
    assert not left_out
    assert (len(rows), (rows["tokens"] > 1).sum()) == (298, 63)


def test_a_split_beyond_a_node_is_that_of_its_recipe() -> None:
    wrong = {"precision": "fp8", "tp_size": 16, "moe_tp_size": 4, "moe_ep_size": 4}
    right = wrong | {"tp_size": 4, "moe_tp_size": 1}
    found = rows_of(wrong, right)
    assert found["tp"].tolist() == [4, 4]
    assert found["decode_s"].nunique() == 1


def test_all_rows_beyond_a_node_repeat_the_times_of_the_split_that_they_are_taken_for(
    shared: Callable[[str], Path],
) -> None:
    table = read_table(shared("data/aic_e2e_silicon.parquet"))
    beyond = table["tp_size"] > NODE
    right = table[(table["tp_size"] == 4) & (table["moe_ep_size"] == 4)]
    keys = ["isl", "osl", "concurrency"]
    times = table[beyond].merge(right, on=keys, suffixes=("", "_right"))
    same = pd.concat([(times[n] / times[f"{n}_right"] - 1).abs() < 1e-3 for n in TIMES], axis=1).all(axis=1)
    assert beyond.sum() == times[same]["id"].nunique() == 28
