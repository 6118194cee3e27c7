"""What the readers of several families share."""

from __future__ import annotations

from workloads.blocks import NormShape
from workloads.config import Config

LAYER_NORM = NormShape(center=True, bias=True)
BARE_LAYER_NORM = NormShape(center=True)
ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}


def activation(config: Config, *names: str, default: str) -> str:
    """An activation's name under the first of `names` that is set."""
    name = config.text(*names, default=default)
    return ACTIVATIONS.get(name, name)


def rotated(config: Config, head_dim: int, default: float = 1.0) -> int:
    """Elements of a head that rotate: a number, or a share of the head."""
    given = config.optional_size("rotary_dim")
    if given is not None:
        return given
    inside = config.nested("rope_parameters")
    for place in (config, inside):
        for name in ("partial_rotary_factor", "rotary_pct"):
            if place.fields.get(name) is not None:
                return int(head_dim * place.fraction(name, default))
    return int(head_dim * default)


def head_dim_of(config: Config, hidden: int, heads: int, default: int | None = None) -> int:
    """Elements of a head: stated, or the family's, or an equal share of the width."""
    stated = config.optional_size("head_dim") or default
    if stated is not None:
        return stated
    config.divides("hidden_size", hidden, "num_attention_heads", heads)
    return hidden // heads
