"""What a corrector may do to a time, and where it must leave it alone. Correctors here are made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import correctors as files
from hwspecs import kernels_of, load_device
from hwspecs.correctors import LEAF, Corrector, fingerprint
from roofline.ceilings import Fidelity, available, ceilings
from roofline.explain import explained
from roofline.optable import predict_table
from roofline.physics.corrector.correction import MOST_FACTOR, TERM
from roofline.physics.corrector.stored import as_file
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.scores import score_table
from specfiles.errors import InputError
from workloads.catalogue import load_model

WIDE = (-1e9, 1e9)
Placed = Callable[..., Corrector]


def gemms(**columns: Any) -> pd.DataFrame:
    names = {"backend": "trtllm", "kernel": "torch_flow"}
    sizes = {"m": [16, 300, 4096], "n": 4096, "k": 4096}
    return pd.DataFrame({"op": "gemm", "dtype": "bfloat16", **sizes, **names, **columns})


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Placed:
    """Ship one corrector for H100's bf16 products of TensorRT-LLM: a leaf, in a box of `m` alone."""
    monkeypatch.setattr(files, "CORRECTORS", tmp_path)

    def place(value: float, box: tuple[float, float] = WIDE, device: str = "h100_sxm", **changes: Any) -> Any:
        wanted = ("gemm", "bfloat16", "trtllm", "torch_flow")
        kernels = kernels_of(load_device("h100_sxm"))
        kernel = next(k for k in kernels if (k.op, k.dtype, k.backend, k.kernel) == wanted)
        fields = {"op": kernel.op, "dtype": kernel.dtype, "backend": kernel.backend, "kernel": kernel.kernel}
        trees = {"base": 0.0, "splits": [LEAF], "numbers": [float(value)], "features": ["m"], "box": [box]}
        scores = {"calibrated_error": 0.1, "held_out_error": 0.05, "applied": 1.0, "coverage": 0.8}
        rest = {"points": 9, "families": 9, "bands": [(1.0, 0.9, 1.2)], "source": "made up by a test"}
        made = Corrector(**{**fields, **trees, **scores, **rest, "beside": fingerprint(kernel), **changes})
        path = tmp_path / f"{load_device(device).name}.json"
        path.write_text(as_file(device, [made]))
        files.read_correctors.cache_clear()
        return made

    return place


def by(fidelity: str, table: pd.DataFrame, device: str = "h100_sxm") -> pd.DataFrame:
    return predict_table(table, ceilings(load_device(device), fidelity))


def test_a_leaf_scales_the_time_and_is_marked(placed: Placed) -> None:
    placed(np.log(1.25))
    before, after = by("calibrated", gemms()), by("corrected", gemms())
    assert list(after["predicted_us"]) == pytest.approx(list(1.25 * before["predicted_us"]), rel=1e-6)
    assert set(after["provenance"]) == set(after["fidelity"]) == {"corrected"}
    assert list(after["lower_us"] / after["predicted_us"]) == pytest.approx([0.9] * 3)
    assert list(after["upper_us"] / after["predicted_us"]) == pytest.approx([1.2] * 3)
    assert set(before["fidelity"]) == {"calibrated"}


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_no_correction_goes_beyond_its_factor_or_below_the_ceilings(placed: Placed, value: float) -> None:
    placed(value)
    floor = by("measured", gemms())["predicted_us"]  # which is not below the data sheet's
    before, after = by("calibrated", gemms())["predicted_us"], by("corrected", gemms())["predicted_us"]
    factor = MOST_FACTOR if value > 0 else 1 / MOST_FACTOR
    assert list(after) == pytest.approx(list(np.maximum(factor * before, floor)), rel=1e-6)
    assert (after >= floor).all()


def test_outside_its_box_a_row_stays_as_calibrated_and_says_so(placed: Placed) -> None:
    placed(0.2, box=(4.0, 9.0))  # m from 16 to 512
    after, before = by("corrected", gemms()), by("calibrated", gemms())
    assert list(after["fidelity"]) == ["corrected", "corrected", "calibrated"]
    assert after["provenance"][2] == "calibrated, not corrected: outside the rows that it was learned on"
    for name in ("predicted_us", "lower_us", "upper_us"):
        assert after[name][2] == before[name][2]


@pytest.mark.parametrize(
    "other",
    [
        {"beside": "0123456789abcdef"},  # the constants were fitted again since
        {"features": ["a term that is no more"]},  # the kernel model has other terms now
        {"kernel": "another"},
    ],
)
def test_what_was_learned_beside_other_constants_or_terms_is_not_applied(placed: Placed, other: Any) -> None:
    placed(0.2, **other)
    after = by("corrected", gemms())
    assert list(after["predicted_us"]) == list(by("calibrated", gemms())["predicted_us"])
    assert after["provenance"].str.startswith("calibrated, not corrected").all()
    assert (after["fidelity"] == "calibrated").all()


def test_constants_of_any_backend_and_of_other_devices_are_never_corrected(placed: Placed) -> None:
    placed(0.2)
    placed(0.2, device="h200_sxm")  # whose constants are H100's, carried over
    for device, table in (("h100_sxm", gemms(backend="", kernel="")), ("h200_sxm", gemms())):
        after, before = by("corrected", table, device), by("calibrated", table, device)
        assert list(after["predicted_us"]) == list(before["predicted_us"])
        assert (after["fidelity"] == "calibrated").all()


def test_a_row_alone_is_the_row_among_many(placed: Placed) -> None:
    placed(0.1, splits=[0, LEAF, LEAF], numbers=[8.0, -0.1, 0.1])
    rows = gemms(m=np.arange(1, 4), n=4096).iloc[np.arange(9000) % 3]
    rows["m"] = 1 + np.arange(9000) % 700
    whole = by("corrected", rows)["predicted_us"].to_numpy()
    some = np.array([0, 255, 256, 5000, 8999])
    assert list(whole[some]) == pytest.approx(
        list(by("corrected", rows.iloc[some])["predicted_us"]), rel=1e-6
    )


def test_the_correction_is_a_term_of_its_own(placed: Placed) -> None:
    placed(np.log(0.8))
    scenario = Scenario(load_model("Llama-3.1-8B").model, "prefill", 1, 2048)
    (found,) = explained(scenario, load_device("h100_sxm"), "corrected", "o_proj", "trtllm")
    assert found.provenance == "corrected"
    terms = {term.name: term.seconds for term in found.terms}
    assert terms[TERM] < 0
    assert sum(terms.values()) == pytest.approx(found.time_s, rel=1e-9)
    (plain,) = explained(scenario, load_device("h100_sxm"), "calibrated", "o_proj", "trtllm")
    (floor,) = explained(scenario, load_device("h100_sxm"), "measured", "o_proj")
    assert found.time_s == pytest.approx(max(0.8 * plain.time_s, floor.time_s), rel=1e-6)


def test_a_prediction_says_which_operators_are_corrected(placed: Placed) -> None:
    from roofline.tables import as_csv, as_json

    placed(0.1)
    scenario = Scenario(load_model("Llama-3.1-8B").model, "prefill", 1, 2048)
    said = as_json(predict(scenario, load_device("h100_sxm"), "corrected", "trtllm"))
    marked = {row["kind"] for row in said["operators"] if row["corrected"]}
    assert marked == {"gemm"}
    assert "corrected" in as_csv([said]).splitlines()[0].split(",")
    plain = as_json(predict(scenario, load_device("h100_sxm"), "calibrated", "trtllm"))
    assert not any("corrected" in row for row in plain["operators"])


def test_scores_of_a_table_count_what_was_corrected(placed: Placed) -> None:
    placed(0.1, box=(4.0, 9.0))
    table = gemms(latency_us=20.0)
    result = score_table(table, load_device("h100_sxm"), "corrected")
    assert list(result.rows["fidelity"]) == ["corrected", "corrected", "calibrated"]


def test_it_is_never_a_default_and_refused_where_there_is_nothing_to_correct() -> None:
    assert Fidelity.CORRECTED not in available(load_device("h100_sxm"))
    with pytest.raises(InputError, match="nothing can be corrected on"):
        ceilings(load_device("tpu_v5e"), "corrected")
