"""Techniques against published figures: formulas exactly, ideal curves closely, measurements as bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.predict import Prediction, Scenario, predict
from roofline.times import times
from workloads.catalogue import load_model
from workloads.operators import Gemm
from workloads.techniques.decoding import expected_tokens
from workloads.techniques.registry import parse


@pytest.fixture(scope="module")
def published(shared: Callable[[str], Path]) -> pd.DataFrame:
    table = pd.read_csv(shared("facts/published.csv"))
    table["value"] = pd.to_numeric(table["value"], errors="coerce")  # some are ranges
    return table[~table["confidence"].isin(["MEMORY", "SUSPECT"])]


def decode(model: str, gpu: str, *words: str, context: int = 128) -> Prediction:
    asked = Scenario(load_model(model).model, "decode", context=context)
    return predict(replace(asked, techniques=tuple(map(parse, words))), load_device(gpu))


def test_leviathan_expected_tokens(published: pd.DataFrame) -> None:
    rows = published[published["group"].eq("M_spec") & published["check"].eq("EXACT")]
    assert len(rows) == 6
    for row in rows.itertuples():
        alpha, gamma = re.fullmatch(r"alpha=([\d.]+) gamma=(\d+) c=0", str(row.model)).groups()  # type: ignore[union-attr]
        assert expected_tokens(float(alpha), int(gamma)) == pytest.approx(row.value, abs=0.005)


def test_marlins_ideal_curve(published: pd.DataFrame) -> None:
    """One product of 72k x 18k on an A10, fp16 against weights of 4 bits in groups of 128."""
    rows = published[published["group"].eq("E_marlin") & published["metric"].eq("ideal_speedup")]
    rows = rows[rows["dtype"].eq("int4 g128 vs fp16") & rows["model"].str.contains("N=72k")]
    assert len(rows) >= 5
    limits = ceilings(load_device("a10"))
    for row in rows.itertuples():
        plain = Gemm(int(row.batch), 73_728, 18_432, "fp16", "fp16", "fp16")
        narrow = replace(plain, weights="int4_g128")
        ratio = times(plain, limits).time_s / times(narrow, limits).time_s
        assert ratio == pytest.approx(row.value, rel=0.03), row.batch


def test_awq_on_real_gpus_is_slower_than_its_roofline(published: pd.DataFrame) -> None:
    rows = published[published["group"].eq("E_awq") & published["metric"].eq("decode_latency_per_token")]
    checked = 0
    for row in rows.itertuples():
        try:
            words = ("awq",) if "int4" in str(row.dtype) else ()
            bound = decode(str(row.model), str(row.gpu), *words).totals()["time_s"]
        except ValueError:  # a model or device that is not shipped
            continue
        assert bound <= row.value / 1e3
        assert bound >= 0.5 * row.value / 1e3  # the kernels are good: a bound far below them would be wrong
        checked += 1
    assert checked >= 4


def test_awq_gains_no_less_than_was_measured(published: pd.DataFrame) -> None:
    """4 bits in the layers, 16 in the vocabulary projection: 3.3 to 3.7 times as fast at best."""
    gain = decode("Llama-3.1-8B", "rtx4090").time_s() / decode("Llama-3.1-8B", "rtx4090", "awq").time_s()
    measured = published[published["id"].eq("E01771")]["value"].iloc[0]
    assert measured <= gain
    assert gain == pytest.approx(3.1, abs=0.4)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("bf16", ()),
        ("int8wo", ("weight-only-quantisation:format=int8",)),
        ("int4wo-64", ("weight-only-quantisation:format=int4_g64",)),
        ("int4wo-64-sparse-marlin 2:4", ("weight-only-quantisation:format=int4_g64", "sparsity-2:4")),
    ],
)
def test_torchao_does_not_beat_the_roofline(
    published: pd.DataFrame, dtype: str, words: tuple[str, ...]
) -> None:
    row = published[published["group"].eq("E_sparse_quant") & published["dtype"].eq(dtype)].iloc[0]
    found = decode(row["model"], row["gpu"], *words).totals()["tokens_per_s"]
    assert found >= row["value"]
    assert found <= row["value"] / 0.3


EAGLE_MODELS = {"Llama-2-7B", "Llama-2-13B", "Llama-2-70B"}


def test_eagle_gains_what_was_measured_and_no_more_than_it_accepts(published: pd.DataFrame) -> None:
    rows = published[published["metric"].eq("eagle_speedup") & published["model"].isin(EAGLE_MODELS)]
    assert len(rows) == 3
    for row in rows.itertuples():
        plain = decode(str(row.model), "a100_sxm", context=512).time_s()
        found = plain / decode(str(row.model), "a100_sxm", "eagle:accepted=4", context=512).time_s()
        assert row.value <= found <= 4


def test_a_small_draft_of_llama_70b_gains_what_gpt_fast_measured(published: pd.DataFrame) -> None:
    """70B in int4 with an int4 7B draft ran 1.92 times as fast."""
    row = published[published["id"].eq("D01755")].iloc[0]
    plain = decode("Llama-2-70B", "a100_sxm", "awq:format=int4_g32")
    drafted = decode(
        "Llama-2-70B", "a100_sxm", "awq:format=int4_g32", "speculative:draft=Llama-2-7B,k=5,accept=0.8"
    )
    assert row["value"] / 25.25 == pytest.approx(1.92, abs=0.01)
    assert drafted.totals()["tokens_per_s"] >= row["value"]
    assert plain.totals()["tokens_per_s"] >= 25.25
