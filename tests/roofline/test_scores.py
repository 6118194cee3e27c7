"""Scores are what their names say, on errors known by hand; nothing is dropped unseen."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from reports import scores as reported
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.scores import score_table, scores
from specfiles.errors import InputError

H100 = load_device("h100_sxm")
close = partial(pytest.approx, rel=1e-9)


def timed(factors: list[float], **columns: Any) -> pd.DataFrame:
    """Products whose measured time is the data sheet's times a factor."""
    table = pd.DataFrame(
        {"op": "gemm", "dtype": "bfloat16", "m": 4096, "n": 4096, "k": 4096, "gpu": "h100_sxm"},
        index=range(len(factors)),
    )
    table = table.assign(**columns)
    return table.assign(latency_us=predict_table(table, ceilings(H100))["predicted_us"] * factors)


def test_errors_by_hand() -> None:
    summary = score_table(timed([1.0, 2.0, 4.0], m=[2048, 4096, 8192]), H100, "datasheet").summary()
    row = summary[summary["regime"] == "all"].iloc[0]
    assert row["rows"] == 3
    assert row["mape"] == close((0 + 0.5 + 0.75) / 3)
    assert row["median_ape"] == close(0.5)
    assert row["bias"] == close((1 * 2 * 4) ** (-1 / 3) - 1)
    assert row["above_ceiling"] == 0


def test_regimes_are_those_of_the_data_sheet() -> None:
    """In 5 us 3.35 TB/s bring 16.75 MB: weights of 2044 rows."""
    table = timed([1.0] * 5, m=[4096, 1, 1, 1, 1], n=[4096, 16384, 64, 2040, 2050])
    rows = score_table(table, H100, "datasheet").rows
    assert list(rows["regime"]) == ["compute", "memory", "tiny", "tiny", "memory"]


def test_a_row_that_beats_the_data_sheet_is_flagged() -> None:
    """By more than timers err."""
    result = score_table(timed([1.0, 0.97, 0.9]), H100, "calibrated")
    assert list(result.rows["above_ceiling"]) == [False, False, True]
    assert result.rows["attained"].iloc[2] == close(1 / 0.9)
    assert "1 rows beat the data sheet" in reported.as_text([result])


def test_cells_are_never_pooled_and_the_worst_comes_first() -> None:
    """By all of a cell's rows: the worse cell's last regime is exact."""
    table = timed(
        [1.1, 1.1, 3.0, 1.0], backend=["good", "good", "bad", "bad"], n=[4096, 64] * 2, m=[4096, 1] * 2
    )
    result = score_table(table, H100, "datasheet")
    summary = result.summary()
    assert list(summary[summary["regime"] == "all"]["backend"]) == ["bad", "good"]
    medians = result.medians().iloc[0]
    assert medians["cells"] == 2
    assert medians["median_mape"] == close(np.mean([1 - 1 / 1.1, (1 - 1 / 3) / 2]))


def test_r2_is_the_share_of_the_spread_that_is_explained() -> None:
    """All of it where times are exact, none where each is predicted as their geometric mean."""
    measured = np.array([1.0, 2.0, 8.0])
    for predicted, share in ((measured, 1.0), (measured.prod() ** (1 / 3), 0.0)):
        rows = pd.DataFrame({"latency_us": measured, "predicted_us": predicted, "above_ceiling": False})
        assert scores(rows.assign(error=0.0))["r2"] == pytest.approx(share)


def test_coverage_is_the_share_of_intervals_that_hold_the_measured_time() -> None:
    """Ends belong to an interval; a row that has none is not asked."""
    rows = pd.DataFrame(
        {"latency_us": [1.0, 2.0, 3.0, 4.0, 5.0], "predicted_us": 3.0, "above_ceiling": False}
    )
    rows = rows.assign(error=rows["predicted_us"] / rows["latency_us"] - 1)
    intervals = rows.assign(lower_us=[1.0, 1.0, 1.0, 1.0, np.nan], upper_us=[3.0, 3.0, 3.0, 3.0, np.nan])
    assert scores(intervals)["coverage"] == close(3 / 4)
    assert np.isnan(scores(rows)["coverage"])


def test_what_is_left_out_is_counted() -> None:
    table = pd.concat(
        [timed([1.0]), timed([1.0], gpu="b200_sxm"), timed([1.0]).assign(op="magic"), timed([np.nan])]
    )
    result = score_table(table, H100, "datasheet")
    assert len(result.rows) == 1
    assert sum(result.left_out.values()) == 3
    assert "1 rows left out: measured on another device." in reported.as_text([result])


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(InputError, match="1 measured on another device"):
        score_table(timed([1.0], gpu="b200_sxm"), H100, "datasheet")
    with pytest.raises(InputError, match="no column 'latency_us'"):
        score_table(timed([1.0]).drop(columns="latency_us"), H100, "datasheet")
