"""What the readers of several families share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workloads.blocks import EmbeddingNorm, FinalNorm, Head, MlpBlock, NormShape, PositionTable, TokenTable
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import Model, Stack
from workloads.operators.elementwise import SPECIAL_ACTIVATIONS

LAYER_NORM = NormShape(center=True, bias=True)
BARE_LAYER_NORM = NormShape(center=True)
SYNONYMS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
    "swish": "silu",
}
ACTIVATIONS = {*SPECIAL_ACTIVATIONS, "relu", "relu2", "relu6"}


def activation(config: Config, *names: str, default: str) -> str:
    """An activation's name under the first of `names` that is set.

    Raises InputError for one whose cost is not known.
    """
    given = config.text(*names, default=default)
    name = SYNONYMS.get(given, given)
    if name not in ACTIVATIONS:
        field = next(field for field in names if config.fields.get(field) is not None)
        raise config.wrong(field, f"one of {', '.join(sorted({*ACTIVATIONS, *SYNONYMS} - {'gelu_tanh'}))}")
    return name


def decoder_of(
    config: Config,
    hidden: int,
    layers: Sequence[Layer],
    *,
    vocabulary: int | None = None,
    longest: tuple[str, ...] = ("max_position_embeddings",),
    positions: int = 2048,
    tied_by: str = "tie_word_embeddings",
    tied: bool = False,
    learned_positions: int = 0,
    sinusoids: int = 0,
    head_bias: bool = False,
    embedding_norm: NormShape | None = None,
) -> Model:
    """The decoder around its layers, with a final norm like theirs; the model's name is set later.

    `vocabulary`, `positions` and `tied` are the family's defaults where a config states nothing; `longest`
    names the fields of the longest sequence, empty where a family has none, `tied_by` that of a shared
    embedding.
    """
    tokens = config.size("vocab_size", default=vocabulary)
    most = config.size(*longest, default=positions) if longest else positions
    rows = learned_positions or sinusoids
    table = (PositionTable(rows, learned=not sinusoids),) if rows else ()
    norms = (EmbeddingNorm(embedding_norm),) if embedding_norm else ()
    head = Head(tokens, config.flag(tied_by, tied), head_bias)
    outputs = (FinalNorm(layers[0].norm), head)
    stack = Stack(hidden, tuple(layers), (TokenTable(tokens), *table, *norms), outputs)
    return Model("", config.kind, tokens, most, stack)


def with_streams(config: Config, model: Model, mixed: bool = True, mean: bool = False) -> Model:
    """The decoder with several residual streams: copies before its layers, behind them a sum or the mean."""
    from workloads.blocks import StreamCopies, StreamMean, Streams, StreamSum  # which most models do not load

    count = config.size("hc_mult", default=4)
    streams = Streams(count, config.size("hc_sinkhorn_iters", default=20) if mixed else 0)
    stack, last = model.stack, StreamMean(count) if mean else StreamSum(count)
    layers = tuple(replace(layer, streams=streams) for layer in stack.layers)
    inputs, outputs = (*stack.inputs, StreamCopies(count)), (last, *stack.outputs)
    return replace(model, stack=replace(stack, layers=layers, inputs=inputs, outputs=outputs))


def width_and_heads(
    config: Config,
    hidden: tuple[str, ...] = ("hidden_size",),
    heads: tuple[str, ...] = ("num_attention_heads",),
) -> tuple[int, int]:
    """The width of the model and its attention heads, which divide it."""
    width, count = config.size(*hidden), config.size(*heads)
    config.divides(hidden[0], width, heads[0], count)
    return width, count


def kv_heads_of(config: Config, heads: int, default: int | None = None) -> int:
    """Key-value heads, by default as many as there are heads, which they divide."""
    kv_heads = config.size("num_key_value_heads", default=default or heads)
    config.divides("num_attention_heads", heads, "num_key_value_heads", kv_heads)
    return kv_heads


def rotated(config: Config, head_dim: int, default: float = 1.0) -> int:
    """Elements of a head that rotate: a number, or a share of the head."""
    given = config.optional_size("rotary_dim")
    if given is not None:
        config.within("rotary_dim", given, "head_dim", head_dim)
        return given
    inside = config.nested("rope_parameters")
    for place in (config, inside):
        for name in ("partial_rotary_factor", "rotary_pct"):
            if place.fields.get(name) is not None:
                return int(head_dim * place.fraction(name, default))
    return int(head_dim * default)


def plain_mlp(
    config: Config,
    function: str,
    *,
    width: tuple[str, ...] = ("intermediate_size",),
    named: tuple[str, ...] = ("hidden_act",),
    default: int | None = None,
) -> MlpBlock:
    """A feed-forward block of two matrices with biases.

    `width` and `named` are the fields of its width and activation, `default` and `function` what holds
    where they are absent.
    """
    act = activation(config, *named, default=function)
    return MlpBlock(config.size(*width, default=default), act, gated=False, bias=True)


def gated_mlp(config: Config, bias: bool = False) -> MlpBlock:
    """A feed-forward block of three matrices."""
    act = activation(config, "hidden_act", default="silu")
    return MlpBlock(config.size("intermediate_size"), act, bias=bias)


def head_dim_of(config: Config, hidden: int, heads: int, default: int | None = None) -> int:
    """Elements of a head: stated, or the family's, or an equal share of the width."""
    stated = config.optional_size("head_dim") or default
    if stated is not None:
        return stated
    config.divides("hidden_size", hidden, "num_attention_heads", heads)
    return hidden // heads


def rotating(config: Config, layers: int) -> list[bool]:
    """Whether each layer rotates: as `no_rope_layers` says, or all but every fourth."""
    every = config.size("no_rope_layer_interval", default=4)
    return config.flags("no_rope_layers", layers) or [(i + 1) % every != 0 for i in range(layers)]
