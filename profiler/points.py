"""The steps that stand for a scenario when it is measured."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.subject import Point
from roofline.scenario import Scenario


def points(scenarios: Sequence[Scenario]) -> tuple[Point, ...]:
    """The prefill, the first and the last decode step of each scenario, without repeats.

    Decode time is linear in the context between the two, so they give every step of a generation.
    """
    found: list[Point] = []
    for s in scenarios:
        if s.phase in ("prefill", "generate"):
            found.append(Point("prefill", s.batch, s.prompt, s.prompt))
        if s.phase == "decode":
            found.append(Point("decode", s.batch, 1, s.decode_context))
        if s.phase == "generate" and s.output > 1:
            found += [Point("decode", s.batch, 1, kv) for kv in (s.prompt + 1, s.prompt + s.output - 1)]
    return tuple(dict.fromkeys(found))
