"""A campaign is ordered by value, keeps to its budget, goes on where it was stopped, and mixes nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from profiler.campaign import run as module
from profiler.campaign import table as tables
from profiler.campaign.run import Campaign, run_campaign
from profiler.campaign.shapes import HEADS, PROJECTIONS, TOKENS, Limits, rows, spread
from profiler.record_rows import Rows
from profiler.request import Request, begun_run, head_of
from roofline.ceilings import ceilings
from roofline.optable import one_operator, predict_table
from roofline.run import open_run
from specfiles.errors import InputError
from specfiles.writing import sole_writer

pytest.importorskip("torch")
CEILINGS = module._ceilings
DAY_S = 86400.0  # a budget that no list here spends
EVERYTHING = Limits(flops=float("inf"), bytes=float("inf"))


@given(st.integers(1, 500))
def test_spread_is_a_permutation_whose_beginnings_are_even(count: int) -> None:
    order = list(spread(count))
    assert sorted(order) == list(range(count))
    for length in (2, 4, 8, 16):
        if length < count:
            gaps = np.diff([-1, *sorted(order[:length]), count])
            assert gaps.max() <= 2 * (1 << (count - 1).bit_length()) / length + 1


def test_every_beginning_has_every_kind_and_shapes_of_all_sizes() -> None:
    beginning = pd.DataFrame(itertools.islice(rows(("bf16",), EVERYTHING), 100))
    counts = beginning["op"].value_counts()
    assert counts["gemm"] > counts["attention_decode"] >= counts["attention_prefill"] > counts["rmsnorm"] >= 1
    assert {"act_mul", "rope", "elementwise_add", "moe", "grouped_gemm", "sampling", "copy"} <= set(
        counts.index
    )
    assert {"warm", "by call"} <= set(beginning["tag"])
    assert (beginning["page"] > 0).any()
    gemms = beginning[beginning["op"] == "gemm"]
    assert len(gemms[["n", "k"]].drop_duplicates()) == len(PROJECTIONS)
    assert gemms["m"].nunique() > len(TOKENS) / 2
    assert len(beginning.loc[beginning["kv_len"].notna(), ["n_heads", "n_kv_heads"]].drop_duplicates()) >= 7


def test_a_whole_campaign_has_each_row_once_and_every_combination() -> None:
    found = list(rows(("bf16", "fp32"), EVERYTHING))
    keys = {tuple(row.get(name) for name in tables.KEY) for row in found}
    assert len(keys) == len(found)
    gemms = [row for row in found if row["op"] == "gemm" and "tag" not in row]
    assert len(gemms) == 2 * len(PROJECTIONS) * len(TOKENS)
    decodes = [row for row in found if row["op"] == "attention_decode"]
    assert (
        sum("page" not in row for row in decodes)
        == sum("page" in row for row in decodes)
        == 2 * len(HEADS) * 90
    )


def test_fp8_is_asked_of_products_alone() -> None:
    found = list(rows(("bf16", "fp8"), EVERYTHING))
    assert {row["op"] for row in found if row["dtype"] == "fp8"} == {"gemm"}
    assert {row["op"] for row in found if row["dtype"] == "bf16"} >= {
        "gemm",
        "moe",
        "attention_decode",
        "copy",
    }


def test_products_in_blocks_of_scales_have_whole_ones() -> None:
    found = pd.DataFrame(rows(("bf16", "fp8_block", "mxfp8", "mxfp4", "nvfp4"), EVERYTHING))
    for dtype, multiple in (("fp8_block", 128), ("mxfp8", 32), ("mxfp4", 32), ("nvfp4", 32)):
        own = found[found["dtype"] == dtype]
        assert set(own["op"]) == {"gemm"}
        assert not (own[["n", "k"]] % multiple).any(axis=None)
        assert len(own[["n", "k"]].drop_duplicates()) > len(PROJECTIONS) / 2


def test_what_is_beyond_the_limits_is_left_out() -> None:
    limits = Limits(flops=1e9, bytes=1e8)
    found = list(itertools.islice(rows(("fp32",), limits), 300))
    works = [one_operator(row).work() for row in found]
    assert len(found) == 300
    assert max(float(np.max(work.flops)) for work in works) <= 1e9
    assert max(float(np.max(work.bytes)) for work in works) <= 1e8


def test_every_kind_of_row_can_be_predicted() -> None:
    table = pd.DataFrame(itertools.islice(rows(("bf16",), EVERYTHING), 400))
    predicted = predict_table(table, ceilings(load_device("h100_sxm")))
    assert (predicted["predicted_us"] > 0).all()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Campaign]:
    """Small operators, and a device file that is not measured."""
    monkeypatch.setattr(module, "_limits", lambda _: Limits(flops=1e8, bytes=4e6))
    monkeypatch.setattr(tables, "last_level_cache_bytes", lambda _: 100_000)
    monkeypatch.setattr(module, "_ceilings", lambda _: [])
    monkeypatch.setattr(module, "COLLECTIVES", float("inf"))  # no budget holds them

    def campaign(budget_s: float, **changes: Any) -> Campaign:
        return Campaign("cpu", ("fp32",), tmp_path / "campaign", budget_s, **{"models": (), **changes})

    return campaign


def first_rows(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a campaign consist of its first rows."""

    def few(dtypes: Any, limits: Limits) -> Iterator[dict[str, Any]]:
        return itertools.islice(rows(dtypes, limits), count)

    monkeypatch.setattr(module, "rows", few)


def test_a_campaign_writes_the_columns_of_measured_tables(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(20, monkeypatch)
    head = run_campaign(small(DAY_S))
    table = pd.read_parquet(small(1.0).out / "operators.parquet")
    assert head.operators == len(table)
    assert len(table) >= 18  # on a CPU every call is launched by the host: that way is no row of its own
    assert tuple(table.columns) == tables.COLUMNS
    assert (table["latency_us"] > 0).all()
    assert ((table["q25_us"] <= table["latency_us"]) & (table["latency_us"] <= table["q75_us"])).all()
    assert (table["max_error"] < 1e-4).all()
    assert {"gemm", "attention_decode", "attention_prefill", "rmsnorm", "sampling"} <= set(table["op"])
    assert {"torch", "paged", "torch (warm)"} <= set(table["kernel"])
    assert not table.duplicated(list(tables.KEY)).any()


def test_a_campaign_goes_on_where_it_was_stopped(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(5, monkeypatch)
    run_campaign(small(DAY_S))
    before = pd.read_parquet(small(1.0).out / "operators.parquet")
    first_rows(9, monkeypatch)
    head = run_campaign(small(DAY_S))
    after = pd.read_parquet(small(1.0).out / "operators.parquet")
    assert (len(before), len(after), head.operators) == (5, 9, 9)
    pd.testing.assert_frame_equal(after.head(5), before)  # measured once, kept as it was
    assert not after.duplicated(list(tables.KEY)).any()


def test_a_campaign_takes_over_ceilings_that_were_measured_before(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `make gpu` does: `ceilings` first, whole or in part, then the campaign in the same folder."""
    first_rows(1, monkeypatch)
    folder = small(1.0).out
    folder.mkdir()
    for name in ("device.yaml", "device.passes.jsonl"):
        (folder / name).write_text("measured")
    assert run_campaign(small(DAY_S)).operators == 1
    (folder / "campaign.json").unlink()
    (folder / "device.yaml").unlink()
    with pytest.raises(InputError, match="holds files of something else"):
        run_campaign(small(DAY_S))  # a table of somebody else


def test_collectives_are_rows_of_the_same_table(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured once: tag and numbers of devices are part of what a row is."""

    def stand_in(
        wanted: list[dict[str, Any]], kind: str, count: int, budget_s: float
    ) -> tuple[list[dict[str, Any]], list[str]]:
        asked.append((len(wanted), kind, count))
        way = {"backend": "gloo", "kernel": "gloo", "tag": "warm, by call"}
        return [{**row, **way, "latency_us": 1.0, "repeats": 3} for row in wanted[:7]], []

    asked: list[tuple[int, str, int]] = []
    monkeypatch.setattr(module, "COLLECTIVES", 0.01)
    monkeypatch.setattr(module, "measure_collectives", stand_in)
    first_rows(1, monkeypatch)
    assert run_campaign(small(DAY_S)).operators == 8
    assert run_campaign(small(DAY_S)).operators == 15
    (before, *where), (after, *_) = asked
    assert where == ["cpu", 2]
    assert after == before - 7
    table = pd.read_parquet(small(1.0).out / "operators.parquet")
    assert set(table.loc[table["n_gpus"].notna(), "backend"]) == {"gloo"}
    assert not table.duplicated(list(tables.KEY)).any()


NO_NETWORK = "collectives between 2 processes failed: no network"


def test_collectives_that_fail_are_noted_beside_those_that_do_not(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(wanted: list[dict[str, Any]], *_: Any) -> Any:
        return [{**wanted[0], "tag": "warm, by call", "latency_us": 1.0}], [NO_NETWORK]

    monkeypatch.setattr(module, "COLLECTIVES", 0.01)
    monkeypatch.setattr(module, "measure_collectives", failing)
    first_rows(1, monkeypatch)
    for kept in (2, 3):  # and told once, however often the campaign goes on
        head = run_campaign(small(DAY_S))
        assert head.operators == kept
    assert head.notes.count(NO_NETWORK) == 1


def test_an_interrupt_keeps_what_was_measured(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, count = tables.measured_row, itertools.count()

    def interrupted(*args: Any) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return measured(*args)

    monkeypatch.setattr(tables, "measured_row", interrupted)
    first_rows(9, monkeypatch)
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_campaign(small(DAY_S, progress=told.append))
    assert told[-1].startswith("3 operators of ")
    assert told[-1].endswith("; the same command goes on with 6 operators, ceilings")
    assert len(pd.read_parquet(small(1.0).out / "operators.parquet")) == 3
    assert json.loads((small(1.0).out / "campaign.json").read_text())["operators"] == 3


def test_a_model_that_was_stopped_is_measured_again(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-C in its run; one that failed by itself or is complete is not."""
    asked: list[str] = []

    def ended(error: BaseException | None) -> Callable[[Request], None]:
        def stand_in(request: Request) -> None:
            asked.append(request.loaded.model.name)
            run = begun_run(request.out, head_of(request, ""), request.hardware)
            if error is None:
                run.write_head(status="complete")
                return
            Rows(run).stopped(error)
            raise error

        return stand_in

    first_rows(1, monkeypatch)
    campaign = small(DAY_S, models=(("GPT-2", 8, 2), ("SmolLM2-135M", 8, 2)))
    for error in (KeyboardInterrupt(), RuntimeError("no kernel"), None):
        monkeypatch.setattr(module, "profile", ended(error))
        with suppress(KeyboardInterrupt):
            run_campaign(campaign)
    first, second = "GPT-2", "SmolLM2-135M"
    assert asked == [first, first, second]
    assert open_run(campaign.out / "models" / first).head.status == "failed"


@pytest.mark.parametrize(
    "error",
    [
        InputError("the result deviates by 1 from fp64"),
        RuntimeError("CUDA error: misaligned address\nmore"),
        MemoryError("no memory"),
    ],
)
def test_a_kernel_that_fails_costs_its_own_row(
    error: Exception, small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(4, monkeypatch)
    measured, count = tables.measured_row, itertools.count()

    def failing(*args: Any) -> Any:
        if next(count) == 1:
            raise error
        return measured(*args)

    monkeypatch.setattr(tables, "measured_row", failing)
    head = run_campaign(small(DAY_S))
    assert head.operators == 3
    (noted,) = (note for note in head.notes if note.endswith(str(error).splitlines()[0]))
    assert noted.startswith("gemm")


def test_a_device_that_is_lost_ends_the_campaign_and_the_next_leaves_the_row_out(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(6, monkeypatch)
    measured, asked, lost = tables.measured_row, [], []

    def faulting(row: dict[str, Any], *rest: Any) -> Any:
        asked.append(row)
        if len(asked) == 3:
            lost.append(row)
            raise RuntimeError("CUDA error: unspecified launch failure")
        return measured(row, *rest)

    monkeypatch.setattr(tables, "measured_row", faulting)
    monkeypatch.setattr(tables, "answers", lambda _: not lost)
    with pytest.raises(InputError, match="answers no more; the same command goes on without it: CUDA error"):
        run_campaign(small(DAY_S))
    assert len(asked) == 3
    with pytest.raises(InputError, match="cpu answers no more"):  # in the same process
        run_campaign(small(DAY_S))
    (faulted,) = lost
    lost.clear()  # a new process has the device
    head = run_campaign(small(DAY_S))
    assert (head.operators, len(asked)) == (5, 6)
    assert asked.count(faulted) == 1
    assert any(note.endswith("unspecified launch failure") for note in head.notes)


def test_a_row_in_which_two_processes_died_is_left_out(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(3, monkeypatch)
    wanted = list(module.rows(("fp32",), Limits(flops=1e8, bytes=4e6)))
    run_campaign(small(0.0))  # makes the folder
    key = ["cold, by call" if name == "tag" else wanted[0].get(name) for name in tables.KEY]
    with open(small(0.0).out / "operators.passes.jsonl", "a") as journal:
        for _ in range(2):
            journal.write(json.dumps({"visit": key, "times": [], "lost": "", "begun": 1}) + "\n")
    assert run_campaign(small(DAY_S)).operators == 2


def test_a_format_that_fails_everywhere_is_given_up(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(60, monkeypatch)
    measured, failed = tables.measured_row, []

    def without_products(row: dict[str, Any], *rest: Any) -> Any:
        if row["op"] == "gemm":
            failed.append(row)
            raise NotImplementedError("not in this build")
        return measured(row, *rest)

    monkeypatch.setattr(tables, "measured_row", without_products)
    head = run_campaign(small(DAY_S))
    assert len(failed) == tables.MOST_OF_KIND
    assert sum("not in this build" in note for note in head.notes) == tables.MOST_OF_KIND
    assert f"{tables.MOST_OF_KIND} of gemm fp32 failed and none did not: no more of it" in head.notes
    assert head.operators > 20


def test_rows_that_all_fail_end_the_campaign(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows(60, monkeypatch)
    monkeypatch.setattr(tables, "MOST_OF_KIND", 1000)

    def failing(*_: Any) -> Any:
        raise RuntimeError("no library")

    monkeypatch.setattr(tables, "measured_row", failing)
    with pytest.raises(InputError, match="30 operators in a row failed, the last with: no library"):
        run_campaign(small(DAY_S))


def test_two_campaigns_at_once_do_not_share_a_folder(small: Callable[..., Campaign]) -> None:
    with sole_writer(small(1.0).out), pytest.raises(InputError, match="another command is writing there"):
        run_campaign(small(0.0))
    run_campaign(small(0.0))  # the other one has ended


def test_ceilings_that_fail_are_noted_and_operators_measured(
    small: Callable[..., Campaign], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image")

    monkeypatch.setattr(module, "_ceilings", CEILINGS)
    monkeypatch.setattr(module, "measure_ceilings", failing)
    first_rows(2, monkeypatch)
    head = run_campaign(small(DAY_S))
    assert head.operators == 2
    assert "ceilings: CUDA error: no kernel image" in head.notes
    assert not (small(1.0).out / "device.yaml").exists()


def test_a_spent_budget_ends_the_campaign(small: Callable[..., Campaign]) -> None:
    head = run_campaign(small(0.0))
    assert head.operators == 0
    assert pd.read_parquet(small(1.0).out / "operators.parquet").empty


def test_campaigns_do_not_mix(small: Callable[..., Campaign]) -> None:
    run_campaign(small(0.0))
    with pytest.raises(InputError, match=r"holds the campaign of .* in fp32; name another folder"):
        run_campaign(replace(small(0.0), dtypes=("bf16",)))


def test_a_broken_table_is_said_and_kept(small: Callable[..., Campaign]) -> None:
    run_campaign(small(0.0))
    path = small(1.0).out / "operators.parquet"
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"operators.parquet: cannot be read"):
        run_campaign(small(0.0))
    assert path.read_bytes() == b"PAR1 cut short"
