"""Which layers have experts, and of what shape: every family says it in fields of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workloads import blocks  # for MoeBlock, which models without experts do not load
from workloads.blocks import Block, MlpBlock
from workloads.config import Config
from workloads.families.common import activation, gated_mlp


def in_each(name: str, number: int, top_k: int = 2) -> Callable[[Config, int], list[Block]]:
    """Experts in each layer (Mixtral, Phi-3.5-MoE, MiniMax-M2, OLMoE, FlexOlmo).

    Field `name` says how many, `number` and `top_k` are the family's defaults.
    """
    return lambda config, layers: [routed(config, name, default=number, top_k=top_k)] * layers


def granite(config: Config, layers: int, shared_width: int = 0) -> list[Block]:
    """Granite: Mixtral's, and where `shared_intermediate_size` is not 0 a shared MLP.

    Without any experts that MLP is all there is.
    """
    shared = config.count("shared_intermediate_size", shared_width)
    act = activation(config, "hidden_act", default="silu")
    dense = MlpBlock(shared, act, fused_gate_up=True) if shared else None
    if dense and not config.count("num_local_experts", 8):
        return [dense] * layers
    return [routed(config, "num_local_experts", default=8, shared=dense)] * layers


def hunyuan(config: Config, layers: int) -> list[Block]:
    """Hunyuan: every number may be one for all layers or one for each; a shared expert as wide as several."""
    act = activation(config, "hidden_act", default="silu")
    per_layer = [
        config.sizes(name, layers, default)
        for name, default in (
            ("num_experts", 1),
            ("moe_topk", 1),
            ("moe_intermediate_size", config.size("intermediate_size")),
            ("num_shared_expert", 1),
        )
    ]
    found: list[Block] = []
    for count, chosen, width, shared in zip(*per_layer, strict=True):
        config.within("moe_topk", chosen, "num_experts", count)
        found.append(blocks.MoeBlock(count, chosen, width, act, shared=MlpBlock(shared * width, act)))
    return found


def ernie(config: Config, layers: int) -> list[Block]:
    """ERNIE 4.5: experts between two layers that fields name; a bias corrects each choice.

    transformers names the kinds of the layers of its vision models instead.
    """
    count = config.size("moe_num_experts", default=64)
    top_k = config.size("moe_k", default=6)
    config.within("moe_k", top_k, "moe_num_experts", count)
    width = config.size("moe_intermediate_size", default=1536)
    act = activation(config, "hidden_act", default="silu")
    bias, shared = config.flag("use_bias", False), config.count("moe_num_shared_experts", 2)
    dense = MlpBlock(config.size("intermediate_size"), act, bias=bias)
    sparse = blocks.MoeBlock(
        count,
        top_k,
        width,
        act,
        router_bias=True,
        shared=MlpBlock(shared * width, act, bias=bias) if shared else None,
    )
    first, last = config.count("moe_layer_start_index", 1), config.count("moe_layer_end_index", layers - 1)
    every = config.size("moe_layer_interval", default=1)
    between = [first <= i <= last and (i + 1) % every == 0 for i in range(layers)]
    return [sparse if here else dense for here in sparse_layers(config, layers) or between]


def gpt_oss(config: Config, layers: int) -> list[Block]:
    """gpt-oss: experts and router with biases, activation clamped."""
    count = config.size("num_local_experts", default=128)
    top_k = _top_k(config, "num_local_experts", count, 4)
    width = config.size("intermediate_size")
    return [blocks.MoeBlock(count, top_k, width, bias=True, router_bias=True)] * layers


def qwen(config: Config, layers: int) -> list[Block]:
    """Qwen MoE: every `decoder_sparse_step`-th layer but `mlp_only_layers`; Qwen 2 shares an expert."""
    step = config.size("decoder_sparse_step", default=1)
    dense = set(config.indices("mlp_only_layers", layers) or ())
    act = activation(config, "hidden_act", default="silu")
    shared = 0
    if config.kind in QWEN_SHARED:
        shared = config.count("shared_expert_intermediate_size", QWEN_SHARED[config.kind])
    default = QWEN_EXPERTS.get(config.kind, (128, 8))
    sparse = routed(
        config,
        "num_experts",
        "num_local_experts",
        width=config.size("moe_intermediate_size"),
        default=default[0],
        top_k=default[1],
        shared=MlpBlock(shared, act) if shared else None,
        shared_gates=int(shared > 0 and config.kind == "qwen2_moe"),
    )
    default_sparse = [i not in dense and (i + 1) % step == 0 for i in range(layers)]
    is_sparse = sparse_layers(config, layers) or default_sparse  # stated by Mellum
    return [sparse if here else gated_mlp(config) for here in is_sparse]


QWEN_EXPERTS = {  # number, chosen
    **{"qwen2_moe": (60, 4), "qwen3_vl_moe_text": (60, 4), "mellum": (64, 8)},
    **{"flint": (256, 6), "kolibri1": (384, 6)},
}
QWEN_SHARED = {"qwen2_moe": 5632, "flint": 1024, "kolibri1": 512}  # width of the shared expert


def aria(config: Config, layers: int) -> list[Block]:
    """Aria: experts in each layer, SiLU whatever the config says, and a shared MLP as wide as several."""
    count, chosen = config.size("moe_num_experts", default=8), config.size("moe_topk", default=2)
    config.within("moe_topk", chosen, "moe_num_experts", count)
    width, shared = config.size("intermediate_size"), config.size("moe_num_shared_experts", default=2)
    act, bias = activation(config, "hidden_act", default="silu"), config.flag("mlp_bias", False)
    mlp = MlpBlock(shared * width, act, bias=bias)
    return [blocks.MoeBlock(count, chosen, width, "silu", shared=mlp)] * layers


def cohere(config: Config, layers: int) -> list[Block]:
    """Cohere: dense layers first, of a width of their own; experts and shared ones of the usual width."""
    first, shared = config.count("first_k_dense_replace", 0), config.count("num_shared_experts", 0)
    width, act = config.size("intermediate_size"), activation(config, "hidden_act", default="silu")
    mlp = MlpBlock(shared * width, act) if shared else None
    sparse = routed(config, "num_experts", default=8, top_k=2, shared=mlp)
    dense = MlpBlock(config.size("prefix_dense_intermediate_size", default=width), act)
    is_sparse = sparse_layers(config, layers) or [i >= first for i in range(layers)]
    return [sparse if here else dense for here in is_sparse]


def bailing(config: Config, layers: int) -> list[Block]:
    """Ling and Ring: dense layers first, a bias that corrects choices, a shared expert of its own width."""
    wide = deepseek(config, layers)
    shared = config.optional_size("moe_shared_expert_intermediate_size")
    number = config.count("num_shared_experts", 1)
    corrected = config.flag("moe_router_enable_expert_bias", False)

    def of(block: blocks.MoeBlock) -> blocks.MoeBlock:
        mlp = MlpBlock(number * shared, block.activation) if shared and number else block.shared
        return replace(block, shared=mlp, router_bias=corrected)

    return [of(block) if isinstance(block, blocks.MoeBlock) else block for block in wide]


def deepseek(config: Config, layers: int) -> list[Block]:
    """DeepSeek, Kimi, GLM: dense layers first, then routed and shared experts."""
    kind = config.kind
    first = config.count("first_k_dense_replace", DEFAULT_FIRST.get(kind, 3))
    listed = isinstance(config.fields.get("moe_layer_freq"), list)
    every = 1 if listed else config.size("moe_layer_freq", default=1)
    width = config.size("moe_intermediate_size")
    act = activation(config, "hidden_act", default="silu")
    bias = kind in BIASED and config.flag("mlp_bias", False)
    prefix = "num" if config.fields.get("num_shared_experts") is not None else "n"
    shared = config.count(f"{prefix}_shared_experts", 2 if kind in TWO_SHARED else 1)
    sparse = routed(
        config,
        "n_routed_experts",
        "num_experts",
        "num_local_experts",
        width=width,
        default=None,
        top_k=4 if kind in ("glm4_moe_lite", "mistral4", "mistral_large4_text") else 8,
        shared=MlpBlock(shared * width, act, bias=bias) if shared else None,
    )
    marked = config.flags("moe_layer_freq", layers) if listed else None
    marked = marked or [i % every == 0 for i in range(layers)]
    is_sparse = sparse_layers(config, layers) or [i >= first and here for i, here in enumerate(marked)]
    return [sparse if here else gated_mlp(config, bias) for here in is_sparse]


def sparse_layers(config: Config, layers: int) -> list[bool] | None:
    """Which layers have experts, where the config says it as transformers does."""
    words = config.per_layer("mlp_layer_types", layers, ("dense", "sparse"))
    return None if words is None else [word == "sparse" for word in words]


TWO_SHARED = ("deepseek_v2", "deepseek_ocr2_text")  # by default
BIASED = ("deepseek_v2", "deepseek_ocr2_text", "hy_v3")  # whose dense layers and shared experts heed mlp_bias
DEFAULT_FIRST = {  # of first_k_dense_replace; 3 in the others
    kind: first
    for first, kinds in (
        (0, "deepseek deepseek_v2 deepseek_ocr2_text dots1 solar_open mistral4 bailing_moe bailing_moe_v2"),
        (
            1,
            "glm4_moe glm4v_moe_text glm4_moe_lite exaone_moe hy_v3 hy_v4 kimi_linear axk1 "
            "axk2 mistral_large4_text dots3_note_text",
        ),
        (2, "bailing_hybrid"),
    )
    for kind in kinds.split()
}


def routed(
    config: Config,
    *names: str,
    width: int | None = None,
    default: int | None = 8,
    top_k: int = 2,
    shared: MlpBlock | None = None,
    shared_gates: int = 0,
    router_bias: bool = False,
) -> blocks.MoeBlock:
    """Gated experts, as many as the first of `names` says, by default as wide as `intermediate_size` says."""
    count = config.size(*names, default=default)
    chosen = _top_k(config, names[0], count, top_k)
    act = activation(config, "hidden_act", default="silu")
    wide = width or config.size("intermediate_size")
    return blocks.MoeBlock(
        count, chosen, wide, act, router_bias=router_bias, shared=shared, shared_gates=shared_gates
    )


def _top_k(config: Config, name: str, experts: int, default: int) -> int:
    chosen = config.size("num_experts_per_tok", "num_experts_per_token", default=default)
    config.within("num_experts_per_tok", chosen, name, experts)
    return chosen
