"""The preallocated cache computes what the library's growing one does, and can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from profiler.forward import Point, greedy, step
from profiler.subject import Subject

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

FAMILIES = [
    "llama",
    "mistral",
    "qwen3",
    "gemma3_text",
    "gpt2",
    "opt",
    "deepseek_v32",
    "glm_moe_dsa",
    "mistral_large4_text",
]
PROMPT, STEPS = 9, 4


def fed(subject: Subject, cache: Any, tokens: Any) -> list[Any]:
    """Logits of a prefill and of decode steps, one token each."""
    pieces = [tokens[:, :PROMPT], *tokens[:, PROMPT:].split(1, dim=1)]
    with torch.inference_mode():
        return [subject.network(piece, past_key_values=cache, use_cache=True).logits for piece in pieces]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_growing_cache(family: str, subject: Callable[..., Subject]) -> None:
    """Also where some layers see a window of 8 tokens, fewer than the prompt has."""
    from transformers import DynamicCache

    from profiler.cache import preallocated

    model = subject(family)
    tokens = model.tokens(2, PROMPT + STEPS)
    growing = fed(model, DynamicCache(config=model.network.config), tokens)
    ours = fed(model, preallocated(model.layers, PROMPT + STEPS + 3), tokens)
    for expected, found in zip(growing, ours, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(growing[-1], growing[-2][:, -1:])  # the steps do differ


def test_a_window_and_entries_are_those_of_the_growing_cache(subject: Callable[..., Subject]) -> None:
    """Of DeepSeek-V4, whose tokens fill a window of 8, three entries of 4 positions and one of 8."""
    from transformers import DynamicCache

    from profiler.memory import memory_of

    model = subject("deepseek_v4")
    tokens = model.tokens(2, PROMPT + STEPS)
    growing = fed(model, DynamicCache(config=model.network.config), tokens)
    ours = fed(model, memory_of(model.network, model.layers, 32).told()["past_key_values"], tokens)
    for expected, found in zip(growing, ours, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_logits_are_those_without_a_cache(subject: Callable[..., Subject]) -> None:
    from profiler.cache import preallocated

    model = subject()
    tokens = model.tokens(2, PROMPT + STEPS)
    with torch.inference_mode():
        whole = model.network(tokens).logits
    last = fed(model, preallocated(model.layers, PROMPT + STEPS), tokens)[-1]
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-5, atol=1e-6)


def test_rewinding_makes_a_step_repeatable(subject: Callable[..., Subject]) -> None:
    from profiler.cache import preallocated, rewind

    model = subject()
    tokens = model.tokens(1, PROMPT + 2)
    cache = preallocated(model.layers, 32)
    with torch.inference_mode():
        model.network(tokens[:, :PROMPT], past_key_values=cache)
        steps = []
        for token in (
            tokens[:, PROMPT : PROMPT + 1],
            tokens[:, PROMPT + 1 :],
            tokens[:, PROMPT : PROMPT + 1],
        ):
            rewind(cache, PROMPT)
            assert cache.get_seq_length() == PROMPT
            steps.append(model.network(token, past_key_values=cache).logits)
            assert cache.get_seq_length() == PROMPT + 1
    assert torch.equal(steps[0], steps[2])
    assert not torch.equal(steps[0], steps[1])


def test_appending_moves_nothing(subject: Callable[..., Subject]) -> None:
    """Keys and values stay where they are: each step sees a longer view of the same buffer."""
    from profiler.cache import preallocated

    model = subject()
    cache = preallocated(model.layers, 16)
    tokens = model.tokens(1, PROMPT)
    places, lengths = set(), []
    with torch.inference_mode():
        for piece in tokens.split(1, dim=1):
            model.network(piece, past_key_values=cache)
            places.add((cache.layers[0].keys.data_ptr(), cache.layers[0].values.data_ptr()))
            lengths.append(cache.layers[0].keys.shape[-2])
    assert len(places) == 1
    assert lengths == list(range(1, PROMPT + 1))


def test_rewinding_an_unused_cache_does_nothing() -> None:
    from profiler.cache import preallocated, rewind

    cache = preallocated(2, 8)
    rewind(cache, 0)
    assert cache.get_seq_length() == 0


def test_a_token_beyond_the_capacity_is_an_error_not_a_loss(subject: Callable[..., Subject]) -> None:
    from profiler.cache import preallocated

    model = subject()
    with pytest.raises(RuntimeError), torch.inference_mode():
        model.network(model.tokens(1, 9), past_key_values=preallocated(model.layers, 8))


@pytest.mark.parametrize(
    "point", [Point("prefill", 2, 12, 12), Point("decode", 2, 1, 13)], ids=lambda p: p.phase
)
def test_a_step_gives_the_same_token_each_time(point: Point, subject: Callable[..., Subject]) -> None:
    with torch.inference_mode():
        run = step(subject(), point, 16)
        first, second = run(greedy), run(greedy)
    assert first.shape == (2,)
    assert torch.equal(first, second)
