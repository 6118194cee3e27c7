"""Self-speculative decoding: drafts by some of the layers, verified by all."""

from __future__ import annotations

from functools import partial
from typing import Any

from profiler.forward import Point
from profiler.subject import Subject
from profiler.treatments.base import Pair, Treatment, swapped, with_found
from profiler.treatments.drafting import TOKENS, Decoder, acceptance, row
from profiler.treatments.pruning import fewer
from specfiles.errors import InputError


class SelfSpeculative(Treatment):
    """Greedy decoding with and without drafts, with the same tokens.

    The tokens per round are measured, and used by the prediction.
    """

    name = "self-speculative-decoding"
    phases = ("decode",)
    exact = True

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """One sequence only: those of a batch would accept different numbers of drafts."""
        if point.batch != 1:
            raise InputError("drafts are judged for one sequence here; take --batch 1.")
        decoder = Decoder(subject, subject.tokens(1, point.kv_len - 1), technique.k)
        few = partial(swapped, [fewer(subject, max(1, round(subject.layers * technique.layers)))])

        def draft(tokens: list[Any], k: int) -> Any:
            drafts = [tokens[-1]]
            with few():
                for _ in range(k):
                    drafts.append(decoder.read(drafts[-1], 1))
            return row(drafts[1:])

        generated, rounds = decoder.drafted(draft)
        found = with_found(technique, accept=acceptance(TOKENS / rounds, technique.k))
        return Pair(
            decoder.plain,
            lambda: decoder.drafted(draft)[0],
            found,
            difference=lambda: decoder.shortfall(generated),
            tokens=TOKENS,
            remark=f"{TOKENS} tokens in {rounds} rounds, measured",
        )
