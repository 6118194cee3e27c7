"""Decoders with experts in place of an MLP, and DeepSeek's latent attention."""

from __future__ import annotations

from dataclasses import replace

from profiler.parts.base import ATTENTION, FACTORS, HEADS, MLP, Family, Gap, Inside, named, norms, residuals
from profiler.parts.dense import (
    FUSED_MLP,
    FUSED_PRODUCT,
    GATED_ACTIVATION,
    GLM4,
    GLM4_POST_NORMS,
    GRANITE_3,
    LLAMA,
    OLMO2,
    OUTSIDE,
    PRODUCT,
    QKV,
    RESIDUALS,
    SANDWICH_NORMS,
    SANDWICH_RESIDUALS,
    WITHOUT_MLP,
)


def routed(wide: str) -> str:
    """The range of all that routed experts run; `wide` names their first product."""
    return f"layers.moe.permute + experts_{wide}_proj + experts_act_mul + experts_down_proj + combine"


def routing(module: str, router: str) -> dict[str, str]:
    """The modules of gated experts in the place of an MLP."""
    return {f"{module}.{router}": "layers.moe.router + topk", f"{module}.experts": routed("gate_up")}


MOE = replace(LLAMA, modules={**LLAMA.modules, **routing("mlp", "gate")})
MIMO = replace(MOE, behind={"layers.attention.v_proj": FACTORS})  # of values


def shared_mlp(module: str, act: str, *matrices: str) -> dict[str, str]:
    """The modules of a shared expert; all three `matrices` by default."""
    names = {f"{n}_proj": f"shared_{n}_proj" for n in matrices or ("gate", "up", "down")}
    return named(module, "layers.moe", **names, **{act: "shared_act_mul"})


def _sharing(family: Family, shared: str, last: str, sums: str = "shared_sum") -> Family:
    """A family with the shared expert `shared`, whose sum begins after `last`, in the range `sums`."""
    more = shared_mlp(f"mlp.{shared}", "act_fn")
    product = Gap(f"mlp.{shared}.up_proj", f"mlp.{shared}.down_proj", "layers.moe.shared_act_mul")
    total = Gap(f"mlp.{last}", "mlp", f"layers.moe.{sums}", inside=True)
    return replace(family, modules={**family.modules, **more}, gaps=(*family.gaps, product, total))


LLAMA4 = Family(  # experts compute all tokens; one norm takes queries, then keys
    "model.layers",
    {
        **WITHOUT_MLP,
        "self_attn.qk_norm": "layers.attention.q_norm + k_norm",
        **named("feed_forward", MLP, "gate_proj", "up_proj", "down_proj", activation_fn="act_mul"),
        **routing("feed_forward", "router"),
        **shared_mlp("feed_forward.shared_expert", "activation_fn"),
    },
    (
        RESIDUALS[0],
        Gap("feed_forward.up_proj", "feed_forward.down_proj", PRODUCT.name),
        Gap(
            "feed_forward.shared_expert.up_proj",
            "feed_forward.shared_expert.down_proj",
            "layers.moe.shared_act_mul",
        ),
        Gap("feed_forward.shared_expert", "feed_forward", "layers.moe.shared_sum", inside=True),
        Gap("feed_forward", "", "layers.mlp_residual"),
    ),
    OUTSIDE,
)
DBRX = Family(
    "transformer.blocks",
    {
        **norms("norm_attn_norm.norm_1", "norm_attn_norm.norm_2"),
        **named("norm_attn_norm.attn", ATTENTION, Wqkv="qkv_proj", out_proj="o_proj"),
        "ffn.router": "layers.moe.router",
        "ffn.experts": routed("gate_up"),
    },
    (
        *residuals("norm_attn_norm.attn", "norm_attn_norm.norm_2", "ffn"),
        Gap("ffn.router", "ffn.experts", "layers.moe.topk"),
    ),
    {"transformer.wte": "embedding", "transformer.norm_f": "final_norm", "lm_head": "lm_head"},
    behind={"layers.attention.qkv_proj": HEADS},  # clipped and split
)
PHIMOE = replace(LLAMA, modules={**LLAMA.modules, **routing("mlp", "router")})
GATED = replace(MOE, modules={**MOE.modules, "mlp.shared_expert_gate": "layers.moe.shared_gate"})
QWEN2_MOE = _sharing(GATED, "shared_expert", "shared_expert_gate", "shared_gate_mul + shared_sum")
SHARED_EXPERTS = _sharing(MOE, "shared_experts", "shared_experts")
KOLIBRI = replace(  # with norms behind the blocks, too, as GLM-4
    SHARED_EXPERTS,
    modules={**GLM4_POST_NORMS, **SHARED_EXPERTS.modules},
    gaps=(*GLM4.gaps[: len(RESIDUALS)], *SHARED_EXPERTS.gaps[len(RESIDUALS) :]),
)
ERNIE = _sharing(MOE, "shared_experts", "experts")  # which run after the shared one
FLINT = _sharing(MOE, "shared_expert", "shared_expert")
HUNYUAN = _sharing(MOE, "shared_mlp", "experts")
ARIA = replace(SHARED_EXPERTS, modules={**SHARED_EXPERTS.modules, **routing("mlp", "router")})
LAGUNA = replace(  # a gate behind attention
    SHARED_EXPERTS,
    modules={**SHARED_EXPERTS.modules, "self_attn.g_proj": "layers.attention.output_gate"},
    gaps=(
        *LLAMA.gaps,
        Gap("self_attn.g_proj", "self_attn.o_proj", "layers.attention.gate_mul"),
        Gap("mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj", "layers.moe.shared_act_mul"),
        Gap("mlp.experts", "mlp", "layers.moe.shared_sum", inside=True),
    ),
)
AFMOE = replace(
    ERNIE,
    modules={
        **ERNIE.modules,
        **routing("mlp", "router"),
        "self_attn.gate_proj": "layers.attention.output_gate",
        "post_attention_layernorm": "layers.attention_post_norm",
        "pre_mlp_layernorm": "layers.mlp_norm",
        "post_mlp_layernorm": "layers.mlp_post_norm",
    },
    gaps=(
        *residuals("post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
        *ERNIE.gaps[2:],
    ),
    behind={"layers.attention.core": "layers.attention.gate_mul"},
)
_GATE = {"self_attn.gate_proj": "layers.attention.output_gate"}
_GATING = Gap("self_attn.gate_proj", "self_attn.o_proj", "layers.attention.gate_mul")
BEAM = replace(  # scaled queries where none rotate; gates of MLPs are activated behind both products
    MOE,
    modules={
        **{path: name for path, name in MOE.modules.items() if path not in GATED_ACTIVATION},
        **SANDWICH_NORMS,
        **_GATE,
    },
    gaps=(*SANDWICH_RESIDUALS, PRODUCT, _GATING),
    behind={"layers.attention.v_proj": HEADS, "lm_head": FACTORS},
)
MUSE_GLIMMER = replace(  # one norm takes queries, then keys, and scales queries; embeddings are normalised
    LLAMA,
    modules={
        **LLAMA.modules,
        **SANDWICH_NORMS,
        **_GATE,
        "self_attn.qk_norm": "layers.attention.q_norm + k_norm",
    },
    gaps=(*SANDWICH_RESIDUALS, PRODUCT, _GATING),
    outside={**OUTSIDE, "model.embed_tokens": "embedding + embedding_norm"},
    behind={"layers.attention.q_norm + k_norm": HEADS},
)
MUSE_SPARK = replace(  # experts behind a narrower latent; sums with weights, results of heads normalised
    MUSE_GLIMMER,
    modules={
        **MUSE_GLIMMER.modules,
        "self_attn.o_norm": "layers.attention.head_norm",
        "mlp.gate": "layers.moe.router + topk",
        "mlp.pre_expert_proj": "layers.moe.latent_in_proj",
        "mlp.pre_expert_norm": "layers.moe.latent_in_norm",
        "mlp.experts": "layers.moe.permute + experts_gate_up_proj + experts_act_mul + experts_down_proj "
        "+ experts_norm + combine",
        "mlp.post_expert_proj": "layers.moe.latent_out_proj",
    },
)
FLEX_OLMO = replace(OLMO2, modules={**OLMO2.modules, **routing("mlp", "gate")})
_GRANITE = {**WITHOUT_MLP, **routing("block_sparse_moe", "router")}
_SHARED = {f"shared_mlp.{n}put_linear": name for n, name in (("in", "gate_up"), ("out", "down"))}
GRANITE = replace(
    GRANITE_3,
    modules=_GRANITE,
    gaps=residuals("self_attn", "post_attention_layernorm", "block_sparse_moe"),
    kinds={
        "shared_mlp": Inside(
            {**_GRANITE, **{path: f"layers.moe.shared_{name}_proj" for path, name in _SHARED.items()}},
            (
                RESIDUALS[0],
                Gap("shared_mlp.input_linear", "shared_mlp.output_linear", "layers.moe.shared_act_mul"),
                Gap("shared_mlp", "", "layers.mlp_residual + moe.shared_sum"),
            ),
        )
    },
)
LATENT = replace(
    SHARED_EXPERTS,
    modules={
        **SHARED_EXPERTS.modules,
        **named("self_attn", ATTENTION, "q_a_proj", "q_b_proj", "kv_b_proj", kv_a_proj_with_mqa="kv_a_proj"),
        **named("self_attn", ATTENTION, q_a_layernorm="q_a_norm", kv_a_layernorm="kv_a_norm"),
    },
    behind=dict.fromkeys(
        ("layers.attention.rope", "layers.attention.kv_append", "layers.attention.kv_b_proj"), HEADS
    ),
)
AXK1 = replace(  # with a norm behind experts
    LATENT,
    modules={**LATENT.modules, "mlp.post_mlp_layernorm": "layers.mlp_post_norm"},
    gaps=(
        *LATENT.gaps[:-1],
        Gap("mlp.shared_experts", "mlp.post_mlp_layernorm", "layers.moe.shared_sum"),
    ),
)


def _twice(modules: dict[str, str]) -> dict[str, str]:
    """Modules by path, whose first is one of two in a list."""
    pairs = [(path.partition("."), name) for path, name in modules.items()]
    return {f"{own}.{i}{dot}{inside}": name for (own, dot, inside), name in pairs for i in range(2)}


# LongCat-Flash: two attentions and two MLPs; experts run before the first MLP, and are added behind the last.
_SUMS = f"{RESIDUALS[1].name} + shortcut_residual"  # of both behind the last MLP
_ONCE = {path.replace("mlp.", "mlps."): name for path, name in LATENT.modules.items() if ".moe." not in name}
LONGCAT = replace(
    LATENT,
    modules={
        **_twice(_ONCE),
        "mlp.router": "layers.moe.router + topk",
        "mlp.experts": f"{routed('gate_up')} + idle_combine",
    },
    gaps=tuple(
        gap
        for i, then in enumerate(("input_layernorm.1", ""))
        for gap in (
            Gap(f"self_attn.{i}", f"post_attention_layernorm.{i}", RESIDUALS[0].name),
            Gap(f"mlps.{i}.up_proj", f"mlps.{i}.down_proj", PRODUCT.name),
            Gap(f"mlps.{i}", then, _SUMS),
        )
    ),
    attending={f"self_attn.{i}": "layers.attention.core" for i in range(2)},
    behind={**LATENT.behind, "layers.attention.kv_a_norm": FACTORS},
)
_INDEX, PICK = "layers.attention.indexer", "layers.attention.indexer_scores + indexer_topk"
_PICKING = {f"self_attn.indexer.{one}": f"{_INDEX}_{one}" for one in (*QKV[:2], "q_norm", "k_norm")}
MINIMAX_M3 = replace(  # attention to what an indexer picks; MLPs with fused matrices
    LLAMA,
    modules={
        **WITHOUT_MLP,
        **routing("mlp", "gate"),
        **FUSED_MLP,
        "mlp.shared_experts.gate_up_proj": "layers.moe.shared_gate_up_proj",
        "mlp.shared_experts.down_proj": "layers.moe.shared_down_proj",
        **_PICKING,
    },
    gaps=(
        *RESIDUALS,
        FUSED_PRODUCT,
        Gap("mlp.shared_experts.gate_up_proj", "mlp.shared_experts.down_proj", "layers.moe.shared_act_mul"),
        Gap("mlp.experts", "mlp", "layers.moe.shared_sum", inside=True),
    ),
    functions={"update_index": f"{_INDEX}_append"},
    rotations={"self_attn.indexer": f"{_INDEX}_rope"},
    behind={f"{_INDEX}_append": PICK},  # with the mask of what it picked
)
MINICPM3 = replace(LATENT, behind={**LATENT.behind, "final_norm": FACTORS})
INDEXED = replace(  # attention to what an indexer picks, which multiplies, appends, scores, weighs and sorts
    LATENT,
    modules={
        **LATENT.modules,
        **{
            f"self_attn.indexer.{path}": f"{_INDEX}_{name}"
            for path, name in {
                "wq_b": "q_proj",
                "wk": "k_proj",
                "k_norm": "k_norm",
                "weights_proj": "weights_proj",
            }.items()
        },
    },
    gaps=(*LATENT.gaps, Gap("self_attn.indexer.weights_proj", "self_attn.indexer", PICK, inside=True)),
    functions={"update_indexer": f"{_INDEX}_append"},
    rotations={"self_attn.indexer": f"{_INDEX}_rope"},
    behind={**LATENT.behind, f"{_INDEX}_rope": HEADS, f"{_INDEX}_append": PICK, PICK: HEADS},
)
DOTS_3 = replace(  # layers with an indexer or with a window; a norm of the part of keys that is rotated
    INDEXED,
    modules={
        **INDEXED.modules,
        "self_attn.k_rope_only_layernorm": "layers.attention.k_rope_norm",
        "self_attn.g_proj": "layers.attention.output_gate",
    },
    gaps=(*INDEXED.gaps, replace(_GATING, after="self_attn.g_proj")),
    behind={
        **INDEXED.behind,
        **dict.fromkeys(("layers.attention.q_a_norm", "layers.attention.kv_a_norm"), FACTORS),
    },
)

_SCALE = "position_scale"
MISTRAL_LARGE_4 = replace(  # queries, also the indexer's, scaled by their positions
    INDEXED,
    modules={
        **INDEXED.modules,
        "self_attn.softmax_scaling": f"layers.attention.{_SCALE}",
        "self_attn.indexer.q_input_norm": f"{_INDEX}_q_norm",
        "self_attn.indexer.softmax_scaling": f"{_INDEX}_{_SCALE}",
    },
)


def _gated_norm(path: str, name: str) -> Inside:
    """A norm whose result is multiplied by a gate through a narrow rank."""
    parts = {"fc1": "in", "activation_fn": "act", "fc2": "out"}
    modules = {
        f"{path}.norm": name,
        **{f"{path}.mlp.{part}": f"{name}_gate_{one}" for part, one in parts.items()},
    }
    return Inside(modules, (Gap(f"{path}.mlp", path, f"{name}_gate_mul", inside=True),))


# A.X K2: such norms before attention and experts; one product makes queries and the gates of attention.
_ATTENDING = _gated_norm("input_layernorm", "layers.attention_norm")
_ROUTING = _gated_norm("post_attention_layernorm", "layers.mlp_norm")
_AXK2 = Inside(
    {
        **{path: name for path, name in INDEXED.modules.items() if path != "input_layernorm"},
        "self_attn.q_gate_proj": "layers.attention.q_b_proj",
        **_ATTENDING.modules,
    },
    (*INDEXED.gaps, *_ATTENDING.gaps),
)
_AXK2_ROUTED = {path: name for path, name in _AXK2.modules.items() if path != "post_attention_layernorm"}
AXK2 = replace(
    INDEXED,
    modules=_AXK2.modules,
    gaps=_AXK2.gaps,
    kinds={
        "post_attention_layernorm.norm": Inside(
            {**_AXK2_ROUTED, **_ROUTING.modules}, (*_AXK2.gaps, *_ROUTING.gaps)
        )
    },
    behind={
        **INDEXED.behind,
        **dict.fromkeys(("layers.attention.q_a_norm", "layers.attention.q_b_proj"), HEADS),
        "layers.attention.core": "layers.attention.gate_mul",
    },
)
