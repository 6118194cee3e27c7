"""The memory of DeepSeek-V4: a window of keys that are values, too, and entries, each of many tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4CSACache, DeepseekV4HCACache

from profiler.cache import PreallocatedLayer
from profiler.memory import Memory

NAMES = ("compressor", "indexer")  # what makes entries


class WindowLayer(PreallocatedLayer):
    """A layer that returns the keys in the window of its new queries, as transformers' sliding ones do."""

    is_sliding = True

    def __init__(self, capacity: int, window: int) -> None:
        super().__init__(capacity)
        self.sliding_window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """One buffer for both."""
        super().lazy_initialization(key_states, value_states[..., :0])
        del self.buffers[1:]
        self.values = self.keys

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The keys that a step sees, and the position of the first."""
        first = self._first(self.length)
        return self.length - first + query_length, first

    def _first(self, length: int) -> int:
        """The oldest position that a query behind `length` tokens sees."""
        return max(0, length - self.sliding_window + 1)

    def _show(self, length: int) -> None:
        first = self._first(min(self.length, length))
        self.length = length
        self.keys = self.values = self.buffers[0][:, :, first:length]


class EntriesLayer(WindowLayer):
    """A window, and entries, which transformers' code completes.

    A rewound layer keeps the rows that await the end of an entry: of steps repeated at one context as many
    complete an entry as in a generation.
    """

    store_compression_weights = DeepseekV4HCACache.store_compression_weights
    update_overlap_state = DeepseekV4CSACache.update_overlap_state

    def __init__(self, capacity: int, window: int, stride: int) -> None:
        super().__init__(capacity, window)
        self.compress_rate = stride
        self.entries: dict[str, torch.Tensor] = {}
        self._start()

    def _start(self) -> None:
        self.buffer_kv, self.buffer_gate = dict.fromkeys(NAMES), dict.fromkeys(NAMES)
        self.overlap_kv, self.overlap_gate = dict.fromkeys(NAMES), dict.fromkeys(NAMES)
        self.entry_count = dict.fromkeys(NAMES, 0)

    def update_compressor_states(self, name: str, compressed: torch.Tensor) -> torch.Tensor:
        """Append entries [batch, entries, width], and return all of them."""
        if name not in self.entries:
            most = self.capacity // self.compress_rate + 1
            self.entries[name] = compressed.new_empty(compressed.shape[0], most, compressed.shape[-1])
        begin, end = self.entry_count[name], self.entry_count[name] + compressed.shape[1]
        self.entries[name][:, begin:end] = compressed
        self.entry_count[name] = end
        return self.entries[name][:, :end]

    def rewind(self, length: int) -> None:
        """Drop all but the first `length` tokens and their entries; at zero also rows of incomplete ones."""
        super().rewind(length)
        if not length:
            self._start()
        self.entry_count = dict.fromkeys(NAMES, length // self.compress_rate)


class EntriesMemory(Memory):
    """A cache for all kinds of its layers."""

    def __init__(self, network: Any, layers: int, capacity: int) -> None:
        """Memory for `layers` layers of at most `capacity` tokens."""
        super().__init__(network, layers, capacity)
        sizes, strides = (capacity, network.config.sliding_window), network.config.compress_rates
        self._cache.layers = [
            EntriesLayer(*sizes, strides[kind]) if kind in strides else WindowLayer(*sizes)
            for kind in network.config.layer_types
        ]
