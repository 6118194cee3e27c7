"""Zamba2: Mamba-2 layers, some after a shared transformer that also reads the embeddings."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import MLP, Family, Gap, Inside, named
from profiler.parts.dense import PRODUCT, SELF_ATTENTION
from profiler.parts.hybrids import JAMBA
from profiler.parts.recurrent import MAMBA2, MAMBA2_BEHIND, MAMBA2_FUNCTIONS, mamba2_modules

_SHARED, _MLP = "shared_transformer", "shared_transformer.feed_forward"
_ADAPTER = "layers.mlp.adapter_down + adapter_up + adapter_sum"
ZAMBA2 = Family(
    "model.layers",
    {"input_layernorm": "layers.mamba_norm", **mamba2_modules("mamba")},
    (Gap("mamba", "", "layers.mamba_residual"),),
    JAMBA.outside,
    kinds={
        _SHARED: Inside(
            {
                f"{_SHARED}.input_layernorm": "layers.attention.norm",
                **{f"{_SHARED}.{path}": name for path, name in SELF_ATTENTION.items()},
                f"{_SHARED}.pre_ff_layernorm": "layers.mlp_norm",
                **named(_MLP, MLP, "gate_up_proj", "down_proj", act_fn="act_mul"),
                "linear": "layers.mlp.out_proj",
                "mamba_decoder.input_layernorm": "layers.mamba_norm",
                **mamba2_modules("mamba_decoder.mamba"),
            },
            (
                Gap(_SHARED, f"{_SHARED}.input_layernorm", "layers.attention.concat", inside=True),
                Gap(f"{_MLP}.gate_up_proj", f"{_MLP}.act_fn", _ADAPTER),
                Gap(f"{_MLP}.act_fn", f"{_MLP}.down_proj", PRODUCT.name),
                Gap("linear", "mamba_decoder.input_layernorm", "layers.mlp_residual"),
                Gap("mamba_decoder.mamba", "", "layers.mamba_residual"),
            ),
        )
    },
    functions=MAMBA2_FUNCTIONS,
    behind=MAMBA2_BEHIND,
    packages=MAMBA2.packages,
)
# Adapters of the projections of attention, too, run after the last of these.
_EACH = " + ".join(f"{n}_adapter_{part}" for n in "qkv" for part in ("down", "up", "sum"))
ZAMBA2_ADAPTED = replace(
    ZAMBA2, behind={**MAMBA2_BEHIND, "layers.attention.v_proj": f"layers.attention.{_EACH}"}
)
