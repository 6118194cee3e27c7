"""From a config to a model: one function per family of configs, found by `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from specfiles.errors import InputError, nearest
from workloads.config import Config
from workloads.families import (
    alibi,
    diffusion,
    encoders,
    gpt,
    hybrid,
    kernel,
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
    **kernel.FAMILY,
}


UNCOUNTED = {
    "deepseek_v4": "compresses its cache by layers and mixes residual streams, which is not counted yet"
}
TRACE = "trace its module with --from-module MODULE:FUNCTION"


def decoder_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the decoder: multimodal configs keep them in `text_config`."""
    nested = fields.get("text_config")
    return nested if isinstance(nested, dict) and "hidden_size" in nested else fields


def _unknown(origin: str, kind: str) -> InputError:
    if kind in UNCOUNTED:
        return InputError(f"{origin}: model_type {kind!r} {UNCOUNTED[kind]}; {TRACE}.")
    if not kind:
        return InputError(f"{origin}: field 'model_type' is missing; known: {', '.join(sorted(FAMILIES))}.")
    close = nearest(kind, list(FAMILIES), most=1)
    hint = f"the nearest known one is {close[0]!r}" if close else f"known: {', '.join(sorted(FAMILIES))}"
    return InputError(f"{origin}: model_type {kind!r} is not known; {hint}, or {TRACE}.")


def build(config: Config, name: str) -> Model:
    """The model that a config describes.

    Raises InputError for an unknown `model_type` and for a missing, wrong or contradictory field.
    """
    tower = config.fields.get("vision_config")
    whole = config
    inner = decoder_fields(config.fields)
    if inner is not config.fields:
        config = Config(inner, f"{config.origin} (text_config)")
    kind = config.text("model_type", default="")
    if kind not in FAMILIES:
        raise _unknown(config.origin, kind)
    model = FAMILIES[kind](config)
    if kind in vision.TOWERS and tower is not None:
        model = vision.behind_tower(model, whole.nested("vision_config"))
    return replace(model, name=name)
