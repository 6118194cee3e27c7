"""BLOOM and MPT: no positions but a bias that grows with the distance (ALiBi, arXiv:2108.12409)."""

from __future__ import annotations

from workloads.blocks import AttentionBlock, MlpBlock
from workloads.config import Config
from workloads.families.common import BARE_LAYER_NORM, LAYER_NORM, decoder_of, width_and_heads
from workloads.layer import Layer
from workloads.model import Model

FAR = 1_000_000  # positions: ALiBi extrapolates, and these configs often state no limit


def _bloom(config: Config) -> Model:
    hidden, heads = width_and_heads(config, ("hidden_size", "n_embed"), ("n_head", "num_attention_heads"))
    attention = AttentionBlock(
        heads, heads, hidden // heads, qkv_bias=True, out_bias=True, fused_qkv=True, alibi=True
    )
    mlp = MlpBlock(4 * hidden, "gelu_tanh", gated=False, bias=True)
    layers = (Layer((attention, mlp), LAYER_NORM),) * config.layers("n_layer", "num_hidden_layers")
    longest = ("seq_length",)
    return decoder_of(
        config, hidden, layers, longest=longest, positions=FAR, tied=True, embedding_norm=LAYER_NORM
    )


def _mpt(config: Config) -> Model:
    hidden, heads = width_and_heads(config, ("d_model", "hidden_size"), ("n_heads", "num_attention_heads"))
    if not config.flag("no_bias", True):
        raise config.wrong("no_bias", "true: MPT with biases is not known")
    inner = config.nested("attn_config")
    if not inner.flag("alibi", True):
        raise inner.wrong("alibi", "true: MPT with learned positions is not known")
    if inner.flag("qk_ln", False):
        raise inner.wrong("qk_ln", "false: norms of queries and keys are not known")
    attention = AttentionBlock(heads, heads, hidden // heads, fused_qkv=True, alibi=True)
    mlp = MlpBlock(config.size("expansion_ratio", default=4) * hidden, "gelu", gated=False)
    layers = (Layer((attention, mlp), BARE_LAYER_NORM),) * config.layers("n_layers", "num_hidden_layers")
    return decoder_of(config, hidden, layers, longest=("max_seq_len",), tied=True)


FAMILY = {"bloom": _bloom, "mpt": _mpt}
