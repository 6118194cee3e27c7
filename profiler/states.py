"""Layers of a cache that keep no keys and values: a recurrent state, or nothing."""

from __future__ import annotations

from transformers.cache_utils import DummyLayer, LinearAttentionLayer


class RecurrentLayer(LinearAttentionLayer):  # type: ignore[misc]
    """The states of one layer's convolution and scan, which every step overwrites in their place."""

    def rewind(self, length: int) -> None:
        """Begin anew where `length` is zero; a later step goes on from the state that was reached."""
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), length > 0)


class NoLayer(DummyLayer):  # type: ignore[misc]
    """A layer that remembers nothing."""

    def rewind(self, length: int) -> None:
        """There is nothing to forget."""
