"""Decoders with experts in place of an MLP, and DeepSeek's latent attention."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import HEADS, Family, Gap
from profiler.parts.dense import LLAMA, OUTSIDE, QK_NORMS

EXPERTS = ("permute", "experts_gate_up_proj", "experts_act_mul", "experts_down_proj", "combine")
MOE = Family(
    "model.layers",
    {
        **LLAMA.modules,
        **QK_NORMS,
        "mlp.gate": "layers.moe.router + topk",
        "mlp.experts": f"layers.moe.{' + '.join(EXPERTS)}",
    },
    LLAMA.gaps,
    OUTSIDE,
)


def _sharing(family: Family, shared: str, last: str) -> Family:
    """A family whose tokens all meet the expert `shared`, and whose sum begins behind `last`."""
    matrices = {f"mlp.{shared}.{n}_proj": f"layers.moe.shared_{n}_proj" for n in ("gate", "up", "down")}
    more = {**matrices, f"mlp.{shared}.act_fn": "layers.moe.shared_act_mul"}
    product = Gap(f"mlp.{shared}.up_proj", f"mlp.{shared}.down_proj", "layers.moe.shared_act_mul")
    total = Gap(f"mlp.{last}", "mlp", "layers.moe.shared_sum", inside=True)
    return replace(family, modules={**family.modules, **more}, gaps=(*family.gaps, product, total))


PHIMOE = replace(
    MOE,
    modules={("mlp.router" if path == "mlp.gate" else path): name for path, name in MOE.modules.items()},
)
GATED = replace(MOE, modules={**MOE.modules, "mlp.shared_expert_gate": "layers.moe.shared_gate"})
QWEN2_MOE = _sharing(GATED, "shared_expert", "shared_expert_gate")
SHARED_EXPERTS = _sharing(MOE, "shared_experts", "shared_experts")
LATENT = replace(
    SHARED_EXPERTS,
    modules={
        **SHARED_EXPERTS.modules,
        **{f"self_attn.{name}": f"layers.attention.{name}" for name in ("q_a_proj", "q_b_proj", "kv_b_proj")},
        "self_attn.kv_a_proj_with_mqa": "layers.attention.kv_a_proj",
        "self_attn.q_a_layernorm": "layers.attention.q_a_norm",
        "self_attn.kv_a_layernorm": "layers.attention.kv_a_norm",
    },
    behind=dict.fromkeys(
        ("layers.attention.rope", "layers.attention.kv_append", "layers.attention.kv_b_proj"), HEADS
    ),
)
