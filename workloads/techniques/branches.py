"""Parts of the answer written at once, as sequences of one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.schedule import Pass, Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import sequences
from workloads.techniques.conditions import no_parts


def in_branches(
    schedule: Schedule, head: int, branches: float, instruction: int, longest: float, turns: float = 1
) -> Schedule:
    """Write `head` tokens one by one, then the rest in branches that see the prompt and the head.

    Each branch reads an instruction of so many tokens in each of its `turns`; `longest` is the longest branch
    over their mean, because the answer is complete when the last branch is. Branches share the cache of their
    common prefix: it holds every token once, and the instructions.
    """
    passes: list[Pass] = []
    for plain in schedule.passes:
        if plain.phase != "decode" or plain.scope != "":
            passes.append(plain)
            continue
        tokens = round(plain.times)
        leading = min(head, tokens)
        if leading:
            passes.append(replace(plain, last=plain.first + leading - 1, times=leading))
        each = (tokens - leading) / branches * longest  # steps until the longest branch ends
        if each <= 0:
            continue
        many = sequences(plain, branches)
        seen = plain.first + leading - 1
        if instruction:
            read = replace(plain, batch=many, q_len=instruction, times=turns)
            passes.append(replace(read, first=seen + instruction, last=seen + instruction))
        first = seen + instruction + 1
        passes.append(
            replace(plain, batch=many, first=first, last=first + max(0, round(each) - 1), times=each)
        )
    more = round(branches * turns * instruction)
    return replace(schedule, passes=tuple(passes)).with_main(tokens=schedule.main.tokens + more)


@dataclass(frozen=True)
class SkeletonOfThought(Technique):
    """The model writes a skeleton of points, then expands all points at once."""

    name = "skeleton-of-thought"
    aliases = ("sot",)
    category = "output organisation"
    paper = "Skeleton-of-Thought arXiv:2307.15337"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "the instruction of each part; a cache for each part"
    needs = "answers that consist of independent points"
    quality = "lossy"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("points", "longest")

    skeleton: int = parameter(
        40, "tokens of the skeleton: 3 to 10 points of 3 to 5 words", low=1, high=10_000
    )
    points: float = parameter(6.0, "points expanded at once (its prompt asks for 3 to 10)", low=1, high=100)
    instruction: int = parameter(
        100, "tokens of the expansion's instruction, read for every point", low=0, high=100_000
    )
    longest: float = parameter(1.3, "longest point over the mean", low=1, high=100)

    def apply(self, schedule: Schedule) -> Schedule:
        """Points are sequences of one batch that share their prefix."""
        return in_branches(schedule, self.skeleton, self.points, self.instruction, self.longest)


@dataclass(frozen=True)
class SkeletonGraph(Technique):
    """Points name the points they depend on; those without open dependencies are expanded at once."""

    name = "skeleton-graph-decoding"
    aliases = ("sgd", "skeleton-graph")
    category = "output organisation"
    paper = "Adaptive Skeleton Graph Decoding arXiv:2402.12280"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "the instruction of each part; a cache for each part"
    needs = "answers whose points depend on few others"
    quality = "lossy"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("points", "levels")

    skeleton: int = parameter(60, "tokens of the skeleton and its dependencies", low=1, high=10_000)
    points: float = parameter(6.0, "points of the answer", low=1, high=100)
    levels: float = parameter(2.0, "points on the longest chain of dependencies", low=1, high=100)
    instruction: int = parameter(
        100, "tokens of the expansion's instruction, read for every point", low=0, high=100_000
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """A whole answer is needed, and no more levels than points."""
        if self.levels > self.points:
            return f"{self.levels:g} levels need more than {self.points:g} points"
        return super().refuse(schedule, target)

    def apply(self, schedule: Schedule) -> Schedule:
        """Points are sequences of one batch that share their prefix; each level is a batch of its own."""
        width = self.points / self.levels
        return in_branches(schedule, self.skeleton, width, self.instruction, 1.0, self.levels)


@dataclass(frozen=True)
class Apar(Technique):
    """The model marks forks in its answer, and the branches are decoded in parallel."""

    name = "apar"
    aliases = ("auto-parallel",)
    category = "output organisation"
    paper = "APAR arXiv:2401.06761"
    removes = "decode steps: parts of the answer share each read of the weights"
    adds = "a cache for each part"
    needs = "a model fine-tuned to mark forks"
    quality = "retrained"
    slot = "how the answer is organised"
    refused_by = (no_parts,)
    assumed = ("branches", "longest")

    branches: float = parameter(2.0, "branches written at once, on average", low=1, high=100)
    head: int = parameter(10, "tokens before the first fork", low=0, high=10_000)
    longest: float = parameter(1.3, "longest branch over the mean", low=1, high=100)

    def apply(self, schedule: Schedule) -> Schedule:
        """Branches are sequences of one batch that share their prefix."""
        return in_branches(schedule, self.head, self.branches, 0, self.longest)
