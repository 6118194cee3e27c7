"""Encoders, encoder-decoders and vision towers against transformers: no tolerance in any product.

Dense ones run on the meta device, those whose control flow depends on data small and on the CPU. Attention is
the full rectangle, as two batched products; of sparse attention the blocks that the reference multiplies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.workloads.products import Products, counted, ours, products
from workloads.architectures import VisionLanguage
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.families import build
from workloads.families.encoders import ROBERTAS
from workloads.model import Model
from workloads.phases import Step, parameters, prefill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, TOKENS = 2, 48
BERT = {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 77,
    "vocab_size": 101,
    "pad_token_id": 0,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    **dict.fromkeys(ROBERTAS, BERT),
    "distilbert": {"dim": 60, "n_layers": 2, "n_heads": 6, "hidden_dim": 77, "vocab_size": 101},
}
SPARSE: dict[str, dict[str, Any]] = {
    "longformer": {**BERT, "attention_window": [8, 8]},
    "big_bird": {**BERT, "attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 2},
}
T5 = {
    "d_model": 60,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 6,
    "d_kv": 14,
    "d_ff": 77,
    "vocab_size": 101,
}
SWITCH = {**T5, "num_decoder_layers": 4, "num_experts": 5}
BART = {
    "d_model": 60,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 77,
    "decoder_ffn_dim": 78,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
WHISPER = {
    **BART,
    "num_mel_bins": 7,
    "max_source_positions": 48,
    "max_target_positions": 64,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
    "begin_suppress_tokens": None,
}
SEQ2SEQ: list[tuple[str, dict[str, Any]]] = [
    ("t5", {**T5, "feed_forward_proj": "relu"}),
    ("t5", {**T5, "feed_forward_proj": "gated-gelu"}),
    ("bart", BART),
    ("whisper", WHISPER),
    ("switch_transformers", {**SWITCH, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 2}),
    # Of five layers the second and the fourth.
    ("switch_transformers", {**SWITCH, "num_layers": 5, "num_sparse_encoder_layers": 2}),
]
COMPARED = {*ENCODERS, *SPARSE, *(family for family, _ in SEQ2SEQ)}


def reference(kind: Any, family: str, fields: dict[str, Any], device: str = "cpu", **how: Any) -> Any:
    config = transformers.AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    if "attn_implementation" not in how and device == "cpu" and family != "big_bird":
        how["attn_implementation"] = "eager"  # two batched products, where SDPA would be one kernel
    with torch.device(device):
        return kind.from_config(config, **how).eval()


def tokens(length: int, device: str = "cpu") -> Any:
    return torch.arange(BATCH * length, device=device).view(BATCH, length) % 90 + 5


def assert_parameters(network: Any, model: Model) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters(model)


@pytest.mark.parametrize("family", list(ENCODERS))
def test_an_encoder(family: str) -> None:
    fields = ENCODERS[family]
    network, model = reference(transformers.AutoModel, family, fields, "meta"), ours(family, fields)
    assert_parameters(network, model)
    assert products(network, input_ids=tokens(TOKENS, "meta")) == counted(model, prefill(BATCH, TOKENS))


def test_bigbird_multiplies_the_blocks_that_we_count() -> None:
    """Two global blocks, a band of three and two random ones: 48 positions in blocks of 4 are sparse."""
    fields = SPARSE["big_bird"]
    network, model = reference(transformers.AutoModel, "big_bird", fields), ours("big_bird", fields)
    assert_parameters(network, model)
    assert products(network, input_ids=tokens(TOKENS)) == counted(model, prefill(BATCH, TOKENS))


def test_longformer_multiplies_what_we_count_in_chunks() -> None:
    """Its weights exactly; its band in overlapping chunks of two windows, half of which it masks.

    Scores: squares of 2 w, one more than each pair of neighbours; values: w rows by 3 w columns in each chunk
    of w. Global: every query with the first key, its value for all, and the first query with all keys and
    values.
    """
    fields = SPARSE["longformer"]
    network, model = reference(transformers.AutoModel, "longformer", fields), ours("longformer", fields)
    assert_parameters(network, model)
    first = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    first[:, 0] = 1
    seen = products(network, input_ids=tokens(TOKENS), global_attention_mask=first)
    expected = counted(model, prefill(BATCH, TOKENS))
    assert seen.weights == expected.weights
    w, chunks = 4, TOKENS // 4
    pairs = (chunks - 1) * (2 * w) ** 2 + chunks * w * 3 * w + 4 * TOKENS
    assert seen.activations == 2 * model.hidden * BATCH * 2 * pairs
    assert expected.activations < seen.activations  # the band alone, without what is masked


@pytest.mark.parametrize("name", ["Longformer-base-4096", "BigBird-RoBERTa-base"])
def test_parameters_of_sparse_encoders(name: str) -> None:
    loaded = load_model(name)
    fields = {key: value for key, value in loaded.config.items() if key != "model_type"}
    network = reference(transformers.AutoModel, loaded.config["model_type"], fields, "meta")
    assert_parameters(network, loaded.model)


def seq2seq(family: str, fields: dict[str, Any]) -> tuple[Any, Model]:
    kind = "SpeechSeq2Seq" if family == "whisper" else "Seq2SeqLM"
    return reference(getattr(transformers, f"AutoModelFor{kind}"), family, fields), ours(family, fields)


@pytest.mark.parametrize(("family", "fields"), SEQ2SEQ, ids=lambda v: v if isinstance(v, str) else "")
def test_prefill_of_an_encoder_decoder(family: str, fields: dict[str, Any]) -> None:
    """The encoder, the cross attention's keys and values, the decoder's first position."""
    network, model = seq2seq(family, fields)
    assert_parameters(network, model)
    prompt = tokens(TOKENS) if family != "whisper" else torch.zeros(BATCH, 7, 2 * TOKENS)
    inputs = {network.main_input_name: prompt, "decoder_input_ids": tokens(1), "use_cache": False}
    assert products(network, **inputs) == counted(model, prefill(BATCH, TOKENS))


@pytest.mark.parametrize(("family", "fields"), SEQ2SEQ, ids=lambda v: v if isinstance(v, str) else "")
def test_decode_of_an_encoder_decoder_reads_the_memory(family: str, fields: dict[str, Any]) -> None:
    """The decoder's fourth position: its own cache holds three, cross attention the whole prompt."""
    from transformers.modeling_outputs import MoEModelOutput

    network, model = seq2seq(family, fields)
    memory = MoEModelOutput(last_hidden_state=torch.zeros(BATCH, TOKENS, 60))
    given = {"encoder_outputs": memory, "use_cache": True}
    with torch.no_grad():
        past = network(decoder_input_ids=tokens(3), **given).past_key_values
    seen = products(network, decoder_input_ids=tokens(1), past_key_values=past, **given)
    assert seen == counted(model, Step(BATCH, 1, TOKENS + 3, memory=TOKENS))


def test_a_decoder_behind_a_vision_tower() -> None:
    """Tower, merger and decoder on one image of 64 patches that become 16 tokens of each prompt."""
    text = {
        "model_type": "qwen3_5_text",
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
    }
    tower = {
        "hidden_size": 48,
        "num_heads": 4,
        "depth": 3,
        "intermediate_size": 66,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 60,
        "num_position_embeddings": 64,
    }
    ids = {"image_token_id": 7, "vision_start_token_id": 2, "vision_end_token_id": 3, "video_token_id": 4}
    fields = {"text_config": text, "vision_config": tower, **ids}
    kind = transformers.AutoModelForImageTextToText
    network = reference(kind, "qwen3_5", fields, attn_implementation="eager")
    model = ours("qwen3_5", fields)
    assert isinstance(model, VisionLanguage)
    assert model.image_tokens == 16
    assert_parameters(network, model)
    prompt = prompt_with_images()
    seen = products(
        network,
        input_ids=prompt,
        pixel_values=torch.zeros(BATCH * 64, 3 * 2 * 4 * 4),
        image_grid_thw=torch.tensor([[1, 8, 8]] * BATCH),
        mm_token_type_ids=(prompt == 7).long(),
        logits_to_keep=1,
        use_cache=False,
    )
    expected = counted(model, replace(prefill(BATCH, TOKENS), images=1))
    assert (seen.weights, seen.activations) == (expected.weights, expected.activations)


IMAGE = 8  # patches on a side: 64 become 16 tokens


def test_llama_4_behind_its_tower() -> None:
    """A class token beside the patches, pixels shuffled into channels, three matrices behind the layers."""
    text = {
        "model_type": "llama4_text",
        "hidden_size": 60,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "intermediate_size": 77,
        "intermediate_size_mlp": 81,
        "num_local_experts": 1,
        "vocab_size": 101,
        "pad_token_id": 0,
    }
    tower = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 192,
        "image_size": 4 * IMAGE,
        "patch_size": 4,
        "projector_input_dim": 58,
        "projector_output_dim": 58,
        "vision_output_dim": 58,
    }
    fields = {"text_config": text, "vision_config": tower, "image_token_index": 7}
    network = reference(transformers.AutoModelForImageTextToText, "llama4", fields)
    model = ours("llama4", fields)
    assert isinstance(model, VisionLanguage)
    assert model.image_tokens == 16
    assert_parameters(network, model)
    seen = products(
        network,
        input_ids=prompt_with_images(),
        pixel_values=torch.zeros(BATCH, 3, 4 * IMAGE, 4 * IMAGE),
        logits_to_keep=1,
        use_cache=False,
    )
    assert seen == counted(model, replace(prefill(BATCH, TOKENS), images=1))


def test_kimi_behind_its_tower() -> None:
    """MoonViT: two norms of every patch, then an MLP over 2 x 2 of them; the decoder is DeepSeek-V3's."""
    text = {
        "model_type": "deepseek_v3",
        "hidden_size": 60,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "intermediate_size": 77,
        "vocab_size": 101,
        "q_lora_rank": 21,
        "kv_lora_rank": 23,
        "qk_nope_head_dim": 14,
        "qk_rope_head_dim": 10,
        "v_head_dim": 13,
        "moe_intermediate_size": 35,
        "n_routed_experts": 8,
        "tie_word_embeddings": False,
    }
    tower = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 66,
        "patch_size": 4,
        "pos_emb_height": IMAGE,
        "pos_emb_width": IMAGE,
    }
    fields = {
        "text_config": text,
        "vision_config": tower,
        "projection_hidden_size": 48,
        "image_token_id": 7,
        "tie_word_embeddings": False,
    }
    network = reference(transformers.AutoModelForImageTextToText, "kimi_k25", fields)
    model = ours("kimi_k25", fields)
    assert isinstance(model, VisionLanguage)
    assert_parameters(network, model)
    seen = products(
        network,
        input_ids=prompt_with_images(),
        pixel_values=torch.zeros(BATCH * IMAGE**2, 3, 4, 4),
        image_grid_thw=torch.tensor([[1, IMAGE, IMAGE]] * BATCH),
        logits_to_keep=1,
        use_cache=False,
    )
    assert seen == counted(model, replace(prefill(BATCH, TOKENS), images=1))


def prompt_with_images() -> Any:
    """Prompts whose first 16 tokens are those of one image."""
    prompt = tokens(TOKENS)
    prompt[prompt == 7] = 8
    prompt[:, :16] = 7
    return prompt


def test_parameters_of_a_shipped_vision_tower() -> None:
    """All parameters of the multimodal reference, and the tower's alone."""
    loaded = load_model("Qwen3.5-27B")
    fields = {name: value for name, value in loaded.config.items() if name != "model_type"}
    network = reference(transformers.AutoModelForImageTextToText, "qwen3_5", fields, "meta")
    assert_parameters(network, loaded.model)
    tower = sum(p.numel() for p in network.model.visual.parameters())
    decoder = build(Config(loaded.config["text_config"], "text"), "text")
    assert parameters(loaded.model) - parameters(decoder) == tower


def test_llada_is_a_llama_without_a_mask() -> None:
    """Parameters and products of the Llama of its sizes, which transformers has."""
    fields = load_model("LLaDA-8B").config
    sizes = {
        "hidden_size": fields["d_model"],
        "intermediate_size": fields["mlp_hidden_size"],
        "num_attention_heads": fields["n_heads"],
        "num_hidden_layers": 2,
        "vocab_size": fields["embedding_size"],
        "tie_word_embeddings": False,
    }
    network = reference(transformers.AutoModelForCausalLM, "llama", sizes, "meta")
    model = build(Config({**fields, "n_layers": 2}, "test"), "test")
    assert_parameters(network, model)
    whole = Step(BATCH, TOKENS, TOKENS, scored=TOKENS)
    seen = products(network, input_ids=tokens(TOKENS, "meta"))
    assert seen == counted(model, whole) != Products()
