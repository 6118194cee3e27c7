"""The formats in which a config says that its weights are published, module by module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from specfiles.frozen import dataclass
from workloads.catalogue import quantisation
from workloads.dtypes import ALIASES, FORMATS

IGNORED = (
    "ignore",
    "modules_to_not_convert",
    "exclude_modules",
    "exclude",
    "ignored_layers",
    "llm_int8_skip_modules",
)
HEAD = "model.lm_head"
# Where the decoder stands in a checkpoint's names, also as a regular expression writes it.
BEFORE = re.compile(r"^\^?((model|language_model|text_model|backbone|transformer)\\?\.)*(?=layers\b|lm_head)")
SPECIAL = re.compile(r"[*?\[\]]")
# A regular expression is another's: repeated groups could take for ever, so that those are not read.
UNREAD = re.compile(r"\)[*+{?]|[*+}?][*+]|\\[1-9]|\(\?")
LONGEST = 200  # characters that a name or pattern may have
REPEATED = 5  # how many `*` and `+` a pattern may have
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
# torchao's schemes by class: the kind of numbers, their bits, and whether activations are quantised, too.
TORCHAO = {
    "Float8WeightOnlyConfig": ("float", 8, False),
    "Float8DynamicActivationFloat8WeightConfig": ("float", 8, True),
    "Int8WeightOnlyConfig": ("int", 8, False),
    "Int8DynamicActivationInt8WeightConfig": ("int", 8, True),
    "Int4WeightOnlyConfig": ("int", 4, False),
}


@dataclass(frozen=True)
class Scheme:
    """The format of a module's weights, and what it multiplies in; None for 16 bits or more."""

    weights: str
    activations: str | None = None


MODELOPT = {
    "FP8": Scheme("fp8", "fp8"),
    "NVFP4": Scheme("nvfp4", "nvfp4"),
    "W4A16_NVFP4": Scheme("nvfp4"),
    "W4A16_AWQ": Scheme("int4_g128"),
}


@dataclass(frozen=True)
class Names:
    """Modules as a checkpoint's config lists them: names, parts of names, globs and regular expressions."""

    whole: frozenset[str] = frozenset()  # a module, and all inside it
    parts: tuple[str, ...] = ()  # within a name, as `self_attn` or `mlp.gate`
    patterns: re.Pattern[str] | None = None

    @classmethod
    def of(cls, listed: Iterable[Any]) -> Names | None:
        """The names of a list; None where one cannot be read."""
        whole, parts, patterns = set[str](), set[str](), set[str]()
        for name in listed:
            if not isinstance(name, str) or len(name) > LONGEST:
                return None
            text = BEFORE.sub("model.", name.removeprefix("re:"))
            if name.startswith("re:"):
                if UNREAD.search(text) or len(re.findall("[*+]", text)) > REPEATED:
                    return None
                patterns.add(text.removeprefix("^"))
            elif SPECIAL.search(text):
                patterns.add(translate(text).removesuffix(r"\Z").removesuffix(r"\z") + r"(\.|$)")
            elif text.startswith("model.layers."):
                whole.add(text)
            else:
                parts.add(f".{text}.")
        try:
            found = re.compile("|".join(f"(?:{each})" for each in sorted(patterns))) if patterns else None
        except re.error:
            return None
        return cls(frozenset(whole), tuple(parts), found)

    def have(self, name: str) -> bool:
        """Whether a module, as `model.layers.3.mlp.down_proj`, is among them."""
        steps = name.split(".")
        return (
            any(".".join(steps[:n]) in self.whole for n in range(3, len(steps) + 1))
            or any(part in f".{name}." for part in self.parts)
            or (self.patterns is not None and self.patterns.match(name) is not None)
        )


# TensorRT-LLM, KV_CACHE_QUANT_ALGO_LIST (quantization/mode.py).
CACHES = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4", "float 8": "fp8", "float 4": "nvfp4"}
Groups = tuple[tuple[Names | None, Scheme], ...]  # None: all modules


@dataclass(frozen=True)
class Stored:
    """How the linear layers of a checkpoint are stored: the first group that has a module says so."""

    groups: Groups
    left: Names  # in 16 bits
    kv: str | None = None

    def scheme(self, names: Iterable[str]) -> Scheme | None:
        """The scheme of a module by the names that it may have; None for 16 bits."""
        names = tuple(names)
        if any(map(self.left.have, names)):
            return None
        return next(
            (scheme for group, scheme in self.groups if group is None or any(map(group.have, names))), None
        )


def wide_format(config: Mapping[str, Any]) -> str | None:
    """The format of what is not quantised: a config's dtype, None where it states none."""
    inner = config.get("text_config")
    for fields in (config, inner if isinstance(inner, Mapping) else {}):
        for name in ("dtype", "torch_dtype"):
            said = str(fields.get(name)).removeprefix("torch.")
            if (known := ALIASES.get(said, said)) in ("bf16", "fp16", "fp32"):
                return known
    return None


def stored(config: Mapping[str, Any]) -> Stored | None:
    """How a checkpoint is published; None where its config names nothing, or something that is not read.

    Reads `quantization_config` as Hugging Face writes it: methods fp8, fbgemm_fp8, mxfp4, awq, gptq,
    bitsandbytes, compressed-tensors, modelopt (with MIXED_PRECISION), quark and torchao.
    """
    quantised = quantisation(config)
    if not isinstance(quantised, Mapping):
        return None
    lists = [quantised[name] for name in IGNORED if quantised.get(name) is not None]
    if not all(isinstance(names, list) for names in lists):
        return None
    listed = lists[0] if lists else None
    # DeepSeek-V4 states its experts' format beside `quantization_config`, V4.1 inside it.
    groups, names_all = _groups({"expert_dtype": config.get("expert_dtype"), **quantised})
    # Configs that name all that they leave out quantise the projection to the vocabulary, too, if not named.
    named = names_all and (listed is not None or "quantized_layers" in quantised)
    left = Names.of([*(listed or ()), *(() if named else (HEAD,))])
    if not groups or left is None:
        return None
    cached = quantised.get("kv_cache_scheme", quantised.get("kv_cache_quant_algo"))
    return Stored(groups, left, _cached(cached))


def _groups(quantised: Mapping[str, Any]) -> tuple[Groups, bool]:
    """The groups of modules, none where one is not read; whether all modules left out are named."""
    method, algorithm = quantised.get("quant_method"), quantised.get("quant_algo")
    layers = quantised.get("quantized_layers")
    if isinstance(layers, Mapping) and layers and method in (None, "modelopt"):
        return _named(layers), True
    if method == "quark":
        return _quark(quantised), True
    if isinstance(quantised.get("config_groups"), Mapping):
        return _config_groups(quantised["config_groups"]), True
    if method in (None, "modelopt"):
        known = MODELOPT.get(str(algorithm))
        return ((None, known),) if known else (), True
    if method == "mxfp4":
        return ((Names.of(["experts"]), Scheme("mxfp4")),), False
    scheme = _of_method(str(method), quantised)
    if scheme is None:
        return (), False
    experts = ((Names.of(["experts"]), Scheme("mxfp4", scheme.activations)),)
    return (*(experts if quantised.get("expert_dtype") == "fp4" else ()), (None, scheme)), False


def _of_method(method: str, quantised: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a library that quantises all linear layers alike."""
    if method == "fp8":
        block, scheme = quantised.get("weight_block_size"), quantised.get("activation_scheme")
        if block not in (None, [128, 128]) or scheme not in (None, "static", "dynamic"):
            return None
        return Scheme("fp8_block" if block else "fp8", "fp8" if scheme else None)
    if method == "fbgemm_fp8":
        return Scheme("fp8", "fp8")
    if method in ("awq", "gptq"):
        known = _grouped("int", quantised.get("bits"), quantised.get("group_size"))
        return Scheme(known) if known else None
    if method == "bitsandbytes":
        if quantised.get("load_in_8bit"):
            return Scheme("int8", "int8")
        return Scheme("nf4") if quantised.get("bnb_4bit_quant_type") == "nf4" else None
    return _torchao(quantised) if method == "torchao" else None


def _named(layers: Mapping[str, Any]) -> Groups:
    """Modules listed by name with an algorithm each (ModelOpt's MIXED_PRECISION)."""
    by_scheme: dict[Scheme, list[str]] = {}
    for name, entry in layers.items():
        known = MODELOPT.get(str(entry.get("quant_algo"))) if isinstance(entry, Mapping) else None
        if known is None:
            return ()
        by_scheme.setdefault(known, []).append(name)
    groups = [(Names.of(names), scheme) for scheme, names in by_scheme.items()]
    return () if any(names is None for names, _ in groups) else tuple(groups)


def _config_groups(stated: Mapping[str, Any]) -> Groups:
    """The schemes of compressed-tensors and newer files of modelopt, each with its modules."""
    found: list[tuple[Names | None, Scheme]] = []
    for group in stated.values():
        if not isinstance(group, Mapping):
            return ()
        weights, inputs = _format(group.get("weights")), group.get("input_activations")
        multiplied = _format(inputs, rows=True) if inputs else None
        targets = group.get("targets", ["Linear"])
        if weights is None or (inputs and multiplied is None) or not isinstance(targets, list):
            return ()
        names = None if "Linear" in targets else Names.of(targets)
        if names is None and "Linear" not in targets:
            return ()
        found.append((names, Scheme(weights, multiplied)))
    return tuple(sorted(found, key=lambda group: group[0] is None))  # names before all the rest


def _format(scheme: Any, rows: bool = False) -> str | None:
    """One tensor's format; groups of activations (`rows`) of 8 bits only say how they are scaled."""
    if not isinstance(scheme, Mapping):
        return None
    bits, size = scheme.get("num_bits"), scheme.get("group_size")
    block = isinstance(scheme.get("block_structure"), list) or scheme.get("strategy") == "block"
    grouped = 0 if rows and bits == 8 else 128 if block else _size(size)
    name = _grouped(str(scheme.get("type")), bits, grouped)
    symmetric = f"{name}".replace("_g", "_sym_g")
    return symmetric if scheme.get("symmetric") and symmetric in FORMATS else name


def _grouped(kind: str, bits: Any, size: Any) -> str | None:
    """The format of numbers that share a scale in groups; bits and size are whatever a file states."""
    return GROUPED.get((kind, bits, size)) if isinstance(bits, int) and isinstance(size, int) else None


def _size(stated: Any) -> int:
    """Of a group; 0, a whole row, where none is stated."""
    return stated if isinstance(stated, int) and stated > 0 else 0


def _quark(quantised: Mapping[str, Any]) -> Groups:
    """AMD's Quark: schemes of modules by globs, and a global one."""
    layers = quantised.get("layer_quant_config") or {}
    if not isinstance(layers, Mapping):
        return ()
    stated = [(Names.of([name]), entry) for name, entry in layers.items()]
    found: list[tuple[Names | None, Scheme]] = []
    for names, entry in [*stated, (None, quantised.get("global_quant_config"))]:
        scheme = _of_quark(entry)
        if scheme is None or (names is None and len(found) < len(stated)):
            return ()
        found.append((names, scheme))
    return tuple(found)


def _of_quark(entry: Any) -> Scheme | None:
    names = {"fp8_e4m3": "fp8", "int8": "int8", "fp4": "mxfp4"}
    found: list[str | None] = []
    for field in ("weight", "input_tensors"):
        scheme = entry.get(field) if isinstance(entry, Mapping) else None
        dtype = scheme.get("dtype") if isinstance(scheme, Mapping) else None
        if scheme is not None and (not isinstance(dtype, str) or dtype not in names):
            return None
        found.append(names[dtype] if isinstance(dtype, str) else None)
    return Scheme(found[0], found[1]) if found[0] else None


def _torchao(quantised: Mapping[str, Any]) -> Scheme | None:
    """A scheme of torchao for all linear layers; None where the vocabulary is quantised with them."""
    named = quantised.get("quant_type")
    scheme = named.get("default") if isinstance(named, Mapping) and len(named) == 1 else None
    known = TORCHAO.get(str(scheme.get("_type"))) if isinstance(scheme, Mapping) else None
    if known is None or quantised.get("include_input_output_embeddings"):
        return None
    kind, bits, both = known
    data = scheme.get("_data") if isinstance(scheme, Mapping) else None
    size = data.get("group_size") if isinstance(data, Mapping) else None
    weights = _grouped(kind, bits, _size(size))
    return Scheme(weights, weights if both else None) if weights else None


def _cached(scheme: Any) -> str | None:
    """The cache's format, where one is stated: scales of it are in the checkpoint."""
    if isinstance(scheme, Mapping):
        scheme = f"{scheme.get('type')} {scheme.get('num_bits')}"
    return CACHES.get(str(scheme))
