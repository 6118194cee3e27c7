"""The format in which a config says that its weights are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workloads.dtypes import FORMATS, Precision

OPTIONS = {"weights": "--weights", "activations": "--activations", "experts": "--expert-weights"}


def stored_formats(config: Mapping[str, Any]) -> dict[str, str] | None:
    """The formats that predict a checkpoint as it is published; None where the config names none.

    Reads `quantization_config` as Hugging Face writes it: methods fp8 (in blocks or not; activations too
    where they are quantised on the way), mxfp4 (experts alone), awq and gptq. Others are not known here.
    """
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return None
    method = quantised.get("quant_method")
    if method == "mxfp4":
        return {"experts": "mxfp4"}
    if method == "fp8":
        weights = "fp8_block" if quantised.get("weight_block_size") else "fp8"
        return {"weights": weights} | ({"activations": "fp8"} if quantised.get("activation_scheme") else {})
    grouped = f"int{quantised.get('bits')}_g{quantised.get('group_size')}"
    return {"weights": grouped} if method in ("awq", "gptq") and grouped in FORMATS else None


def as_options(formats: Mapping[str, str]) -> str:
    """Formats as the command line takes them."""
    return " ".join(f"{OPTIONS[name]} {value}" for name, value in formats.items())


def as_entry(formats: Mapping[str, str]) -> str:
    """Formats as an entry of a sweep file's `dtypes`."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in formats.items()) + "} in dtypes"


def stored_note(
    name: str, config: Mapping[str, Any], precision: Precision, said: Callable[[Mapping[str, str]], str]
) -> str | None:
    """A sentence where weights are predicted in 16 bits or more whose config says that they are quantised.

    said: how a user asks for formats where the note is printed.
    """
    wide = isinstance(precision.weights, str) and FORMATS[precision.weights][0] >= 16
    if not config.get("quantization_config") or not wide or precision.experts is not None:
        return None
    if formats := stored_formats(config):
        asked = said(formats)
        return f"{name} is predicted in {precision.weights}; its published weights are narrower: {asked}."
    return (
        f"{name} is predicted in {precision.weights}; its config states a quantization that is not read "
        f"here: give {said({'weights': 'FORMAT'})}."
    )
