"""Predictions from Python: what the commands do, on names or objects, with pandas tables as results.

    from roofline import api

    one = api.predict("Llama-3.1-8B", "h100", phase="decode", batch=16, context=2048)
    one.totals()["tpot_s"]
    one.table()
    api.sweep("Llama-3.1-8B", ["h100", "a100"], batch=[1, 8, 64])

Models and devices are names, paths, or objects that were loaded. Values are in SI units: seconds, bytes,
FLOP, joules. Every function raises `specfiles.InputError`, a ValueError whose one sentence says what was
asked, what exists and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs import Device, load_device
from roofline.asked import Asked, scenarios, scenarios_of
from roofline.ceilings import Ceilings, Fidelity, ceilings, known_backend
from roofline.predict import Prediction
from roofline.predict import predict as _predict
from roofline.scenario import Scenario
from roofline.times import Times, times
from specfiles.errors import InputError, choose
from workloads.catalogue import Loaded, load_model
from workloads.model import Model
from workloads.operators import Operator

if TYPE_CHECKING:
    import pandas as pd

    from roofline.serve.outcome import Serving
    from roofline.validate import Validation
    from roofline.whatif import WhatIf
    from workloads.techniques.base import Technique

__all__ = [
    "explain",
    "load_device",
    "load_model",
    "ops",
    "predict",
    "scenario",
    "serve",
    "sweep",
    "time_of",
    "validate",
    "whatif",
]

# What the options of `Asked` and `Served`, and arguments beside them, are.
SIZES = {"batch", "prompt", "context", "output", "steps", "images", "tp", "ep", "pp"}
COUNTS = {"users", "requests", "seed", "max_batch", "budget", "engines", "readers", "poll_steps"}
NUMBERS = {"expert_skew", "rate", "step_overhead", "price"}
FORMATS = {"weights", "activations", "kv", "expert_weights", "expert_activations"}
NAMES = {*FORMATS, "phase", "convention", "without", "batching", "engine", "slo", "operator"}
LISTS = {"batch", "prompt", "context", "output", "rate", "users", "without"}
KINDS: tuple[tuple[set[str], Any, str], ...] = (
    (SIZES | COUNTS, int, "a whole number"),
    (NUMBERS, int | float, "a number"),
    (NAMES, str, "text"),
    ({"workload"}, str | Path, "a path"),
)
Asking = str | Path | Loaded | Model | Scenario
Hardware = str | Path | Device


def scenario(model: Asking, **asked: Any) -> Scenario:
    """What is asked of a model, by the names of the command line's options.

    phase ("prefill", "decode", "generate", "denoise"); batch [sequences]; prompt, context, output [tokens of
    each]; steps (of a diffusion model); images (of each sequence); weights, activations, kv, expert_weights,
    expert_activations (formats: "bf16", "fp8", ..; weights="checkpoint": all as published);
    tp, ep, pp [devices]; expert_skew; convention;
    techniques=["awq", "speculative-decoding:k=5"], or objects of your classes; without=["flash-decoding"].

    `model` may be the workload file of one point, too, whose values the options override, or a scenario,
    which says all.
    """
    if isinstance(model, Scenario):
        if asked:
            raise InputError("a scenario says all that is asked; change it with dataclasses.replace.")
        return model
    flags = _asked(asked)
    if isinstance(model, Model | Loaded):
        found = scenarios_of(model, flags)
    else:
        found = scenarios(str(model), flags)[1]
    if len(found) > 1:
        raise InputError(
            f"{model} asks for {len(found)} points; choose one with batch, prompt, output or context."
        )
    return found[0]


def predict(
    model: Asking,
    hw: Hardware,
    fidelity: str = "datasheet",
    *,
    backend: str = "",
    engine: str = "none",
    **asked: Any,
) -> Prediction:
    """One prediction; `asked` are the options of `scenario`.

    `fidelity` is "datasheet", "measured", "calibrated" or "corrected", `backend` whose kernels ("trtllm",
    "vllm", "sglang"; calibrated), by default those of the `engine` that runs them ("vllm", .., "eager").
    The prediction's `totals()` are a dictionary (docs/formats.md), its `table()` a row per operator.
    """
    from roofline.engines import find_engine, kernels_of, run_by

    _check({"engine": engine})
    one, around = scenario(model, **asked), find_engine(engine)
    backend = known_backend(backend, Fidelity(fidelity))
    if around is None:
        return _predict(one, _device(hw), fidelity, backend)
    whose = backend or kernels_of(around, fidelity)
    return _predict(run_by(one, around), _device(hw), fidelity, whose, engine=around)


def whatif(
    model: Asking,
    hw: Hardware,
    fidelity: str = "datasheet",
    *,
    only: Sequence[str | Technique] = (),
    engine: str = "none",
    **asked: Any,
) -> WhatIf:
    """Every technique that applies, and the best in pairs; its `table()` has the fastest first.

    `only` these techniques are tried, if there are any: names, or objects. `engine` ("vllm", .., "eager") is
    around every prediction.
    """
    from roofline.asked import techniques
    from roofline.engines import find_engine
    from roofline.whatif import whatif as compare

    _check({"engine": engine})
    tried = techniques(_each(only)) or None
    return compare(scenario(model, **asked), _device(hw), fidelity, tried, find_engine(engine))


def explain(
    model: Asking,
    hw: Hardware,
    operator: str,
    fidelity: str = "calibrated",
    *,
    backend: str = "",
    **asked: Any,
) -> pd.DataFrame:
    """The terms of an operator's time [s], in the first step of each phase that has it.

    `operator` is a name of `Prediction.table()`, or its last part ("q_proj"). A row per term: operator,
    phase, context [tokens], term, time_s, why, provenance; `time_s` sums to the operator's time.
    """
    import pandas as pd

    from roofline.explain import explained

    _check({"operator": operator})
    whose = known_backend(backend, Fidelity(fidelity))
    found = explained(scenario(model, **asked), _device(hw), fidelity, operator, whose)
    columns = ["operator", "phase", "context", "term", "time_s", "why", "provenance"]
    rows = [
        (one.operator, one.phase, one.context, term.name, term.seconds, term.why, one.provenance)
        for one in found
        for term in one.terms
    ]
    return pd.DataFrame(rows, columns=columns)


def serve(
    model: Asking,
    hw: Hardware,
    fidelity: str = "datasheet",
    *,
    rate: float | Sequence[float] | None = None,
    users: int | Sequence[int] | None = None,
    trace: str | Path | pd.DataFrame | None = None,
    **options: Any,
) -> Serving:
    """A simulation of serving; its `table()` has a row per batching and rate (docs/serving.md).

    `rate`: requests per second, one or several; without it the highest within slo="ttft=1s,tpot=40ms".
    `users`: instead, of closed loops: each asks again when an answer has ended.
    `trace`: recorded requests, a file or a table of arrival_s, prompt and output. `options` are those of
    `scenario`, where prompt and output are mean lengths, and of `roofline serve`: batching, max_batch,
    budget [tokens of a step], engines, readers, engine, step_overhead [s], poll_steps, price [USD per
    hour of a device], requests, seed, workload.
    """
    from roofline.serve.asked import Served
    from roofline.serve.asked import serve as simulate

    own = {field.name for field in fields(Served)} & options.keys()
    of_engine = {name: _plain(options.pop(name)) for name in own}
    unset = {field.name for field in fields(Served) if field.default is None}
    loads = {"rate": _plain(rate), "users": _plain(users), **of_engine}
    _check(
        {name: value for name, value in loads.items() if value is not None or name not in {*unset, "rate"}}
    )
    if of_engine.get("workload"):
        of_engine["workload"] = Path(of_engine["workload"])
    named = isinstance(model, str | Path)
    asked = Served(
        str(model) if named else scenario(model, **options),
        _asked(options) if named else Asked(),
        rates=None if rate is None else _each(loads["rate"]),
        users=None if users is None else _each(loads["users"]),
        trace=Path(trace) if isinstance(trace, str) else trace,
        **of_engine,
    )
    return simulate(asked, _device(hw), Fidelity(fidelity))


def sweep(models: str | list[str], hw: str | list[str], **lists: Any) -> pd.DataFrame:
    """A row for every combination of models, devices and what `lists` has, each one value or several.

    batch, prompt, context, output, tensor_parallel, expert_parallel, pipeline_parallel: numbers.
    dtypes: [{"weights": "fp8", "kv": "fp8"}, ..].
    techniques: a list for each set that applies together, [[], ["awq"]]. engines: "none", "vllm", ..
    phase, fidelity, convention: one.
    Columns are those of `roofline sweep`; a combination that does not exist says why in `error`.
    """
    import pandas as pd

    from roofline.sweep.compute import compute
    from roofline.sweep.run import check_names
    from roofline.sweep.spec import Spec
    from specfiles.strict import validated

    named = {"models": _listed(models), "hardware": _listed(hw)}
    axes = {name: _plain(value) for name, value in lists.items()}
    spec = validated(Spec, {"schema": 1, "name": "sweep", **named, **axes}, "sweep")
    check_names(spec)
    return pd.concat([compute(task) for task in spec.tasks()], ignore_index=True)


def ops(table: pd.DataFrame, hw: Hardware, fidelity: str = "datasheet", *, backend: str = "") -> pd.DataFrame:
    """A table of operators (op, dtype, m, n, k, ..: docs/formats.md) with predictions appended."""
    from roofline.tablenames import predict_named

    if not hasattr(table, "columns"):
        raise InputError(f"the operators are {table!r}; expected a table of them (a DataFrame).")
    return predict_named(table, _ceilings(hw, fidelity, backend))


def time_of(operator: Operator, hw: Hardware, fidelity: str = "datasheet", *, backend: str = "") -> Times:
    """The time of one operator and its limits [s]; sizes that are arrays give arrays.

    `operator` is one of `workloads.operators`, or a class of yours with a `kind` and a `work()`.
    """
    return times(operator, _ceilings(hw, fidelity, backend))


def validate(run: str | Path, hw: Hardware, fidelity: str = "calibrated") -> Validation:
    """A measured run beside its prediction: the tables `matched`, `unmatched`, `layers`, `steps`."""
    from roofline.run import open_run
    from roofline.validate import validate as compare

    return compare(open_run(Path(str(run))), _device(hw), fidelity)


def _asked(options: dict[str, Any]) -> Asked:
    """The options; a technique may be given as one word, numbers and lists as NumPy's.

    Raises InputError for an option that does not exist, or that is of another kind.
    """
    for name in options.keys() - (known := {field.name: None for field in fields(Asked)}).keys():
        raise choose(name, list(known), "option")
    given = {name: _plain(value) for name, value in options.items() if value is not None}
    _check(given)
    words: dict[str, Any] = {name: _each(given[name]) for name in ("techniques", "without") if name in given}
    return Asked(**{**given, **words})


def _check(given: dict[str, Any]) -> None:
    """Raise InputError for what is no number, or no text, where the command line takes only such."""
    for name, value in given.items():
        values = _each(value) if name in LISTS else (value,)
        for names, kind, expected in KINDS:
            right = all(isinstance(one, kind) and not isinstance(one, bool) for one in values)
            if name in names and not (right and (values or name == "without")):
                raise InputError(f"{name} is {value!r}; expected {expected}.")


def _each(named: Any) -> tuple[Any, ...]:
    """A list of names or techniques as a tuple, or one that stands alone."""
    return tuple(named) if isinstance(named, Iterable) and not isinstance(named, str) else (named,)


def _ceilings(hw: Hardware, fidelity: str, backend: str) -> Ceilings:
    return ceilings(_device(hw), fidelity, known_backend(backend, Fidelity(fidelity)))


def _device(hw: Hardware) -> Device:
    return hw if isinstance(hw, Device) else load_device(hw)


def _plain(values: Any) -> Any:
    """A range or an array as a list, which files have, too."""
    return list(values) if isinstance(values, range) else getattr(values, "tolist", lambda: values)()


def _listed(names: str | list[str]) -> list[str]:
    return [str(name) for name in _each(names)]
