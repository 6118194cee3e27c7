"""Greedy decoding one token after another, and in rounds of drafts that the model verifies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.subject import Subject
from workloads.techniques.decoding import expected_tokens

TOKENS = 24  # generated each time: rounds are whole, and the last one counts as far as it goes

Draft = Callable[[list[Any], int], Any]  # of the tokens after the context, so many drafts [batch, k]


class Decoder:
    """Greedy decoding of TOKENS tokens behind the same context of random tokens."""

    def __init__(self, subject: Subject, context: Any, k: int) -> None:
        """`context` [batch, length]: the tokens that are read before."""
        self.network, self.k, self.before = subject.network, k, context.shape[1]
        self.cache = preallocated(subject.layers, self.before + TOKENS + k + 1)
        self.first = self.read(context, 1)

    def plain(self) -> Any:
        """One token after another: [batch, TOKENS + 1]."""
        rewind(self.cache, self.before)
        tokens = [self.first]
        while len(tokens) <= TOKENS:
            tokens.append(self.read(tokens[-1], 1))
        return row(tokens)

    def drafted(self, draft: Draft) -> tuple[Any, int]:
        """The same of one sequence in rounds, and how many there were."""
        tokens, rounds = [self.first], 0
        while len(tokens) <= TOKENS:
            rounds += 1
            said, kept = self.round(tokens, draft)
            tokens += [said[:, i : i + 1] for i in range(kept[0] + 1)]
        return row(tokens)[:, : TOKENS + 1], rounds

    def round(self, tokens: list[Any], draft: Draft) -> tuple[Any, list[int]]:
        """Drafts behind `tokens` and their verification: what the model says, and how many drafts it keeps.

        The host learns how many, because it decides what is run next: that wait is a part of a round.
        """
        length = self.before + len(tokens) - 1
        rewind(self.cache, length)
        drafts = draft(tokens, self.k)
        rewind(self.cache, length)
        said = self.read(row([tokens[-1], drafts]), self.k + 1)
        return said, (said[:, :-1] == drafts).long().cumprod(1).sum(1).tolist()

    def shortfall(self, tokens: Any) -> float:
        """How far the tokens' logits lie below the best ones, over the largest: 0 for the model's own.

        Kernels for one row and for several round differently: of two equally likely tokens either is right.
        """
        rewind(self.cache, self.before)
        output = self.network(
            tokens[:, :-1], past_key_values=self.cache, use_cache=True, logits_to_keep=TOKENS
        )
        logits = output.logits.float()
        missing = logits.amax(-1) - logits.gather(-1, tokens[:, 1:, None])[..., 0]
        return float(missing.max() / logits.abs().max())

    def read(self, tokens: Any, scored: int) -> Any:
        """The most likely token behind each of the last `scored` positions."""
        return said(self.network, self.cache, tokens, scored)


def said(network: Any, cache: Any, tokens: Any, scored: int) -> Any:
    """Read tokens [batch, new] behind what is cached: the most likely next ones [batch, scored]."""
    output = network(tokens, past_key_values=cache, use_cache=True, logits_to_keep=scored)
    return output.logits.argmax(-1)


def row(tokens: list[Any]) -> Any:
    """Tokens [batch, any] behind each other."""
    import torch

    return torch.cat(tokens, dim=1)


def acceptance(tokens: float, k: int) -> float:
    """The chance of a draft at which a round of k yields so many tokens on average, by halving."""
    if tokens <= 1:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, k) < tokens else (low, middle)
    return high
