"""Why a technique cannot be applied to a schedule: each reason is None where it does not hold."""

from __future__ import annotations

from workloads.blocks import AttentionBlock, MoeBlock
from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.changes import blocks


def attends(schedule: Schedule) -> bool:
    """Whether the main model attends to anything."""
    return any(
        isinstance(row.operator, Attention)
        for p in schedule.passes
        if p.scope == ""
        for row in p.operators(p.last)
    )


def decodes(schedule: Schedule) -> bool:
    """Whether tokens are decoded one step after another."""
    return any(p.phase == "decode" for p in schedule.passes)


def reads_a_prompt(schedule: Schedule) -> bool:
    """Whether the schedule has a prefill."""
    return any(p.phase == "prefill" for p in schedule.passes)


def keeps_states(schedule: Schedule) -> bool:
    """Whether layers of the main model keep a state of constant size, whatever the number of positions."""
    main = schedule.main
    sizes = (
        [block.cache_bytes(tokens, main.setting) for tokens in (1, 2)]
        for layer in main.model.stack.distinct
        for block in layer.blocks
    )
    return any(one == two > 0 for one, two in sizes)


def no_cache(schedule: Schedule) -> str | None:
    """The main model attends to no keys and values that stay in memory."""
    main = schedule.main
    cached = attends(schedule) and main.tokens > 0 and main.model.cache_bytes(1, 1, main.setting) > 0
    return None if cached else "the model keeps no keys and values"


def no_heads(schedule: Schedule) -> str | None:
    """The main model has no attention whose heads could be changed."""
    return None if blocks(schedule, AttentionBlock) else "the model has no attention with key-value heads"


def no_experts(schedule: Schedule) -> str | None:
    """The main model is dense."""
    return None if blocks(schedule, MoeBlock) else "the model has no experts"


def no_drafts(schedule: Schedule) -> str | None:
    """The checkpoint of the main model has no layers of multi-token prediction."""
    model = schedule.main.model
    return None if model.stack.drafts else f"no such layer is published with {model.name}"


def no_decoding(schedule: Schedule) -> str | None:
    """Only a prompt is read, or the answer is denoised."""
    return None if decodes(schedule) else "nothing is decoded"


def no_branches(schedule: Schedule) -> str | None:
    """A tree of drafted tokens would need a state for each branch."""
    if not keeps_states(schedule):
        return None
    return "a recurrent state follows one sequence, and not the branches of a tree"


def no_prompt(schedule: Schedule) -> str | None:
    """There is no prompt that could be read otherwise."""
    if any(p.phase == "denoise" for p in schedule.passes):
        return "a diffusion model has no pass of its own for the prompt"
    return (
        None if reads_a_prompt(schedule) else "no prompt is read in this phase; ask for prefill or generate"
    )


def no_parts(schedule: Schedule) -> str | None:
    """The answer is too short to be written in parts."""
    if any(p.phase == "denoise" for p in schedule.passes):
        return "nothing is decoded"
    steps = sum(p.times for p in schedule.passes if p.phase == "decode")
    return None if steps > 1 else "one decode step has no parts; ask for generate with a longer answer"
