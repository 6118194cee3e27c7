"""The reference implementations of transformers, on the meta device, against our counts: no tolerance.

What torch's FlopCounterMode counts: every matrix product that is dispatched, 2 FLOP per multiply-add.
On the meta device scaled_dot_product_attention is decomposed into two batched products, so that

- attention is the full rectangle of queries x keys, masked pairs included (`causal_exact=False`);
- grouped KV heads are repeated to the query heads first; the product has all query heads, as the
  mathematics has, and the repetition moves bytes but costs no FLOP;
- norms, RoPE, activations and softmax are not matrix products and count nothing.

The vocabulary projection sees the last position only, because `logits_to_keep=1` is passed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workloads.blocks import AttentionBlock
from workloads.catalogue import MODELS, load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import FAMILIES, build
from workloads.model import Model
from workloads.phases import Setting, Step, decode, operators, parameters, prefill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

COUNTER = Setting(convention=convention("flop-counter"))
BATCH = 2
STEPS = {"prefill": prefill(BATCH, 48), "decode": decode(BATCH, 61), "chunk": Step(BATCH, 5, 40)}
SMALLEST = {  # of each family, for a comparison at full depth
    "llama": "SmolLM2-135M",
    "mistral": "Mistral-7B-v0.1",
    "qwen2": "Qwen2.5-0.5B",
    "qwen3": "Qwen3-0.6B",
    "phi3": "Phi-3-mini-3.8B",
    "gemma": "Gemma-2b",
    "gemma2": "Gemma-2-2b",
    "gemma3_text": "Gemma-3-1b",
    "gpt2": "GPT-2",
    "opt": "OPT-125m",
}


def reference(fields: dict[str, Any]) -> Any:
    """The transformers model of a config: shapes only, no weights."""
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(fields["model_type"], **rest)
    # Gemma 2 caps its scores before the softmax, which SDPA cannot: transformers refuses it there.
    attention = "eager" if fields["model_type"] == "gemma2" else "sdpa"
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.bfloat16
        )
    return model.eval()


def ours(fields: dict[str, Any]) -> Model:
    return build(Config(fields, "test"), "test")


def cache_of(model: Model, config: Any, tokens: int) -> Any:
    """A KV cache that holds `tokens` positions of each sequence."""
    cache = transformers.DynamicCache(config=config)
    for index, layer in enumerate(model.layers):
        attention = layer.find(AttentionBlock)
        shape = (BATCH, attention.kv_heads, tokens, attention.head_dim)
        keys, values = (torch.zeros(shape, dtype=torch.bfloat16, device="meta") for _ in "kv")
        cache.update(keys, values, index)
    return cache


def dispatched_flops(network: Any, model: Model, step: Step) -> int:
    """What FlopCounterMode counts of one step."""
    from torch.utils.flop_counter import FlopCounterMode

    before = int(step.kv_len - step.q_len)
    cache = cache_of(model, network.config, before) if before else None
    tokens = torch.zeros(BATCH, int(step.q_len), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(input_ids=tokens, past_key_values=cache, logits_to_keep=1)
    return int(counter.get_total_flops())


def counted_flops(model: Model, step: Step) -> int:
    return sum(row.count * row.operator.work().matrix_flops for row in operators(model, step, COUNTER))


def shallow(fields: dict[str, Any]) -> dict[str, Any]:
    """The config with just enough layers to show every kind of layer."""
    layers = {"gemma2": 2, "gemma3_text": 6}.get(fields["model_type"], 1)
    name = "n_layer" if "n_layer" in fields else "num_hidden_layers"
    return {**fields, name: min(layers, fields[name])}


def assert_same(fields: dict[str, Any], *steps: str) -> None:
    model, network = ours(fields), reference(fields)
    assert sum(p.numel() for p in network.parameters()) == parameters(model)
    for name in steps:
        assert dispatched_flops(network, model, STEPS[name]) == counted_flops(model, STEPS[name]), name


@pytest.mark.parametrize("path", MODELS.paths(), ids=lambda path: path.stem)
def test_parameters_and_flops_of_every_shipped_config(path: Path) -> None:
    """Real widths, heads and vocabularies; one layer of each kind, because the others repeat them."""
    assert_same(shallow(load_model(path).config), "prefill", "decode")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_parameters_and_flops_of_a_whole_model(family: str) -> None:
    fields = load_model(SMALLEST[family]).config
    assert fields["model_type"] == family
    assert_same(fields, "decode")


def small(family: str, **changes: Any) -> dict[str, Any]:
    """A config with prime-like sizes, so that a swapped dimension cannot cancel."""
    if family == "gpt2":
        base: dict[str, Any] = {
            "n_embd": 60,
            "n_layer": 2,
            "n_head": 6,
            "vocab_size": 101,
            "n_positions": 128,
        }
    elif family == "opt":
        base = {
            "hidden_size": 60,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "ffn_dim": 77,
            "vocab_size": 101,
        }
        base |= {"max_position_embeddings": 128, "word_embed_proj_dim": 60}
    else:
        base = {"hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2}
        base |= {"intermediate_size": 77, "vocab_size": 101, "max_position_embeddings": 128}
        base |= {"pad_token_id": 0}  # the default lies beyond so small a vocabulary
    return {"model_type": family, **base, **changes}


LLAMAS = sorted(set(FAMILIES) - {"gpt2", "opt"})
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    *((family, {"tie_word_embeddings": tied}) for family in FAMILIES for tied in (False, True)),
    *((family, {"num_key_value_heads": heads}) for family in LLAMAS for heads in (1, 6)),
    *((family, {"head_dim": 22}) for family in LLAMAS),
    *((family, {"num_hidden_layers": 13}) for family in ("gemma2", "gemma3_text")),
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("qwen3", {"attention_bias": True}),
    ("gemma", {"attention_bias": True}),
    ("gemma2", {"attention_bias": True}),
    ("gemma3_text", {"attention_bias": True}),
    ("gpt2", {"n_inner": 77}),
    ("phi3", {"partial_rotary_factor": 0.5, "head_dim": 20}),
]


@pytest.mark.parametrize(
    ("family", "changes"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default"
)
def test_what_a_config_may_say_or_leave_out(family: str, changes: dict[str, Any]) -> None:
    """Also where the config is silent our defaults are those of the family's reference."""
    assert_same(small(family, **changes), "chunk")


def test_the_counter_sees_the_square_and_the_floor_the_triangle() -> None:
    """What separates the conventions is the masked half: T (T - 1) / 2 pairs per head."""
    fields = small("llama")
    model, step = ours(fields), STEPS["prefill"]
    exact = Setting(convention=convention("fused"))
    triangle = sum(row.count * row.operator.work().matrix_flops for row in operators(model, step, exact))
    tokens, attention = int(step.q_len), model.layers[0].find(AttentionBlock)
    masked = tokens * (tokens - 1) // 2
    difference = 4 * BATCH * len(model.layers) * attention.heads * attention.head_dim * masked
    assert dispatched_flops(reference(fields), model, step) - triangle == difference


def test_a_head_on_all_positions_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is sharp: without `logits_to_keep` the reference computes (T - 1) rows more."""
    fields = small("llama")
    model, network, step = ours(fields), reference(fields), STEPS["prefill"]
    forward: Callable[..., Any] = network.forward
    monkeypatch.setattr(network, "forward", lambda logits_to_keep, **kwargs: forward(**kwargs))
    more = 2 * BATCH * (int(step.q_len) - 1) * model.hidden * model.vocabulary
    assert dispatched_flops(network, model, step) - counted_flops(model, step) == more
