"""Correctors beside the constants of a whole table: trained from stored folds, scored, written as files.

Constants of folds are kept beside a fit's results, so that correctors are trained without fitting again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hwspecs import load_device
from hwspecs.correctors import CORRECTORS, Corrector, Shipped, fingerprint, read_correctors
from roofline.physics.calibration import KEY, cells
from roofline.physics.corrector.training import Kin, tried
from roofline.physics.fit import CrossFit, mape
from roofline.physics.intervals import within
from specfiles.strict import plain_data, validated
from specfiles.writing import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from hwspecs import Device, Kernel
    from roofline.physics.calibration import Fitted
    from roofline.physics.corrector.training import Trial

COLUMNS = ("corrected_us", "corrected_lower_us", "corrected_upper_us", "applied", "shipped")


def folds_as_json(found: Iterable[Fitted]) -> str:
    """The constants of every fold of every cell, which correctors are trained beside."""
    stored = {
        _name(one.kernel): {"fold": one.folds.fold.tolist(), "constants": one.folds.constants}
        for one in found
        if len(one.rows)
    }
    return json.dumps(stored)


def corrected_rows(
    table: pd.DataFrame, name: str, stem: Path, kernels: Sequence[Kernel], told: Callable[[str], None]
) -> tuple[list[Corrector], pd.DataFrame]:
    """The correctors of one device on one table, and COLUMNS of its rows by the table's index.

    `stem` is where results are kept, as `stem`-folds.json from the fit, -trees.json and -trees.parquet. What
    stands there is not trained again.
    """
    folds, trees, rows = (stem.with_name(stem.name + end) for end in ENDS)
    if not folds.exists():
        if kernels:
            told(f"{stem.name}: fitted without its folds, no corrector is tried")
        return [], pd.DataFrame(columns=list(COLUMNS))
    if not (trees.exists() and rows.exists()):
        trials = list(_trials(table, load_device(name), json.loads(folds.read_text()), kernels, told))
        shipped = [trial.corrector for _, trial in trials if trial.corrector]
        write_text(trees, as_file(name, shipped))
        _rows(trials).to_parquet(rows)
    return list(read_correctors(trees).correctors), pd.read_parquet(rows)


ENDS = ("-folds.json", "-trees.json", "-trees.parquet")


def _trials(
    table: pd.DataFrame,
    device: Device,
    folds: dict[str, Any],
    kernels: Sequence[Kernel],
    told: Callable[[str], None],
) -> Iterable[tuple[pd.Index, Trial]]:
    known = {_name(kernel): kernel for kernel in kernels}
    together: dict[tuple[str, ...], list[tuple[pd.Index, Kin]]] = {}
    for key, rows, cell in cells(table, device):
        stored, kernel = folds.get("/".join(key)), known.get("/".join(key))
        if stored is None or kernel is None:
            continue
        constants = {int(fold): values for fold, values in stored["constants"].items()}
        kin = Kin(cell, kernel, CrossFit(np.array(stored["fold"]), constants))
        library = cell.model.library(cell.model.alias(kernel.kernel, cell.gpu, kernel.dtype))
        pool = (kernel.op, library) if library else key
        together.setdefault(pool, []).append((table.index[rows], kin))
    for found in together.values():
        for (index, _), trial in zip(found, tried([kin for _, kin in found]), strict=True):
            errors = (100 * mape(p, trial.time_s) for p in (trial.calibrated_s, trial.corrected_s))
            said = "{:.1f} % -> {:.1f} %".format(*errors) + ("" if trial.corrector else ", not shipped")
            told(f"{device.name} {_name(trial.kernel).replace('//', '/')}: {said}")
            yield index, trial


def _name(record: Kernel | Corrector) -> str:
    return "/".join(getattr(record, part) for part in KEY)


def _rows(trials: Sequence[tuple[pd.Index, Trial]]) -> pd.DataFrame:
    pieces = []
    for index, trial in trials:
        shipped, time = trial.corrector is not None, trial.corrected_s
        lower, upper = within(trial.corrector.bands, time) if trial.corrector else (np.nan, np.nan)
        within_box = np.where(trial.applied, 1.0, np.nan)
        values = (time * 1e6, time * lower * within_box * 1e6, time * upper * within_box * 1e6)
        data = dict(zip(COLUMNS, (*values, trial.applied, shipped), strict=True))
        pieces.append(pd.DataFrame(data, index=index))
    return pd.concat(pieces) if pieces else pd.DataFrame(columns=list(COLUMNS))


def as_file(device: str, correctors: Sequence[Corrector]) -> str:
    """Compact, one corrector a line."""
    ordered = sorted(correctors, key=lambda c: [getattr(c, part) for part in KEY])
    lines = [json.dumps(plain_data(c), separators=(",", ":")) for c in ordered]
    text = json.dumps({"schema": 1, "device": device})[:-1] + ', "correctors": [\n'
    return text + ",\n".join(lines) + "\n]}\n"


def write_correctors(
    device: Device, kernels: Sequence[Kernel], found: Sequence[Corrector], fitted: Collection[str]
) -> None:
    """The shipped file of one device; of the file before kinds that were not `fitted` again stay."""
    path = CORRECTORS / f"{device.name}.json"
    before = read_correctors(path).correctors if path.exists() else []
    beside = {_name(kernel): fingerprint(kernel) for kernel in kernels}
    every = [*(c for c in before if c.op not in fitted), *found]
    text = as_file(device.name, [c for c in every if beside.get(_name(c)) == c.beside])
    validated(Shipped, json.loads(text), str(path))
    write_text(path, text)
    read_correctors.cache_clear()
