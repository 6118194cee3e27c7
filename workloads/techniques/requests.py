"""Common code of techniques that change the prompt."""

from __future__ import annotations

from dataclasses import replace

from workloads.schedule import Pass, Schedule


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
