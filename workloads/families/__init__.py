"""From a config to a model: one function per family of configs, found by `model_type`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specfiles.errors import InputError, nearest
from workloads.config import Config
from workloads.families import (
    alibi,
    diffusion,
    encoders,
    gpt,
    hybrid,
    latent,
    llama,
    parallel,
    recurrent,
    t5,
    varied,
    vision,
)
from workloads.model import Model

FAMILIES: dict[str, Callable[[Config], Model]] = {
    **llama.FAMILY,
    **gpt.FAMILY,
    **recurrent.FAMILY,
    **hybrid.FAMILY,
    **encoders.FAMILY,
    **t5.FAMILY,
    **diffusion.FAMILY,
    **parallel.FAMILY,
    **alibi.FAMILY,
    **latent.FAMILY,
    **varied.FAMILY,
}


def build(config: Config, name: str) -> Model:
    """The model that a config describes.

    Raises InputError for an unknown `model_type` and for a missing, wrong or contradictory field.
    """
    tower = config.fields.get("vision_config")
    nested = config.fields.get("text_config")  # multimodal configs keep the decoder's fields there
    if isinstance(nested, dict) and "hidden_size" in nested:
        config = Config(nested, f"{config.origin} (text_config)")
    kind = config.text("model_type", default="")
    if kind not in FAMILIES:
        close = nearest(kind, list(FAMILIES), most=1) if kind else []
        hint = f"the nearest known one is {close[0]!r}" if close else f"known: {', '.join(sorted(FAMILIES))}"
        what = f"model_type {kind!r} is not known" if kind else "field 'model_type' is missing"
        raise InputError(f"{config.origin}: {what}; {hint}.")
    model = FAMILIES[kind](config)
    if kind in vision.TOWERS and isinstance(tower, dict):
        model = vision.behind_tower(model, Config(tower, f"{config.origin} (vision_config)"))
    return replace(model, name=name)
