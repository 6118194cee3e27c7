"""Names that people write in tables, in the words of the project."""

from __future__ import annotations

import pandas as pd
import pytest

from roofline.formats import DTYPES
from roofline.optable import BUILDERS
from roofline.tablenames import FORMATS, KINDS, tidied


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("e4m3", "fp8"),
        ("FP8_E4M3", "fp8"),
        ("torch.float8_e4m3fn", "fp8"),
        ("torch.bfloat16", "bfloat16"),
        ("BF16", "bf16"),
        ("Float16 ", "float16"),
        ("w8a8", "sq"),
        ("W4A16", "int4_wo"),
        ("fp8-block", "fp8_block"),
        ("a format of tomorrow", "a format of tomorrow"),
        (None, ""),
    ],
)
def test_formats(written: str | None, known: str) -> None:
    found = tidied(pd.DataFrame({"op": ["gemm"], "dtype": [written], "kv_dtype": [written]}))
    assert found["dtype"].tolist() == found["kv_dtype"].tolist() == [known]


@pytest.mark.parametrize(
    ("written", "known"),
    [("GEMM", "gemm"), ("matmul", "gemm"), ("all-reduce", "allreduce"), ("RMS_Norm", "rmsnorm"), ("x", "x")],
)
def test_kinds(written: str, known: str) -> None:
    assert tidied(pd.DataFrame({"op": [written]}))["op"].tolist() == [known]


def test_every_name_leads_to_one_that_exists_and_own_names_stay() -> None:
    assert set(KINDS.values()) <= set(BUILDERS)
    assert set(FORMATS.values()) <= set(DTYPES)
    assert not set(KINDS) & set(BUILDERS)
    assert not set(FORMATS) & set(DTYPES)
    pairs = [*((op, "fp8") for op in BUILDERS), *(("gemm", dtype) for dtype in DTYPES)]
    own = pd.DataFrame(pairs, columns=["op", "dtype"])
    pd.testing.assert_frame_equal(tidied(own), own)


def test_columns_in_any_case_keep_their_place() -> None:
    found = tidied(pd.DataFrame([[1, 2, 3, "x", 5]], columns=["M", " n ", "K", "Note", "Num Tokens"]))
    assert found.columns.tolist() == ["m", "n", "k", "Note", "num_tokens"]


def test_a_column_under_its_own_name_comes_before_one_that_is_like_it() -> None:
    assert tidied(pd.DataFrame([[1, 2]], columns=["M", "m"])).columns.tolist() == ["M", "m"]
    assert tidied(pd.DataFrame([[1, 2]], columns=["N", "n "])).columns.tolist() == ["N", "n "]
