"""A preallocated KV cache: appending writes only the new tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer as views of one buffer, [batch, heads, capacity, width].

    transformers' dynamic cache concatenates, which copies the whole cache for every token, unlike servers.
    `rewind` makes a decode step repeatable at the same context.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.indexed: torch.Tensor | None = None  # what an indexer of sparse attention keeps
        self.indexed_length = 0  # its tokens, also where the layer borrows keys and values
        self.fixed = False  # if true, an update keeps the length: every repeat finds the same cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers on first use, when shape, dtype and device are known."""
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
        """Append the new states and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self.length, self.length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=False):
            buffer[:, :, begin:end] = states  # one buffer where keys are values
        if self.fixed:
            keys, values = self.buffers
            return keys[:, :, :end], values[:, :, :end]
        self._show(end)
        return self.keys, self.values

    def update_indexer(self, key_states: torch.Tensor) -> torch.Tensor:
        """Keep an indexer's keys [batch, tokens, width] of the states appended last; return all of them."""
        new = key_states.shape[-2]
        if self.indexed is None:
            self.indexed = key_states.new_zeros(*key_states.shape[:-2], self.capacity, key_states.shape[-1])
        begin = self.indexed_length
        if not self.fixed:
            self.indexed_length = begin + new
        self.indexed[..., begin : begin + new, :] = key_states
        return self.indexed[..., : begin + new, :]

    def update_index(self, key_states: torch.Tensor) -> torch.Tensor:
        """The same for MiniMax-M3's keys [batch, 1, tokens, width]."""
        return self.update_indexer(key_states)

    def get_seq_length(self) -> int:
        """Tokens cached."""
        return self.length

    def rewind(self, length: int) -> None:
        """Drop all but the first `length` tokens, without copying."""
        self.indexed_length = length
        if self.is_initialized:
            self._show(length)

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


class MemoryLayer(PreallocatedLayer):
    """Keys and values of an encoder's result, computed once by a decoder's layer."""


def preallocated(layers: int, capacity: int) -> Cache:
    """A cache of `layers` layers for at most `capacity` tokens."""
    return Cache(layers=[PreallocatedLayer(capacity) for _ in range(layers)])


def rewind(cache: Cache, length: int) -> None:
    """Set every layer of a cache back to `length` tokens."""
    for layer in cache.layers:
        layer.rewind(length)


def fix(cache: Cache) -> None:
    """Keep the length constant when steps append, as compiled code and replayed graphs require."""
    for layer in cache.layers:
        layer.fixed = True
