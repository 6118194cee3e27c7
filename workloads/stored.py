"""The format in which a config says that its weights are published."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from workloads.dtypes import FORMATS, Precision

OPTIONS = {
    "weights": "--weights",
    "activations": "--activations",
    "experts": "--expert-weights",
    "expert_activations": "--expert-activations",
    "kv": "--kv",
}
IGNORED = ("ignore", "modules_to_not_convert", "exclude_modules", "exclude", "ignored_layers")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# A module that is left out: attention as a whole, or its queries.
ATTENTION = re.compile(r"(attn|attention)[.*\\$]*$|\bq(kv)?(_a)?_proj")
# What one number takes, by kind, bits and size of a group (0: a whole row, column or matrix).
GROUPED = {
    ("float", 8, 0): "fp8",
    ("float", 8, 128): "fp8_block",
    ("float", 4, 16): "nvfp4",
    ("float", 4, 32): "mxfp4",
    ("int", 8, 0): "int8",
    ("int", 8, 128): "int8_g128",
    ("int", 4, 128): "int4_g128",
    ("int", 4, 64): "int4_g64",
    ("int", 4, 32): "int4_g32",
}
MODELOPT = {
    "FP8": {"weights": "fp8", "activations": "fp8"},
    "NVFP4": {"weights": "nvfp4", "activations": "nvfp4"},
    "W4A16_NVFP4": {"weights": "nvfp4"},
    "W4A16_AWQ": {"weights": "int4_g128"},
}
# torchao's schemes by class: the kind of numbers, their bits, and whether activations are quantised, too.
TORCHAO = {
    "Float8WeightOnlyConfig": ("float", 8, False),
    "Float8DynamicActivationFloat8WeightConfig": ("float", 8, True),
    "Int8WeightOnlyConfig": ("int", 8, False),
    "Int8DynamicActivationInt8WeightConfig": ("int", 8, True),
    "Int4WeightOnlyConfig": ("int", 4, False),
}


def stored_formats(config: Mapping[str, Any]) -> dict[str, str] | None:
    """The formats that predict a checkpoint as it is published; None where the config names none that fit.

    Reads `quantization_config` as Hugging Face writes it: methods fp8, mxfp4, awq, gptq, bitsandbytes,
    compressed-tensors, modelopt, quark and torchao, with one format for all linear layers that they quantise.
    Where attention is left out, that is the experts' alone; what else is left out is not told apart.
    """
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping) and isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
        quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return None
    # DeepSeek-V4 states its experts' format beside the others', V4.1 among them.
    formats = _formats({"expert_dtype": config.get("expert_dtype"), **quantised})
    if formats is None or "weights" not in formats or not _leaves_attention(quantised):
        return formats
    inner = config.get("text_config")
    fields = inner if isinstance(inner, Mapping) else config
    if not any(fields.get(name) for name in EXPERTS):
        return None  # an MLP's format, which no option gives apart
    names = {"weights": "experts", "activations": "expert_activations", "kv": "kv"}
    return {names[name]: value for name, value in formats.items()}


def _formats(quantised: Mapping[str, Any]) -> dict[str, str] | None:
    """Of what is quantised, whichever modules that are."""
    method, algorithm = quantised.get("quant_method"), quantised.get("quant_algo")
    if algorithm == "MIXED_PRECISION":
        return None
    if method == "mxfp4":
        return {"experts": "mxfp4"}
    if method == "fp8":
        weights = "fp8_block" if quantised.get("weight_block_size") else "fp8"
        narrower = {"experts": "mxfp4"} if quantised.get("expert_dtype") == "fp4" else {}  # DeepSeek-V4
        activations = {"activations": "fp8"} if quantised.get("activation_scheme") else {}
        return {"weights": weights} | activations | narrower
    if method in ("awq", "gptq"):
        grouped = GROUPED.get(("int", quantised.get("bits"), quantised.get("group_size")))  # type: ignore[arg-type]
        return {"weights": grouped} if grouped else None
    if method == "bitsandbytes":
        if quantised.get("load_in_8bit"):
            return {"weights": "int8", "activations": "int8"}
        return {"weights": "nf4"} if quantised.get("bnb_4bit_quant_type") == "nf4" else None
    if method == "torchao":
        return _torchao(quantised)
    if method == "quark":
        return _quark(quantised)
    if isinstance(quantised.get("config_groups"), Mapping):
        return _groups(quantised)
    found = MODELOPT.get(str(algorithm)) if method in (None, "modelopt") else None
    return {**found, **_cached(quantised.get("kv_cache_quant_algo"))} if found else None


def _groups(quantised: Mapping[str, Any]) -> dict[str, str] | None:
    """The schemes of compressed-tensors and newer files of modelopt: one for all modules, or None."""
    groups = list(quantised["config_groups"].values())
    if len(groups) != 1 or not isinstance(groups[0], Mapping):
        return None
    weights = _scheme(groups[0].get("weights"))
    if weights is None:
        return None
    inputs = groups[0].get("input_activations")
    multiplied = _scheme(inputs, rows=True) if inputs else None
    if inputs and multiplied is None:
        return None
    activations = {"activations": multiplied} if multiplied else {}
    return {"weights": weights} | activations | _cached(quantised.get("kv_cache_scheme"))


def _scheme(scheme: Any, rows: bool = False) -> str | None:
    """One tensor's format; groups of activations (`rows`) of 8 bits only say how they are scaled."""
    if not isinstance(scheme, Mapping):
        return None
    bits, size = scheme.get("num_bits"), scheme.get("group_size")
    block = isinstance(scheme.get("block_structure"), list) or scheme.get("strategy") == "block"
    grouped = 128 if block else size if isinstance(size, int) and size > 0 else 0
    name = GROUPED.get((str(scheme.get("type")), bits, 0 if rows and bits == 8 else grouped))  # type: ignore[arg-type]
    symmetric = f"{name}".replace("_g", "_sym_g")
    return symmetric if scheme.get("symmetric") and symmetric in FORMATS else name


def _quark(quantised: Mapping[str, Any]) -> dict[str, str] | None:
    """AMD's Quark: a global scheme, where no layer has another."""
    whole = quantised.get("global_quant_config")
    if not isinstance(whole, Mapping) or quantised.get("layer_quant_config"):
        return None
    names = {"fp8_e4m3": "fp8", "int8": "int8", "fp4": "mxfp4"}
    found = {}
    for name, field in (("weights", "weight"), ("activations", "input_tensors")):
        scheme = whole.get(field)
        if scheme is not None:
            dtype = scheme.get("dtype") if isinstance(scheme, Mapping) else None
            if not isinstance(dtype, str) or dtype not in names:
                return None
            found[name] = names[dtype]
    return found if "weights" in found else None


def _torchao(quantised: Mapping[str, Any]) -> dict[str, str] | None:
    """A scheme of torchao for all linear layers; None where the vocabulary is quantised with them."""
    named = quantised.get("quant_type")
    scheme = named.get("default") if isinstance(named, Mapping) and len(named) == 1 else None
    known = TORCHAO.get(str(scheme.get("_type"))) if isinstance(scheme, Mapping) else None
    if known is None or quantised.get("include_input_output_embeddings"):
        return None
    kind, bits, both = known
    data = scheme.get("_data") if isinstance(scheme, Mapping) else None
    size = data.get("group_size") if isinstance(data, Mapping) else None
    weights = GROUPED.get((kind, bits, size if isinstance(size, int) and size > 0 else 0))
    return None if weights is None else {"weights": weights} | ({"activations": weights} if both else {})


def _cached(scheme: Any) -> dict[str, str]:
    """The cache's format, where one of 8 bits is stated: scales of it are in the checkpoint."""
    said = scheme.get("num_bits") == 8 and scheme.get("type") if isinstance(scheme, Mapping) else scheme
    return {"kv": "fp8"} if said in ("float", "FP8") else {}


def _leaves_attention(quantised: Mapping[str, Any]) -> bool:
    """Whether queries are not quantised."""
    listed: list[Any] = next(
        (quantised[name] for name in IGNORED if isinstance(quantised.get(name), list)), []
    )
    return any(isinstance(name, str) and ATTENTION.search(name) for name in listed)


def as_options(formats: Mapping[str, str]) -> str:
    """Formats as the command line takes them."""
    return " ".join(f"{OPTIONS[name]} {value}" for name, value in formats.items())


def as_entry(formats: Mapping[str, str]) -> str:
    """Formats as an entry of a sweep file's `dtypes`."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in formats.items()) + "} in dtypes"


def stored_note(
    name: str, config: Mapping[str, Any], precision: Precision, said: Callable[[Mapping[str, str]], str]
) -> str | None:
    """A sentence where weights are predicted in another format than the config says that they have.

    That is where they are in 16 bits or more, or all in a format that only the published experts have. said:
    how a user asks for formats where the note is printed.
    """
    inner = config.get("text_config")
    nested = isinstance(inner, Mapping) and inner.get("quantization_config")
    if not (config.get("quantization_config") or nested) or precision.experts is not None:
        return None
    formats = stored_formats(config)
    if isinstance(precision.weights, str) and FORMATS[precision.weights][0] >= 16:
        if formats:
            asked = said(formats)
            return f"{name} is predicted in {precision.weights}; its published weights are narrower: {asked}."
        return (
            f"{name} is predicted in {precision.weights}; its config states a quantization that is not read "
            f"here: give {said({'weights': 'FORMAT'})}."
        )
    if formats and "weights" not in formats and formats.get("experts") == precision.weights:
        return (
            f"{name} is predicted with all weights in {precision.weights}, which only its published experts "
            f"have: {said(formats)}."
        )
    return None
