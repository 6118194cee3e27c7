"""BLOOM and MPT: no positions but a bias that grows with the distance (ALiBi, arXiv:2108.12409)."""

from __future__ import annotations

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import BARE_LAYER_NORM, LAYER_NORM
from workloads.layer import Layer
from workloads.model import Model, decoder

FAR = 1_000_000  # positions: ALiBi extrapolates, and these configs often state no limit


def _bloom(config: Config) -> Model:
    hidden = config.size("hidden_size", "n_embed")
    heads = config.size("n_head", "num_attention_heads")
    config.divides("hidden_size", hidden, "n_head", heads)
    attention = AttentionBlock(
        heads, heads, hidden // heads, qkv_bias=True, out_bias=True, fused_qkv=True, alibi=True
    )
    mlp = MlpBlock(4 * hidden, "gelu_tanh", gated=False, bias=True)
    return decoder(
        "bloom",
        hidden,
        config.size("vocab_size"),
        (Layer((attention, mlp), LAYER_NORM),) * config.layers("n_layer", "num_hidden_layers"),
        config.size("seq_length", default=FAR),
        tied=config.flag("tie_word_embeddings", True),
        norm=LAYER_NORM,
        embedding_norm=LAYER_NORM,
    )


def _mpt(config: Config) -> Model:
    hidden = config.size("d_model", "hidden_size")
    heads = config.size("n_heads", "num_attention_heads")
    config.divides("d_model", hidden, "n_heads", heads)
    if not config.flag("no_bias", True):
        raise config.wrong("no_bias", "true: MPT with biases is not known")
    inner = config.nested("attn_config")
    if not inner.flag("alibi", True):
        raise inner.wrong("alibi", "true: MPT with learned positions is not known")
    if inner.flag("qk_ln", False):
        raise inner.wrong("qk_ln", "false: norms of queries and keys are not known")
    attention = AttentionBlock(heads, heads, hidden // heads, fused_qkv=True, alibi=True)
    mlp = MlpBlock(config.size("expansion_ratio", default=4) * hidden, "gelu", gated=False)
    return decoder(
        "mpt",
        hidden,
        config.size("vocab_size"),
        (Layer((attention, mlp), BARE_LAYER_NORM),) * config.layers("n_layers", "num_hidden_layers"),
        config.size("max_seq_len", default=2048),
        tied=config.flag("tie_word_embeddings", True),
        norm=BARE_LAYER_NORM,
    )


FAMILY = {"bloom": _bloom, "mpt": _mpt}
