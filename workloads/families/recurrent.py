"""Models without attention, whose memory does not grow: Mamba, Mamba-2 and RWKV-4 to 7."""

from __future__ import annotations

from dataclasses import replace

from workloads.blocks import (
    RMS_NORM,
    Block,
    ChannelMixBlock,
    EagleBlock,
    FinchBlock,
    GooseBlock,
    Mamba2Block,
    MambaBlock,
    NormShape,
    TimeMixBlock,
)
from workloads.config import Config
from workloads.families.common import LAYER_NORM, activation, decoder_of
from workloads.layer import Layer
from workloads.model import UNLIMITED, Model


def mamba_block(config: Config, hidden: int, prefix: str = "") -> MambaBlock:
    """The mixer; Jamba's fields have a prefix and names of their own.

    Mamba's `intermediate_size` overrides `expand`, as in transformers; Jamba's is that of its MLP.
    """
    channels = hidden * config.size("expand", f"{prefix}expand", default=2)
    return MambaBlock(
        channels=channels if prefix else config.size("intermediate_size", default=channels),
        state=config.size("state_size", f"{prefix}d_state", default=16),
        kernel=config.size("conv_kernel", f"{prefix}d_conv", default=4),
        dt_rank=_dt_rank(config, hidden, f"{prefix}dt_rank" if prefix else "time_step_rank"),
        conv_bias=config.flag(f"{prefix}conv_bias" if prefix else "use_conv_bias", True),
        proj_bias=config.flag(f"{prefix}proj_bias" if prefix else "use_bias", False),
        inner_norm=RMS_NORM if prefix else None,
    )


def check_convolution(config: Config, name: str = "hidden_act") -> None:
    """Raise InputError unless the convolution ends in SiLU, the only function of causal_conv1d."""
    if activation(config, name, default="silu") != "silu":
        raise config.wrong(name, "silu, with which the convolution ends")


def _dt_rank(config: Config, hidden: int, name: str) -> int:
    usual = -(-hidden // 16)
    return usual if config.fields.get(name) == "auto" else config.size(name, default=usual)


def _mamba(config: Config) -> Model:
    hidden = config.size("hidden_size", "d_model")
    check_convolution(config)
    block = mamba_block(config, hidden)
    if config.kind == "falcon_mamba":  # whose norms have no weights
        block = replace(block, inner_norm=NormShape(scale=False))
    layers = (Layer((block,)),) * config.layers("num_hidden_layers", "n_layer")
    return decoder_of(config, hidden, layers, longest=(), positions=UNLIMITED, tied=True)


def _mamba2(config: Config) -> Model:
    hidden = config.size("hidden_size", "d_model")
    check_convolution(config)
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
    return decoder_of(config, hidden, layers, longest=(), positions=UNLIMITED)


def _rwkv(config: Config) -> Model:
    hidden = config.size("hidden_size")
    mixer = TimeMixBlock(hidden, config.size("attention_hidden_size", default=hidden))
    mlp = ChannelMixBlock(hidden, config.size("intermediate_size", default=4 * hidden))
    return _rwkv_of(config, [(mixer, mlp)] * config.layers("num_hidden_layers"))


def _rwkv_of(config: Config, blocks: list[tuple[Block, Block]]) -> Model:
    layers = [Layer(each, LAYER_NORM) for each in blocks]
    hidden = config.size("hidden_size")
    return decoder_of(config, hidden, layers, longest=(), positions=UNLIMITED, embedding_norm=LAYER_NORM)


def _heads(config: Config) -> tuple[int, int, int]:
    """Width, channels and elements of a head."""
    hidden = config.size("hidden_size")
    channels = config.size("attention_hidden_size", default=hidden)
    head = config.size("head_size", "head_dim", default=64)
    config.divides("attention_hidden_size", channels, "head_size", head)
    return hidden, channels, head


def _eagle_or_finch(config: Config) -> Model:
    """RWKV-5 and 6 (arXiv:2404.05892): an MLP of 3.5 times the width, in steps of 32.

    Ranks of RWKV-6 are no fields: 32 and 64, twice that from a width of 4096 on (rwkv_v6_demo.py and
    RWKV-v5/src/model.py of github.com/BlinkDL/RWKV-LM).
    """
    hidden, channels, head = sizes = _heads(config)
    width = config.size("intermediate_size", default=max(32, hidden * 7 // 2 // 32 * 32))
    ranks = (64, 128) if hidden >= 4096 else (32, 64)
    mixer = EagleBlock(*sizes) if config.kind == "rwkv5" else FinchBlock(hidden, channels, head, *ranks)
    blocks = (mixer, ChannelMixBlock(hidden, width))
    return _rwkv_of(config, [blocks] * config.layers("num_hidden_layers"))


def _goose(config: Config) -> Model:
    """RWKV-7 (arXiv:2503.14456), by the fields of the flash-linear-attention package."""
    hidden, channels, head = _heads(config)
    names = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
    decay, rate, value, gate = (config.size(name) for name in names)
    mlp = ChannelMixBlock(hidden, config.size("intermediate_size", default=4 * hidden), gated=False)
    layers: list[tuple[Block, Block]] = [
        (GooseBlock(hidden, channels, head, decay, rate, value if i else 0, gate), mlp)
        for i in range(config.layers("num_hidden_layers"))
    ]
    return _rwkv_of(config, layers)


FAMILY = {
    "mamba": _mamba,
    "falcon_mamba": _mamba,
    "mamba2": _mamba2,
    "rwkv": _rwkv,
    "rwkv5": _eagle_or_finch,
    "rwkv6": _eagle_or_finch,
    "rwkv7": _goose,
}
