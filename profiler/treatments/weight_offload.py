"""Weights in host memory, streamed in layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from profiler.forward import Point, step
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, layers, logits, swapped, with_found
from profiler.treatments.prefetch import Prefetch, lanes, place, places, spread

ALIGNED_BYTES = 256  # of each matrix in a buffer, as in PyTorch's allocator


class WeightOffload(Treatment):
    """Matrices of some layers in page-locked host memory; while a layer computes, the next one is fetched."""

    name = "weight-offloading"
    exact = True

    def refuse(self, technique: Any, device: str, dtype: str) -> str | None:
        """On a CPU, from a disk, and on several devices."""
        if not device.startswith("cuda"):
            return "a CPU computes in the host's memory, so that nothing would be moved; it needs CUDA"
        if technique.disk or technique.devices > 1:
            return "weights come from the host's memory to one device here; leave disk and devices out"
        return None

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """The same step; the chosen layers' matrices are views of the buffers that copies fill."""
        parent, name = layers(subject)
        every = list(getattr(parent, name))
        chosen = [every[index] for index in spread(len(every), technique.share)]
        prefetch, matrices = _streamed(chosen, subject.device)
        run = step(subject, point, point.kv_len)

        def treated() -> Any:
            found = run(logits)
            prefetch.finish()
            return found

        around = partial(_in_place, chosen, matrices, prefetch)
        found = with_found(technique, share=len(chosen) / len(every))
        return Pair(partial(run, logits), treated, found, around_treated=around)


Places = list[tuple[Any, str, Any]]


def _streamed(chosen: list[Any], device: str) -> tuple[Prefetch, Places]:
    """Copies of the layers' matrices in host memory, and the places of their views of the buffers."""
    import torch

    first = next(weight for *_, weight in _matrices(chosen[0]))
    owned = [[found for found in _matrices(layer) if found[2].dtype == first.dtype] for layer in chosen]
    aligned = ALIGNED_BYTES // first.element_size()
    sizes = [sum(-(-weight.numel() // aligned) * aligned for *_, weight in parts) for parts in owned]
    buffers = [torch.empty(max(sizes), dtype=first.dtype, device=device) for _ in range(places(len(chosen)))]
    sources, slots, found = [], [], []
    for index, (parts, size) in enumerate(zip(owned, sizes, strict=True)):
        source = torch.zeros(size, dtype=first.dtype, pin_memory=device.startswith("cuda"))
        slot, at = buffers[place(index, len(chosen))][:size], 0
        for module, name, weight in parts:
            source[at : at + weight.numel()].copy_(weight.detach().flatten())
            view = slot[at : at + weight.numel()].view(weight.shape)
            found.append((module, name, torch.nn.Parameter(view, requires_grad=False)))
            at += -(-weight.numel() // aligned) * aligned
        sources.append(source)
        slots.append(slot)
    return Prefetch(sources, slots, lanes(device)), found


def _matrices(layer: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every matrix of a layer with its module and name; norms and biases stay on the device."""
    for module in layer.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim > 1:
                yield module, name, weight


@contextmanager
def _in_place(chosen: list[Any], matrices: Places, prefetch: Prefetch) -> Iterator[None]:
    """Let the layers use the buffers, and fetch them when they begin."""
    hooks = [
        layer.register_forward_pre_hook(lambda *_, index=index: prefetch.enter(index))
        for index, layer in enumerate(chosen)
    ]
    try:
        with swapped(matrices):
            yield
    finally:
        for hook in hooks:
            hook.remove()
