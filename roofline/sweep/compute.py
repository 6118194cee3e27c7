"""One task of a sweep as a table: a row per point, with a sentence where a point has no prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from hwspecs import load_device
from roofline.asked import formats
from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.engines import find_engine, kernels_of, run_by
from roofline.grid import Grid
from roofline.predict import predict
from roofline.predict_grid import predict_grid
from roofline.scenario import Scenario
from roofline.sweep.spec import Task
from roofline.tables import asked
from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.convention import convention
from workloads.descriptor import SPLITS, axes
from workloads.step import Setting
from workloads.techniques.registry import parse

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from workloads.model import Model

TOTALS = (
    "flops", "bytes", "time_s", "ttft_s", "tpot_s", "tokens_per_s", "mfu", "mbu", "weights_bytes",
    "kv_cache_bytes", "activation_peak_bytes", "memory_bytes", "fits", "energy_j",
)  # fmt: skip
ASKED = ("model", "hardware", "node", "phase", "batch", "prompt", "context", "output", *SPLITS)
COLUMNS = (
    *ASKED,
    "weights",
    "activations",
    "kv",
    "experts",
    "expert_activations",
    "techniques",
    "engine",
    "fidelity",
    *TOTALS,
    "error",
)


def compute(task: Task) -> pd.DataFrame:
    """All points of a task, COLUMNS each; what a point lacks is its `error`."""
    import pandas as pd

    device, fidelity = load_device(task.hardware), Fidelity(task.spec.fidelity)
    rows: list[dict[str, Any]] = []
    for model, setting in _settings(task):
        scenarios, refused = _scenarios(task, model, setting)
        rows += refused
        rows += _predicted(task, scenarios, device, fidelity)
    no_error: dict[str, Any] = {"error": None}  # a column of text even where no point has one
    return pd.DataFrame([no_error | row for row in rows], columns=list(COLUMNS))


def _settings(task: Task) -> Iterable[tuple[Model, Setting]]:
    """The model in each of the formats, and how it is run."""
    spec, loaded = task.spec, load_model(task.model)
    for dtypes, *devices in product(*axes(spec, ("dtypes", *SPLITS))):
        model, precision = formats(loaded, dtypes)
        split = dict(zip(SPLITS, devices, strict=True))
        yield model, Setting(precision, convention(spec.convention), **split)


def _scenarios(task: Task, model: Model, setting: Setting) -> tuple[list[Scenario], list[dict[str, Any]]]:
    """The scenarios of a setting, and rows for the sizes that the model has no scenario of."""
    techniques = tuple(map(parse, task.techniques))
    found, refused, engine = [], [], find_engine(task.engine)
    for sizes in task.spec.sizes():
        try:
            one = Scenario(model, task.spec.phase, **sizes, setting=setting, techniques=techniques)
            found.append(one if engine is None else run_by(one, engine))
        except InputError as error:
            refused.append(
                _words(task, model, setting) | {**sizes, "phase": task.spec.phase, "error": str(error)}
            )
    return found, refused


def _predicted(
    task: Task, scenarios: Sequence[Scenario], device: Device, fidelity: Fidelity
) -> list[dict[str, Any]]:
    """Rows of scenarios that differ in their sizes: at once where they are a grid, else one by one."""
    if not scenarios:
        return []
    engine = find_engine(task.engine)
    if len(scenarios) > 1 and Grid.fits(scenarios, engine):
        try:
            grid = Grid.of(scenarios, [device], engine)
            totals = predict_grid(scenarios[0].model, grid, fidelity, engine)
        except InputError:  # of one of them: each is told for itself below
            pass
        else:
            limits = ceilings(device, fidelity, kernels_of(engine, fidelity))
            numbers = {name: totals[name].tolist() for name in TOTALS}
            return [
                _row(task, scenario, device, limits) | {name: values[i] for name, values in numbers.items()}
                for i, scenario in enumerate(scenarios)
            ]
    return [_alone(task, scenario, device, fidelity) for scenario in scenarios]


def _alone(task: Task, scenario: Scenario, device: Device, fidelity: Fidelity) -> dict[str, Any]:
    try:
        engine = find_engine(task.engine)
        limits = ceilings(device, fidelity, kernels_of(engine, fidelity))
        prediction = predict(scenario, device, limits=limits, engine=engine)
        totals = prediction.totals()
    except InputError as error:
        sizes = {name: getattr(scenario, name) for name in ("phase", "batch", "prompt", "context", "output")}
        return _words(task, scenario.model, scenario.setting) | sizes | {"error": str(error)}
    return _row(task, scenario, device, prediction.ceilings) | {name: totals[name] for name in TOTALS}


def _row(task: Task, scenario: Scenario, device: Device, limits: Ceilings) -> dict[str, Any]:
    said = asked(scenario, device, limits)
    return _words(task, scenario.model, scenario.setting) | {name: said[name] for name in ASKED}


def _words(task: Task, model: Model, setting: Setting) -> dict[str, Any]:
    precision = setting.precision
    return {
        "model": task.model,
        "hardware": task.hardware,
        **{name: getattr(setting, name) for name in SPLITS},
        "weights": model.weights_format(precision),
        "activations": str(precision.activations),
        "kv": str(precision.kv),
        "experts": str(precision.expert_weights),
        "expert_activations": str(precision.expert_activations),
        "techniques": " ".join(task.techniques),
        "engine": task.engine,
        "fidelity": task.spec.fidelity,
    }
