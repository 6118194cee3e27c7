"""The shipped models, and any other config that a user has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import msgspec

from specfiles.catalogue import FILES, Catalogue
from specfiles.errors import InputError
from specfiles.frozen import dataclass
from specfiles.reading import exists, read_json
from specfiles.strict import Strict, validated
from workloads.config import Config
from workloads.families import build
from workloads.model import Model
from workloads.phases import ActiveConvention

Count = Annotated[int, msgspec.Meta(gt=0)]


class Active(Strict, frozen=True, kw_only=True):
    """The published count of parameters that one token uses."""

    rounded: str  # as they print it: 12.9B
    convention: ActiveConvention  # which tables they count, found by counting all three ways
    source: str
    opened: bool = True  # the source was read; otherwise it is where the number is said to stand


class Published(Strict, frozen=True, kw_only=True):
    """Published parameter counts of a model."""

    params: Count | None = None
    exact: bool = False  # the published count is exact, not rounded
    rounded: str | None = None  # where only a rounded count is published
    active: Active | None = None
    source: str


def agrees(counted: int, rounded: str) -> bool:
    """Whether a count is what is printed as 12.9B: rounded or cut at the last digit."""
    digits, unit = rounded[:-1], {"M": 10**6, "B": 10**9, "T": 10**12}[rounded[-1]]
    last: float = unit / 10 ** len(digits.partition(".")[2])
    return abs(counted - float(digits) * unit) < last


class ModelFile(Strict, frozen=True, kw_only=True):
    """A shipped model: the fields of its Hugging Face config and where they were read."""

    name: str
    aliases: list[str] = []
    config_source: str
    published: Published
    config: dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A model and, for a shipped one, what is published of it; `config` is its raw fields."""

    model: Model
    config: dict[str, Any] = field(repr=False)
    file: ModelFile | None = field(default=None, repr=False)

    def fields(self) -> Any:
        """Its fields as JSON knows them: null for the Infinity that Python writes as a limit."""
        return _finite(self.config)


def unread_towers(loaded: Loaded) -> str | None:
    """What to say of a config whose model sees or hears, of which the decoder alone is read."""
    inside = loaded.config.get("thinker_config")
    stated = {**loaded.config, **(inside if isinstance(inside, Mapping) else {})}
    read = ("vision_config",) if loaded.model.image_tokens else ()
    towers = [name for name in TOWERS if name not in read and isinstance(stated.get(name), Mapping)]
    if not towers:
        return None
    unread = " and ".join(towers)
    return f"{loaded.model.name} is predicted as its decoder alone, without memory and time of its {unread}."


TOWERS = ("vision_config", "audio_config")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value if not isinstance(value, float) or isfinite(value) else None


def quantisation(config: Mapping[str, Any]) -> Any:
    """The entry of a config that says how weights are quantised; None where there is none."""
    inner = config.get("text_config")
    stated = config.get("quantization_config")
    return inner.get("quantization_config") if not stated and isinstance(inner, Mapping) else stated


def _names(path: Path) -> list[str]:
    data = read_json(path)
    return [str(data["name"]), *map(str, data.get("aliases", []))]


MODELS = Catalogue("model", Path(__file__).parent / "models", (".json",), _names, "models")


# Endings of checkpoints' names that keep every size: how one was tuned, and when.
TUNED = re.compile(r"[-_](instruct|chat|thinking|it|pt|hf|exp|\d{4})$", re.IGNORECASE)
# Endings that name the format of the weights, with the options that predict it.
STORED = {
    re.compile(rf"[-_]({ending})$", re.IGNORECASE): options
    for ending, options in {
        r"fp8([-_](dynamic|v\d+))?": "--weights fp8 --activations fp8",
        r"(nv)?fp4([-_]v\d+)?": "--weights nvfp4 --activations nvfp4",
        "mxfp4": "--weights mxfp4",
        "awq|gptq[-_]int4": "--weights int4_g128",
        r"(int|w)[48].*|gptq.*": "--weights FORMAT",
        "bf16": "--weights bf16",
    }.items()
}


@cache  # tables name the same few in every row
def architecture_of(checkpoint: str) -> Loaded:
    """The model of a published checkpoint, whoever published it, however it was tuned and stored.

    Raises InputError as `load_model` does, of the whole name.
    """
    return load_model(_named(checkpoint, (TUNED, *STORED)) or checkpoint)


def _named(checkpoint: str, endings: Iterable[re.Pattern[str]]) -> Path | None:
    """The file of a checkpoint, with or without its publisher and such endings; None where there is none."""
    for name in dict.fromkeys((checkpoint, checkpoint.rpartition("/")[2])):
        if (found := MODELS.named(name)) is not None:
            return found
    for ending in endings:
        if (shorter := ending.sub("", checkpoint)) != checkpoint:
            return _named(shorter, endings)
    return None


def _find(asked: str) -> Path:
    """The file of a shipped model or of a tuned checkpoint. Raises InputError where there is none.

    A quantised checkpoint is no other model: its name is refused with the options of its format.
    """
    if (path := Path(asked)).suffix in FILES or exists(path, Path.is_dir):
        return MODELS.find(asked)
    if (found := _named(asked, (TUNED,))) is not None:
        return found
    for ending, options in STORED.items():
        base = ending.sub("", asked)
        if base != asked and (found := _named(base, (TUNED,))) is not None:
            raise InputError(
                f"no model named {asked!r}; give {_names(found)[0]} and the format of its weights: {options}."
            )
    return MODELS.find(asked)


def load_model(asked: str | Path) -> Loaded:
    """The model for a shipped name or alias, a `config.json`, or a folder that holds one.

    Raises InputError where there is none or its config is wrong; the sentence names the field.
    """
    path = Path(asked)
    if exists(path / "config.json", Path.is_file):
        path = path / "config.json"
    elif not exists(path, Path.is_file):
        path = _find(str(asked))
    data = read_json(path)
    if "config" in data and "published" in data:
        file = validated(ModelFile, data, str(path))
        return Loaded(build(Config(file.config, str(path)), file.name), file.config, file)
    data = _with_formats(path, data)
    name = data.get("_name_or_path") or (path.parent.name if path.name == "config.json" else path.stem)
    return Loaded(build(Config(data, str(path)), str(name)), data)


def _with_formats(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """A config with the formats that stand in a file beside it, as in checkpoints of NVIDIA's ModelOpt."""
    beside = path.parent / "hf_quant_config.json"
    if path.name != "config.json" or data.get("quantization_config") or not exists(beside, Path.is_file):
        return data
    stated = read_json(beside).get("quantization")
    return (
        {**data, "quantization_config": {"quant_method": "modelopt", **stated}}
        if isinstance(stated, dict)
        else data
    )
