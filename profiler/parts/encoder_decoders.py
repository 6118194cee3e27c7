"""Encoder-decoders: T5, Switch, which is T5 with experts, BART and Whisper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, Family, Gap
from profiler.parts.experts import routed

CROSS = "layers.cross_attention"


def _stack(scope: str, parts: Family) -> Family:
    """One of a model's stacks, with `scope` as prefix of its ranges."""

    def named(names: Mapping[str, str]) -> dict[str, str]:
        return {path: f"{scope}.{name}" for path, name in names.items()}

    def behind(name: str) -> str:
        return name if name == HEADS else f"{scope}.{name}"

    return replace(
        parts,
        modules=named(parts.modules),
        gaps=tuple(replace(gap, name=f"{scope}.{gap.name}") for gap in parts.gaps),
        outside=named(parts.outside),
        attending=named(parts.attending),
        behind={f"{scope}.{name}": behind(filling) for name, filling in parts.behind.items()},
        append=f"{scope}.{parts.append}",
        sampling=f"{scope}.{parts.sampling}",
        memory_append=f"{scope}.{CROSS}.kv_append",
    )


def _t5(mlp: str, parts: Mapping[str, str]) -> Family:
    """Both stacks; a layer is a list of blocks, each with its norm and residual, the last an MLP."""
    encoder = _t5_stack("encoder", {"layer.0.SelfAttention": ATTENTION}, f"layer.1.{mlp}", parts)
    attention = {"layer.0.SelfAttention": ATTENTION, "layer.1.EncDecAttention": CROSS}
    decoder = _t5_stack("decoder", attention, f"layer.2.{mlp}", parts)
    return replace(decoder, encoder=encoder, outside={**decoder.outside, "lm_head": "decoder.lm_head"})


def _t5_stack(scope: str, attention: Mapping[str, str], mlp: str, parts: Mapping[str, str]) -> Family:
    blocks = {**attention, mlp: "layers.mlp"}
    product = (Gap(f"{mlp}.wi_1", f"{mlp}.wo", "layers.mlp.act_mul"),) if "wi_1" in parts else ()
    return _stack(
        scope,
        Family(
            f"{scope}.block",
            {
                **{f"{_block(path)}.layer_norm": f"{branch}_norm" for path, branch in blocks.items()},
                **{f"{p}.{n}": f"{branch}.{n}_proj" for p, branch in attention.items() for n in "qkvo"},
                **{f"{mlp}.{path}": name for path, name in parts.items()},
            },
            (
                *(Gap(path, _block(path), f"{b}_residual", inside=True) for path, b in blocks.items()),
                *product,
            ),
            {
                f"{scope}.embed_tokens": "embedding",
                f"{scope}.block.0.layer.0.SelfAttention.compute_bias": "relative_bias",
                f"{scope}.final_layer_norm": "final_norm",
            },
            attending={path: f"{branch}.core" for path, branch in attention.items()},
        ),
    )


def _block(path: str) -> str:
    """The block around its main module."""
    return path.rpartition(".")[0]


_DENSE = {"wi": "layers.mlp.up_proj", "act": "layers.mlp.act_mul", "wo": "layers.mlp.down_proj"}
T5 = _t5("DenseReluDense", {**_DENSE, "wi_0": "layers.mlp.gate_proj", "wi_1": "layers.mlp.up_proj"})
SWITCH = _t5("mlp", {**_DENSE, "router": "layers.moe.router + topk", "experts": routed("up")})


def _bart_stack(
    scope: str, outside: Mapping[str, str], behind: Mapping[str, str], *, normed_first: bool = False
) -> Family:
    """Attention by modules of its own, an MLP's inside the layer, norms behind their sums or before them."""
    attention = {"self_attn": ATTENTION, **({"encoder_attn": CROSS} if scope == "decoder" else {})}
    norm = "norm" if normed_first else "stream_norm"
    norms = [*(f"{path}_layer_norm" for path in attention), "final_layer_norm"]
    ends = [*norms[1:], ""] if normed_first else norms  # of the sums
    blocks = {**attention, "fc2": "layers.mlp"}
    modules = {
        "fc1": "layers.mlp.up_proj",
        "activation_fn": "layers.mlp.act_mul",
        "fc2": "layers.mlp.down_proj",
        **{path: f"{branch}_{norm}" for path, branch in zip(norms, blocks.values(), strict=True)},
        **{f"{p}.{n}_proj": f"{b}.{n}_proj" for p, b in attention.items() for n in "qkv"},
        **{f"{path}.out_proj": f"{branch}.o_proj" for path, branch in attention.items()},
    }
    sums = zip(blocks.items(), ends, strict=True)
    return _stack(
        scope,
        Family(
            f"model.{scope}.layers",
            modules,
            tuple(Gap(path, end, f"{branch}_residual") for (path, branch), end in sums),
            {f"model.{scope}.{path}": name for path, name in outside.items()},
            attending={path: f"{branch}.core" for path, branch in attention.items()},
            behind=behind,
        ),
    )


_BART_TABLES = {
    "embed_tokens": "embedding",
    "embed_positions": "position_embedding",
    "layernorm_embedding": "embedding_norm",
}
_BART = _bart_stack("decoder", _BART_TABLES, {})
BART = replace(
    _BART,
    encoder=_bart_stack("encoder", _BART_TABLES, {}),
    outside={**_BART.outside, "lm_head": "decoder.lm_head"},
    behind={"decoder.lm_head": FACTORS},  # a bias of logits that is not a parameter
)
_CONVS = {"conv1": "conv1", "conv2": "conv2"}
_TABLES = {"embed_positions": "position_embedding", "layer_norm": "final_norm"}
_HEARD = {f"{branch}.{n}_proj": HEADS for branch in (ATTENTION, CROSS) for n in "qkv"}
_WHISPER = _bart_stack("decoder", {"embed_tokens": "embedding", **_TABLES}, _HEARD, normed_first=True)
WHISPER = replace(
    _WHISPER,
    encoder=_bart_stack(
        "encoder",
        {**_CONVS, **_TABLES},
        {**_HEARD, **{name: f"{name}_act" for name in _CONVS}},
        normed_first=True,
    ),
    outside={**_WHISPER.outside, "proj_out": "decoder.lm_head"},
)
