"""How long one engine step takes, whatever mixture of sequences it serves.

A step may read chunks of several prompts and yield a token for each of many other sequences, every one
with a context of its own. Operators fall in four classes, found by asking the model and not by their names:

- of tokens: the same for so many new tokens, whichever sequences they are of (projections, norms, experts);
  those that devices pool apart, where each runs attention for a part of the batch (routed experts);
- of scored positions: the vocabulary projection and sampling, once per sequence that yields a token;
- of sequences: what looks back (attention, states), apart for decoding sequences and for each chunk;
- of images: the tower, in the step that reads the first position of an image.

Each class is predicted at a few sizes and interpolated between them: times are linear in the sizes between
kinks. At fidelity calibrated they are stairs (tiles, waves), which the line between two sizes smooths; the
prompts that are asked for are one of the sizes, so that a simulation of equal ones agrees with a prediction.

Where devices run attention for parts of the batch, sequences and prompts are dealt to the parts evenly. All
wait for the device with the largest part, also when tokens are sent, which the largest sender bounds; then
each runs its experts for its share of all tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from roofline.engines import launches, step_s, takes_turns
from roofline.times import times
from specfiles.errors import InputError
from workloads.phases import Named, operators
from workloads.step import Setting, Step, prefill

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from roofline.ceilings import Ceilings
    from roofline.engines import Engine
    from workloads.schedule import Pass, Schedule

    Floats = NDArray[np.float64]

TOKENS, POOLED, SCORED, SEQUENCES, IMAGES = "tokens", "pooled", "scored", "sequences", "images"
FINE, COARSE = 1.12, 1.5  # ratio of neighbouring sizes: of tokens and sequences, of contexts
MOST = 200_000_000  # tokens
PROMPT = 4096  # tokens of a prompt that is read at once, to see which operators run then


class StepTimes:
    """Times of the steps of one schedule: a prefill pass and a decode pass of one model."""

    def __init__(self, schedule: Schedule, limits: Ceilings, engine: Engine | None = None) -> None:
        """`engine` adds what it takes beside its kernels (`roofline.engines`).

        Raises InputError where a technique makes other passes than one per token.
        """
        self._prefill, self._decode = _two_passes(schedule, engine)
        self._limits, self._engine = limits, engine
        self.parts = self._decode.setting.replicas  # of the batch, each with attention on devices of its own
        self._launched = (
            {p.phase: _launched(p, engine) for p in (self._prefill, self._decode)} if engine else {}
        )
        self._classes = _classes(self._prefill)
        whole = self._prefill.q_len
        self._tokens, self._pooled = (
            {p.phase: _Line(self._at(p, which), _Sizes(FINE, whole)) for p in (self._prefill, self._decode)}
            for which in (TOKENS, POOLED)
        )
        self._scored = _Line(self._at_scored, _Sizes(FINE))
        self._seeing = _Line(self._at_images, _Sizes(FINE, self._prefill.images))
        self._reading = _Plane(self._at_chunk, _Sizes(FINE, whole))
        self._memories = _Sizes(COARSE, self._decode.memory)  # prompts that an encoder has read
        self._looking = cache(lambda memory: _Plane(partial(self._at_decode, memory), _Sizes(FINE)))

    def mixed_s(
        self, decoding: int, context: float, chunks: Iterable[tuple[int, int]], finished: int
    ) -> float:
        """A step of `decoding` sequences that see `context` positions on average, and of prompts' chunks.

        chunks: (new positions, positions before them) of each; `finished` of them yield a first token.
        """
        dealt = _dealt(chunks, self.parts)
        read = [sum(size for size, _ in part) for part in dealt]
        share = -(-(decoding + sum(read)) // self.parts)
        decoding, finished = (-(-count // self.parts) for count in (decoding, finished))
        phase = "prefill" if any(dealt) else "decode"
        time = self._tokens[phase](decoding + max(read)) + self._scored(decoding + finished)
        time += self._pooled[phase](share)
        if self._prefill.images:
            time += self._seeing(max(sum(self._images(*chunk) for chunk in part) for part in dealt))
        if decoding:
            time += float(self._looking_s(decoding, np.array([context]))[0])
        time += max(sum(self._reading.at(size, past) for size, past in part) for part in dealt)
        return float(self._served(time, phase))

    def decode_s(self, sequences: int, contexts: Floats, prompt: float | None = None) -> Floats:
        """Steps of `sequences` tokens each, at each of some mean contexts (shape: as `contexts`).

        prompt: tokens of these that an encoder read, on average, if the model has one; by default as asked.
        """
        sequences = -(-sequences // self.parts)
        tokens = self._tokens["decode"](sequences) + self._pooled["decode"](sequences)
        fixed = tokens + self._scored(sequences)
        times: Floats = self._served(fixed + self._looking_s(sequences, contexts, prompt), "decode")
        return times

    def cached(self, prompt: int) -> int:
        """Tokens of a prompt that are not read, as a cached prefix has them: the same share of each."""
        return prompt - int(max(1, round(prompt * self._prefill.q_len / self._prefill.last)))

    @property
    def launching_s(self) -> float:
        """Seconds in which the host launches a step of prompts kernel by kernel; 0 where no engine does."""
        if self._engine is None or not self._engine.launches_each(self._prefill):
            return 0.0
        kernels, *_ = self._launched["prefill"]
        return kernels * self._engine.fit.overheads.launch_s

    def _served(self, device_s: Any, phase: str) -> Any:
        """A step with what the engine adds."""
        if self._engine is None:
            return device_s
        kernels, graphs, turns = self._launched[phase]
        return step_s(device_s, kernels, graphs, self._engine.fit.overheads, turns=turns)

    def _at(self, of: Pass, which: str) -> Callable[[int], float]:
        """A class's time in a step with so many tokens in each part; what follows, likewise."""
        if of.phase == "prefill":
            return lambda n: self._sum(replace(of, batch=self.parts, q_len=n), n, which)
        return lambda n: self._sum(replace(of, batch=n * self.parts), of.last, which)

    def _at_scored(self, n: int) -> float:
        return self._sum(replace(self._decode, batch=n * self.parts), 1, SCORED) if n else 0.0

    def _images(self, size: int, past: int) -> int:
        """Images of a prompt, which it begins with, whose first position is in a chunk."""
        each = self._prefill.model.image_tokens
        before, until = (min(self._prefill.images, -(-place // each)) for place in (past, past + size))
        return until - before

    def _at_images(self, n: int) -> float:
        last = self._prefill.last
        return self._sum(replace(self._prefill, batch=self.parts, q_len=last, images=n), last, IMAGES)

    def _looking_s(self, sequences: int, contexts: Floats, prompt: float | None = None) -> Floats:
        """Of operators that look back at an encoder's positions, if there are any, and at others."""
        if not self._decode.memory:
            return self._looking(0)(sequences, contexts)
        read = self._decode.memory if prompt is None else prompt
        parts = _parts(*self._memories.around(read), read)
        return sum(
            (part * self._looking(known)(sequences, contexts - read) for known, part in parts), 0 * contexts
        )

    def _at_decode(self, memory: int, sequences: int, context: int) -> float:
        many = replace(self._decode, batch=sequences * self.parts, memory=memory)
        return self._sum(many, memory + max(1, context), SEQUENCES)

    def _at_chunk(self, size: int, past: int) -> float:
        return self._sum(replace(self._prefill, batch=self.parts, q_len=size), past + size, SEQUENCES)

    def _sum(self, of: Pass, context: int, which: str) -> float:
        rows = (row for row in of.operators(context) if self._class(row.name) == which)
        return float(sum(row.count * times(row.operator, self._limits).time_s for row in rows))

    @cache  # noqa: B019 (lives as long as the object that it belongs to)
    def _class(self, name: str) -> str:
        """The class of an operator; what a technique adds belongs to the one whose name leads its own.

        An operator that only some contexts have (latent attention expands or absorbs) is of sequences.
        """
        leading = [known for known in self._classes if name == known or name.startswith(known + ".")]
        return self._classes[max(leading, key=len)] if leading else SEQUENCES


def _dealt(chunks: Iterable[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    """Chunks of prompts by the part of the batch that reads them: each goes to who has the fewest tokens."""
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for chunk in chunks:
        least = tokens.index(min(tokens))
        dealt[least].append(chunk)
        tokens[least] += chunk[0]
    return dealt


def _launched(of: Pass, engine: Engine) -> tuple[float, bool, bool]:
    """Kernels of a step, whatever its sizes; whether a graph replays them, and host and device take turns."""
    eager = engine.launches_each(of)
    rows = [(row.count, row.operator) for row in of.operators(of.last)]
    kernels = sum(n * launches(one.kind, of.phase, one.work(), eager=eager) for n, one in rows)
    turns = takes_turns((one.kind for _, one in rows), of.phase, eager=eager)
    return kernels if of.launch != "none" else 0.0, engine.replays(of), turns


def _two_passes(schedule: Schedule, engine: Engine | None) -> tuple[Pass, Pass]:
    """The prefill and the decode pass; a sentence where there are others."""
    passes = {p.phase: p for p in schedule.passes}
    if engine is None and any(p.setting.convention.launches for p in schedule.passes):
        raise InputError(
            "serve counts kernels launched one by one only with an engine; name one with --engine, or leave "
            "out --without cuda-graphs."
        )
    plain = (
        len(schedule.passes) == 2 and len(schedule.residents) == 1 and set(passes) == {"prefill", "decode"}
    )
    if (
        not plain
        or passes["decode"].q_len != 1
        or passes["decode"].times != passes["decode"].last - passes["decode"].first + 1
    ):
        raise InputError(
            "serving is simulated with one pass per token of one model, which these techniques change; "
            "leave out those that draft, verify, compress or skip."
        )
    return passes["prefill"], passes["decode"]


def _classes(of: Pass) -> dict[str, str]:
    """Each operator's class, by what changes it: the shape of the tokens, or how many are scored."""
    parts, n = of.setting.replicas, 8  # tokens in each part
    at = partial(_rows_at, of)
    plain, longer = at(Step(n * parts, 1, 2 * n)), at(Step(n * parts, 1, 4 * n))
    chunk, scored = at(Step(parts, n, 2 * n)), at(Step(parts, n, 2 * n, scored=n))
    prompt = at(prefill(parts, PROMPT))
    together = pooled(of)
    blind = {row.name for row in replace(of, images=0).operators(of.last)}
    found = {}
    for name in {**plain, **chunk, **prompt}:
        shapes = [rows.get(name) for rows in (plain, longer, scored)]
        if of.images and name in prompt and name not in blind:
            found[name] = IMAGES
        elif name not in prompt or any(row is None or row != shapes[0] for row in shapes):
            found[name] = SEQUENCES
        elif chunk.get(name) != scored.get(name):
            found[name] = SCORED
        else:
            found[name] = POOLED if name in together else TOKENS
    return found


def pooled(of: Pass) -> set[str]:
    """The operators of which devices share all tokens, where each attends to a part of the batch.

    What sends tokens is not among them: it is not there where devices have their own only.
    """
    n = 8
    ours = _rows_at(of, Step(of.setting.replicas, n, 2 * n))
    apart = _rows_at(of, Step(1, n, 2 * n), _Apart.of(of.setting))
    return {name for name, row in ours.items() if apart.get(name, row) != row}


def _rows_at(of: Pass, step: Step, setting: Setting | None = None) -> dict[str, Named]:
    """The operators of a step, those of the model and what techniques add, by name."""
    setting = setting or of.setting
    asked = replace(of, batch=step.batch, q_len=step.q_len, scored=step.scored, setting=setting)
    return {row.name: row for row in [*asked.operators(step.kv_len), *operators(of.model, step, setting)]}


class _Apart(Setting):
    """A setting in which devices have no tokens but their own: what it changes works on those of all."""

    @classmethod
    def of(cls, setting: Setting) -> _Apart:
        return cls(**{field.name: getattr(setting, field.name) for field in fields(setting)})

    @property
    def replicas(self) -> int:
        return 1


class _Sizes:
    """Whole numbers that grow by a ratio, and some that are asked for: where a curve is predicted."""

    def __init__(self, ratio: float, *asked: int) -> None:
        count = math.ceil(math.log(MOST, ratio)) + 1
        self.all = sorted({0, *asked, *(round(ratio**i) for i in range(count))})

    def around(self, value: float) -> tuple[int, int]:
        """The neighbours of a value, equal where it is one of the sizes."""
        place = bisect_left(self.all, value)
        high = self.all[min(place, len(self.all) - 1)]
        return (high, high) if high <= value else (self.all[place - 1], high)


class _Line:
    """A function of one whole number, evaluated where asked between sizes that are predicted once."""

    def __init__(self, exact: Callable[[int], float], sizes: _Sizes) -> None:
        self._sizes, self._exact = sizes, cache(exact)

    def __call__(self, n: int) -> float:
        return sum(part * self._exact(known) for known, part in _parts(*self._sizes.around(n), n))


def _parts(low: int, high: int, value: float) -> list[tuple[int, float]]:
    """What each neighbour of a value weighs; nothing takes no time."""
    share = (value - low) / (high - low) if high > low else 1.0
    return [(known, part) for known, part in ((low, 1 - share), (high, share)) if known and part]


class _Plane:
    """A function of a number of sequences or tokens and of a context, linear between predicted sizes."""

    def __init__(self, exact: Callable[[int, int], float], sizes: _Sizes) -> None:
        self._sizes, self._contexts, self._exact = sizes, _Sizes(COARSE), cache(exact)

    def at(self, size: int, context: float) -> float:
        """The value at one context."""
        low, high = self._contexts.around(context)
        share = (context - low) / (high - low) if high > low else 1.0
        return sum(
            weight * part * self._exact(known, place)
            for known, part in _parts(*self._sizes.around(size), size)
            for place, weight in ((low, 1 - share), (high, share))
            if weight
        )

    def __call__(self, size: int, contexts: Floats) -> Floats:
        """The values at several contexts of one size."""
        parts = _parts(*self._sizes.around(size), size)
        return sum((part * self._along(known, contexts) for known, part in parts), np.zeros(len(contexts)))

    def _along(self, size: int, contexts: Floats) -> Floats:
        first = bisect_left(self._contexts.all, float(contexts.min()))
        last = bisect_left(self._contexts.all, float(contexts.max()))
        known = self._contexts.all[max(0, first - 1) : last + 1]
        return np.interp(contexts, known, [self._exact(size, at) for at in known])
