"""Self-speculative decoding: drafts by some of the layers, verified by all."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.subject import Point, Subject
from profiler.treatments.base import Pair, Treatment, swapped, with_found
from profiler.treatments.pruning import fewer
from specfiles.errors import InputError
from workloads.techniques.decoding import expected_tokens

TOKENS = 24  # generated each time: rounds are whole, and the last one counts as far as it goes


class SelfSpeculative(Treatment):
    """Greedy decoding with and without drafts; the tokens must be the same, and how many a round yields is
    measured: the prediction is made with that.
    """

    name = "self-speculative-decoding"
    phases = ("decode",)
    tolerance = 0.0

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """Sequences of a batch would be accepted by different lengths, so there is one."""
        if point.batch != 1:
            raise InputError("drafts are judged for one sequence here; take --batch 1.")
        decoder = _Decoder(subject, point, technique)
        decoder.plain()
        rounds = decoder.drafted()[1]
        found = with_found(technique, accept=acceptance(TOKENS / rounds, technique.k))
        return Pair(decoder.plain, lambda: decoder.drafted()[0], found, tokens=TOKENS)


class _Decoder:
    """Greedy decoding of TOKENS tokens behind the same context."""

    def __init__(self, subject: Subject, point: Point, technique: Any) -> None:
        self.network, self.k, self.before = subject.network, technique.k, point.kv_len - 1
        self.cache = preallocated(subject.layers, self.before + TOKENS + technique.k + 1)
        kept = max(1, round(subject.layers * technique.layers))
        self.few = partial(swapped, [fewer(subject, kept)])
        self.first = self._read(subject.tokens(1, self.before), 1)

    def plain(self) -> Any:
        """One token after another."""
        rewind(self.cache, self.before)
        tokens = [self.first]
        while len(tokens) <= TOKENS:
            tokens.append(self._read(tokens[-1], 1))
        return _row(tokens)

    def drafted(self) -> tuple[Any, int]:
        """The same in rounds, and how many there were."""
        tokens, rounds, length = [self.first], 0, self.before
        while len(tokens) <= TOKENS:
            rounds += 1
            rewind(self.cache, length)
            drafts = self._draft(tokens[-1])
            rewind(self.cache, length)
            said = self._read(_row([tokens[-1], *drafts]), len(drafts) + 1)
            good = 0
            while good < len(drafts) and bool(said[:, good] == drafts[good]):
                good += 1
            tokens += [said[:, i : i + 1] for i in range(good + 1)]
            length += good + 1
        return _row(tokens)[:, : TOKENS + 1], rounds

    def _draft(self, token: Any) -> list[Any]:
        drafts = [token]
        with self.few():
            for _ in range(self.k):
                drafts.append(self._read(drafts[-1], 1))
        return drafts[1:]

    def _read(self, tokens: Any, scored: int) -> Any:
        output = self.network(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=scored)
        return output.logits.argmax(-1)


def _row(tokens: list[Any]) -> Any:
    import torch

    return torch.cat(tokens, dim=1)


def acceptance(tokens: float, k: int) -> float:
    """The chance of a draft at which a round of k yields so many tokens on average, by halving."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, k) < tokens else (low, middle)
    return high
