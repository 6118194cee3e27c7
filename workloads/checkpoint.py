"""`weights: checkpoint`: a model in the formats of its published checkpoint, module by module."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError
from specfiles.frozen import dataclass
from workloads.blocks import Head, Place
from workloads.catalogue import quantisation
from workloads.descriptor import CHECKPOINT, Dtypes
from workloads.dtypes import FORMATS, Precision
from workloads.layer import Formats, Layer
from workloads.model import Model, Stack
from workloads.operators import Gemm, GroupedGemm
from workloads.step import Setting, Step
from workloads.stored import HEAD, Scheme, Stored, stored, wide_format

if TYPE_CHECKING:
    from workloads.catalogue import Loaded

# The modules of a layer in checkpoints, by the first word of an operator's name, and what is inside them by
# the rest of it; other words are the modules' own.
MODULES = {
    "attention": ("self_attn", "attn", "attention", "mixer"),
    "mlp": ("mlp", "feed_forward", "mixer"),
    "moe": ("mlp", "feed_forward", "block_sparse_moe", "mixer"),
    "mamba": ("mamba", "mixer"),
    "delta": ("linear_attn",),
    "ngram": ("ple",),
    # Of one family each: Kimi delta attention.
    **dict.fromkeys(("kimi_linear delta", "glm5_next_text delta", "bailing_hybrid delta"), ("self_attn",)),
}
INSIDE = {
    "kv_a_proj": ("kv_a_proj_with_mqa",),
    "q_b_proj": ("q_b_proj", "q_gate_proj"),
    # Of Kimi delta attention, and gates of attention (Ling 3, Step 3.5, Laguna; AFMoE).
    "decay": ("f_proj",),
    "output_gate": ("g_proj", "gate_proj"),
    "decay_in": ("f_a_proj",),
    "decay_out": ("f_b_proj",),
    "output_gate_in": ("g_a_proj",),
    "output_gate_out": ("g_b_proj",),
    "out_proj": ("out_proj", "o_proj"),
    "q_absorb": ("kv_b_proj",),
    "v_up": ("kv_b_proj",),
    "qkv_proj": ("qkv_proj", "q_proj"),
    "gate_up_proj": ("gate_up_proj", "gate_proj"),
    "indexer_q_proj": ("indexer.wq_b",),
    "indexer_k_proj": ("indexer.wk",),
    "indexer_qk_proj": ("indexer.index_qk_proj",),
    "indexer_weights_proj": ("indexer.weights_proj",),
    "latent_in_proj": ("fc1_latent_proj",),
    "latent_out_proj": ("fc2_latent_proj",),
    "experts_gate_up_proj": ("experts.0.gate_proj", "experts.0.w1", "experts.gate_up_proj"),
    "experts_up_proj": ("experts.0.up_proj",),
    "experts_down_proj": ("experts.0.down_proj", "experts.0.w2", "experts.down_proj"),
    **{
        f"shared_{name}": (f"shared_experts.{name}", f"shared_expert.{name}")
        for name in ("gate_proj", "up_proj", "down_proj")
    },
}
ROUTED = "moe.experts_"
AS_OPTION, AS_ENTRY = "--weights {}", "{{weights: {}}} in dtypes"  # how formats are asked for
# Never quantised, as routers are: an indexer's weights (vLLM, deepseek_v2.py; SGLang, nsa_indexer.py:
# "weight_proj is not quantized") and compressors (DeepSeek-V4, inference/model.py: "in the checkpoint is
# stored in bf16").
UNQUANTISED = {
    "attention.indexer_weights_proj",
    "attention.entries_kv_proj",
    "attention.entries_gate_proj",
    "attention.indexer_entries_kv_proj",
    "attention.indexer_entries_gate_proj",
}


@dataclass(frozen=True)
class Module:
    """A product with weights that a checkpoint may quantise, in one layer."""

    layer: int
    part: str
    parameters: int
    scheme: Scheme

    @property
    def routed(self) -> bool:
        """Whether it belongs to experts that a router chooses."""
        return self.part.startswith(ROUTED)


def resolved(loaded: Loaded, dtypes: Dtypes) -> tuple[Model, Precision]:
    """A model and its formats, for `weights: checkpoint`: those of its config where no other is given.

    The precision has the formats of most weights, of experts and of the rest; layers have what differs.
    """
    wide = wide_format(loaded.config) or "bf16"
    known = stored(loaded.config)
    if known is None:
        if quantisation(loaded.config):
            raise InputError(
                f"{loaded.model.name}: its config states a quantization that is not read here; give "
                "--weights FORMAT."
            )
        return loaded.model, dtypes.replace(weights=wide).precision()
    modules = _modules(loaded.model.stack, loaded.model.family, known, wide)
    rest = _most((each for each in modules if not each.routed), Scheme(wide, wide))
    routed = _most((each for each in modules if each.routed), rest)
    own = dtypes.activations is None and dtypes.experts is None  # experts' activations are the checkpoint's
    precision = dtypes.replace(
        weights=rest.weights,
        activations=dtypes.activations or rest.activations,
        kv=dtypes.kv or known.kv,
        experts=dtypes.experts or (routed.weights if routed.weights != rest.weights else None),
        expert_activations=dtypes.expert_activations
        or (routed.activations if own and routed.activations != rest.activations else None),
    ).precision()
    others: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for each in modules:
        usual, given = (routed, dtypes.experts) if each.routed else (rest, None)
        if each.scheme != usual and given is None:
            asked = dtypes.expert_activations if each.routed else None
            multiplied = _multiplied(each.scheme, asked or dtypes.activations)
            others[each.layer].append((each.part, each.scheme.weights, multiplied))
    return _with_others(loaded.model, others, _head(loaded.model.stack, known, dtypes.activations)), precision


def _multiplied(scheme: Scheme, given: str | None) -> str:
    """What a module multiplies in: as given, but for modules that are not quantised."""
    own = scheme.activations or "bf16"
    return given if given and FORMATS[scheme.weights][0] < 16 else own


def _modules(stack: Stack, family: str, known: Stored, wide: str) -> list[Module]:
    """What a checkpoint may quantise in the layers of a stack, and how it does."""
    parts = {layer: _quantisable(layer, stack.hidden) for layer in stack.distinct}
    return [
        Module(index, part, parameters, _scheme(known, _names(family, index, part), part, wide))
        for index, layer in enumerate(stack.layers)
        for part, parameters in parts[layer].items()
    ]


def _quantisable(layer: Layer, hidden: int) -> dict[str, int]:
    """The products of a layer whose format follows that of weights, and their parameters.

    A prompt may run others than a single position (latents expanded), with the same weights.
    """
    setting, found = Setting(Precision.of("fp8")), dict[str, int]()
    for step in (Step(1, 1, 1, memory=1), Step(1, 1, 2, memory=1), Step(1, 4, 4)):
        for name, _, operator in layer.parts(Place(hidden, step, setting)):
            if isinstance(operator, Gemm | GroupedGemm) and operator.weights == "fp8":
                found.setdefault(name, 0 if step.kv_len > 1 else operator.parameters())
    return found


def _names(family: str, index: int, part: str) -> list[str]:
    """The names that a product may have in a checkpoint."""
    first, _, rest = part.partition(".")
    modules = MODULES.get(f"{family} {first}") or MODULES.get(first, (first,))
    inside = product(modules, INSIDE.get(rest, (rest,)))
    return [f"model.layers.{index}.{module}.{name}" for module, name in inside]


def _scheme(known: Stored, names: list[str], part: str, wide: str) -> Scheme:
    found = None if part in UNQUANTISED else known.scheme(names)
    return Scheme(found.weights, found.activations or wide) if found else Scheme(wide, wide)


def _most(modules: Iterable[Module], otherwise: Scheme) -> Scheme:
    """The scheme of most parameters."""
    counts: Counter[Scheme] = Counter()
    for each in modules:
        counts[each.scheme] += each.parameters
    return max(counts, key=counts.__getitem__) if counts else otherwise


def _head(stack: Stack, known: Stored, given: str | None) -> Formats:
    """The projection to the vocabulary, where a checkpoint quantises it; one that is tied is a table."""
    scheme = known.scheme([HEAD])
    tied = any(isinstance(block, Head) and block.tied for block in stack.outputs)
    return () if scheme is None or tied else (("lm_head", scheme.weights, _multiplied(scheme, given)),)


def _with_others(model: Model, others: Mapping[int, list[tuple[str, str, str]]], head: Formats) -> Model:
    """The model with formats of their own in layers that have some."""
    stack = model.stack
    layers = tuple(
        replace(layer, formats=tuple(others[index])) if index in others else layer
        for index, layer in enumerate(stack.layers)
    )
    return replace(model, stack=replace(stack, layers=layers, formats=head))


def other_formats(model: Model, precision: Precision) -> list[dict[str, Any]]:
    """What of a checkpoint is in other formats than the precision says: which operators, and their bytes."""
    stack = model.stack
    place = Place(stack.hidden, Step(1, 1, 1, memory=1), Setting(precision))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    parts = [
        (f"layers.{name}", operator, count, layer.formats)
        for layer, count in stack.distinct.items()
        for name, _, operator in layer.parts(place)
    ]
    parts += [(name, operator, 1, stack.formats) for name, _, operator in stack.ends(place)]
    for name, operator, count, formats in parts:
        for part, weights, inputs in formats:
            if name.removeprefix("layers.") == part:
                told = {"weights": weights, "activations": inputs, "bytes": 0.0, "operators": []}
                entry = found.setdefault((weights, inputs), told)
                entry["bytes"] += count * operator.stored_bytes()
                entry["operators"] = list(dict.fromkeys((*entry["operators"], name)))
    return list(found.values())


def asked_words(loaded: Loaded, words: Mapping[str, str]) -> dict[str, str]:
    """The formats that were given with `checkpoint`, from those that became of it and of the model."""
    _, own = resolved(loaded, Dtypes(weights=CHECKPOINT))
    became = {
        "activations": own.activations,
        "kv": own.kv,
        "experts": own.expert_weights,
        "expert_activations": own.expert_activations,
    }
    given = {name: words[name] for name, word in became.items() if words.get(name) not in (None, "", word)}
    return {"weights": CHECKPOINT, **given}


def published(loaded: Loaded) -> Precision | None:
    """The formats of a quantised checkpoint; None where the config states none that are read."""
    return resolved(loaded, Dtypes(weights=CHECKPOINT))[1] if stored(loaded.config) else None


def stored_note(loaded: Loaded, model: Model, precision: Precision, said: str) -> str | None:
    """A sentence where weights are predicted in another format than the config says that they have.

    That is where they are in 16 bits or more, or all in a format that only the published experts have. model:
    as it is predicted. said: how a user asks for a format where the note is printed.
    """
    name = model.name
    if not quantisation(loaded.config) or precision.experts is not None or model.mixed:
        return None
    wide = isinstance(precision.weights, str) and FORMATS[precision.weights][0] >= 16
    try:
        _, own = resolved(loaded, Dtypes(weights=CHECKPOINT))
    except InputError:
        asked = said.format("FORMAT")
        unread = "its config states a quantization that is not read here"
        return f"{name} is predicted in {precision.weights}; {unread}: give {asked}." if wide else None
    asked = said.format(CHECKPOINT)
    if wide and own.stored != precision.stored:
        return (
            f"{name} is predicted in {precision.weights}; its published weights are narrower "
            f"({own.stored}): {asked}."
        )
    if own.expert_weights != own.weights and own.experts == precision.weights:
        return (
            f"{name} is predicted with all weights in {precision.weights}, which only its published experts "
            f"have: {asked}."
        )
    return None
