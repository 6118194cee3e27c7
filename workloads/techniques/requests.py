"""What techniques that change the prompt share."""

from __future__ import annotations

from dataclasses import replace

from workloads.schedule import Pass, Schedule


def reads_a_prompt(schedule: Schedule) -> bool:
    """Whether the schedule has a prefill."""
    return any(p.phase == "prefill" for p in schedule.passes)


def no_prompt(schedule: Schedule) -> str | None:
    """Why there is no prompt that could be read otherwise; None where there is one."""
    if any(p.phase == "denoise" for p in schedule.passes):
        return "a diffusion model has no pass of its own for the prompt"
    return (
        None if reads_a_prompt(schedule) else "no prompt is read in this phase; ask for prefill or generate"
    )


def shortened(schedule: Schedule, kept: int) -> Schedule:
    """The schedule with `kept` positions of the prompt read, seen and cached by the main model."""
    dropped = schedule.prompt - kept

    def shorter(p: Pass) -> Pass:
        read = p.q_len - dropped if p.phase == "prefill" else p.q_len
        encoded = p.memory - dropped if p.memory else 0  # the prompt is what an encoder reads
        return replace(p, q_len=read, first=p.first - dropped, last=p.last - dropped, memory=encoded)

    main = schedule.main
    found = replace(schedule.each(None, shorter), prompt=kept)
    encoded = main.memory - dropped if main.memory else 0
    return found.with_main(tokens=main.tokens - dropped, memory=encoded)
