"""The forward passes of a request, and what stays in memory: plain, or as techniques change them.

A technique changes work: fewer or shorter passes, other operators, a second model. It maps a schedule to
another; predictions are made from schedules. Of a grid, sizes are arrays over its points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Literal

from specfiles.errors import InputError
from specfiles.frozen import dataclass
from workloads.arrays import anywhere, maximum
from workloads.convention import Convention
from workloads.dtypes import Size, compute_dtype
from workloads.model import UNLIMITED, Model
from workloads.phases import Named, laid_out, operators, owners, weight_bytes
from workloads.sharing import stages
from workloads.step import Setting, Step

# What a technique does to the operators of a step; the step tells their sizes on one device.
Change = Callable[[Sequence[Named], Step], list[Named]]


@dataclass(frozen=True)
class Pass:
    """Steps of one model that differ only in the context, which grows from `first` to `last`."""

    phase: str  # prefill, decode or denoise: whether its time belongs to the first token or to the others
    model: Model
    setting: Setting
    batch: Size
    q_len: Size  # new positions of each sequence in each step
    first: Size  # positions that the first step sees, its own included
    last: Size
    times: Size = 1  # steps in all; an expectation need not be whole
    scored: Size = 1  # positions of each sequence that are projected to the vocabulary
    scope: str = ""  # leads the names of its operators where a second model runs: "draft."
    changes: tuple[Change, ...] = ()
    memory: Size = 0  # of the positions seen, those of an encoder
    images: int = 0  # of each sequence
    launch: Literal["each", "graph", "none"] = "each"  # how kernels are launched

    def operators(self, kv_len: Size) -> list[Named]:
        """The operators of the step that sees `kv_len` positions."""
        step = Step(self.batch, self.q_len, kv_len, self.scored, self.memory, self.images)
        rows = changed(operators(self.model, step, self.setting), self.setting.own(step), self.changes)
        if self.changes:  # which may add products
            rows = laid_out(rows, self.setting.convention)
        return [replace(row, name=self.scope + row.name) for row in rows] if self.scope else rows


@dataclass(frozen=True)
class Resident:
    """A model in memory, and how much it caches: `tokens` positions of `batch` sequences."""

    model: Model
    setting: Setting
    batch: Size
    tokens: Size
    changes: tuple[Change, ...] = ()
    weights_here: float = 1.0  # share of the weights in device memory; the rest is elsewhere
    cache_here: float = 1.0
    cache_factor: float = 1.0  # bytes over those of the plain cache: block rounding, extra summaries
    reserved: float = 1.0  # memory taken for the cache over what its tokens need
    memory: Size = 0  # of the tokens, those of an encoder

    def weight_bytes(self) -> Size:
        """Bytes of its weights in one device's memory: of a pipeline the fullest stage's."""
        held = (
            weight_bytes(changed(owners(stage, self.setting), Step(1, 1, 1), self.changes))
            for stage in stages(self.model, self.setting)
        )
        return reduce(maximum, held) * self.weights_here

    def cache_bytes(self) -> Size:
        """Bytes of keys, values and states in one device's memory: of a pipeline the fullest stage's."""
        batch = self.batch / self.setting.replicas
        held = (
            stage.cache_bytes(batch, self.tokens, self.setting, self.memory)
            for stage in stages(self.model, self.setting)
        )
        return reduce(maximum, held) * self.cache_here * self.cache_factor * self.reserved


@dataclass(frozen=True)
class Schedule:
    """The passes of a request, and the models that are in memory.

    `prompt` and `output` are the tokens that the user sends and receives; passes may process fewer or more.
    """

    passes: tuple[Pass, ...]
    residents: tuple[Resident, ...]
    batch: Size
    prompt: Size
    output: Size  # tokens of each sequence
    notes: tuple[str, ...] = ()
    activations_here: float = 1.0  # share of a pass's activations in device memory

    @property
    def main(self) -> Resident:
        """The model that was asked for."""
        return self.residents[0]

    @property
    def others(self) -> list[str]:
        """The names of the models beside it, as one that drafts."""
        return list(dict.fromkeys(resident.model.name for resident in self.residents[1:]))

    def multiplied(self) -> set[str]:
        """The formats that its products multiply in."""
        works = (row.operator.work() for each in self.passes for row in each.operators(each.last))
        return {compute_dtype(str(work.dtype)) for work in works if work.matrix_flops}

    @property
    def convention(self) -> Convention:
        """What is counted of the main model."""
        return self.main.setting.convention

    def of_main(self, phase: str) -> list[Pass]:
        """The main model's passes of a phase."""
        return [p for p in self.passes if p.phase == phase and p.scope == ""]

    def each(self, phase: str | None, edit: Callable[[Pass], Pass]) -> Schedule:
        """The schedule with the main model's passes of a phase (or all) edited."""
        return replace(
            self,
            passes=tuple(edit(p) if phase in (None, p.phase) and p.scope == "" else p for p in self.passes),
        )

    def with_change(self, change: Change, phase: str | None = None, *, held: bool | None = None) -> Schedule:
        """The schedule with a change of the main model's operators.

        `held` says whether it changes what is in memory, too: by default where it is of all phases.
        """
        found = self.each(phase, lambda p: replace(p, changes=(*p.changes, change)))
        if phase is None if held is None else held:
            found = found.with_main(changes=(*self.main.changes, change))
        return found

    def with_main(self, **fields: object) -> Schedule:
        """The schedule with fields of the main resident replaced."""
        first, *others = self.residents
        return replace(self, residents=(replace(first, **fields), *others))  # type: ignore[arg-type]

    def with_setting(self, edit: Callable[[Setting], Setting]) -> Schedule:
        """The schedule with the main model's setting edited in every pass and in memory."""
        found = self.each(None, lambda p: replace(p, setting=edit(p.setting)))
        return found.with_main(setting=edit(self.main.setting))

    def with_convention(self, **fields: object) -> Schedule:
        """The schedule with fields of the main model's convention replaced."""
        return self.with_setting(lambda s: replace(s, convention=replace(s.convention, **fields)))  # type: ignore[arg-type]

    def with_another(self, passes: Iterable[Pass], *residents: Resident) -> Schedule:
        """The schedule with passes of another model before its own, and that model in memory."""
        return replace(self, passes=(*passes, *self.passes), residents=(*self.residents, *residents))

    def with_model(self, edit: Callable[[Model], Model]) -> Schedule:
        """The schedule with the main model edited in every pass and in memory."""
        found = self.each(None, lambda p: replace(p, model=edit(p.model)))
        return found.with_main(model=edit(self.main.model))


def changed(rows: Sequence[Named], step: Step, changes: Sequence[Change]) -> list[Named]:
    """The operators of a step after all changes, in order."""
    for change in changes:
        rows = change(rows, step)
    return list(rows)


def plain(
    model: Model,
    phase: str,
    batch: Size,
    prompt: Size,
    output: Size,
    context: Size,
    setting: Setting,
    *,
    images: int = 0,
    steps: Size = 1,
) -> Schedule:
    """The schedule without techniques: a prefill, then a step per token.

    `context`: positions that a single decode step sees (phase decode). The prefill yields the first token.
    `steps`: how often a diffusion model denoises in generate. Points of a grid without a decode step have a
    pass of none where others have one.
    """
    if "denoise" in model.phases:
        return denoising(model, batch, prompt, output, steps if phase == "generate" else 1, setting)
    passes, memory = [], prompt if model.has_memory else 0
    if phase in ("prefill", "generate"):
        passes.append(Pass("prefill", model, setting, batch, prompt, prompt, prompt, images=images))
    if phase == "decode":
        passes.append(Pass("decode", model, setting, batch, 1, context, context, memory=memory))
    if phase == "generate" and anywhere(output > 1):
        last = prompt + output - 1
        passes.append(Pass("decode", model, setting, batch, 1, prompt + 1, last, output - 1, memory=memory))
    tokens = passes[-1].last
    tokens_out = output if phase == "generate" else 1
    reserved = _reserved(model, tokens, memory, setting) if setting.convention.reserves_cache else 1.0
    resident = Resident(model, setting, batch, tokens, reserved=reserved, memory=memory)
    # what a single decode step sees is all that is known of the prompt
    return Schedule(tuple(passes), (resident,), batch, context if phase == "decode" else prompt, tokens_out)


def _reserved(model: Model, tokens: Size, memory: Size, setting: Setting) -> float:
    """Bytes of a cache for all positions of the model over those for `tokens` of them."""
    needed = model.cache_bytes(1, tokens, setting, memory)
    longest = max(tokens, model.max_position)
    factor = float(model.cache_bytes(1, longest, setting, memory) / needed) if needed else 1.0
    if factor > 1 and longest >= UNLIMITED:
        raise InputError(
            f"{model.name} has no longest sequence, so what is reserved for one is not known; "
            "leave out --without paged-attention."
        )
    return factor


def denoising(
    model: Model, batch: Size, prompt: Size, output: Size, steps: Size, setting: Setting
) -> Schedule:
    """The schedule of a diffusion model: `steps` passes over prompt and answer, every position projected."""
    tokens = prompt + output
    each = Pass("denoise", model, setting, batch, tokens, tokens, tokens, steps, scored=tokens)
    return Schedule((each,), (Resident(model, setting, batch, tokens),), batch, prompt, output)
