"""Common code of techniques that verify several tokens at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from workloads.layer import Layer
from workloads.model import Model
from workloads.operators import Gemm
from workloads.phases import Named
from workloads.schedule import Change, Pass, Resident, Schedule
from workloads.step import Step
from workloads.techniques.changes import IN_LAYERS, vocabulary_projection


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


def draft_of(model: Model, layer: Layer) -> Model:
    """A draft of one layer between the model's own embedding and vocabulary projection."""
    return replace(model, name=f"a layer of {model.name}", stack=replace(model.stack, layers=(layer,)))


def by_draft(plain: Pass, draft: Model, joining: Change) -> Pass:
    """A pass of a layer that drafts, behind the projection that joins its inputs."""
    return replace(plain, model=draft, scope="draft.", changes=(joining,))


def with_draft(found: Schedule, draft: Model, joining: Change) -> Schedule:
    """The schedule with a drafting layer in memory, which reads the prompt for its own keys and values."""
    main = found.main
    held = Resident(draft, main.setting, main.batch, main.tokens, changes=(joining, own_weights))
    return found.with_another((by_draft(p, draft, joining) for p in found.of_main("prefill")), held)


def joined(rows: Sequence[Named], step: Step, bias: bool = True) -> list[Named]:
    """A projection from 2h to h of a token's embedding concatenated with the previous feature."""
    head = vocabulary_projection(rows)
    assert head is not None  # every model that decodes has one
    joining = Gemm(step.tokens, head.k, 2 * head.k, head.inputs, head.weights, head.outputs, bias=bias)
    return [Named("join_proj", joining, 1), *rows]


def own_weights(rows: Sequence[Named], step: Step) -> list[Named]:
    """The embedding and the vocabulary projection are the model's: the draft stores its layer only."""
    return [row for row in rows if IN_LAYERS in row.name or row.name == "join_proj"]
