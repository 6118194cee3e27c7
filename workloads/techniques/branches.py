"""Common code of techniques that decode parts of an answer in parallel."""

from __future__ import annotations

from dataclasses import replace

from workloads.schedule import Pass, Schedule


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
        many = round(plain.batch * branches)
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
