"""What techniques gained in a run, beside what they were predicted to gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hwspecs import Device
from roofline.ceilings import Fidelity
from roofline.predict import predict
from roofline.run import Run
from roofline.run_tables import POINT
from roofline.scenario import Scenario, sized
from roofline.validate import scenario_of
from specfiles.errors import InputError
from workloads.convention import convention
from workloads.techniques.base import Technique
from workloads.techniques.counted import lacking
from workloads.techniques.registry import parse

TIMES = ["technique", "base_s", "treated_s", "gain", "gain_q25", "gain_q75"]
REPEATS = ["gain_low", "gain_high", "repeats", "outliers", "warm_ups", "ended"]  # how well the gain is known
MEASURED = [*TIMES, *REPEATS, "deviation", "remark", "ran"]
PREDICTED = ["predicted_base_s", "predicted_s", "predicted_gain", "error", "note"]


def gains(run: Run, device: Device, fidelity: Fidelity | str) -> pd.DataFrame:
    """One row per point and technique of a run: measured and predicted times and gains, base over treated.

    `error` is that of the gain, predicted / measured - 1. Predicted times are those of the operators,
    measured ones of whole steps. Where kernels implement another technique than the one asked for,
    that one (`ran`) is predicted. Where nothing can be predicted, `note` says why.
    """
    table = run.table("techniques")
    if table.empty:
        return pd.DataFrame(columns=[*POINT, *MEASURED, *PREDICTED])
    scenario = scenario_of(run)
    rows = []
    for row in table.itertuples():
        setting = replace(scenario.setting, convention=convention(str(row.convention)))
        sizes = int(row.batch), int(row.q_len), int(row.kv_len), int(row.encoder_len)
        asked = replace(sized(scenario, (str(row.phase), *sizes)), setting=setting)
        ran = row.ran if isinstance(row.ran, str) and row.ran else row.technique  # older runs say none
        rows.append(_predicted(asked, _of_run(run, str(ran)), device, fidelity))
    found = pd.concat([table[[*POINT, *MEASURED]], pd.DataFrame(rows, index=table.index)], axis=1)
    return found.assign(error=found["predicted_gain"] / found["gain"] - 1)[[*POINT, *MEASURED, *PREDICTED]]


def _of_run(run: Run, words: str) -> Callable[[], Technique]:
    """The technique by its words, with the draft model from the config that is kept in the run."""

    def parsed() -> Technique:
        technique = parse(words)
        named = str(getattr(technique, "draft", ""))
        kept = run.path / named
        if named.endswith(".json") and named == Path(named).name and kept.is_file():
            return replace(technique, draft=str(kept))  # type: ignore[type-var]
        return technique

    return parsed


def _predicted(
    asked: Scenario, technique: Callable[[], Technique], device: Device, fidelity: Fidelity | str
) -> dict[str, float | str | None]:
    """Times of the step without and with a technique."""
    base = predict(asked, device, fidelity).time_s()
    try:
        method = technique()
        treated = _treated(asked, method, device, fidelity)
        if treated == base and method.counted(asked.setting.convention):
            base = predict(_without(asked, method), device, fidelity).time_s()
    except InputError as reason:
        nothing: dict[str, float | str | None] = dict.fromkeys(("predicted_s", "predicted_gain"))
        return {"predicted_base_s": base, **nothing, "note": str(reason)}
    return {"predicted_base_s": base, "predicted_s": treated, "predicted_gain": base / treated, "note": ""}


def _treated(asked: Scenario, method: Technique, device: Device, fidelity: Fidelity | str) -> float:
    """Time with a technique; of one that the convention counts already, the plain time."""
    try:
        return predict(replace(asked, techniques=(method,)), device, fidelity).time_s()
    except InputError:
        if not method.counted(asked.setting.convention):
            raise
    return predict(asked, device, fidelity).time_s()


def _without(asked: Scenario, technique: Technique) -> Scenario:
    """The step by a convention that lacks the technique, where the plain prediction has it."""
    lacks = lacking(asked.setting.convention, [technique.name])
    return replace(asked, setting=replace(asked.setting, convention=lacks))
