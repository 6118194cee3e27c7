"""Recurrent and hybrid models against transformers: no tolerance in any product of a prefill or decode step.

Small models run on the CPU, because experts' loops ask which tokens came and hybrids look into their masks.
Products with weights are compared, and those of attention. Scans have as many forms as programs: the
reference multiplies whole chunks (compared in test_mixer_bytes), and a single position's state by C, which is
asserted here and is part of what we count on the vector units. Depthwise convolutions run there too.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.workloads.products import counted, ours, products
from workloads.model import Model
from workloads.operators import LinearAttention
from workloads.phases import Step, active_parameters, decode, operators, parameters, prefill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, TOKENS = 2, 48
BASE = {"hidden_size": 60, "num_hidden_layers": 2, "vocab_size": 101}
ATTENTION = {"num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 77}
EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 22}
NEMOTRON = {
    **BASE,
    **ATTENTION,
    "head_dim": 14,
    "mamba_num_heads": 12,
    "mamba_head_dim": 10,
    "n_groups": 3,
    "ssm_state_size": 7,
}
QWEN = {
    **BASE,
    **ATTENTION,
    "num_hidden_layers": 5,
    "head_dim": 16,
    "linear_num_value_heads": 6,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 9,
    "linear_value_head_dim": 11,
}
QWEN_MOE = {**QWEN, **EXPERTS, "num_experts": 7, "shared_expert_intermediate_size": 26}
BAMBA = {
    **BASE,
    **ATTENTION,
    "num_hidden_layers": 3,
    "mamba_n_heads": 12,
    "mamba_d_head": 10,
    "mamba_n_groups": 3,
    "mamba_d_state": 7,
    "mamba_chunk_size": 16,
    "pad_token_id": 0,
}
FALCON = {**BAMBA, "mamba_d_ssm": 72, "mamba_d_head": 6}
GRANITE = {**BAMBA, "layer_types": ["mamba", "attention", "mamba"], "shared_intermediate_size": 26}
ZAMBA2 = {
    **BASE,
    "num_hidden_layers": 7,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid", "mamba"],
    "num_attention_heads": 6,
    "intermediate_size": 77,
    "adapter_rank": 11,
    "n_mamba_heads": 12,
    "mamba_ngroups": 3,
    "mamba_d_state": 7,
    "chunk_size": 16,
}
LFM2 = {**BASE, **ATTENTION, "num_hidden_layers": 3, "block_multiple_of": 8, "conv_L_cache": 4}
HEADS = {"num_heads": 12, "head_dim": 10, "n_groups": 3, "state_size": 7, "chunk_size": 16}
ROUTED = {**EXPERTS, "n_routed_experts": 7, "moe_shared_expert_intermediate_size": 26}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("mamba", {**BASE, "state_size": 7}),
    ("mamba", {**BASE, "state_size": 7, "use_bias": True, "tie_word_embeddings": False}),
    ("mamba", {**BASE, "state_size": 7, "intermediate_size": 77}),
    ("falcon_mamba", {**BASE, "state_size": 7}),
    ("falcon_mamba", {**BASE, "state_size": 7, "expand": 16, "intermediate_size": 77}),
    ("mamba2", {**BASE, **HEADS}),
    ("mamba2", {**BASE, **HEADS, "use_bias": True, "tie_word_embeddings": True}),
    ("rwkv", {**BASE, "intermediate_size": 77}),
    ("rwkv", {**BASE, "tie_word_embeddings": True}),
    ("nemotron_h", {**NEMOTRON, "num_hidden_layers": 4, "hybrid_override_pattern": "M-*M"}),
    ("nemotron_h", {**NEMOTRON, **ROUTED, "num_hidden_layers": 5, "hybrid_override_pattern": "ME*-E"}),
    (
        "nemotron_h",
        {**NEMOTRON, **ROUTED, "moe_latent_size": 26, "layers_block_type": ["mamba", "moe", "attention"]},
    ),
    ("nemotron_h", {**NEMOTRON, **ROUTED, "layers_block_type": ["mamba", "moe", "attention", "mlp"]}),
    ("jamba", {**BASE, **ATTENTION, "num_hidden_layers": 10, "num_experts": 5, "pad_token_id": 0}),
    ("jamba", {**BASE, **ATTENTION, "num_hidden_layers": 5, "num_experts": 1, "pad_token_id": 0}),
    ("bamba", {**BAMBA, "attn_layer_indices": [1, 2]}),
    ("bamba", {**BAMBA, "attn_layer_indices": [0], "mamba_proj_bias": True, "mlp_bias": True}),
    ("falcon_h1", FALCON),
    ("falcon_h1", {**FALCON, "mamba_rms_norm": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("falcon_h1", {**FALCON, "attention_bias": True, "mamba_proj_bias": True, "projectors_bias": True}),
    ("granitemoehybrid", {**GRANITE, "num_local_experts": 7, "num_experts_per_tok": 3}),
    ("granitemoehybrid", {**GRANITE, "num_local_experts": 0, "attention_bias": True}),
    ("granitemoehybrid", {**GRANITE, "position_embedding_type": "rope", "tie_word_embeddings": True}),
    ("zamba2", ZAMBA2),
    ("zamba2", {**ZAMBA2, "num_mem_blocks": 2, "use_mem_rope": True}),
    ("zamba2", {**ZAMBA2, "attention_head_dim": 14}),
    ("zamba2", {**ZAMBA2, "num_mem_blocks": 2, "use_shared_attention_adapter": True}),
    ("zamba2", {**ZAMBA2, "num_mem_blocks": 4, "add_bias_linear": True}),
    ("lfm2", {**LFM2, "full_attn_idxs": [1]}),
    ("lfm2", {**LFM2, "layer_types": ["conv", "conv", "full_attention"], "tie_word_embeddings": False}),
    ("lfm2", {**LFM2, "full_attn_idxs": [0], "conv_bias": True, "block_auto_adjust_ff_dim": False}),
    (
        "lfm2_moe",
        {**LFM2, **EXPERTS, "layer_types": ["conv", "conv", "full_attention"], "num_dense_layers": 1},
    ),
    ("qwen3_5_text", QWEN),
    ("qwen3_5_text", {**QWEN, "tie_word_embeddings": True, "full_attention_interval": 2}),
    ("qwen3_5_moe_text", QWEN_MOE),
    ("qwen3_next", QWEN_MOE),
    ("qwen3_next", {**QWEN_MOE, "num_experts": 1, "num_experts_per_tok": 1}),
]
MINIMAX = {**BASE, **ATTENTION, **EXPERTS, "num_local_experts": 7, "block_size": 10}
CASES += [
    ("minimax", {**MINIMAX, "layer_types": ["linear_attention", "full_attention"]}),
    ("minimax", MINIMAX),
]
KIMI = {
    **BASE,
    "num_hidden_layers": 6,
    "intermediate_size": 77,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "kv_lora_rank": 23,
    "qk_nope_head_dim": 14,
    "qk_rope_head_dim": 10,
    "v_head_dim": 13,
    "linear_num_heads": 3,
    "linear_head_dim": 9,
    **EXPERTS,
    "num_local_experts": 7,
    "pad_token_id": 0,
}
CASES += [
    ("kimi_linear", KIMI),
    ("kimi_linear", {**KIMI, "q_lora_rank": 21, "num_shared_experts": 2, "first_k_dense_replace": 0}),
    (
        "kimi_linear",
        {
            **{k: v for k, v in KIMI.items() if not k.startswith("linear")},
            "linear_attn_config": {
                **{"num_heads": 3, "head_dim": 9, "short_conv_kernel_size": 3},
                **{"full_attn_layers": [2, 6], "kda_layers": [1, 3, 4, 5]},
            },
        },
    ),
]
LING = {
    **{name: KIMI[name] for name in KIMI if not name.startswith("linear")},
    **{"num_attention_heads": 6, "head_dim": 9, "layer_group_size": 3, "n_group": 1, "topk_group": 1},
}
LFM3 = {**BASE, **ATTENTION, "num_hidden_layers": 5, "head_dim": 14, "sliding_window": 64, "pad_token_id": 0}
OLMO = {**BASE, **ATTENTION, "num_hidden_layers": 5, "pad_token_id": 0}
CASES += [
    ("bailing_hybrid", LING),
    ("bailing_hybrid", {**LING, "layer_types": ["full_attention"] + ["linear_attention"] * 5}),
    ("lfm3", LFM3),
    ("lfm3", {**LFM3, "use_sandwich_norm": False, "use_attention_gate": False, "attention_bias": True}),
    ("lfm3", {**LFM3, "layer_types": ["sliding_attention"] * 2 + ["conv"] * 3, "conv_bias": True}),
    ("olmo_hybrid", OLMO),
    ("olmo_hybrid", {**OLMO, "linear_num_key_heads": 3, "linear_value_head_dim": 11, "attention_bias": True}),
    ("olmo_hybrid", {**OLMO, "num_hidden_layers": 2, "tie_word_embeddings": True}),
]
INKLING = {
    **{**BASE, **ATTENTION, **EXPERTS, "n_routed_experts": 7, "head_dim": 14, "d_rel": 5, "rel_extent": 64},
    **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 10},
    **{"num_hidden_layers": 7, "sliding_window_size": 64, "pad_token_id": 0},
}
CASES += [
    ("inkling_text", INKLING),
    ("inkling_text", {**INKLING, "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 4, "n_shared_experts": 1}),
    ("inkling_text", {**INKLING, "local_layer_ids": [1, 2], "conv_kernel_size": 3}),
    ("inkling_text", {**INKLING, "dense_intermediate_size": 81, "dense_mlp_idx": 1}),
]
ZAYA = {
    **{**BASE, **ATTENTION, "num_hidden_layers": 3, "num_experts": 5, "moe_intermediate_size": 22},
    **{"head_dim": 14, "router_hidden_size": 9, "pad_token_id": 0},
}
CASES += [
    ("zaya", ZAYA),
    ("zaya", {**ZAYA, "attention_bias": True, "lm_head_bias": True, "tie_word_embeddings": False}),
    (
        "zaya",
        {
            **ZAYA,
            "cca_time0": 3,
            "layer_types": ["hybrid", "hybrid_sliding"] * 1 + ["hybrid"],
            "sliding_window": 64,
        },
    ),
]
HRM = {**BASE, "num_attention_heads": 6, "intermediate_size": 77, "head_dim": 14, "pad_token_id": 0}
CASES += [
    ("hrm_text", HRM),
    ("hrm_text", {**HRM, "H_cycles": 3, "L_cycles": 1, "tie_word_embeddings": True, "mlp_bias": True}),
    ("hrm_text", {**HRM, "num_layers_per_stack": 2, "num_hidden_layers": 16}),
]
CACHE = {**dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), "cache_params"), "rwkv": "state"}
STATES = {"selective_scan": ("channels", "state"), "ssd": ("heads", "head_dim", "state")}


def case_id(value: Any) -> str:
    return value if isinstance(value, str) else f"{len(value)}-fields"


def reference(family: str, fields: dict[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(family, **fields)
    config._experts_implementation = "eager"  # one expert after the other, on the tokens that chose it
    attention = {} if family in CACHE else {"attn_implementation": "eager"}  # two batched products
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, **attention).eval()


def batch_of(family: str) -> int:
    return 1 if family == "rwkv" else BATCH  # transformers' RWKV mixes up a state of several sequences


def last_only(family: str) -> dict[str, int]:
    return {} if family == "rwkv" else {"logits_to_keep": 1}  # it projects every position


def tokens(batch: int, length: int) -> Any:
    return torch.arange(batch * length).view(batch, length) % 101


@pytest.mark.parametrize(("family", "fields"), CASES, ids=case_id)
def test_parameters(family: str, fields: dict[str, Any]) -> None:
    network = reference(family, fields)
    assert sum(p.numel() for p in network.parameters()) == parameters(ours(family, fields))


@pytest.mark.parametrize(
    "rope",
    [{}, {"rope_theta": None}, {"rope_theta": 1e6}, {"rope_parameters": {"rope_type": "default"}}]
    + [{"rope_parameters": {"rope_type": "default", "rope_theta": theta}} for theta in (None, 1e6)],
    ids=str,
)
def test_an_olmo_hybrid_rotates_unless_its_base_is_null(rope: dict[str, Any]) -> None:
    network = reference("olmo_hybrid", {**OLMO, **rope})
    names = {row.name for row in operators(ours("olmo_hybrid", {**OLMO, **rope}), decode(1, 8))}
    assert (network.model.rotary_emb is not None) == ("layers.attention.rope" in names)


@pytest.mark.parametrize(("family", "fields"), CASES, ids=case_id)
def test_products_of_a_prefill(family: str, fields: dict[str, Any]) -> None:
    model, batch = ours(family, fields), batch_of(family)
    inputs = {"input_ids": tokens(batch, TOKENS), "use_cache": False, **last_only(family)}
    seen, expected = products(reference(family, fields), **inputs), counted(model, prefill(batch, TOKENS))
    if family == "rwkv":
        expected.weights += 2 * batch * (TOKENS - 1) * model.hidden * model.vocabulary
    if family == "zaya":  # the values of the position before the first, which are of zeros
        expected.weights += 3 * 2 * batch * model.hidden * fields["head_dim"]
    expected.activations += lightning(model, prefill(batch, TOKENS))
    assert (seen.weights, seen.activations) == (expected.weights, expected.activations)


@pytest.mark.parametrize(("family", "fields"), CASES, ids=case_id)
def test_products_of_a_decode_step(family: str, fields: dict[str, Any]) -> None:
    """Behind a prefill that is not counted; the state's product with C is 2 FLOP per element."""
    network, model, batch = reference(family, fields), ours(family, fields), batch_of(family)
    cache = CACHE.get(family, "past_key_values")
    with torch.no_grad():
        past = network(input_ids=tokens(batch, TOKENS), use_cache=True)[cache]
    inputs = {"input_ids": tokens(batch, 1), cache: past, "use_cache": True, **last_only(family)}
    expected = counted(model, decode(batch, TOKENS + 1))
    expected.scans = 2 * batch * sum(states_of(row) for row in operators(model, decode(batch, TOKENS + 1)))
    expected.activations += lightning(model, decode(batch, TOKENS + 1))
    assert products(network, **inputs) == expected


def lightning(model: Model, step: Step) -> int:
    """Products of lightning attention in transformers' code: of all pairs of a block, and per token k v' and
    q S; the decay of pairs above the diagonal is 0.
    """
    found = 0
    for row in operators(model, step):
        one = row.operator
        if isinstance(one, LinearAttention):
            whole, rest = divmod(one.q_len, one.chunk)
            pairs = 0 if one.q_len == 1 else whole * one.chunk**2 + rest**2
            found += row.count * one.batch * one.heads * 4 * one.features * (pairs + one.q_len * one.features)
    return int(found)


def states_of(row: Any) -> int:
    """Elements of the states of one sequence that Mamba multiplies by C."""
    sizes = [getattr(row.operator, name) for name in STATES.get(row.operator.kind, ())]
    return int(row.count * torch.tensor(sizes).prod()) if sizes else 0


def test_an_expert_too_many_would_be_seen() -> None:
    """The comparison is sharp: one more choice per token is its matrices' products, and no more."""
    fields = {**QWEN_MOE, "num_experts_per_tok": 4}
    network = reference("qwen3_next", fields)
    seen = products(network, input_ids=tokens(BATCH, TOKENS), use_cache=False, logits_to_keep=1)
    expected = counted(ours("qwen3_next", QWEN_MOE), prefill(BATCH, TOKENS))
    more = 2 * BATCH * TOKENS * 3 * 60 * 22 * QWEN_MOE["num_hidden_layers"]
    assert seen.weights - expected.weights == more


def test_minimax_01_has_its_published_sizes() -> None:
    """456 billion parameters, 45.9 of them for a token (arXiv:2501.08313, section 2)."""
    fields = {
        "hidden_size": 6144,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9216,
        "num_local_experts": 32,
        "num_experts_per_tok": 2,
        "vocab_size": 200064,
        "rotary_dim": 64,
        "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    }
    model = ours("minimax_text_01", fields)
    assert round(parameters(model) / 1e9) == 456
    assert round(active_parameters(model, "without embeddings") / 1e9, 1) == 45.9


def test_kimi_k3_has_what_kimi_linear_has_not() -> None:
    """By vLLM's models/kimi_k3: full-rank gates, experts in a latent with a norm, choices among sums."""
    linear = {"num_heads": 3, "head_dim": 9, "full_attn_layers": [4, 5], "kda_layers": [1, 2, 3]}
    base = {**KIMI, "num_hidden_layers": 5, "linear_attn_config": linear, "q_lora_rank": 21}
    gates = {"linear_attn_config": {**linear, "use_full_rank_gate": True}, "mla_use_output_gate": True}
    latent = {"routed_expert_hidden_size": 33, "latent_moe_use_norm": True, "hidden_act": "situ"}
    k3 = ours("kimi_linear", {**base, **gates, **latent, "attn_res_block_size": 2})
    more = 3 * (60 * 27 - 60 * 9 - 9 * 27) + 2 * 60 * 6 * 13  # of the delta layers, of the latent ones
    more += 4 * (7 * 3 * 22 * (33 - 60) + 2 * 60 * 33 + 33)  # of layers with experts
    more += 5 * 4 * 60 + 2 * 60  # two norms and two vectors a layer, one each behind the last
    assert parameters(k3) - parameters(ours("kimi_linear", base)) == more
    counts = {row.name: row.count for row in operators(k3, decode(1, 9)) if "choice" in row.name}
    # Blocks of two layers: 0 1 | 2 3 | 4. A layer that begins one has one sum more for its MLP.
    assert counts["layers.delta_choice_of_1"] == counts["last_choice"] == 1
    assert counts["layers.mlp_choice_of_2"] == 2
    assert counts["layers.mlp_choice_of_3"] == 2
    assert counts["layers.mlp_choice_of_4"] == 1


def test_no_family_is_compared_nowhere() -> None:
    """What test_transformers leaves out is here or among the encoders, or transformers lacks it."""
    from tests.workloads.test_compressed import COMPARED as COMPRESSED
    from tests.workloads.test_encoders_in_transformers import COMPARED
    from tests.workloads.test_qwen4 import FAMILY as QWEN4
    from tests.workloads.test_transformers import FAMILIES as DECODERS
    from tests.workloads.test_transformers import VLLM_ALONE
    from workloads.families import FAMILIES

    absent = {"llada", "sedd", "linear_attention", "linformer", "nemotron-nas", "mobilellm"}
    absent |= VLLM_ALONE | {"inkling_model", "rwkv5", "rwkv6", "rwkv7", "minimax_text_01", "minimax_m1"}
    here = {family for family, _ in CASES}
    assert {*DECODERS, *here, *COMPARED, *COMPRESSED, QWEN4} | absent == set(FAMILIES)
