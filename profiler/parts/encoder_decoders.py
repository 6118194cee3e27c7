"""Encoder-decoders: T5, Switch, which is T5 with experts, and BART."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from profiler.parts.base import FACTORS, Family, Gap

ATTENTION, CROSS = "layers.attention", "layers.cross_attention"


def _stack(scope: str, parts: Family) -> Family:
    """One of a model's stacks, whose ranges' names begin with `scope`."""

    def named(names: Mapping[str, str]) -> dict[str, str]:
        return {path: f"{scope}.{name}" for path, name in names.items()}

    return replace(
        parts,
        modules=named(parts.modules),
        gaps=tuple(replace(gap, name=f"{scope}.{gap.name}") for gap in parts.gaps),
        outside=named(parts.outside),
        attending=named(parts.attending),
        append=f"{scope}.{parts.append}",
        sampling=f"{scope}.{parts.sampling}",
        memory_append=f"{scope}.{CROSS}.kv_append",
    )


def _t5(mlp: str, parts: Mapping[str, str]) -> Family:
    """Both stacks; a layer is a list of blocks, each with its norm and its sum, the last with an MLP."""
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
    """The block that a module is the main part of."""
    return path.rpartition(".")[0]


_DENSE = {"wi": "layers.mlp.up_proj", "act": "layers.mlp.act_mul", "wo": "layers.mlp.down_proj"}
_ROUTED = ("permute", "experts_up_proj", "experts_act_mul", "experts_down_proj", "combine")
T5 = _t5("DenseReluDense", {**_DENSE, "wi_0": "layers.mlp.gate_proj", "wi_1": "layers.mlp.up_proj"})
SWITCH = _t5(
    "mlp",
    {**_DENSE, "router": "layers.moe.router + topk", "experts": f"layers.moe.{' + '.join(_ROUTED)}"},
)


def _bart_stack(scope: str, attention: Mapping[str, str]) -> Family:
    modules = {
        "fc1": "layers.mlp.up_proj",
        "activation_fn": "layers.mlp.act_mul",
        "fc2": "layers.mlp.down_proj",
        "final_layer_norm": "layers.mlp_stream_norm",
        **{f"{p}.{n}_proj": f"{b}.{n}_proj" for p, b in attention.items() for n in "qkv"},
        **{f"{path}.out_proj": f"{branch}.o_proj" for path, branch in attention.items()},
        **{f"{path}_layer_norm": f"{branch}_stream_norm" for path, branch in attention.items()},
    }
    names = {
        "embed_tokens": "embedding",
        "embed_positions": "position_embedding",
        "layernorm_embedding": "embedding_norm",
    }
    return _stack(
        scope,
        Family(
            f"model.{scope}.layers",
            modules,
            (
                *(
                    Gap(path, f"{path}_layer_norm", f"{branch}_residual")
                    for path, branch in attention.items()
                ),
                Gap("fc2", "final_layer_norm", "layers.mlp_residual"),
            ),
            {f"model.{scope}.{path}": name for path, name in names.items()},
            attending={path: f"{branch}.core" for path, branch in attention.items()},
        ),
    )


_BART = _bart_stack("decoder", {"self_attn": ATTENTION, "encoder_attn": CROSS})
BART = replace(
    _BART,
    encoder=_bart_stack("encoder", {"self_attn": ATTENTION}),
    outside={**_BART.outside, "lm_head": "decoder.lm_head"},
    behind={"decoder.lm_head": FACTORS},  # a bias of logits, which is no parameter
)
