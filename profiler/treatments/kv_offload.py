"""Keys and values in host memory, streamed in layer by layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers.cache_utils import Cache, DynamicLayer

from profiler.cache import preallocated, rewind
from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, cached_logits, with_found
from profiler.treatments.prefetch import Prefetch, lanes, place, places, spread
from specfiles.errors import InputError


class KvOffload(Treatment):
    """Caches of some layers in page-locked host memory, read for each step; new entries are written back."""

    name = "kv-offloading"
    phases = ("decode",)
    exact = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """On a CPU, and from a disk."""
        if not device.startswith("cuda"):
            return "a CPU computes in the host's memory, so that nothing would be moved; it needs CUDA"
        return "the cache comes from the host's memory here; leave disk out" if technique.disk else None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step with the same keys and values."""
        before = point.kv_len - 1
        here = preallocated(subject.cached_layers, point.kv_len)
        network, token = subject.network, subject.tokens(point.batch, 1)
        cached_logits(network, here, subject.tokens(point.batch, before))
        chosen = spread(subject.cached_layers, technique.share)
        prefetch, streamed = _streamed([here.layers[index] for index in chosen], before, subject.device)
        mixed = list(here.layers)
        for index, layer in zip(chosen, streamed, strict=True):
            mixed[index] = layer
        away = Cache(layers=mixed)

        def run(cache: Any) -> Any:
            rewind(cache, before)
            return cached_logits(network, cache, token)

        def treated() -> Any:
            found = run(away)
            prefetch.finish()
            return found

        found = with_found(technique, share=len(chosen) / subject.cached_layers)
        return Pair(partial(run, here), treated, found)


class StreamedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's cache in host memory [positions, 2, batch, heads, width], and its view of a buffer.

    Positions come first: the filled ones are contiguous and moved by one copy.
    """

    def __init__(self, index: int, host: Any, slot: Any, prefetch: Prefetch) -> None:
        super().__init__()
        self.index, self.host, self.slot, self.prefetch = index, host, slot, prefetch
        self.length = 0
        self.dtype, self.device = slot.dtype, slot.device
        self.is_initialized = True

    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append the new entries to those of the host, and write them back."""
        self.prefetch.enter(self.index)
        begin, end = self.length, self.length + keys.shape[-2]
        for which, states in enumerate((keys, values)):
            self.slot[begin:end, which] = states.permute(2, 0, 1, 3)
        self.prefetch.write_back(self.host[begin:end], self.slot[begin:end])
        self.length = end
        self.keys, self.values = (self.slot[:end, which].permute(1, 2, 0, 3) for which in range(2))
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens cached."""
        return self.length

    def rewind(self, length: int) -> None:
        """Drop all but the first `length` tokens, without copying."""
        self.length = length


def _streamed(filled: list[Any], before: int, device: str) -> tuple[Prefetch, list[StreamedLayer]]:
    """Copies of filled caches in host memory, of which each step fetches `before` positions."""
    import torch

    batch, heads, _, width = filled[0].keys.shape
    size, dtype = (before + 1, 2, batch, heads, width), filled[0].keys.dtype
    if any(layer.keys.shape != filled[0].keys.shape for layer in filled):
        raise InputError("the layers cache keys of different shapes, which share no buffer here.")
    buffers = [torch.empty(size, dtype=dtype, device=device) for _ in range(places(len(filled)))]
    hosts = [torch.zeros(size, dtype=dtype, pin_memory=device.startswith("cuda")) for _ in filled]
    slots = [buffers[place(index, len(filled))] for index in range(len(filled))]
    for host, layer in zip(hosts, filled, strict=True):
        for which, states in enumerate((layer.keys, layer.values)):
            host[:before, which].copy_(states[:, :, :before].permute(2, 0, 1, 3))
    prefetch = Prefetch([h[:before] for h in hosts], [s[:before] for s in slots], lanes(device))
    return prefetch, [
        StreamedLayer(index, *both, prefetch) for index, both in enumerate(zip(hosts, slots, strict=True))
    ]
