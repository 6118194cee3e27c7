"""Operators in a table: each row is the prediction of that operator alone, in the order given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Device, load_device
from roofline.ceilings import ceilings
from roofline.optable import BUILDERS, DTYPES, OUTPUT_COLUMNS, predict_table
from roofline.times import times
from specfiles.errors import InputError
from workloads.operators import (
    Activation,
    AllReduce,
    Attention,
    Collective,
    Copy,
    Gemm,
    GroupedGemm,
    Norm,
    Operator,
    Residual,
    Rope,
    RoutedExperts,
    Sampling,
)
from workloads.operators.collective import PATTERNS

close = partial(pytest.approx, rel=1e-9, abs=0)  # times are far below the default absolute tolerance

H100, A100 = ceilings(load_device("h100_sxm")), ceilings(load_device("a100_sxm"))
SIZE = st.integers(1, 5000)
COLUMNS = {  # of each kind, as the measured tables have them
    "gemm": ("m", "n", "k"),
    "attention_prefill": ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim", "window"),
    "attention_decode": ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim", "window"),
    "attention_encoder": ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim"),
    "mla_prefill": ("batch", "q_len", "kv_len", "n_heads"),
    "mla_decode": ("batch", "q_len", "kv_len", "n_heads"),
    "rmsnorm": ("num_tokens", "hidden"),
    "rope": ("num_tokens", "n_heads", "n_kv_heads", "head_dim"),
    "act_mul": ("num_tokens", "inter"),
    "elementwise_add": ("num_tokens", "hidden"),
    "moe": ("num_tokens", "hidden", "inter", "topk", "num_experts"),
    "grouped_gemm": ("m", "n", "k", "num_experts"),
    "sampling": ("num_tokens", "n"),
    "copy": ("bytes",),
    **dict.fromkeys(PATTERNS, ("bytes", "n_gpus")),
}
WIDE = {"bfloat16": "bf16", "float16": "fp16", "fp8": "bf16", "int8_wo": "bf16", "sq": "bf16"}
MULTIPLIED = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "int8_wo": "bf16", "sq": "int8"}
STORED = {**MULTIPLIED, "int8_wo": "int8"}


def alone(row: dict[str, Any]) -> Operator:
    """The operator that a row of the table means, made by hand."""
    wide, multiplied = WIDE[row["dtype"]], MULTIPLIED[row["dtype"]]
    if row["op"] == "gemm":
        return Gemm(row["m"], row["n"], row["k"], multiplied, STORED[row["dtype"]], wide)
    if row["op"].startswith("attention"):
        q_len = 1 if row["op"] == "attention_decode" else row["q_len"]
        heads = (row["n_heads"], row["n_kv_heads"], row["head_dim"])
        return Attention(
            row["batch"],
            q_len,
            row["kv_len"],
            *heads,
            dtype=multiplied,
            kv_dtype=MULTIPLIED[row["kv_dtype"] or row["dtype"]],
            causal=row["op"] != "attention_encoder",
            window=row.get("window") or None,
        )
    if row["op"].startswith("mla"):
        return latent(row)
    if row["op"] == "rope":
        return Rope(row["num_tokens"], row["n_heads"] + row["n_kv_heads"], row["head_dim"], wide)
    if row["op"] == "allreduce":
        return AllReduce(row["bytes"] / 2, 1, row["n_gpus"])
    if row["op"] in PATTERNS:
        return Collective(row["op"], row["bytes"], row["n_gpus"])
    if row["op"] == "grouped_gemm":
        met = min(row["m"], row["num_experts"])  # rows are spread evenly
        sizes = (row["m"], row["n"], row["k"], row["num_experts"], met)
        return GroupedGemm(*sizes, multiplied, STORED[row["dtype"]], wide)
    if row["op"] == "sampling":
        return Sampling(row["num_tokens"], row["n"], wide, softmax=True)
    if row["op"] == "copy":
        return Copy(row["bytes"])
    if row["op"] == "moe":
        choices, experts = row["num_tokens"] * row["topk"], row["num_experts"]
        load = (row["num_tokens"], choices, min(choices, experts))  # topk divides the experts
        shape = (row["hidden"], row["inter"], 3)
        return RoutedExperts(*load, *shape, multiplied, STORED[row["dtype"]], wide)
    kinds: dict[str, Any] = {"rmsnorm": Norm, "act_mul": Activation, "elementwise_add": Residual}
    width = row["inter"] if row["op"] == "act_mul" else row["hidden"]
    return kinds[row["op"]](row["num_tokens"], width, wide)  # type: ignore[no-any-return]


def latent(row: dict[str, Any]) -> Operator:
    """DeepSeek-V2 (arXiv:2405.04434, section 2.1): 128 elements and 64 rotated ones, 512 + 64 cached."""
    decode, heads = row["op"] == "mla_decode", row["n_heads"]
    formats = {"dtype": MULTIPLIED[row["dtype"]], "kv_dtype": MULTIPLIED[row["kv_dtype"] or row["dtype"]]}
    if decode:
        sizes = (row["batch"], 1, row["kv_len"], heads, 1, 512 + 64)
        return Attention(*sizes, value_dim=512, values_in_keys=True, **formats)
    sizes = (row["batch"], row["q_len"], row["kv_len"], heads, heads, 128 + 64)
    return Attention(*sizes, value_dim=128, cached=False, **formats)


def test_every_kind_of_row_is_tested() -> None:
    assert set(COLUMNS) == set(BUILDERS)
    assert set(WIDE) <= set(DTYPES)


@st.composite
def rows(draw: st.DrawFn, op: str | None = None) -> dict[str, Any]:
    kind = draw(st.sampled_from(list(COLUMNS))) if op is None else op
    row: dict[str, Any] = {"op": kind, "dtype": draw(st.sampled_from(list(WIDE))), "kv_dtype": ""}
    row |= {column: draw(SIZE) for column in COLUMNS[kind]}
    if kind.startswith("attention"):
        row["kv_dtype"] = draw(st.sampled_from(["", "bfloat16", "fp8"]))
        row["kv_len"] += row["q_len"]
        row["n_heads"] *= row["n_kv_heads"]
        if "window" in row:
            row["window"] = draw(st.sampled_from([0, 0, 128, 4096]))
    if kind == "moe":
        row["num_experts"] = row["topk"] * draw(st.integers(1, 40))
    return row


def assert_rows(result: pd.DataFrame, asked: list[dict[str, Any]]) -> None:
    for found, row in zip(result.to_dict("records"), asked, strict=True):
        op = alone(row)
        work, limit = op.work(), times(op, H100)
        expected = (work.flops, work.bytes, limit.compute_s, limit.memory_s, limit.time_s * 1e6)
        assert [found[name] for name in OUTPUT_COLUMNS[:5]] == close(expected, rel=1e-13)
        assert found["bound"] == limit.bound
        assert found["fidelity"] == "datasheet"


@pytest.mark.parametrize("kind", [kind for kind in COLUMNS if kind != "rmsnorm"])
@given(data=st.data())
def test_a_row_alone(kind: str, data: st.DataObject) -> None:
    row = data.draw(rows(kind))
    assert_rows(predict_table(pd.DataFrame([row]), H100), [row])


@given(st.lists(rows().filter(lambda row: row["op"] != "rmsnorm"), min_size=1, max_size=8))
def test_rows_of_many_kinds_keep_their_order(asked: list[dict[str, Any]]) -> None:
    assert_rows(predict_table(pd.DataFrame(asked), H100), asked)


def gemms(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "m": [7, 8], "n": 64, "k": 32, **columns})


def test_further_columns_and_the_index_pass_through() -> None:
    table = gemms(latency_us=[1.5, 2.5], note=["a", None]).set_index(pd.Index([30, 10]))
    result = predict_table(table, H100)
    pd.testing.assert_frame_equal(result[list(table.columns)], table)
    assert list(result.columns) == [*table.columns, *OUTPUT_COLUMNS]


def test_the_table_given_is_not_changed() -> None:
    table = gemms()
    before = table.copy()
    predict_table(table, H100)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("empty", [gemms().iloc[:0], pd.DataFrame({"op": []}), pd.DataFrame(columns=["op"])])
def test_an_empty_table_has_the_columns(empty: pd.DataFrame) -> None:
    result = predict_table(empty, H100)
    assert len(result) == 0
    assert list(result.columns) == [*empty.columns, *OUTPUT_COLUMNS]


def test_what_a_row_leaves_out() -> None:
    """Without a dtype bf16; without a window, or with 0 or nothing, full attention."""
    assert_rows(predict_table(gemms().drop(columns="dtype").iloc[:1], H100), [{**gemms().iloc[0].to_dict()}])
    row = {"op": "attention_prefill", "dtype": "bf16", "batch": 2, "q_len": 50, "kv_len": 50}
    row |= {"n_heads": 8, "n_kv_heads": 2, "head_dim": 64}
    values: list[Any] = [0, np.nan, 50, 10]
    result = predict_table(pd.DataFrame([{**row, "window": value} for value in values]), H100)
    full = predict_table(pd.DataFrame([row]), H100)
    assert result["flops"][:3].tolist() == full["flops"].tolist() * 3
    assert result["flops"][3] < full["flops"][0]


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_text_columns_of_any_kind(kind: str) -> None:
    table = gemms().astype({"op": kind, "dtype": kind})
    assert predict_table(table, H100)["flops"].tolist() == [2 * 7 * 64 * 32, 2 * 8 * 64 * 32]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"op": ["gemm", "gmem"]}, r"no operator kind \(row 2\) named 'gmem'; did you mean gemm"),
        (
            {"dtype": ["bfloat16", "bfloat17"]},
            r"no dtype \(op gemm, row 2\) named 'bfloat17'; did you mean bfloat16",
        ),
        ({"kv_dtype": ["", "fp9"]}, r"no dtype \(op gemm, row 2\) named 'fp9'"),
        ({"m": [7, -1]}, "row 2: m of op gemm is -1; expected a positive whole number"),
        ({"m": [7, 1.5]}, "row 2: m of op gemm is 1.5; expected a positive whole number"),
        ({"m": [0, 7]}, "row 1: m of op gemm is 0; expected a positive whole number"),
        ({"n": [7, np.nan]}, "row 2: n of op gemm is empty; expected a positive whole number"),
        ({"n": [7, np.inf]}, "row 2: n of op gemm is inf; expected a positive whole number"),
        (
            {"n": [7, 1e308]},
            "row 2: n of op gemm is 1e\\+308; expected a positive whole number of at most 1e",
        ),
        ({"k": pd.array([7, None], dtype="Int64")}, "row 2: k of op gemm is empty"),
        ({"k": ["x", "y"]}, "k of op gemm is 'x'; expected a number"),
        ({"dtype": ["fp64", "nvfp4"]}, "row 2: H100-SXM5-80GB has no dense peak for fp4"),
    ],
)
@pytest.mark.parametrize("fidelity", ["datasheet", "calibrated"])
def test_a_wrong_cell_is_named(changes: dict[str, Any], said: str, fidelity: str) -> None:
    with pytest.raises(InputError, match=said):
        predict_table(gemms(**changes), ceilings(load_device("h100_sxm"), fidelity))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match="op gemm needs the column 'k'; the table has none"):
        predict_table(gemms().drop(columns="k"), H100)
    with pytest.raises(
        InputError, match="no column 'op'; expected the columns op, dtype and sizes, found: m"
    ):
        predict_table(pd.DataFrame({"m": [1]}), H100)
    with pytest.raises(InputError, match="found: none"):
        predict_table(pd.DataFrame(), H100)


def test_a_negative_window_is_refused() -> None:
    row = {"op": "attention_decode", "dtype": "bf16", "batch": 1, "kv_len": 9, "n_heads": 1}
    row |= {"n_kv_heads": 1, "head_dim": 8, "window": -1}
    with pytest.raises(InputError, match="row 1: window of op attention_decode is -1"):
        predict_table(pd.DataFrame([row]), H100)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_kv_heads": [2, 3]}, "row 2: n_heads 8 is not divisible by n_kv_heads 3; expected n_kv_heads to"),
        ({"n_kv_heads": [16, 8]}, "row 1: n_heads 8 is not divisible by n_kv_heads 16"),
        ({"q_len": [9, 10]}, "row 2: q_len 10 is above kv_len 9"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused_with_their_row(
    changes: dict[str, Any], said: str
) -> None:
    row = {"op": "attention_prefill", "dtype": "bf16", "batch": 1, "q_len": 9, "kv_len": 9, "head_dim": 8}
    with pytest.raises(InputError, match=said):
        predict_table(pd.DataFrame({**row, "n_heads": 8, "n_kv_heads": [2, 4], **changes}), H100)


# Measured operators of three GPU generations: the data-sheet roofline is a floor.

# This backend's measurements on the A100 move up to 3.4 TB/s on a device of 2.04 TB/s, from footprints far
# beyond its cache. With a cache of 8 bits instead of the 16 that the rows state, none is above the roof.
IMPOSSIBLE_KV = {"gpu": "a100_sxm", "op": "attention_decode", "backend": "trtllm"}
# Weight-only rows that reach 1.14 times the 16-bit peak: they multiply in 8 bits, whatever they are called.
IMPOSSIBLE_PRODUCT = {"gpu": "h100_sxm", "op": "gemm", "backend": "sglang", "dtype": "int8_wo"}
# 3.55 TB/s on 3.35: heads of 192 belong to models whose values have 128, so that a sixth less is read.
IMPOSSIBLE_VALUES = {"gpu": "h100_sxm", "op": "attention_decode", "backend": "sglang", "head_dim": 192}
IMPOSSIBLE = (IMPOSSIBLE_KV, IMPOSSIBLE_PRODUCT, IMPOSSIBLE_VALUES)


def measured(path: Path) -> pd.DataFrame:
    """The rows of a table with the floor of each, per device."""
    table = pd.read_parquet(path)
    parts = [predict_table(part, ceilings(load_device(gpu))) for gpu, part in table.groupby("gpu")]
    return pd.concat(parts)


def which(table: pd.DataFrame, known: dict[str, Any]) -> pd.Series:
    return pd.concat([table[key] == value for key, value in known.items()], axis=1).all(axis=1)


@pytest.mark.parametrize("name", ["aic_gemm", "aic_attn_prefill", "aic_attn_decode", "aic_attn_encoder"])
def test_measured_operators_are_not_faster_than_their_floor(
    name: str, shared: Callable[[str], Path], record_property: Callable[[str, object], None]
) -> None:
    """At least 99 % of the rows; the rest came out of a cache or are known to be impossible."""
    table = measured(shared(f"data/{name}.parquet"))
    assert np.isfinite(table["predicted_us"]).all()
    assert (table["predicted_us"] > 0).all()
    above = table[table["predicted_us"] > table["latency_us"]]
    record_property("rows", len(table))
    record_property("above the roof", len(above))
    assert len(above) <= 0.01 * len(table)

    rest = above[~np.logical_or.reduce([which(above, known) for known in IMPOSSIBLE])]
    assert (rest["bound"] == "memory").all()
    caches = {gpu: load_device(gpu).datasheet.l2 for gpu in rest["gpu"].unique()}
    cached = [row.bytes_moved <= caches[row.gpu].capacity_bytes.value for row in rest.itertuples()]  # type: ignore[union-attr]
    assert all(cached), rest[~np.array(cached, dtype=bool)]
    assert len(rest) <= 0.002 * len(table)


def test_the_impossible_rows_are_possible_as_explained(shared: Callable[[str], Path]) -> None:
    decode = measured(shared("data/aic_attn_decode.parquet"))
    above = decode[decode["predicted_us"] > decode["latency_us"]]
    kv = above[which(above, IMPOSSIBLE_KV)]
    assert len(kv) == 73
    assert (kv["bytes_moved"] > 6 * 40e6).all()  # no cache holds them
    narrow = predict_table(kv[decode.columns.drop(list(OUTPUT_COLUMNS))].assign(kv_dtype="int8"), A100)
    assert (narrow["predicted_us"] < kv["latency_us"]).all()
    values = above[which(above, IMPOSSIBLE_VALUES)]
    assert len(values) == 2
    assert (values["predicted_us"] * (192 + 128) / (192 + 192) < values["latency_us"]).all()

    gemm = measured(shared("data/aic_gemm.parquet"))
    above = gemm[gemm["predicted_us"] > gemm["latency_us"]]
    products = above[which(above, IMPOSSIBLE_PRODUCT)]
    assert len(products) == 8
    narrow = predict_table(products[gemm.columns.drop(list(OUTPUT_COLUMNS))].assign(dtype="fp8"), H100)
    assert (narrow["predicted_us"] < products["latency_us"]).all()


def test_one_rank_of_several_has_its_share_of_a_balanced_layer_and_more_of_a_skewed_one() -> None:
    layer = {"op": "moe", "dtype": "bfloat16", "num_tokens": 4096, "hidden": 2048, "inter": 768, "topk": 8}
    table = pd.DataFrame([{**layer, "num_experts": 128, "moe_ep": ranks, "moe_tp": 1} for ranks in (1, 8)])
    whole, share = predict_table(table, H100)["flops"]
    assert whole == 4096 * 8 * 3 * 2 * 2048 * 768
    assert share == close(whole / 8)
    skewed = predict_table(table.assign(distribution="power_law_1.2"), H100)["flops"]
    assert skewed[0] == close(whole, rel=0.01)
    assert skewed[1] > 1.4 * share


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"topk": 9}, "8 experts cannot give 9 to a token on 1 ranks"),
        ({"moe_ep": 3}, "moe_ep must divide it"),
        (
            {"distribution": "zipf"},
            "distribution 'zipf' is not known; use balanced, independent or power_law_A",
        ),
    ],
)
def test_a_layer_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    layer = {"op": "moe", "num_tokens": 4, "hidden": 64, "inter": 64, "topk": 2, "num_experts": 8}
    with pytest.raises(InputError, match=said):
        predict_table(pd.DataFrame([{**layer, **changes}]), H100)


def test_a_single_query_has_its_own_constants_whatever_rows_stand_beside_it(
    paper_device: Callable[..., Device],
) -> None:
    entry = {"dtype": "bf16", "points": 1, "median_error": 0.0, "byte_per_s": 1e12}
    launches = {"attention_prefill": 1e-3, "attention_decode": 1e-2}
    calibration = {
        "source": "paper",
        "operators": {kind: [{**entry, "launch_s": launch_s}] for kind, launch_s in launches.items()},
    }
    measured = {"dram_byte_per_s": {"value": 1e12, "source": "sheet"}}
    limits = ceilings(paper_device(measured=measured, calibration=calibration), "calibrated")
    row = {"op": "attention_prefill", "dtype": "bfloat16", "batch": 1, "kv_len": 9, "n_heads": 2}
    row |= {"n_kv_heads": 2, "head_dim": 8}
    table = pd.DataFrame([row | {"q_len": q_len} for q_len in (1, 9)])
    found = predict_table(table, limits)["predicted_us"]
    alone_us = predict_table(table[:1], limits)["predicted_us"]
    assert found[0] == close(alone_us[0])
    assert found[0] > 1e4 > found[1] > 1e3


def test_a_table_that_knows_the_row_alone_gives_an_activation_its_width() -> None:
    rows = pd.DataFrame([{"op": "act_mul", "num_tokens": 8, name: 512} for name in ("inter", "hidden")])
    assert (
        predict_table(rows.iloc[:1], H100)["flops"].item()
        == predict_table(rows.iloc[1:].drop(columns="inter"), H100)["flops"].item()
    )
