"""Models of recurrent mixers: Mamba, Mamba-2, RWKV-4, and LFM2 and 3, some of whose layers attend.

Their convolutions and scans are functions, from a package where it is installed; states are updated by a
method of the cache.
"""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, MLP, Family, Gap, Inside, named
from profiler.parts.dense import QK_NORMS, QKV
from profiler.parts.experts import routing

CONVOLUTION = dict.fromkeys(("causal_conv1d_fn", "causal_conv1d_update", "update_conv_state"), "conv1d")
SELECTIVE_SCAN = dict.fromkeys(
    ("mamba_selective_scan", "mamba_selective_state_update", "update_recurrent_state"), "scan"
)
DUALITY = dict.fromkeys(
    ("mamba2_chunk_scan", "mamba2_selective_state_update", "update_recurrent_state"), "ssd"
)
BACKBONE = {"backbone.embeddings": "embedding", "backbone.norm_f": "final_norm", "lm_head": "lm_head"}


def scoped(scope: str, names: dict[str, str]) -> dict[str, str]:
    """Names of ranges with a scope as prefix."""
    return {key: f"{scope}.{name}" for key, name in names.items()}


def mamba_modules(mixer: str) -> dict[str, str]:
    """The modules of Mamba's mixer; the weights of `dt_proj` are used without calling it."""
    return named(mixer, "layers.mamba", "in_proj", "x_proj", "out_proj")


def mamba2_modules(mixer: str) -> dict[str, str]:
    """The modules of Mamba-2's mixer, whose norm multiplies by the gate first."""
    return named(mixer, "layers.mamba", "in_proj", "out_proj", norm="gate_mul + norm")


MAMBA_FUNCTIONS = scoped("layers.mamba", {**CONVOLUTION, **SELECTIVE_SCAN})
MAMBA2_FUNCTIONS = scoped("layers.mamba", {**CONVOLUTION, **DUALITY})
MAMBA2_BEHIND = {"layers.mamba.in_proj": "layers.mamba.ssd"}  # the decays, from their logarithms
_RESIDUAL = Gap("mixer", "", "layers.mamba_residual")

MAMBA = Family(
    "backbone.layers",
    {"norm": "layers.mamba_norm", **mamba_modules("mixer")},
    (_RESIDUAL,),
    BACKBONE,
    functions=MAMBA_FUNCTIONS,
    behind={"layers.mamba.in_proj": "layers.mamba.scan", "layers.mamba.x_proj": "layers.mamba.dt_proj"},
    packages={"layers.mamba.conv1d": "causal_conv1d", "layers.mamba.scan": "mamba_ssm"},
)
INNER_NORMS = {f"{n}_layernorm": f"layers.mamba.{n}_norm" for n in ("dt", "b", "c")}
FALCON_MAMBA = replace(
    MAMBA,
    modules={**MAMBA.modules, **{f"mixer.{path}": name for path, name in INNER_NORMS.items()}},
    behind={"layers.mamba.in_proj": "layers.mamba.scan", "layers.mamba.c_norm": "layers.mamba.dt_proj"},
)
MAMBA2 = Family(
    "backbone.layers",
    {"norm": "layers.mamba_norm", **mamba2_modules("mixer")},
    (_RESIDUAL,),
    BACKBONE,
    functions=MAMBA2_FUNCTIONS,
    behind=MAMBA2_BEHIND,
    packages={"layers.mamba.conv1d": "causal_conv1d", "layers.mamba.ssd": "mamba_ssm"},
)
RWKV = Family(
    "rwkv.blocks",
    {
        "pre_ln": "embedding_norm",  # stands in the first layer
        "ln1": "layers.time_mix_norm",
        "ln2": "layers.channel_mix_norm",
        **named("attention", "layers.time_mix", "key", "value", "receptance", "output"),
        **named("feed_forward", "layers.channel_mix", "key", "value", "receptance"),
    },
    (
        Gap("ln1", "attention.key", "layers.time_mix.shift"),
        Gap("attention.receptance", "attention.output", "layers.time_mix.wkv + gate_mul"),
        Gap("attention", "ln2", "layers.time_mix_residual"),
        Gap("ln2", "feed_forward.key", "layers.channel_mix.shift"),
        Gap("feed_forward.key", "feed_forward.value", "layers.channel_mix.act"),
        Gap("feed_forward.receptance", "feed_forward", "layers.channel_mix.gate_mul", inside=True),
        Gap("feed_forward", "", "layers.channel_mix_residual"),
    ),
    {"rwkv.embeddings": "embedding", "rwkv.ln_out": "final_norm", "head": "lm_head"},
    packages={"layers.time_mix.wkv + gate_mul": ""},
)

# LFM2: a convolution between two gates, or attention; its last norm is named `embedding_norm`.
_LFM2_MLP = {
    **named("feed_forward", MLP, w1="gate_proj", w3="up_proj", w2="down_proj"),
    **routing("feed_forward", "gate"),
}
_LFM2_GAPS = (
    Gap("feed_forward.w1", "feed_forward.w3", "layers.mlp.act_mul"),
    Gap("feed_forward.w3", "feed_forward.w2", "layers.mlp.act_mul"),
    Gap("feed_forward", "", "layers.mlp_residual"),
)
LFM2 = Family(
    "model.layers",
    {
        "operator_norm": "layers.attention_norm",
        **named("self_attn", ATTENTION, *QKV, out_proj="o_proj"),
        **QK_NORMS,
        "ffn_norm": "layers.mlp_norm",
        **_LFM2_MLP,
    },
    (Gap("self_attn", "ffn_norm", "layers.attention_residual"), *_LFM2_GAPS),
    {"model.embed_tokens": "embedding", "model.embedding_norm": "final_norm", "lm_head": "lm_head"},
    kinds={
        "conv": Inside(
            {
                "operator_norm": "layers.conv_norm",
                **named("conv", "layers.conv", "in_proj", "out_proj"),
                "ffn_norm": "layers.mlp_norm",
                **_LFM2_MLP,
            },
            (Gap("conv", "ffn_norm", "layers.conv_residual"), *_LFM2_GAPS),
        )
    },
    functions=scoped("layers.conv", CONVOLUTION),
    behind={
        "layers.conv.in_proj": "layers.conv.in_gate_mul",
        "layers.conv.conv1d": "layers.conv.out_gate_mul",
    },
    packages={"layers.conv.conv1d": "causal_conv1d"},
)


# LFM3: norms behind the blocks and gates of attention. No package convolves as wide as it does.
def _lfm3(*, sandwiched: bool) -> Family:
    """With these norms, or modules in their place that do nothing."""

    def inside(mixer: str, like: Family | Inside, more: dict[str, str], *gaps: Gap) -> Inside:
        norms = {"post_operator_norm": f"{mixer}_post_norm", "post_ffn_norm": "layers.mlp_post_norm"}
        sums = (
            Gap("post_operator_norm", "ffn_norm", f"{mixer}_residual"),
            Gap("post_ffn_norm", "", "layers.mlp_residual"),
        )
        modules = {**like.modules, **more, **(norms if sandwiched else {})}
        return Inside(modules, (*sums, *_LFM2_GAPS[:-1], *gaps))

    more = named("self_attn", ATTENTION, "o_proj", g_proj="output_gate")
    gate = Gap("self_attn.g_proj", "self_attn.o_proj", "layers.attention.gate_mul")
    attends = inside(ATTENTION, LFM2, more, gate)
    kinds = {"conv": inside("layers.conv", LFM2.kinds["conv"], {})}
    packages = {"layers.conv.conv1d": ""}
    return replace(LFM2, modules=attends.modules, gaps=attends.gaps, kinds=kinds, packages=packages)


LFM3, LFM3_PLAIN = _lfm3(sandwiched=True), _lfm3(sandwiched=False)
