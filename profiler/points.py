"""The steps that are measured for a scenario."""

from __future__ import annotations

from collections.abc import Sequence

from profiler.forward import Point
from roofline.scenario import Scenario


def points(scenarios: Sequence[Scenario]) -> tuple[Point, ...]:
    """The prefill, the first and the last decode step of each scenario, without duplicates.

    Decode time is linear in the context between the two, so they determine every step of a generation.
    """
    found: list[Point] = []
    for s in scenarios:
        encoded = s.prompt if s.model.has_memory else 0
        if s.phase in ("prefill", "generate"):
            found.append(Point("prefill", s.batch, s.prompt, s.prompt, encoded))
        if s.phase == "decode":
            found.append(Point("decode", s.batch, 1, s.decode_context, encoded))
        if s.phase == "generate" and s.output > 1:
            contexts = s.prompt + 1, s.prompt + s.output - 1
            found += [Point("decode", s.batch, 1, context, encoded) for context in contexts]
    return tuple(dict.fromkeys(found))
