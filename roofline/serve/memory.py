"""What one engine has for the cache, and what sequences take of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specfiles.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwspecs import Device
    from workloads.schedule import Schedule

UTILISATION = 0.9  # of the memory that an engine takes for itself (vLLM's default gpu_memory_utilization)
# Engines that take this share of what weights and activations leave (free_gpu_memory_fraction).
OF_REST = ("trtllm",)


def told(engine: str) -> str:
    """What caches have of the memory, in words."""
    share, rest = f"{100 * UTILISATION:.0f} % of", "what weights and activations leave"
    taken = f"{share} {rest}" if engine in OF_REST else f"{rest} of {share} the memory"
    return f"caches take {taken}; what CUDA, NCCL and graphs hold is not counted"


@dataclass(frozen=True)
class Room:
    """Bytes for the cache, and what a sequence takes of them by its length.

    They are those of one device; where attention runs on `parts` of the batch, of one device in each.
    """

    bytes: float
    held: NDArray[np.float64]  # held[t]: bytes of a sequence of t tokens
    parts: int = 1

    @classmethod
    def of(
        cls, schedule: Schedule, device: Device, activations: float, longest: int, engine: str = ""
    ) -> Room:
        """What weights and the activations of the largest step (in bytes) leave of the device's memory.

        Raises InputError where they do not fit.
        """
        main = schedule.main
        capacity, weights = device.capacity_bytes, main.weight_bytes()
        if engine in OF_REST:
            usable, of_free, told = capacity, UTILISATION, "the memory"
        else:
            usable, of_free, told = capacity * UTILISATION, 1.0, f"{100 * UTILISATION:.0f} % of the memory"
        free = of_free * (usable - weights - activations)
        if free <= 0:
            raise InputError(
                f"{main.model.name} takes {weights / 1e9:.1f} GB of weights and {activations / 1e9:.1f} GB "
                f"of activations per device, and {told} of {device.name} is {usable / 1e9:.1f} GB; "
                "choose --tp, other --weights, a smaller --budget or another device."
            )
        kept = np.arange(longest + 1)
        if main.tokens < max(each.last for each in schedule.passes):  # a technique drops the others
            kept = np.minimum(kept, main.tokens)
        each = main.model.cache_bytes(1, kept, main.setting)
        held = np.asarray(each, float) * main.cache_here * main.cache_factor
        parts = main.setting.replicas
        return cls(float(free * parts), np.broadcast_to(held, longest + 1), parts)

    def check(self, prompt: NDArray[Any], output: NDArray[Any]) -> None:
        """Refuse requests that would not fit even alone."""
        whole = self.held[prompt + output]
        row = int(whole.argmax())
        free = self.bytes / self.parts
        if whole[row] > free:
            raise InputError(
                f"a request of {prompt[row]} + {output[row]} tokens needs {whole[row] / 1e9:.1f} GB of "
                f"cache, and {free / 1e9:.1f} GB are free; choose --tp, --kv or shorter requests."
            )
