"""Attention and recurrent mixers: Jamba, Bamba, Granite 4, Falcon-H1, Nemotron-H, Qwen3.5, Kimi, MiniMax."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, MLP, Family, Gap, Inside, named
from profiler.parts.dense import LLAMA, NORMS, OLMO2, OUTSIDE, PRODUCT, QKV, RESIDUALS, SELF_ATTENTION
from profiler.parts.experts import GRANITE, LATENT, MOE, QWEN2_MOE, routed, routing, shared_mlp
from profiler.parts.recurrent import (
    CONVOLUTION,
    DUALITY,
    FALCON_MAMBA,
    INNER_NORMS,
    MAMBA,
    MAMBA2,
    MAMBA2_BEHIND,
    MAMBA2_FUNCTIONS,
    mamba2_modules,
    mamba_modules,
    scoped,
)

# Jamba: every layer has an MLP or experts after its mixer.
_FEED_FORWARD = {
    "pre_ff_layernorm": "layers.mlp_norm",
    **named("feed_forward", MLP, "gate_proj", "up_proj", "down_proj", act_fn="act_mul"),
    "feed_forward.experts": routed("gate_up"),
}
_FEED_FORWARD_GAPS = (
    # Of both: transformers 5.17 chooses behind the router, 5.23 in it.
    Gap("feed_forward", "feed_forward.experts", "layers.moe.router + topk", inside=True),
    Gap("feed_forward", "", "layers.mlp_residual"),
    Gap("feed_forward.up_proj", "feed_forward.down_proj", PRODUCT.name),
)
JAMBA = Family(
    "model.layers",
    {"input_layernorm": "layers.attention_norm", **SELF_ATTENTION, **_FEED_FORWARD},
    (Gap("self_attn", "pre_ff_layernorm", "layers.attention_residual"), *_FEED_FORWARD_GAPS),
    {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "lm_head"},
    kinds={
        "mamba": Inside(
            {
                "input_layernorm": "layers.mamba_norm",
                **mamba_modules("mamba"),
                **{f"mamba.{path}": name for path, name in INNER_NORMS.items()},
                **_FEED_FORWARD,
            },
            (Gap("mamba", "pre_ff_layernorm", "layers.mamba_residual"), *_FEED_FORWARD_GAPS),
        )
    },
    functions=MAMBA.functions,
    behind=FALCON_MAMBA.behind,
    packages=MAMBA.packages,
)

BAMBA = replace(
    JAMBA,
    kinds={
        "mamba": Inside(
            {"input_layernorm": "layers.mamba_norm", **mamba2_modules("mamba"), **_FEED_FORWARD},
            JAMBA.kinds["mamba"].gaps,
        )
    },
    functions=MAMBA2_FUNCTIONS,
    behind=MAMBA2_BEHIND,
    packages=MAMBA2.packages,
)

# Granite 4: Bamba's mixer or attention before experts with a shared one, or before the shared one alone.
_DENSE = named("shared_mlp", MLP, input_linear="gate_up_proj", output_linear="down_proj")
_DENSE_GAPS = (
    Gap("shared_mlp.input_linear", "shared_mlp.output_linear", PRODUCT.name),
    Gap("shared_mlp", "", "layers.mlp_residual"),
)
_SPARSE = GRANITE.kinds["shared_mlp"]
_MAMBA_LAYER = {**NORMS, "input_layernorm": "layers.mamba_norm", **mamba2_modules("mamba")}
_MAMBA_SUM = Gap("mamba", "post_attention_layernorm", "layers.mamba_residual")
_ROUTED = {path: name for path, name in _SPARSE.modules.items() if path.startswith(("shared_", "block_"))}
GRANITE_HYBRID = replace(
    BAMBA,
    behind={**BAMBA.behind, **GRANITE.behind},
    modules={**NORMS, **SELF_ATTENTION, **_DENSE},
    gaps=(RESIDUALS[0], *_DENSE_GAPS),
    outside=OUTSIDE,
    kinds={
        "mamba+block_sparse_moe": Inside({**_MAMBA_LAYER, **_ROUTED}, (_MAMBA_SUM, *_SPARSE.gaps[1:])),
        "mamba": Inside({**_MAMBA_LAYER, **_DENSE}, (_MAMBA_SUM, *_DENSE_GAPS)),
        "block_sparse_moe": _SPARSE,
    },
)

# Falcon-H1: both mixers in every layer, constant factors everywhere. Without a norm after it the gate is part
# of the scan of a single position.
_FACTORS = (
    ("input_layernorm", "mamba.in_proj"),
    ("mamba", "self_attn.q_proj"),
    ("self_attn.k_proj", "self_attn.v_proj"),
    ("feed_forward.gate_proj", "feed_forward.act_fn"),
)
FALCON_H1_NORMED = Family(
    "model.layers",
    {"input_layernorm": "layers.mamba_norm", **mamba2_modules("mamba"), **SELF_ATTENTION, **_FEED_FORWARD},
    (
        *(Gap(after, before, FACTORS) for after, before in _FACTORS),
        Gap("self_attn", "pre_ff_layernorm", "layers.mamba_residual + attention_residual"),
        Gap("feed_forward.act_fn", "feed_forward.down_proj", PRODUCT.name),
        Gap("feed_forward.down_proj", "", "layers.mlp_residual"),
    ),
    JAMBA.outside,
    functions=MAMBA2_FUNCTIONS,
    behind={"layers.mamba.in_proj": FACTORS, "lm_head": FACTORS},
    packages=MAMBA2.packages,
)
_GATED_SCAN = f"{MAMBA2_FUNCTIONS['mamba2_chunk_scan']} + gate_mul"
FALCON_H1 = replace(
    FALCON_H1_NORMED,
    modules={path: name for path, name in FALCON_H1_NORMED.modules.items() if path != "mamba.norm"},
    functions={**MAMBA2_FUNCTIONS, **dict.fromkeys(DUALITY, _GATED_SCAN)},
    behind={**FALCON_H1_NORMED.behind, _GATED_SCAN: _GATED_SCAN},
    packages={"layers.mamba.conv1d": "causal_conv1d", _GATED_SCAN: "mamba_ssm"},
)

# Nemotron-H: a layer is one mixer of any kind; experts may work in a latent.
_ROUTED_UP = Inside(
    {
        "norm": "layers.mlp_norm",
        **routing("mixer", "gate"),
        "mixer.experts": routed("up"),  # not gated
        **shared_mlp("mixer.shared_experts", "act_fn", "up", "down"),
    },
    (
        Gap("mixer.shared_experts", "mixer", "layers.moe.shared_sum", inside=True),
        Gap("mixer", "", "layers.mlp_residual"),
    ),
)
_LATENT = {"mixer.fc1_latent_proj": "latent_in_proj", "mixer.fc2_latent_proj": "latent_out_proj"}
NEMOTRON_H = Family(
    "model.layers",
    {
        "norm": "layers.mlp_norm",
        **named("mixer", MLP, "up_proj", "down_proj", act_fn="act_mul"),
    },
    (Gap("mixer", "", "layers.mlp_residual"),),
    {"model.embeddings": "embedding", "model.norm_f": "final_norm", "lm_head": "lm_head"},
    kinds={
        "mixer.in_proj": Inside(
            {"norm": "layers.mamba_norm", **mamba2_modules("mixer")},
            (Gap("mixer", "", "layers.mamba_residual"),),
        ),
        "mixer.q_proj": Inside(
            {"norm": "layers.attention_norm", **named("mixer", ATTENTION, *QKV, "o_proj")},
            (Gap("mixer", "", "layers.attention_residual"),),
        ),
        "mixer.fc1_latent_proj.weight": replace(
            _ROUTED_UP,
            modules={**_ROUTED_UP.modules, **{path: f"layers.moe.{name}" for path, name in _LATENT.items()}},
        ),
        "mixer.experts": _ROUTED_UP,
    },
    functions=MAMBA2_FUNCTIONS,
    behind=MAMBA2_BEHIND,
    packages=MAMBA2.packages,
)

# Qwen: three of four mixers are gated delta nets; attention has a gate before its output projection.
_RULES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule", "update_recurrent_state")
_DELTA = "layers.delta"
_PACKAGES = {f"{_DELTA}.conv1d": "causal_conv1d", f"{_DELTA}.rule": "fla"}  # that fuse its operators


def _without_attention(family: Family) -> dict[str, str]:
    return {path: name for path, name in family.modules.items() if not path.startswith("self_attn")}


def _qwen(like: Family, *projections: str) -> Family:
    """A family with both mixers, and the feed-forward of `like`."""
    delta = {
        "input_layernorm": f"{_DELTA}_norm",
        **named("linear_attn", _DELTA, *projections, "out_proj", norm="norm + gate_mul"),
    }
    gaps = tuple(gap for gap in like.gaps if gap.after != "self_attn")
    residual = Gap("linear_attn", "post_attention_layernorm", f"{_DELTA}_residual")
    return replace(
        like,
        kinds={"linear_attn": Inside({**_without_attention(like), **delta}, (residual, *gaps))},
        functions=scoped(_DELTA, {**CONVOLUTION, **dict.fromkeys(_RULES, "rule")}),
        behind={
            f"{_DELTA}.{projections[-1]}": HEADS,  # queries, keys and values joined for one convolution
            f"{_DELTA}.conv1d": f"{_DELTA}.rule",  # the decay and the strength of an update, from projections
            "layers.attention.q_proj": HEADS,  # the gate split off
            "layers.attention.core": "layers.attention.gate_mul",
        },
        packages=_PACKAGES,
    )


_APART = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
QWEN3_NEXT = _qwen(QWEN2_MOE, "in_proj_qkvz", "in_proj_ba")
QWEN3_5 = _qwen(LLAMA, *_APART)
QWEN3_5_MOE = _qwen(QWEN2_MOE, *_APART)

# Kimi Linear: most mixers are Kimi delta attention, under the name of attention, which rotates nothing.
_THROUGH = {
    "forget_gate.f_a_proj": "decay_in",
    "forget_gate.f_b_proj": "decay_out",
    "g_a_proj": "output_gate_in",
    "g_b_proj": "output_gate_out",
}
_KDA_RULES = ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention", "update_recurrent_state")


def _kimi(through: dict[str, str]) -> Family:
    """Latent attention, and delta layers whose decay and gate go `through` these modules."""
    delta = {
        **_without_attention(LATENT),
        "input_layernorm": f"{_DELTA}_norm",
        **named("self_attn", _DELTA, *QKV, "b_proj", **through, o_norm="norm + gate_mul", o_proj="out_proj"),
    }
    residual = Gap("self_attn", RESIDUALS[0].before, f"{_DELTA}_residual")
    decay = through.get("forget_gate.f_b_proj", "decay")
    return replace(
        LATENT,
        kinds={"self_attn.forget_gate": Inside(delta, (residual, *LATENT.gaps[1:]))},
        functions=scoped(_DELTA, {**CONVOLUTION, **dict.fromkeys(_KDA_RULES, "rule")}),
        behind={
            **LATENT.behind,
            f"{_DELTA}.v_proj": HEADS,  # joined with queries and keys for one convolution
            f"{_DELTA}.{decay}": f"{_DELTA}.rule",  # the decay and the strength of an update
            f"{_DELTA}.b_proj": f"{_DELTA}.rule",
        },
        packages=_PACKAGES,
    )


KIMI = _kimi(_THROUGH)
# Ling 3: the same with matrices of full rank, and a gate behind latent attention.
_LING = _kimi({"forget_gate.f_proj": "decay", "g_proj": "output_gate"})
LING = replace(
    _LING,
    modules={**_LING.modules, "self_attn.g_proj": "layers.attention.output_gate"},
    gaps=(*_LING.gaps, Gap("self_attn.g_proj", "self_attn.o_proj", "layers.attention.gate_mul")),
)

# OLMo Hybrid: delta nets behind norms of their input, and OLMo 2's layers of attention.
OLMO_HYBRID = replace(
    OLMO2,
    kinds={
        "linear_attn": Inside(
            {
                **_without_attention(LLAMA),
                "input_layernorm": f"{_DELTA}_norm",
                **named(
                    "linear_attn",
                    _DELTA,
                    *QKV,
                    b_proj="in_proj_b",
                    a_proj="in_proj_a",
                    g_proj="in_proj_z",
                    o_norm="norm + gate_mul",
                    o_proj="out_proj",
                ),
            },
            (Gap("linear_attn", RESIDUALS[0].before, f"{_DELTA}_residual"), *LLAMA.gaps[1:]),
        )
    },
    functions=scoped(_DELTA, {**CONVOLUTION, **dict.fromkeys(_RULES, "rule")}),
    behind={
        f"{_DELTA}.v_proj": HEADS,  # joined with queries and keys for one convolution
        f"{_DELTA}.in_proj_b": f"{_DELTA}.rule",  # the strength of an update and the decay
        f"{_DELTA}.in_proj_a": f"{_DELTA}.rule",
    },
    packages=_PACKAGES,
)

# MiniMax-01: lightning attention in the place of attention, by the model's own code.
_LIGHTNING = "layers.lightning"
MINIMAX = replace(
    MOE,
    kinds={
        "self_attn.qkv_proj": Inside(
            {
                **_without_attention(MOE),
                "input_layernorm": f"{_LIGHTNING}_norm",
                **named(
                    "self_attn", _LIGHTNING, "qkv_proj", "norm", "output_gate", "out_proj", act_fn="qkv_act"
                ),
            },
            (
                Gap("self_attn.act_fn", "self_attn.norm", f"{_LIGHTNING}.core"),
                Gap("self_attn.output_gate", "self_attn.out_proj", f"{_LIGHTNING}.gate_mul"),
                Gap("self_attn", "post_attention_layernorm", f"{_LIGHTNING}_residual"),
                *MOE.gaps[1:],
            ),
        )
    },
    packages={f"{_LIGHTNING}.core": ""},
)
