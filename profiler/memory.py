"""A network's memory between steps: keys and values, or recurrent states, by the kind of layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.forward import Point
    from workloads.model import Model

WORDS = dict.fromkeys(("mamba", "falcon_mamba", "mamba2"), "cache_params")  # argument that takes the cache
# Kinds of layers, by transformers' names.
RECURRENT, WITHOUT, HYBRID = (
    ("linear_attention", "mamba", "conv"),
    ("mlp", "moe"),
    ("hybrid", "hybrid_sliding"),
)


class Memory:
    """A cache for a network's kinds of layers."""

    def __init__(self, network: Any, layers: int, capacity: int) -> None:
        """Memory for `layers` layers of at most `capacity` tokens."""
        from transformers.cache_utils import Cache

        kinds = getattr(network.config, "layer_types", None) or [""] * layers
        self._word = WORDS.get(network.config.model_type, "past_key_values")
        states = getattr(network.config, "number_of_conv_states", 1)
        self._cache = Cache(layers=[_layer(kind, capacity, states) for kind in kinds])

    def told(self) -> dict[str, Any]:
        """What the network is called with."""
        return {self._word: self._cache, "use_cache": True}

    def keep(self, output: Any) -> None:
        """Nothing to keep: the network updates the cache in place."""

    def rewind(self, length: int) -> None:
        """Go back to `length` tokens; a recurrent state can only be reset to its start."""
        for layer in self._cache.layers:
            layer.rewind(length)


class TwoMemories:
    """The decoder's own keys and values, and those computed once from the encoder's result."""

    def __init__(self, layers: int, capacity: int, encoded: int) -> None:
        """Memory for `layers` layers of at most `capacity` positions, and `encoded` of the encoder."""
        from transformers.cache_utils import Cache, EncoderDecoderCache

        from profiler.cache import MemoryLayer, preallocated

        memory = Cache(layers=[MemoryLayer(encoded) for _ in range(layers)])
        self._cache = EncoderDecoderCache(preallocated(layers, capacity), memory)

    def told(self) -> dict[str, Any]:
        """What the network is called with."""
        return {"past_key_values": self._cache, "use_cache": True}

    def rewind(self, length: int) -> None:
        """Go back to `length` positions of the decoder; at zero also drop the encoder's."""
        from profiler.cache import rewind

        rewind(self._cache.self_attention_cache, length)
        if not length:
            rewind(self._cache.cross_attention_cache, 0)
            self.forget()

    def forget(self) -> None:
        """Let the next call compute the encoder's keys and values anew."""
        for layer in self._cache.is_updated:
            self._cache.is_updated[layer] = False

    def fix(self) -> None:
        """Keep the lengths constant, as compiled code requires."""
        from profiler.cache import fix

        fix(self._cache.self_attention_cache)
        fix(self._cache.cross_attention_cache)


class RwkvMemory:
    """The state tensors of RWKV-4, which the network creates at a prompt's start and updates in place."""

    def __init__(self) -> None:
        self._state: Any = None

    def told(self) -> dict[str, Any]:
        """What the network is called with."""
        return {"state": self._state, "use_cache": True}

    def keep(self, output: Any) -> None:
        """Keep the state that a call created."""
        self._state = output.state

    def rewind(self, length: int) -> None:
        """Reset where `length` is zero."""
        if not length:
            self._state = None


def check_batches(model: Model, points: Iterable[Point]) -> None:
    """InputError where transformers would not compute the model's step.

    Its RWKV-4 adds the last rows, [batch, width], to [batch, 1, width], which broadcasts every sequence's row
    to all others: the work of a decode step grows with the square of the batch.
    """
    if model.family == "rwkv" and any(point.q_len == 1 and point.batch > 1 for point in points):
        raise InputError(
            f"{model.name} decodes one sequence: transformers mixes those of a batch; take --batch 1."
        )


def memory_of(network: Any, layers: int, capacity: int) -> Memory | RwkvMemory:
    """An empty memory for a network; InputError where transformers cannot keep states of its layers."""
    kind = network.config.model_type
    if kind == "minimax":
        from profiler.lightning import LightningMemory

        return LightningMemory(network, layers, capacity)
    if kind == "deepseek_v4":
        from profiler.entries import EntriesMemory

        return EntriesMemory(network, layers, capacity)
    return RwkvMemory() if kind == "rwkv" else Memory(network, layers, capacity)


def _layer(kind: str, capacity: int, states: int) -> Any:
    if kind not in (*RECURRENT, *WITHOUT, *HYBRID):
        from profiler.cache import PreallocatedLayer

        return PreallocatedLayer(capacity)
    try:
        from profiler.states import HybridLayer, NoLayer, RecurrentLayer
    except (ImportError, AttributeError):
        raise InputError(
            "this version of transformers has no cache for recurrent layers; pip install -U transformers."
        ) from None
    if kind in HYBRID:
        return HybridLayer(capacity, states)
    return RecurrentLayer() if kind in RECURRENT else NoLayer()
