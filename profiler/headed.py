"""A decoder that transformers has without its output projection, as those of vision-language models."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutput

# The argument that takes a vector which all layers read: of the stream's delay, which the tower's code makes.
CONDITIONS = {"voxtral_realtime_text": "t_cond"}


class Headed(torch.nn.Module):  # type: ignore[misc]
    """transformers' decoder under `model`, and the projection to the vocabulary under `lm_head`."""

    def __init__(self, decoder: Any, *, tied: bool) -> None:
        super().__init__()
        config = decoder.config
        self.model, self.config = decoder, config
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=decoder.dtype)
        self._condition = CONDITIONS.get(config.model_type, "")
        if self._condition:
            self.register_buffer("vector", torch.ones(1, config.hidden_size, dtype=decoder.dtype))
        if tied:
            self.lm_head.weight = decoder.get_input_embeddings().weight

    @property
    def base_model(self) -> Any:
        """The decoder, by transformers' name."""
        return self.model

    @property
    def dtype(self) -> torch.dtype:
        """The format of its weights."""
        return self.model.dtype

    def set_attn_implementation(self, name: str) -> None:
        """Select the implementation of attention."""
        self.model.set_attn_implementation(name)

    def forward(self, tokens: torch.Tensor, *, logits_to_keep: int = 0, **options: Any) -> Any:
        """The logits of the last positions, or of all."""
        if self._condition:
            options[self._condition] = self.vector
        hidden = self.model(tokens, **options).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden[:, -logits_to_keep:]))
