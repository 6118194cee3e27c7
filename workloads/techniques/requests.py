"""What techniques that change the prompt share."""

from __future__ import annotations

from dataclasses import replace

from workloads.schedule import Schedule

NO_PROMPT = "no prompt is read in this phase; ask for prefill or generate"


def reads_a_prompt(schedule: Schedule) -> bool:
    """Whether the schedule has a prefill."""
    return any(p.phase == "prefill" for p in schedule.passes)


def shortened(schedule: Schedule, kept: int) -> Schedule:
    """The schedule with `kept` positions of the prompt read, seen and cached instead of all."""
    dropped = schedule.prompt - kept
    passes = tuple(
        replace(
            p,
            q_len=p.q_len - dropped if p.phase == "prefill" else p.q_len,
            first=p.first - dropped,
            last=p.last - dropped,
        )
        for p in schedule.passes
    )
    return replace(schedule, passes=passes, prompt=kept).with_main(tokens=schedule.main.tokens - dropped)
