"""From options or a workload file to the scenarios that are asked."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from roofline.scenario import Scenario
from specfiles.errors import InputError
from specfiles.frozen import dataclass
from specfiles.strict import plain_data
from workloads.catalogue import Loaded, load_model
from workloads.convention import convention
from workloads.descriptor import CHECKPOINT, SPLITS, Descriptor, Dtypes, is_descriptor, load_descriptor
from workloads.model import Model
from workloads.phases import Setting
from workloads.sharing import has_experts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workloads.convention import Convention
    from workloads.dtypes import Precision
    from workloads.techniques.base import Technique


FORMATS = "weights", "activations", "kv", "expert_activations"  # named in files as here


@dataclass(frozen=True)
class Asked:
    """The options of a command, or of a call from Python; None where the user gave none.

    Several batches, prompts, contexts and outputs span a grid, as in a workload file.
    """

    phase: str | None = None
    batch: int | Sequence[int] | None = None
    prompt: int | Sequence[int] | None = None
    context: int | Sequence[int] | None = None
    output: int | Sequence[int] | None = None
    steps: int | None = None
    images: int | None = None
    weights: str | None = None
    activations: str | None = None
    kv: str | None = None
    expert_weights: str | None = None
    expert_activations: str | None = None
    tp: int | None = None
    ep: int | None = None
    pp: int | None = None
    expert_skew: float | None = None
    convention: str | None = None
    techniques: tuple[str | Technique, ...] = ()  # names with parameters; from Python also objects
    without: tuple[str, ...] = ()

    def given(self, *names: str) -> dict[str, Any]:
        """The flags among `names` that the user gave."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def listed_operators(target: str) -> list[dict[str, Any]]:
    """The operators of a workload file that lists some; empty for anything else."""
    return load_descriptor(target).operators if is_descriptor(target) else []


def scenarios(
    target: str, asked: Asked, *, default_convention: str = "fused"
) -> tuple[Loaded, list[Scenario]]:
    """The model of MODEL or a workload file, and its scenarios; flags override the file."""
    file = load_descriptor(target) if is_descriptor(target) else None
    if file is not None and file.model is None:
        raise InputError(f"{target} lists operators and names no model; it can be predicted, not run.")
    loaded = load_model(file.model if file and file.model else target)
    return loaded, scenarios_of(loaded, asked, file, default_convention=default_convention)


def scenarios_of(
    model: Model | Loaded, asked: Asked, file: Descriptor | None = None, *, default_convention: str = "fused"
) -> list[Scenario]:
    """The scenarios of a model at hand: one, or those of a workload file's grid.

    Only a model that was loaded has a config, which says what `weights: checkpoint` is.
    """
    dtypes = _dtypes(file, asked)
    model, precision = (model, dtypes.precision()) if isinstance(model, Model) else formats(model, dtypes)
    setting = _setting(precision, file, asked, default_convention)
    given = asked.given("batch", "prompt", "context", "output", "steps", "images")
    sizes = [dict(zip(given, each, strict=True)) for each in product(*map(_each, given.values()))]
    phase = asked.phase or (file.phase if file else None) or model.usual_phase
    if asked.context is not None and phase != "decode":
        raise InputError(
            f"--context is what a decode step attends to, and the phase is {phase}; choose --phase decode or "
            "leave it out."
        )
    points: list[dict[str, Any]] = file.points() if file else [{}]
    usual = {"prompt": model.audio_window} if model.audio_window else {}
    used = techniques(asked.techniques)
    if not (used or has_experts(model)):
        _refuse_experts(model, dtypes, asked)
    found = [
        Scenario(model, phase, setting=setting, techniques=used, **{**usual, **_set(point), **size})
        for point, size in product(points, sizes)
    ]
    return list(dict.fromkeys(found))  # a flag may fold grid points into one


def techniques(words: Iterable[str | Technique]) -> tuple[Technique, ...]:
    """The techniques of `--with`, and objects as they are; nothing is imported where there are none."""
    if not words:
        return ()
    from workloads.techniques.base import Technique
    from workloads.techniques.registry import parse

    for word in words:
        if not isinstance(word, str | Technique):
            raise InputError(
                f"{word!r} is no technique; expected a name, or an object of a technique's class."
            )
    return tuple(parse(word) if isinstance(word, str) else word for word in words)


def _each(size: int | Sequence[int]) -> Sequence[int]:
    """One size, or several, as several."""
    return [size] if isinstance(size, int) else size


def _set(point: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if value is not None}


def _dtypes(file: Descriptor | None, asked: Asked) -> Dtypes:
    stated = plain_data(file.dtypes) if file else {}
    given = {"experts": asked.expert_weights, **asked.given(*FORMATS)}
    return Dtypes(**{**stated, **_set(given)})


def formats(loaded: Loaded, dtypes: Dtypes) -> tuple[Model, Precision]:
    """A model and its formats; of `weights: checkpoint` those that its config states, by module."""
    if dtypes.weights != CHECKPOINT:
        return loaded.model, dtypes.precision()
    from workloads.checkpoint import resolved

    return resolved(loaded, dtypes)


def _refuse_experts(model: Model, dtypes: Dtypes, asked: Asked) -> None:
    """Raise InputError for what is said of experts where a model has none and no technique may make some.

    A prediction's file names formats of experts for every model, those of all else.
    """
    said = {
        "a format of experts' weights": dtypes.experts not in (None, dtypes.weights),
        "a format that experts multiply in": dtypes.expert_activations not in (None, dtypes.activations),
        "an expert skew": asked.expert_skew,
    }
    for what in (what for what, given in said.items() if given):
        raise InputError(f"{model.name} has no experts, and {what} was given; leave it out.")


def _setting(precision: Precision, file: Descriptor | None, asked: Asked, default_convention: str) -> Setting:
    names = dict(zip(("tp", "ep", "pp"), SPLITS, strict=True))
    stated = {short: getattr(file, name) if file else 1 for short, name in names.items()}
    shared = {**stated, **asked.given(*names)}
    for name, devices in shared.items():
        if devices < 1:
            raise InputError(f"{name} is {devices}; expected a positive whole number.")
    skew = asked.expert_skew or 0.0
    if not 0 <= skew <= 10:
        raise InputError(f"expert skew is {skew}; expected a number from 0 (uniform) to 10.")
    setting = Setting(
        precision,
        tensor_parallel=shared["tp"],
        expert_parallel=shared["ep"],
        pipeline_parallel=shared["pp"],
        expert_skew=skew,
    )
    counted = convention(asked.convention or default_convention)
    return replace(setting, convention=_lacking(counted, asked.without))


def _lacking(counted: Convention, words: tuple[str, ...]) -> Convention:
    """The convention without what `--without` names; nothing is imported where that is nothing."""
    if not words:
        return counted
    from workloads.techniques.counted import lacking

    return lacking(counted, words)
