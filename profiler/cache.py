"""A KV cache with its memory set aside: appending writes the new tokens and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer as views of one buffer, [batch, heads, capacity, width].

    The library's growing cache concatenates, which copies the whole cache for every token; servers
    do not do that. `rewind` makes a decode step repeatable at the same context.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.fixed = False  # an update then leaves the length as it is: every repeat finds the same cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Set the buffers aside on first use, when shape, dtype and device are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads = key_states.shape[:2]
        self.buffers = [
            torch.zeros(batch, heads, self.capacity, states.shape[-1], dtype=states.dtype, device=self.device)
            for states in (key_states, value_states)
        ]
        self.keys, self.values = (buffer[:, :, :0] for buffer in self.buffers)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states behind the cached ones and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self.length, self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        if self.fixed:
            keys, values = self.buffers
            return keys[:, :, :end], values[:, :, :end]
        self._show(end)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens cached."""
        return self.length

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; nothing is copied."""
        if self.is_initialized:
            self._show(length)

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


class MemoryLayer(PreallocatedLayer):
    """Keys and values that a decoder's layer makes of an encoder's result, once, and keeps."""


def preallocated(layers: int, capacity: int) -> Cache:
    """A cache for `layers` layers of at most `capacity` tokens."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])


def rewind(cache: Cache, length: int) -> None:
    """Set every layer of a cache back to `length` tokens."""
    for layer in cache.layers:
        layer.rewind(length)


def fix(cache: Cache) -> None:
    """Let steps add to the cache without its length growing, as compiled code and replayed graphs do."""
    for layer in cache.layers:
        layer.fixed = True
