"""Layers of a cache that keep no keys and values: a recurrent state, or nothing."""

from __future__ import annotations

from typing import Any

from transformers import cache_utils

from profiler.cache import PreallocatedLayer

# transformers' layer without memory; in versions before that class, a state that stays empty.
_Nothing: Any = getattr(cache_utils, "DummyLayer", cache_utils.LinearAttentionLayer)
# transformers' marker of layers with both kinds of memory.
_Both: Any = getattr(cache_utils, "LinearAttentionAndFullAttentionLayer", object)


class RecurrentLayer(cache_utils.LinearAttentionLayer):  # type: ignore[misc]
    """The states of one layer's convolution and scan, overwritten in place by every step."""

    def rewind(self, length: int) -> None:
        """Reset where `length` is zero; later steps continue from the state reached."""
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), length > 0)


class HybridLayer(RecurrentLayer, PreallocatedLayer, _Both):  # type: ignore[misc]
    """The states of one layer's scan, and the keys and values of the attention beside it."""

    def __init__(self, capacity: int, states: int) -> None:
        PreallocatedLayer.__init__(self, capacity)
        cache_utils.LinearAttentionLayer.__init__(self, number_of_states=states)

    def lazy_initialization(self, *states: Any, **named: Any) -> None:
        """Keys and values are positional arguments, states keyword arguments."""
        kind = PreallocatedLayer if states else RecurrentLayer
        kind.lazy_initialization(self, *states, **named)

    def rewind(self, length: int) -> None:
        """Both."""
        PreallocatedLayer.rewind(self, length)
        RecurrentLayer.rewind(self, length)


class NoLayer(_Nothing):  # type: ignore[misc]
    """A layer without memory."""

    def rewind(self, length: int) -> None:
        """Nothing to rewind."""
