"""The memory of MiniMax-01, whose code asks for a cache of its own: keys and values, and decaying sums."""

from __future__ import annotations

from typing import Any

from transformers.models.minimax.modeling_minimax import MiniMaxCache

from profiler.memory import Memory


class LightningCache(MiniMaxCache):  # type: ignore[misc]
    """Preallocated keys and values of layers that attend; the network replaces the sums of the others."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.layers, self.layer_class_to_replicate = layers, None
        self.forget()

    def forget(self) -> None:
        """Go back to the start."""
        self.linear_cache = [None] * len(self.layers)


class LightningMemory(Memory):
    """A cache for both kinds of layers."""

    def __init__(self, network: Any, layers: int, capacity: int) -> None:
        """Memory for `layers` layers of at most `capacity` tokens."""
        super().__init__(network, layers, capacity)
        self._cache = LightningCache(self._cache.layers)

    def rewind(self, length: int) -> None:
        """Go back to `length` tokens; sums can only be reset to their start."""
        super().rewind(length)
        if not length:
            self._cache.forget()
