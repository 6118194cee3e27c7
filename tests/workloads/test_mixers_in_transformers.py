"""Recurrent, hybrid, encoder and encoder-decoder models against transformers: no tolerance.

Matrix products are compared as in test_transformers. The scans of recurrent mixers are left out on both
sides, because the reference runs them in other forms (whole chunks, products over all earlier chunks,
elementwise loops): each is replaced by one that only has its result's shape, and our scan rows are not
summed. Their work is tested in test_recurrences and test_mixer_bytes. torch's counter counts a depthwise
convolution as a convolution; ours runs on the vector units, so it is left out too.

All run on the meta device but the hybrids, whose reference looks into its mask: they are small and run on
the CPU, with attention as two batched products, which is what SDPA decomposes into on the meta device.
"""

from __future__ import annotations

from typing import Any

import pytest

from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting, Step, operators, parameters, prefill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COUNTER = Setting(convention=convention("flop-counter"))
BATCH, TOKENS = 2, 48
SCANS = ("selective_scan", "ssd", "gated_delta", "wkv", "linear_attention")

SMALL: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 60, "num_hidden_layers": 2, "vocab_size": 101, "state_size": 7},
    "mamba2": {
        "hidden_size": 60,
        "num_hidden_layers": 2,
        "vocab_size": 101,
        "num_heads": 12,
        "head_dim": 10,
        "n_groups": 3,
        "state_size": 7,
        "chunk_size": 16,
    },
    "rwkv": {"hidden_size": 60, "num_hidden_layers": 2, "vocab_size": 101, "intermediate_size": 77},
    "nemotron_h": {
        "hidden_size": 60,
        "num_hidden_layers": 4,
        "hybrid_override_pattern": "M-*M",
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "intermediate_size": 77,
        "vocab_size": 101,
        "mamba_num_heads": 12,
        "mamba_head_dim": 10,
        "n_groups": 3,
        "ssm_state_size": 7,
    },
    "qwen3_5_text": {
        "hidden_size": 60,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 77,
        "vocab_size": 101,
        "linear_num_value_heads": 6,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 9,
        "linear_value_head_dim": 11,
    },
    "bert": {
        "hidden_size": 60,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "intermediate_size": 77,
        "vocab_size": 101,
    },
    "distilbert": {"dim": 60, "n_layers": 2, "n_heads": 6, "hidden_dim": 77, "vocab_size": 101},
    "t5": {
        "d_model": 60,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 6,
        "d_kv": 14,
        "d_ff": 77,
        "vocab_size": 101,
    },
}
ROUTED: dict[str, dict[str, Any]] = {
    "jamba": {
        "hidden_size": 60,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 77,
        "vocab_size": 101,
        "num_experts": 5,
    },
    "qwen3_next": {
        **SMALL["qwen3_5_text"],
        "num_experts": 7,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 22,
        "shared_expert_intermediate_size": 26,
    },
    "switch_transformers": {**SMALL["t5"], "num_sparse_encoder_layers": 1, "num_experts": 5},
}
ROUTED["switch_transformers"] |= {"num_decoder_layers": 4, "num_sparse_decoder_layers": 2}
ROUTED["qwen3_5_moe_text"] = ROUTED["qwen3_next"]
ROUTED["nemotron_h"] = {
    **SMALL["nemotron_h"],
    "hybrid_override_pattern": "ME*M",
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 22,
    "moe_shared_expert_intermediate_size": 26,
}
SMALL["roberta"] = {**SMALL["bert"], "pad_token_id": 0}
HYBRIDS = ("nemotron_h", "qwen3_5_text")
ENCODERS = ("bert", "roberta", "distilbert")


def ours(family: str, **changes: Any) -> Model:
    return build(Config({"model_type": family, **SMALL[family], **changes}, "test"), "test")


def device_of(family: str) -> str:
    return "cpu" if family in HYBRIDS else "meta"


def reference(family: str, **changes: Any) -> Any:
    config = transformers.AutoConfig.for_model(family, **{**SMALL[family], **changes})
    kind = transformers.AutoModelForCausalLM
    if family in ENCODERS:
        kind = transformers.AutoModel
    elif family == "t5":
        kind = transformers.AutoModelForSeq2SeqLM
    attention = {"attn_implementation": "eager"} if family in HYBRIDS else {}
    with torch.device(device_of(family)):
        return kind.from_config(config, dtype=torch.bfloat16, **attention).eval()


def without_scans(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """Replace the scans and convolutions of a family's module by their results' shapes."""
    from importlib import import_module

    name = {"qwen3_5_text": "qwen3_5"}.get(family, family)
    module = import_module(f"transformers.models.{name}.modeling_{name}")

    def scan(x: Any, *args: Any, **named: Any) -> Any:
        return (torch.empty_like(x), None) if named.get("return_final_states") else torch.empty_like(x)

    def rule(query: Any, key: Any, value: Any, *args: Any, **named: Any) -> Any:
        return torch.empty_like(value), None

    def wkv(decay: Any, first: Any, key: Any, value: Any, *args: Any, **named: Any) -> Any:
        return torch.empty_like(value), None

    replaced = {
        "mamba_selective_scan": scan,
        "mamba2_chunk_scan": scan,
        "torch_chunk_gated_delta_rule": rule,
        "rwkv_linear_attention": wkv,
        "causal_conv1d_fn": lambda x, *args, **named: torch.empty_like(x),
    }
    for function, stub in replaced.items():
        if hasattr(module, function):
            monkeypatch.setattr(module, function, stub)


def counted(model: Model, step: Step) -> int:
    rows = [row for row in operators(model, step, COUNTER) if row.operator.kind not in SCANS]
    return sum(row.count * row.operator.work().matrix_flops for row in rows)


def dispatched(network: Any, **inputs: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(**inputs)
    return int(counter.get_total_flops())


def tokens(length: int, device: str = "meta") -> Any:
    return torch.zeros(BATCH, length, dtype=torch.long, device=device)


@pytest.mark.parametrize("family", list(SMALL))
def test_parameters(family: str) -> None:
    network = reference(family)
    assert sum(p.numel() for p in network.parameters()) == parameters(ours(family))


@pytest.mark.parametrize("family", list(ROUTED))
def test_parameters_with_experts(family: str) -> None:
    """Products of experts are compared where every family's are; here what they own, and where they stand."""
    config = transformers.AutoConfig.for_model(family, **ROUTED[family])
    seq2seq = family == "switch_transformers"
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        network = kind.from_config(config)
    model = build(Config({"model_type": family, **ROUTED[family]}, "test"), "test")
    assert sum(p.numel() for p in network.parameters()) == parameters(model)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "rwkv", "nemotron_h", "qwen3_5_text"])
def test_products_of_a_prefill(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_scans(monkeypatch, family)
    inputs: dict[str, Any] = {"input_ids": tokens(TOKENS, device_of(family)), "use_cache": False}
    network, model = reference(family), ours(family)
    seen = dispatched(network, **inputs, **({} if family == "rwkv" else {"logits_to_keep": 1}))
    if family == "rwkv":  # its reference projects every position
        seen -= 2 * BATCH * (TOKENS - 1) * model.hidden * model.vocabulary
    assert seen == counted(model, prefill(BATCH, TOKENS))


@pytest.mark.parametrize("family", ENCODERS)
def test_products_of_an_encoder(family: str) -> None:
    inputs = {"input_ids": tokens(TOKENS)}
    assert dispatched(reference(family), **inputs) == counted(ours(family), prefill(BATCH, TOKENS))


@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_products_of_an_encoder_decoder(projection: str) -> None:
    """Prefill: the encoder, the cross attention's keys and values, the decoder's first position."""
    network = reference("t5", feed_forward_proj=projection)
    model = ours("t5", feed_forward_proj=projection)
    inputs = {"input_ids": tokens(TOKENS), "decoder_input_ids": tokens(1), "use_cache": False}
    assert dispatched(network, **inputs) == counted(model, prefill(BATCH, TOKENS))


def test_decode_of_an_encoder_decoder_reads_the_memory_and_makes_none() -> None:
    """The decoder's fourth position: its own cache holds three, cross attention the whole prompt."""
    network, model = reference("t5"), ours("t5")
    memory = torch.zeros(BATCH, TOKENS, 60, dtype=torch.bfloat16, device="meta")
    with torch.no_grad():
        past = network(encoder_outputs=(memory,), decoder_input_ids=tokens(3), use_cache=True).past_key_values
    seen = dispatched(
        network, encoder_outputs=(memory,), decoder_input_ids=tokens(1), past_key_values=past, use_cache=True
    )
    assert seen == counted(model, Step(BATCH, 1, TOKENS + 3, memory=TOKENS))


@pytest.mark.parametrize("name", ["Longformer-base-4096", "BigBird-RoBERTa-base"])
def test_parameters_of_sparse_encoders(name: str) -> None:
    loaded = load_model(name)
    config = transformers.AutoConfig.for_model(**loaded.config)
    with torch.device("meta"):
        network = transformers.AutoModel.from_config(config)
    assert sum(p.numel() for p in network.parameters()) == parameters(loaded.model)


def test_a_vision_tower_is_counted() -> None:
    """All parameters of the multimodal reference, and the tower's alone."""
    from workloads.architectures import Seeing

    loaded = load_model("Qwen3.5-27B")
    assert isinstance(loaded.model, Seeing)
    fields = {name: value for name, value in loaded.config.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model("qwen3_5", **fields)
    with torch.device("meta"):
        network = transformers.AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in network.parameters()) == parameters(loaded.model)
    tower = sum(p.numel() for p in network.model.visual.parameters())
    decoder = build(Config(loaded.config["text_config"], "text"), "text")
    assert parameters(loaded.model) - parameters(decoder) == tower


def test_no_family_is_compared_nowhere() -> None:
    """What test_transformers leaves out is here, but diffusion models, which transformers has not."""
    from workloads.families import FAMILIES

    here = {*SMALL, *ROUTED, "longformer", "big_bird", "llada", "sedd"}
    assert here <= set(FAMILIES)
    mixed = {load_model(name).model.family for name in ("Mamba-1-2.8B", "BERT-base-uncased", "LLaDA-8B")}
    assert mixed <= here


def test_llada_is_a_llama_without_a_mask() -> None:
    """Parameters and products of the Llama of its sizes, which transformers has."""
    fields = load_model("LLaDA-8B").config
    config = transformers.LlamaConfig(
        hidden_size=fields["d_model"],
        intermediate_size=fields["mlp_hidden_size"],
        num_attention_heads=fields["n_heads"],
        num_hidden_layers=2,
        vocab_size=fields["embedding_size"],
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model = build(Config({**fields, "n_layers": 2}, "test"), "test")
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    whole = Step(BATCH, TOKENS, TOKENS, scored=TOKENS)
    assert dispatched(network, input_ids=tokens(TOKENS)) == counted(model, whole)
