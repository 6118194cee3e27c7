"""What was fitted to served models: overheads of engines, and what of its power a device draws."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from specfiles.strict import NotNegative, Strict, Text, read_record

FILE = Path(__file__).parent / "serving" / "overheads.json"
POWER_FILE = FILE.with_name("power.json")
MOST_BYTES = 1_000_000


class Overheads(Strict, frozen=True, kw_only=True):
    """What an engine adds to its kernels.

    launch_s: the host's time per operator it launches, hidden where the device is slower.
    graph_s: per operator of a replayed graph, beside its own time: the small kernels around it that the
    fused convention counts as part of it, and the gaps between nodes.
    step_s: the host's time per step that nothing hides: scheduling, sampling, copying tokens.
    request_s: per request, once: HTTP, tokenising, admission.
    token_s: per token of a request's prompt, before the engine sees it: tokenising, copying.
    """

    launch_s: NotNegative = 0.0
    graph_s: NotNegative = 0.0
    step_s: NotNegative = 0.0
    request_s: NotNegative = 0.0
    token_s: NotNegative = 0.0


EAGER = "eager"  # no engine: a script runs static batches, kernels are launched one by one


class Fit(Strict, frozen=True, kw_only=True):
    """Overheads, and the engine (empty: any that was not measured) and models of the rows they come from.

    low and high: each constant's range over fits that leave one setting out; of an engine that was not
    measured, over what is assumed and the engines that were.
    """

    backend: str
    models: list[str]
    overheads: Overheads
    low: Overheads
    high: Overheads
    source: Text


class Fits(Strict, frozen=True, kw_only=True):
    """The shipped fits: of every engine, and what is assumed of any other."""

    schema: Literal[1]
    fits: list[Fit]


def overheads_for(engine: str) -> Fit:
    """The engine's own fit, else what is assumed of an engine that nobody measured."""
    fits = {fit.backend: fit for fit in _shipped().fits}
    return fits.get(engine, fits[""])


def fits() -> list[Fit]:
    """All fits: of every engine that was measured, and what is assumed of others."""
    return _shipped().fits


class Power(Strict, frozen=True, kw_only=True):
    """Shares of the TDP: drawn while the device waits, added by a full memory, added by full matrix units."""

    idle: NotNegative
    memory: NotNegative
    compute: NotNegative
    source: Text


@cache
def power() -> Power:
    """The shipped shares, fitted to measured power."""
    return read_record(Power, POWER_FILE, most_bytes=MOST_BYTES)


@cache
def _shipped() -> Fits:
    return read_record(Fits, FILE, most_bytes=MOST_BYTES)
