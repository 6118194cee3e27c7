"""A fit finds the constants behind exact times, within bounds, the same ones each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwspecs import load_device
from roofline.physics.base import Dtypes, Gpu, ceil_div, smooth_max, total
from roofline.physics.fit import AS_WELL, Cell, fit, mape, of_formats
from roofline.physics.fit import _middle as middle
from roofline.physics.fit import _thinned as thinned
from roofline.physics.gemm import GemmModel
from roofline.physics.moe import MoeModel
from roofline.physics.prefill import PrefillModel
from specfiles.errors import InputError
from tests.roofline.physics.conftest import held_out_s

BF16 = Dtypes("bfloat16", "bf16", "bf16", "bf16", "bf16")


def cell(families: int = 12, each: int = 20) -> Cell:
    """Products from memory-bound to compute-bound, no times yet."""
    rng = np.random.default_rng(3)
    n, k = (np.repeat(2.0 ** rng.integers(8, 14, families), each) for _ in "nk")
    m = 2.0 ** rng.uniform(0, 14, families * each).round()
    model, gpu = GemmModel(), Gpu.of(load_device("h100_sxm"))
    return Cell(model, gpu, BF16, {"m": m, "n": n, "k": k}, np.ones_like(m))


def timed(rows: Cell, constants: dict[str, float], noise: float = 0.0) -> Cell:
    errors = np.exp(noise * np.random.default_rng(1).standard_normal(len(rows.time_s)))
    return replace(rows, time_s=rows.predicted_s(constants) * errors)


def known() -> dict[str, float]:
    rows = cell()
    return {c.name: c.start for c in rows.model.constants(rows.gpu, rows.dtype)}


def test_exact_times_are_found_again() -> None:
    truth = {**known(), "launch_s": 4.5e-6}
    rows = timed(cell(), truth)
    found = fit([rows])
    assert mape(rows.predicted_s(found), rows.time_s) < 0.01
    assert found["launch_s"] == pytest.approx(truth["launch_s"], rel=0.05)


def test_a_fit_is_deterministic_and_within_bounds() -> None:
    rows = timed(cell(), known(), noise=0.3)
    first, second = fit([rows]), fit([rows])
    assert first == second
    for constant in rows.model.constants(rows.gpu, rows.dtype):
        assert constant.low * (1 - 1e-9) <= first[constant.name] <= constant.high * (1 + 1e-9)


def test_a_row_never_scores_constants_that_saw_its_family() -> None:
    rows = timed(cell(families=2, each=30), known())
    families = rows.families()
    spoiled = replace(rows, time_s=np.where(families == 0, 3.0, 1.0) * rows.time_s)
    predicted = held_out_s(spoiled)
    # Either family is predicted by the other alone: three times too short, and three times too long.
    assert np.median((predicted / spoiled.time_s)[families == 0]) == pytest.approx(1 / 3, rel=0.1)
    assert np.median((predicted / spoiled.time_s)[families == 1]) == pytest.approx(3, rel=0.1)


def test_a_sparse_cell_leans_on_its_prior() -> None:
    prior = {**known(), "launch_s": 9e-6}
    few = timed(cell(), known()).take(np.array([0, 1]))
    assert fit([few], prior)["launch_s"] > fit([few])["launch_s"]


def test_limits_of_the_smooth_maximum() -> None:
    assert smooth_max([3.0, 4.0], 2.0) == pytest.approx(5.0)
    assert smooth_max([3.0, 4.0], 1.0) == pytest.approx(7.0)
    assert smooth_max([3.0, 4.0], 300.0) == pytest.approx(4.0)
    assert smooth_max([0.0, 0.0], 2.0) == pytest.approx(0.0, abs=1e-20)


def test_parts_are_never_negative() -> None:
    rows = cell()
    parts = rows.model.parts(rows.rows, rows.gpu, rows.dtype, known())
    assert all((part >= 0).all() for part in parts.values())
    assert (total(parts) >= parts["ideal"]).all()


def test_pieces_cover() -> None:
    assert list(ceil_div(np.array([1, 128, 129]), 128)) == [1, 1, 2]


def test_a_processor_has_no_kernel_model() -> None:
    with pytest.raises(InputError, match="are for CUDA and ROCm GPUs"):
        Gpu.of(load_device("xeon_8480"))


def test_rows_that_beat_the_data_sheet_steer_no_constant() -> None:
    truth = known()
    rows = timed(cell(), truth)
    odd = np.arange(len(rows.time_s)) % 3 == 0
    floor = np.where(odd, rows.time_s / 2, rows.time_s * 0.5)
    impossible = replace(rows, time_s=np.where(odd, floor * 0.4, rows.time_s), floor_s=floor)
    with_them, without = fit([impossible]), fit([impossible.take(~odd)])
    assert with_them == without


def test_a_fit_looks_at_as_many_rows_of_each_family_where_they_repeat_each_other() -> None:
    """One family of 900 rows does not outvote those of 20: what a fit is for is the family to come."""
    sizes = [900, 20, 20, 400]
    hidden = np.repeat([2048.0, 4096.0, 6144.0, 8192.0], sizes)
    layer = {"inter": 768.0, "topk": 8.0, "num_experts": 128.0}
    rows = {name: np.full(len(hidden), size) for name, size in layer.items()}
    experts = Cell(MoeModel(), Gpu.of(load_device("h100_sxm")), BF16, {**rows, "hidden": hidden}, hidden)
    kept = [len(thinned(experts, 300).take(f).time_s) for f in families_of(thinned(experts, 300))]
    assert kept == [130, 20, 20, 130]
    products = thinned(cell(families=4, each=200), 300)  # whose rows say something new each
    assert len(products.time_s) == 300


def test_layers_that_ran_untuned_kernels_steer_no_constant() -> None:
    """The narrowest layers took four times as long: others are predicted nearly as if nobody had seen it."""
    rng = np.random.default_rng(5)
    hidden, inter = (np.repeat(2.0 ** rng.integers(9, 13, 8), 20) for _ in "hi")
    sizes = {"hidden": hidden, "inter": inter, "num_tokens": 2.0 ** rng.integers(0, 14, 160)}
    sizes |= {"topk": np.full(160, 8.0), "num_experts": np.full(160, 128.0)}
    rows = Cell(MoeModel(), Gpu.of(load_device("h100_sxm")), BF16, sizes, np.ones(160))
    right = timed(rows, {c.name: c.start for c in rows.model.constants(rows.gpu, rows.dtype)}, noise=0.02)
    untuned = hidden * inter <= np.quantile(hidden * inter, 0.3)
    found = fit([replace(right, time_s=np.where(untuned, 4.0, 1.0) * right.time_s)])
    assert mape(right.predicted_s(found)[~untuned], right.time_s[~untuned]) < 0.08


def test_the_middle_of_equally_good_points_is_taken_where_it_is_as_good() -> None:
    """In a valley any point does and the middle is taken; between two valleys the best one is."""
    ends = [np.array([1.2, 1.3]), np.array([1.6, 1.3]), np.array([1.4, 1.9])]
    assert middle(ends, lambda x: 1 + abs(x[1] - 1.3)) == pytest.approx([1.4, 1.3])
    apart = middle(ends[:2], lambda x: 1 + AS_WELL / 2 * (x[0] > 1.5) + (0.3 < (x[0] - 1.0) < 0.5))
    assert apart == pytest.approx(ends[0])


def families_of(rows: Cell) -> list[np.ndarray]:
    return [rows.families() == family for family in range(int(rows.families().max()) + 1)]


def test_a_prior_of_several_formats_is_left_where_a_format_decides() -> None:
    """A fit that also begins at usual values meets its rows no worse."""
    model, gpu = PrefillModel(), Gpu.of(load_device("h100_sxm"))
    q_len = np.repeat([256.0, 1024.0, 4096.0], 4)
    sizes = {"q_len": q_len, "kv_len": q_len, "batch": np.tile([1.0, 2.0, 4.0, 8.0], 3)}
    heads = {"n_heads": 32.0, "n_kv_heads": 8.0, "head_dim": 128.0, "window": 0.0}
    rows = {**sizes, **{name: np.full_like(q_len, size) for name, size in heads.items()}}
    narrow = Dtypes("fp8", "fp8", "fp8", "bf16", "fp8")
    wide, other = (Cell(model, gpu, dtype, rows, np.ones_like(q_len)) for dtype in (BF16, narrow))
    assert of_formats([wide, other])
    assert not of_formats([other, other])
    starts = {c.name: c.start for c in model.constants(gpu, narrow)}
    other = timed(other, starts)
    once, again = (fit([other], starts | {"tensor_share": 1.2}, mixed) for mixed in (False, True))
    off = [mape(other.predicted_s(found), other.time_s) for found in (once, again)]
    assert off[1] <= off[0] + 1e-3
