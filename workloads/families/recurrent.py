"""Models without attention, whose memory does not grow: Mamba, Mamba-2 and RWKV-4."""

from __future__ import annotations

from workloads.blocks import (
    ChannelMixBlock,
    Mamba2Block,
    MambaBlock,
    NormShape,
    TimeMixBlock,
)
from workloads.config import Config
from workloads.layer import Layer
from workloads.model import UNLIMITED, Model, decoder


def mamba_block(config: Config, hidden: int, prefix: str = "") -> MambaBlock:
    """The mixer; Jamba's fields have a prefix and names of their own."""
    return MambaBlock(
        channels=hidden * config.size("expand", f"{prefix}expand", default=2),
        state=config.size("state_size", f"{prefix}d_state", default=16),
        kernel=config.size("conv_kernel", f"{prefix}d_conv", default=4),
        dt_rank=_dt_rank(config, hidden, f"{prefix}dt_rank" if prefix else "time_step_rank"),
        conv_bias=config.flag(f"{prefix}conv_bias" if prefix else "use_conv_bias", True),
        proj_bias=config.flag(f"{prefix}proj_bias" if prefix else "use_bias", False),
        inner_norms=bool(prefix),
    )


def _dt_rank(config: Config, hidden: int, name: str) -> int:
    return (
        -(-hidden // 16) if config.fields.get(name) == "auto" else config.size(name, default=-(-hidden // 16))
    )


def _mamba(config: Config) -> Model:
    hidden = config.size("hidden_size", "d_model")
    layer = Layer((mamba_block(config, hidden),))
    layers = (layer,) * config.layers("num_hidden_layers", "n_layer")
    vocabulary, tied = config.size("vocab_size"), config.flag("tie_word_embeddings", True)
    return decoder("mamba", hidden, vocabulary, layers, UNLIMITED, tied=tied)


def _mamba2(config: Config) -> Model:
    hidden = config.size("hidden_size", "d_model")
    heads, head_dim = config.size("num_heads", default=128), config.size("head_dim", default=64)
    inner = hidden * config.size("expand", default=2)
    if heads * head_dim != inner:
        raise config.wrong("num_heads", f"expand x hidden_size / head_dim, {inner} / {head_dim}")
    groups = config.size("n_groups", default=8)
    config.divides("num_heads", heads, "n_groups", groups)
    block = Mamba2Block(
        heads,
        head_dim,
        groups,
        config.size("state_size", default=128),
        config.size("conv_kernel", default=4),
        config.size("chunk_size", default=256),
        config.flag("use_conv_bias", True),
        config.flag("use_bias", False),
    )
    layers = (Layer((block,)),) * config.layers("num_hidden_layers", "n_layer")
    vocabulary, tied = config.size("vocab_size"), config.flag("tie_word_embeddings", False)
    return decoder("mamba2", hidden, vocabulary, layers, UNLIMITED, tied=tied)


def _rwkv(config: Config) -> Model:
    hidden = config.size("hidden_size")
    norm = NormShape(center=True, bias=True)
    layer = Layer(
        (
            TimeMixBlock(hidden, config.size("attention_hidden_size", default=hidden)),
            ChannelMixBlock(hidden, config.size("intermediate_size", default=4 * hidden)),
        ),
        norm,
    )
    return decoder(
        "rwkv",
        hidden,
        config.size("vocab_size"),
        (layer,) * config.layers("num_hidden_layers"),
        UNLIMITED,
        tied=config.flag("tie_word_embeddings", False),
        norm=norm,
        embedding_norm=norm,
    )


FAMILY = {"mamba": _mamba, "mamba2": _mamba2, "rwkv": _rwkv}
