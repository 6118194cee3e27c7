"""Greedy decoding, plain and in rounds of drafts that the model verifies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.subject import Subject
from profiler.treatments.base import cached_logits
from workloads.techniques.decoding import expected_tokens

TOKENS = 24  # generated each time; surplus tokens of the last round are dropped

Draft = Callable[[list[Any], int], Any]  # from the tokens after the context and k to k drafts [batch, k]


class Decoder:
    """Greedy decoding of TOKENS tokens after the same context of random tokens."""

    def __init__(self, subject: Subject, context: Any, k: int) -> None:
        """`context` [batch, length] are the tokens before."""
        self.network, self.k, self.before = subject.network, k, context.shape[1]
        self.cache = preallocated(subject.cached_layers, self.before + TOKENS + k + 1)
        self.first = self.read(context, 1)

    def plain(self) -> Any:
        """One token after another: [batch, TOKENS + 1]."""
        rewind(self.cache, self.before)
        tokens = [self.first]
        while len(tokens) <= TOKENS:
            tokens.append(self.read(tokens[-1], 1))
        return row(tokens)

    def drafted(self, draft: Draft) -> tuple[Any, int]:
        """The same for one sequence in rounds, and their number."""
        tokens, rounds = [self.first], 0
        while len(tokens) <= TOKENS:
            rounds += 1
            said, kept = self.round(tokens, draft)
            tokens += [said[:, i : i + 1] for i in range(kept[0] + 1)]
        return row(tokens)[:, : TOKENS + 1], rounds

    def round(self, tokens: list[Any], draft: Draft) -> tuple[Any, list[int]]:
        """Drafts after `tokens`, verified: the model's own tokens, and the number of accepted drafts.

        The host waits for that number, which decides what runs next: the wait is part of a round.
        """
        length = self.before + len(tokens) - 1
        rewind(self.cache, length)
        drafts = draft(tokens, self.k)
        rewind(self.cache, length)
        said = self.read(row([tokens[-1], drafts]), self.k + 1)
        return said, (said[:, :-1] == drafts).long().cumprod(1).sum(1).tolist()

    def shortfall(self, tokens: Any) -> float:
        """The tokens' largest distance from the best logit, over the largest; 0 for the model's own tokens.

        Kernels for one row and for several round differently, so that equally likely tokens may be swapped.
        """
        rewind(self.cache, self.before)
        logits = cached_logits(self.network, self.cache, tokens[:, :-1], TOKENS).float()
        missing = logits.amax(-1) - logits.gather(-1, tokens[:, 1:, None])[..., 0]
        return float(missing.max() / logits.abs().max())

    def read(self, tokens: Any, scored: int) -> Any:
        """The most likely token after each of the last `scored` positions."""
        return said(self.network, self.cache, tokens, scored)


def said(network: Any, cache: Any, tokens: Any, scored: int) -> Any:
    """The most likely next tokens [batch, scored] after reading tokens [batch, new]."""
    return cached_logits(network, cache, tokens, scored).argmax(-1)


def row(tokens: list[Any]) -> Any:
    """Tokens [batch, any], concatenated."""
    import torch

    return torch.cat(tokens, dim=1)


def acceptance(tokens: float, k: int) -> float:
    """The acceptance rate at which a round of k drafts yields this many tokens on average, by bisection."""
    if tokens <= 1:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, k) < tokens else (low, middle)
    return high
