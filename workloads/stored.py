"""The format in which a config says that its weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.dtypes import FORMATS, Precision


def stored_options(config: Mapping[str, Any]) -> str | None:
    """The options that predict a checkpoint as it is published; None where the config names no format.

    Reads `quantization_config` as Hugging Face writes it: methods fp8 (in blocks or not; activations too
    where they are quantised on the way), mxfp4 (experts alone), awq and gptq. Others are not known here.
    """
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return None
    method = quantised.get("quant_method")
    if method == "mxfp4":
        return "--expert-weights mxfp4"
    if method == "fp8":
        weights = "fp8_block" if quantised.get("weight_block_size") else "fp8"
        return f"--weights {weights}" + (" --activations fp8" if quantised.get("activation_scheme") else "")
    grouped = f"int{quantised.get('bits')}_g{quantised.get('group_size')}"
    return f"--weights {grouped}" if method in ("awq", "gptq") and grouped in FORMATS else None


def stored_note(name: str, config: Mapping[str, Any], precision: Precision) -> str | None:
    """A sentence where weights are predicted in 16 bits or more whose config says that they are quantised."""
    wide = isinstance(precision.weights, str) and FORMATS[precision.weights][0] >= 16
    if not config.get("quantization_config") or not wide or precision.experts is not None:
        return None
    if options := stored_options(config):
        return f"{name} is predicted in {precision.weights}; its published weights are narrower: {options}."
    return (
        f"{name} is predicted in {precision.weights}; its config states a quantization that is not read "
        "here: give --weights."
    )
