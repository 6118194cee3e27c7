"""Why models that transformers has are not read: asked for only where a sentence says so."""

from __future__ import annotations

_WHY = {
    "it is an encoder-decoder other than T5, Switch, BART and Whisper": (
        "bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet t5gemma2 "
        "udop florence2 pix2struct_text_model pp_formulanet vision-encoder-decoder trocr"
    ),
    "adapters between its layers attend to images or proteins": "idefics evolla",
    "its window counts generated positions, while all of the prompt stays visible": "unlimited_ocr_text",
    "its convolutions depend on the tokens, and its layers attend to sums of earlier ones": "inkling2_text",
    "its gated linear recurrence has no operator here": "recurrent_gemma",
    "its matrix memories have no operator here": "xlstm",
    "its Mamba layers multiply by matrices of each head": "zamba",
    "it works on patches of bytes, as long as the text decides": "blt",
    "it denoises blocks of positions behind a cache": "diffusion_gemma_text",
    "it writes codes of sound in several streams at once": "moshi musicgen musicgen_melody "
    "kyutai_speech_to_text",
    "it draws an action beside its decoder": "pi0",
    "its attention hashes positions into buckets": "reformer",
    "neither vLLM nor SGLang has code for it": (
        "biogpt bert-generation chameleon codegen cpmant ctrl doge electra ernie git "
        "gpt_neox_japanese jetmoe kosmos-2 kosmos-2.5 megatron-bert modernbert-decoder openai-gpt rembert "
        "roberta-prelayernorm roc_bert roformer xlm xlm-roberta-xl xlnet xmod blip_text_model"
    ),
}
WHY = {kind: why for why, kinds in _WHY.items() for kind in kinds.split()}
