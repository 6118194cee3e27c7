"""Common code of techniques that verify several tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workloads.schedule import Pass, Schedule


def expected_tokens(accept: float, drafted: int) -> float:
    """Tokens that one verification yields: 1 + a + ... + a^k (arXiv:2211.17192, equation 1)."""
    return sum(accept**i for i in range(drafted + 1))


def verification(plain: Pass, positions: int, rounds: float, scored: int | None = None) -> Pass:
    """A pass over so many new positions of each sequence at once, all or `scored` of them projected to the
    vocabulary.
    """
    return replace(
        plain,
        q_len=positions,
        scored=positions if scored is None else scored,
        first=plain.first + positions - 1,
        last=plain.last + positions - 1,
        times=rounds,
    )


def in_rounds(
    schedule: Schedule,
    positions: int,
    tokens: float,
    drafting: Callable[[Pass, float], list[Pass]],
    scored: int | None = None,
) -> Schedule:
    """Decode in rounds that verify `positions` at once and yield `tokens` on average.

    `drafting` gives the passes that propose them, from the plain pass and the number of rounds; `scored`
    positions are projected to the vocabulary, by default all.
    """
    passes: list[Pass] = []
    for plain in schedule.passes:
        if plain.phase == "decode" and plain.scope == "" and plain.q_len == 1:
            rounds = plain.times / tokens
            passes += [*drafting(plain, rounds), verification(plain, positions, rounds, scored)]
        else:
            passes.append(plain)
    longer = schedule.main.tokens + positions - 1  # drafted positions are cached until verified
    return replace(schedule, passes=tuple(passes)).with_main(tokens=longer)
