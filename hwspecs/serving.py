"""Overheads of inference engines beyond their kernels, fitted to measured TTFT and TPOT."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from specfiles.reading import read_text
from specfiles.strict import NotNegative, Strict, Text, validated

FILE = Path(__file__).parent / "serving" / "overheads.json"
MOST_BYTES = 1_000_000


class Overheads(Strict, frozen=True, kw_only=True):
    """What an engine adds to its kernels.

    launch_s: the host's time per kernel it launches, hidden where the device is slower.
    step_s: the host's time per step that nothing hides: scheduling, sampling, copying tokens.
    request_s: per request, once: HTTP, tokenising, admission.
    together: the share of requests that arrive at the same moment, because those before them had equal
    lengths and ended together; 0 for arrivals that are spread evenly.
    """

    launch_s: NotNegative = 0.0
    step_s: NotNegative = 0.0
    request_s: NotNegative = 0.0
    together: NotNegative = 0.0


class Fit(Strict, frozen=True, kw_only=True):
    """Overheads, and the engine (empty: all of them together) and models of the rows they were fitted to."""

    backend: str
    models: list[str]
    overheads: Overheads
    source: Text


class Fits(Strict, frozen=True, kw_only=True):
    """The shipped fits: of every engine, of all together, and of all together without each model."""

    schema: Literal[1]
    fits: list[Fit]


def overheads_for(model: str, backend: str) -> Fit:
    """The engine's own fit, else that of all, to the most models among which this one is not.

    No constant is scored on the model it was fitted to.
    """
    unseen = [fit for fit in _shipped().fits if model not in fit.models and fit.backend in (backend, "")]
    return max(unseen, key=lambda fit: (bool(fit.backend), len(fit.models)))


@cache
def _shipped() -> Fits:
    import msgspec

    data = msgspec.json.decode(read_text(FILE, most_bytes=MOST_BYTES).encode())
    return validated(Fits, data, str(FILE))
