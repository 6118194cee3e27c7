"""Compare predicted with measured times, operator by operator, and list what did not match."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from roofline.ceilings import Fidelity, ceilings, reference_fidelity
from roofline.drift import drifts
from roofline.predict import Row, in_mode, step_rows
from roofline.run import Run
from roofline.run_tables import POINT, step_of
from roofline.scenario import Scenario
from roofline.times import FUSED
from roofline.together import JOIN, parts
from roofline.traced import model_of
from specfiles.errors import InputError
from workloads.catalogue import Loaded
from workloads.checkpoint import asked_words, resolved
from workloads.config import Config
from workloads.convention import convention
from workloads.descriptor import Dtypes
from workloads.families import build
from workloads.phases import Setting
from workloads.techniques.changes import IN_LAYERS

if TYPE_CHECKING:
    from hwspecs import Device
    from roofline.ceilings import Ceilings
    from workloads.model import Model

ABOVE = 1.05  # attained beyond this share of a measured ceiling is a bug in the model or the timer


@dataclass(frozen=True)
class Validation:
    """`matched`: a row per operator of each point, with its error and attained fraction.

    measured_s is the time inside the model, alone_s that of the operator's kernels by themselves; the
    difference is framework overhead. attained = bound at the measured ceilings / measured_s: the fraction of
    its roofline that an operator reaches; `above_ceiling` flags operators above 1.
    `unmatched` lists what was only predicted or only measured. `layers` compares the sums of the operators
    inside the layers, `steps` whole steps, whose measured time includes time outside of all operators.
    `drift` is the speed of the machine beside each point (roofline/drift.py), or is empty and
    `drift_unknown` says why; errors are as measured, error_after_drift with the drift taken out: of
    `steps` that of the whole reference step, of `matched` and `layers` that of the operators in its
    layers, or where `layers_drift_unknown` says why not, the whole step's, too.
    """

    fidelity: Fidelity
    matched: pd.DataFrame
    unmatched: pd.DataFrame
    layers: pd.DataFrame
    steps: pd.DataFrame
    drift: pd.DataFrame
    drift_unknown: str
    layers_drift_unknown: str

    def summary(self) -> pd.DataFrame:
        """Errors by phase and bound: median (also without drift), mean, bias, attained fraction."""
        if self.matched.empty:
            return pd.DataFrame(columns=["phase", "bound", *_SCORES])
        own = self.matched[self.matched["bound"] != FUSED]  # what hides in others has no time to compare
        both = pd.concat([own.assign(bound="all"), self.matched])
        return pd.DataFrame(
            [
                {"phase": phase, "bound": bound, **_scores(group)}
                for (phase, bound), group in both.groupby(["phase", "bound"], sort=False)
            ]
        )


def validate(run: Run, device: Device, fidelity: Fidelity | str) -> Validation:
    """Compare a run with the prediction for the model and sizes that it recorded."""
    fidelity = Fidelity(fidelity)
    operators = run.table("operators")
    in_model = operators[operators["where"] == "model"].drop(columns=["where", "kind"])
    alone = operators.loc[operators["where"] == "alone", [*POINT, "name", "median_s"]]
    measured = in_model.rename(columns={"median_s": "measured_s", "count": "executions"}).merge(
        alone.rename(columns={"median_s": "alone_s"}), on=[*POINT, "name"], how="left"
    )
    if measured.empty and run.head.imported is not None:
        raise InputError(
            f"{run.path}: no kernel matched a model's operators; import its traces with --model."
        )
    limits = in_mode(ceilings(device, fidelity), run.head.mode)
    predicted = predicted_operators(run, measured, limits, ceilings(device, reference_fidelity(device)))
    joined = predicted.merge(measured, on=[*POINT, "name"], how="outer", indicator="side", validate="1:1")
    both = joined["side"] == "both"
    drift = drifts(run, device)
    matched = drift.beside_layers(joined[both].drop(columns=["side", "executions"]))
    matched["error"] = matched["predicted_s"] / matched["measured_s"] - 1
    matched["attained"] = matched["bound_s"] / matched["measured_s"]
    matched["above_ceiling"] = matched["attained"] > ABOVE
    rest = joined[~both].reset_index(drop=True)
    unmatched = rest[[*POINT, "name"]].assign(
        side=np.where(rest["side"] == "left_only", "predicted, not measured", "measured, not predicted"),
        count=rest["count"].fillna(rest["executions"]),
        seconds=rest["predicted_s"].fillna(rest["measured_s"]),
    )
    layers = drift.beside_layers(_layers(matched))
    steps = drift.beside_steps(_steps(run, predicted, measured))
    return Validation(
        fidelity, matched, unmatched, layers, steps, drift.table, drift.unknown, drift.layers_unknown
    )


def scenario_of(run: Run) -> Scenario:
    """The scenario that a run recorded, at its smallest sizes."""
    head, model = run.head, _model(run)
    stated = {name: getattr(head, name) for name in ("activations", "kv", "experts", "expert_activations")}
    words = {name: word for name, word in stated.items() if word}
    precision = Dtypes(weights=head.dtype, **words).precision()
    if head.checkpoint:
        loaded = Loaded(model, head.model_config_fields)
        model, precision = resolved(loaded, Dtypes(**asked_words(loaded, words)))
    counting = convention(head.convention)
    if head.absorbs_latents is not None:
        counting = replace(counting, absorbs_latents=head.absorbs_latents)
    setting = Setting(precision, counting, head.tensor_parallel)
    return Scenario(model, "prefill", prompt=model.audio_window or 1, setting=setting)


def _model(run: Run) -> Model:
    """The model of a run: read from the config that it recorded, or, if traced, from its operators."""
    head = run.head
    if head.model_config_fields:
        return build(Config(head.model_config_fields, str(run.path / "run.json")), head.model)
    traced = run.table("traced")
    if traced.empty:
        raise InputError(f"{run.path}: names no model; import its traces again with --model.")
    return model_of(traced, head.model, str(run.path / "traced.parquet"))


def predicted_operators(run: Run, measured: pd.DataFrame, limits: Ceilings, roof: Ceilings) -> pd.DataFrame:
    """What a run measured, predicted at `limits`, with bounds at `roof`: a row per operator of each point."""
    scenario = scenario_of(run)
    rows = []
    for key in measured[POINT].drop_duplicates().itertuples(index=False, name=None):
        point, phase, step = dict(zip(POINT, key, strict=True)), str(key[0]), step_of(key)
        asked = replace(scenario, batch=step.batch)
        pairs = zip(step_rows(asked, step, limits, phase), step_rows(asked, step, roof, phase), strict=True)
        rows += [{**point, **_record(row, bound)} for row, bound in pairs]
    return _merged(pd.DataFrame(rows, columns=[*POINT, *_RECORD]), measured)


def _merged(predicted: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Predicted operators that one measured kernel computes, merged: `q_proj + k_proj + v_proj`.

    The prediction is the sum of their times with one launch, an upper limit of the fused bound. A compiled
    kernel of operators with different counts is one execution per step.
    """
    named = measured["name"].astype(str)
    for point, group in measured[named.str.contains(JOIN, regex=False)].groupby(POINT, sort=False):
        here = (predicted[POINT] == list(point)).all(axis=1)
        for name in group["name"]:
            operators = parts(name, set(predicted.loc[here, "name"]))
            rows = here & predicted["name"].isin(operators)
            if rows.sum() != len(operators):
                continue
            whole = _together(name, predicted[rows])
            predicted = pd.concat([predicted[~rows], whole], ignore_index=True)
            here = (predicted[POINT] == list(point)).all(axis=1)
    return predicted


def _together(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Operators merged into one: per execution if their counts are equal, else their sum over a step."""
    alike = rows["count"].nunique() == 1
    times = 1 if alike else rows["count"]
    sums = {c: (rows[c] * times).sum() for c in ("flops", "bytes", "predicted_s", "bound_s")}
    longest = (rows["bound_s"] * times).idxmax()
    return rows.loc[[longest]].assign(name=name, count=rows["count"].iloc[0] if alike else 1, **sums)


_RECORD = ("name", "kind", "count", "flops", "bytes", "bound", "predicted_s", "bound_s")


def _record(row: Row, roof: Row) -> dict[str, Any]:
    values = (
        row.name,
        row.kind,
        row.count,
        row.work.flops,
        row.work.bytes,
        roof.times.bound,
        row.times.time_s,
        max(roof.times.compute_s, roof.times.memory_s),
    )
    return dict(zip(_RECORD, values, strict=True))


def _layers(matched: pd.DataFrame) -> pd.DataFrame:
    """Sums over the operators inside the layers, per point: the error of all layers together."""
    inside = matched[matched["name"].str.contains(IN_LAYERS, regex=False)]
    inside = inside.assign(
        predicted_s=inside["predicted_s"] * inside["count"], measured_s=inside["measured_s"] * inside["count"]
    )
    sums = inside.groupby(POINT, sort=False)[["predicted_s", "measured_s"]].sum().reset_index()
    return sums.assign(error=sums["predicted_s"] / sums["measured_s"] - 1)


def _steps(run: Run, predicted: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Whole steps: predicted, measured without ranges, with waits and time outside of all operators."""
    steps = run.table("steps")
    plain = steps[~steps["instrumented"].astype(bool)].rename(columns={"median_s": "measured_s"})
    counted = predicted.assign(predicted_s=predicted["predicted_s"] * predicted["count"])
    whole = counted.groupby(POINT, sort=False)["predicted_s"].sum().reset_index()
    named = measured.assign(in_operators_s=measured["measured_s"] * measured["executions"])
    held = named.groupby(POINT, sort=False)["in_operators_s"].sum().reset_index()
    table = whole.merge(plain[[*POINT, "measured_s", "waited_s"]], on=POINT).merge(held, on=POINT)
    return table.assign(
        error=table["predicted_s"] / table["measured_s"] - 1,
        unattributed_s=table["measured_s"] - table["in_operators_s"],
    )


_SCORES = (
    "operators", "median_ape", "after_drift", "mape", "bias", "time_weighted_ape", "attained",
    "above_ceiling",
)  # fmt: skip


def _scores(group: pd.DataFrame) -> dict[str, Any]:
    error = group["error"].abs()
    weight = group["measured_s"] * group["count"]
    told = group.loc[group["error"] > -1, "error"]  # a prediction of no time at all has no logarithm
    values = (
        len(group),
        float(error.median()),
        float(group["error_after_drift"].abs().median()),
        float(error.mean()),
        float(np.expm1(np.log1p(told).mean())),
        float((error * weight).sum() / weight.sum()),
        float((group["attained"] * weight).sum() / weight.sum()),
        int(group["above_ceiling"].sum()),
    )
    return dict(zip(_SCORES, values, strict=True))
