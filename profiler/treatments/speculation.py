"""Speculative decoding: drafts by a small model or by some of the layers, verified by all of them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from profiler.cache import preallocated, rewind
from profiler.forward import Point, greedy, step
from profiler.ranges import FAMILIES
from profiler.subject import RANDOM, Subject, load_subject
from profiler.treatments.base import Pair, Treatment, swapped, with_found
from profiler.treatments.drafting import TOKENS, Decoder, acceptance, row, said
from profiler.treatments.shapes import fewer
from specfiles.errors import InputError
from workloads.catalogue import Loaded, load_model
from workloads.model import Model
from workloads.techniques.decoding import expected_tokens
from workloads.techniques.speculative import smallest_alike


class Speculative(Treatment):
    """A round of k drafts and their verification against a decode step.

    The cost of a round is measured. Its yield is measured where both models have trained weights; with random
    ones it follows from the technique's acceptance rate. Tokens generated in rounds are first compared with
    the model's own.
    """

    name = "speculative-decoding"
    phases = ("decode",)
    exact = True

    def configs(self, technique: Any, model: Model) -> dict[str, dict[str, Any]]:
        """The config of a draft model that is not shipped: the report also predicts its passes."""
        loaded = drafter(technique.draft, model)
        return {} if loaded.file else {_file(loaded): loaded.config}

    def pair(self, technique: Any, subject: Subject, point: Point) -> Pair:
        """Both models in the same format, after the same context."""
        loaded = drafter(technique.draft, subject.loaded.model)
        draft = load_subject(loaded, subject.device, subject.dtype, seed=1)
        k, before = technique.k, point.kv_len - 1
        one, small = _beside(subject, draft, 1, before, k)
        generated, rounds = one.drafted(small)
        trained = RANDOM not in (subject.weights, draft.weights)
        accept = acceptance(TOKENS / rounds, k) if trained else technique.accept
        yielded = expected_tokens(accept, k)
        why = "measured" if trained else f"assumed (accept={accept:g}): random weights agree on nothing"
        timed, beside = _beside(subject, draft, point.batch, before, k)
        return Pair(
            partial(step(subject, point, point.kv_len), greedy),
            partial(timed.round, [timed.first], beside),
            with_found(technique, accept=accept, draft=loaded.file.name if loaded.file else _file(loaded)),
            difference=lambda: one.shortfall(generated),
            treated_tokens=yielded,
            remark=f"the cost of a round is measured; its yield, {yielded:.2f} tokens, is {why}",
        )


class _Drafter:
    """The draft model with its cache: it reads the tokens it has not seen, then its own drafts."""

    def __init__(self, draft: Subject, context: Any, k: int) -> None:
        self.network, self.before = draft.network, context.shape[1]
        self.cache = preallocated(draft.layers, self.before + TOKENS + k + 1)
        said(self.network, self.cache, context, 1)
        self.seen = 0  # cached tokens after the context

    def __call__(self, tokens: list[Any], k: int) -> Any:
        """k drafts [batch, k] after the context and `tokens`."""
        self.seen = min(self.seen, len(tokens) - 1)
        rewind(self.cache, self.before + self.seen)
        drafts = [said(self.network, self.cache, row(tokens[self.seen :]), 1)]
        while len(drafts) < k:
            drafts.append(said(self.network, self.cache, drafts[-1], 1))
        self.seen = len(tokens) + k - 1
        return row(drafts)


def _beside(subject: Subject, draft: Subject, batch: int, before: int, k: int) -> tuple[Decoder, _Drafter]:
    """Both models after the same context."""
    context = subject.tokens(batch, before)
    return Decoder(subject, context, k), _Drafter(draft, context, k)


def drafter(asked: str, model: Model) -> Loaded:
    """The draft model. Raises InputError where there is none or its vocabulary differs."""
    if asked == "auto":
        smallest = smallest_alike(model, frozenset(FAMILIES))
        if smallest is None:
            raise InputError(
                f"no shipped model that can be measured is smaller than {model.name} and has its vocabulary; "
                "name the config.json of one with draft=FILE."
            )
        asked = smallest.name
    found = load_model(asked)
    if found.model.vocabulary != model.vocabulary:
        raise InputError(
            f"{found.model.name} has {found.model.vocabulary} tokens in its vocabulary, {model.name} "
            f"{model.vocabulary}; a draft model needs the same."
        )
    return found


def _file(loaded: Loaded) -> str:
    """The file name of a draft model's config in the run folder."""
    return f"draft-{re.sub('[^A-Za-z0-9.-]+', '-', loaded.model.name)}.json"


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
