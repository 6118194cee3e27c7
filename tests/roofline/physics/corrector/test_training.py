"""What trees may learn, and that nothing of a family that is scored reaches what scores it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwspecs import Kernel, load_device
from roofline.physics.base import Gpu, total
from roofline.physics.columns import dtypes_of
from roofline.physics.corrector.features import features
from roofline.physics.corrector.training import Kin, Trial
from roofline.physics.corrector.training import tried as tried_together
from roofline.physics.elementwise import ElementwiseModel
from roofline.physics.fit import FOLDS, Cell, CrossFit
from specfiles.errors import InputError

MODEL, DTYPE = ElementwiseModel(), dtypes_of("float16")
GPU = Gpu.of(load_device("h100_sxm"))
VALUES = {constant.name: constant.start for constant in MODEL.constants(GPU, DTYPE)}
KERNEL = Kernel(op="rmsnorm", dtype="float16", values=VALUES, points=600, families=30, source="a test")


def cell(error: Callable[[Any, Any], Any]) -> tuple[Cell, CrossFit]:
    """30 widths of 20 rows each: the model's time and an error of tokens and width, in logarithms."""
    width = np.repeat(256.0 * np.arange(1, 31), 20)
    tokens = np.tile(np.round(2 ** np.linspace(0, 14, 20)), 30)
    rows = {"op": np.full(600, "rmsnorm", object), "num_tokens": tokens, "hidden": width}
    time = total(MODEL.parts(rows, GPU, DTYPE, VALUES)) * np.exp(error(tokens, width))
    made = Cell(MODEL, GPU, DTYPE, rows, time, floor_s=np.zeros(600))
    return made, CrossFit(made.families() % FOLDS, dict.fromkeys(range(FOLDS), VALUES))


def tried(made: Cell, kernel: Kernel, folds: CrossFit) -> Trial:
    """A kernel that learns alone."""
    (found,) = tried_together([Kin(made, kernel, folds)])
    return found


def some(made: Cell, folds: CrossFit, rows: Any, name: str) -> Kin:
    """Some rows of a cell, as those of another kernel."""
    kernel = KERNEL.replace(backend="a", kernel=name)
    return Kin(made.take(rows), kernel, CrossFit(folds.fold[rows], folds.constants))


def staircase(tokens: Any, width: Any) -> Any:
    return np.where(tokens > 100, 0.3, -0.2)


def noise(tokens: Any, width: Any) -> Any:
    return np.random.default_rng(0).normal(0, 0.1, len(tokens))


def test_what_sizes_explain_is_learned_and_holds_on_widths_not_seen() -> None:
    made, folds = cell(lambda tokens, width: staircase(tokens, width) + 0.2 * noise(tokens, width))
    trial = tried(made, KERNEL, folds)
    assert trial.corrector is not None
    assert trial.corrector.calibrated_error == pytest.approx(0.25, abs=0.05)
    assert trial.corrector.held_out_error < 0.03  # the noise that no size explains has 1.6 %
    assert trial.corrector.applied == pytest.approx(
        29 / 30
    )  # the narrowest lies outside, the widest at the margin
    assert 0.7 <= trial.corrector.coverage <= 0.9


def test_noise_teaches_nothing_and_ships_nothing() -> None:
    made, folds = cell(noise)
    trial = tried(made, KERNEL, folds)
    assert trial.corrector is None
    before, after = (np.mean(np.abs(p / made.time_s - 1)) for p in (trial.calibrated_s, trial.corrected_s))
    assert after < 1.1 * before


@cache
def learned() -> Trial:
    """What a kernel alone learns of the staircase."""
    made, folds = cell(staircase)
    return tried(made, KERNEL, folds)


@pytest.mark.parametrize("alone", [True, False])
def test_times_of_a_fold_reach_its_prediction_from_no_kernel(alone: bool) -> None:
    """Neither from its own nor from one that learns with it."""
    made, folds = cell(staircase)
    every, held = np.full(600, True), folds.fold == 2
    spoiled = Cell(MODEL, GPU, DTYPE, made.rows, np.where(held, 5, 1) * made.time_s, floor_s=made.floor_s)
    if alone:
        before, after = learned(), tried(spoiled, KERNEL, folds)
    else:
        before, after = (
            tried_together([some(made, folds, every, "own"), some(one, folds, every, "kin")])[0]
            for one in (made, spoiled)
        )
    assert (after.corrected_s[held] == before.corrected_s[held]).all()
    assert (after.corrected_s[~held] != before.corrected_s[~held]).any()  # which do learn from it


def test_few_rows_or_families_are_left_alone() -> None:
    made, folds = cell(staircase)
    few = np.arange(600) < 60  # three families
    trial = tried(
        made.take(few), KERNEL, CrossFit(folds.fold[few], dict.fromkeys(folds.fold[few].tolist(), VALUES))
    )
    assert trial.corrector is None
    assert (trial.corrected_s == trial.calibrated_s).all()


def test_a_kernel_of_few_rows_learns_from_its_kin_what_both_have_in_common() -> None:
    made, folds = cell(staircase)
    few = (np.arange(600) >= 200) & (np.arange(600) < 240)  # two families between others
    many, helped = tried_together(
        [some(made, folds, ~few, "of many rows"), some(made, folds, few, "of few rows")]
    )
    assert many.corrector is not None
    assert helped.corrector is not None
    assert helped.corrector.held_out_error < 0.3 * helped.corrector.calibrated_error
    assert helped.corrector.kernel == "of few rows"


def test_kin_that_differ_are_told_apart() -> None:
    """One kernel is slower for many tokens, the other faster: one tree decides by which kernel it is."""
    slow, folds = cell(staircase)
    fast, _ = cell(lambda tokens, width: -staircase(tokens, width))
    every = np.full(600, True)
    pair = [some(one, folds, every, name) for one, name in ((slow, "slow"), (fast, "fast"))]
    for trial in tried_together(pair):
        assert trial.corrector is not None
        assert trial.corrector.calibrated_error > 0.15
        assert trial.corrector.held_out_error < 0.05
        assert len(trial.corrector.features) == len(trial.corrector.box)
        assert max(trial.corrector.splits) < len(trial.corrector.features)  # which kernel is decided


def test_a_family_in_several_folds_is_refused() -> None:
    made, folds = cell(staircase)
    torn = CrossFit((folds.fold + 1) % FOLDS, folds.constants)
    every = np.full(600, True)
    with pytest.raises(InputError, match="fit their table again"):
        tried_together([some(made, folds, every, "one"), some(made, torn, every, "other")])


def test_twice_the_same() -> None:
    made, folds = cell(staircase)
    assert tried(made, KERNEL, folds).corrector == learned().corrector


def test_every_kind_has_finite_features(shared: Callable[[str], Path]) -> None:
    """On ten rows of every measured kind, however empty their other columns are."""
    import pandas as pd

    from roofline.ceilings import ceilings
    from roofline.physics import models
    from roofline.physics.columns import of_table

    seen = set()
    for path in sorted(shared("data").glob("*.parquet")):
        table = pd.read_parquet(path)
        if "op" not in table or "latency_us" not in table:
            continue
        for op, rows in table[table["op"].isin(models())].groupby("op"):
            columns = of_table(rows.iloc[np.linspace(0, len(rows) - 1, 10).astype(int)])
            kernels = ceilings(load_device("h100_sxm"), "calibrated").kernels
            assert kernels is not None
            formats = kernels.formats(str(op))
            dtype = formats[0] if formats else DTYPE
            model = models()[str(op)]
            values = {constant.name: constant.start for constant in model.constants(GPU, dtype)}
            parts = model.parts(columns, GPU, dtype, values)
            found = features(str(op), columns, GPU, parts)
            assert all(f.dtype == np.float32 and np.isfinite(f).all() for f in found.values()), op
            seen.add(op)
    assert len(seen) > 10
