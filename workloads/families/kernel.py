"""Decoders with kernel attention in the frame of GPT-2: Linear Transformer, Performer, RFA."""

from __future__ import annotations

from workloads.blocks import KernelAttentionBlock
from workloads.config import Config
from workloads.families.common import LAYER_NORM, decoder_of, plain_mlp, width_and_heads
from workloads.layer import Layer
from workloads.model import Model
from workloads.operators.features import FEATURE_KINDS, FeatureKind


def _linear_attention(config: Config) -> Model:
    """GPT-2's fields under their common names, `feature_map` (see FeatureMap) and `num_features`.

    The features of `elu` are as many as a head has elements; the others need their number.
    """
    hidden, heads = width_and_heads(config)
    function = _function(config)
    features = hidden // heads if function == "elu" else config.size("num_features")
    if function == "trigonometric":
        config.divides("num_features", features, "sine and cosine", 2)
    positions = config.size("max_position_embeddings")
    attention = KernelAttentionBlock(heads, hidden // heads, features, function, bias=True, out_bias=True)
    mlp = plain_mlp(config, "gelu", default=4 * hidden)
    layers = (Layer((attention, mlp), LAYER_NORM),) * config.layers("num_hidden_layers")
    return decoder_of(config, hidden, layers, tied=True, learned_positions=positions)


def _function(config: Config) -> FeatureKind:
    given = config.text("feature_map", default="elu")
    for kind in FEATURE_KINDS:
        if kind == given:
            return kind
    raise config.wrong("feature_map", f"one of {', '.join(FEATURE_KINDS)}")


FAMILY = {"linear_attention": _linear_attention}
