"""Small models of round sizes in which the operator classes are measured.

In a loop of its own an operator has its code and data in the nearest cache; in a model it does not, and
framework code runs around it. So the constants of a class are fitted on operators inside these models, of
sizes that no published model has: real models test the constants and never fit them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from roofline.calibrate import Terms
from workloads.catalogue import Loaded
from workloads.config import Config
from workloads.dtypes import Precision, bytes_per_element
from workloads.families import build
from workloads.phases import Setting, parameters


@dataclass(frozen=True)
class Size:
    """The shape of a yardstick; the layers' weights together exceed the last-level cache."""

    hidden: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int
    layers: int


# Named so that the one held out of the fit (the fourth by name) is of medium size.
CPU_SIZES = {
    "yardstick-a": Size(320, 5, 5, 896, 16_000, 16),
    "yardstick-b": Size(512, 8, 2, 1408, 24_000, 8),
    "yardstick-c": Size(1024, 16, 4, 2816, 40_000, 3),
    "yardstick-d": Size(768, 8, 4, 2048, 32_000, 5),
}
GPU_SIZES = {
    "yardstick-a": Size(1024, 8, 8, 2816, 32_000, 12),
    "yardstick-b": Size(2048, 16, 4, 5888, 64_000, 6),
    "yardstick-c": Size(6144, 48, 8, 15_872, 128_000, 2),
    "yardstick-d": Size(3072, 24, 6, 9216, 96_000, 4),
}


@dataclass(frozen=True)
class Steps:
    """The steps of a yardstick: (batch, new tokens, visible tokens)."""

    prefill: tuple[tuple[int, int, int], ...]
    decode: tuple[tuple[int, int, int], ...]


CPU_STEPS = Steps(
    prefill=tuple((1, n, n) for n in (40, 160, 560)),
    decode=((1, 1, 70), (1, 1, 300), (1, 1, 900), (1, 1, 1800), (4, 1, 300)),
)
GPU_STEPS = Steps(
    prefill=tuple((b, n, n) for b, n in ((1, 96), (1, 320), (1, 1280), (1, 3000), (4, 1280))),
    decode=((1, 1, 320), (1, 1, 1800), (1, 1, 7000), (4, 1, 1800), (24, 1, 320), (24, 1, 1800), (96, 1, 320)),
)


def steps_of(device: str) -> Steps:
    """The steps of a yardstick on a kind of device."""
    return CPU_STEPS if device == "cpu" else GPU_STEPS


def yardsticks(device: str) -> Iterator[Loaded]:
    """The yardstick models of a kind of device."""
    for name, size in (CPU_SIZES if device == "cpu" else GPU_SIZES).items():
        config = {
            "model_type": "llama",
            "hidden_size": size.hidden,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "head_dim": size.hidden // size.heads,
            "intermediate_size": size.width,
            "vocab_size": size.vocabulary,
            "max_position_embeddings": 8192,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
        }
        yield Loaded(build(Config(config, name), name), config)


# Shares of a GPU's memory: the cache of a step, left out where it needs more, and all yardsticks together.
MOST_CACHE, MOST_HELD = 0.04, 0.7


def cache_fits(loaded: Loaded, dtype: str, sizes: tuple[int, int, int], memory_bytes: float) -> bool:
    """Whether a step's KV cache is small enough for a device's memory to hold about a hundred of them."""
    return _cache_bytes(loaded, dtype, sizes) <= MOST_CACHE * memory_bytes


def formats_that_fit(device: str, dtypes: Sequence[str], memory_bytes: float) -> list[str]:
    """The formats in which all yardsticks fit in memory together with those of earlier formats."""
    steps, room, found = steps_of(device), MOST_HELD * memory_bytes, []
    for dtype in dtypes:
        need = 0.0
        for loaded in yardsticks(device):
            need += parameters(loaded.model) * float(bytes_per_element(dtype))
            for sizes in (*steps.prefill, *steps.decode):
                if cache_fits(loaded, dtype, sizes, memory_bytes):
                    need += _cache_bytes(loaded, dtype, sizes)
        if need <= room:
            room -= need
            found.append(dtype)
    return found


def _cache_bytes(loaded: Loaded, dtype: str, sizes: tuple[int, int, int]) -> float:
    batch, _, kv_len = sizes
    return float(loaded.model.cache_bytes(batch, kv_len, Setting(Precision.of(dtype))))


# The terms of a class's time; the fit decides which are non-zero.
TERMS = {
    "gemm": Terms(compute=True),
    "gemv": Terms(outputs=True),
    "gemv_int8": Terms(outputs=True),  # weights narrower than the rows
    "attention_prefill": Terms(compute=True, special=True),
    "attention_decode": Terms(compute=True),
    "rmsnorm": Terms(cached=True),
    "rope": Terms(cached=True),
    "act_mul": Terms(cached=True),
    "residual": Terms(cached=True),
    "kv_append": Terms(cached=True),
    "embedding": Terms(cached=True),
    "sampling": Terms(),
}
