"""Requests over time: drawn from a described traffic, or read from a recorded one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specfiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workloads.traffic import Traffic

MOST_REQUESTS = 1_000_000
# Columns of public traces beside our own names (Azure LLM inference traces 2023 and 2024).
COLUMNS = {
    "arrival_s": ("arrival_s", "TIMESTAMP", "timestamp"),
    "prompt": ("prompt", "ContextTokens", "prompt_tokens"),
    "output": ("output", "GeneratedTokens", "output_tokens"),
}


@dataclass(frozen=True)
class Requests:
    """Requests in order of arrival: when each comes, how many tokens it brings and how many it asks for.

    With `users` they come in a closed loop: so many at first, each other one when an answer has ended. When
    that is nobody knows before they are served: `arrival_s` of those is infinite.
    """

    arrival_s: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    users: int = 0

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate_per_s(self) -> float:
        """Arrivals per second: the gaps between them, not counting what comes after the last."""
        span = float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span if span else math.inf

    def at_rate(self, rate_per_s: float) -> Requests:
        """The same requests in the same order and rhythm, faster or slower."""
        scale = self.rate_per_s / rate_per_s
        if not math.isfinite(scale):
            raise InputError(
                "one request, or several that arrive at once, have no rate; take more --requests, or leave "
                "--rate out."
            )
        return replace(self, arrival_s=self.arrival_s * scale)

    def from_users(self, users: int) -> Requests:
        """The same requests in the same order from users of whom each waits for an answer to ask again.

        Raises InputError for users that no request is left for.
        """
        if not 1 <= users <= len(self):
            raise InputError(
                f"{users} users were asked for, and there are {len(self)} requests; expected 1 to "
                f"{len(self)} users, or more --requests."
            )
        return replace(self, arrival_s=np.where(np.arange(len(self)) < users, 0.0, np.inf), users=users)

    def dealt(self, engines: int) -> list[NDArray[np.int64]]:
        """The indices of the requests that each of some engines gets, dealt in turn.

        Users of a closed loop are dealt, each with as many requests: an engine with fewer of them has fewer.
        """
        turns = np.arange(len(self)) % (self.users or len(self))
        return [np.flatnonzero(turns % engines == engine) for engine in range(engines)]

    def take(self, index: NDArray[Any]) -> Requests:
        """Some of the requests, and the users that begin with one of them."""
        users = int((index < self.users).sum())
        return Requests(self.arrival_s[index], self.prompt[index], self.output[index], users)


def drawn(traffic: Traffic, prompt: int, output: int, longest: int, *, apart: bool = False) -> Requests:
    """Requests at one per second on average, from the traffic's seed; `at_rate` makes them faster.

    Gaps between arrivals are gamma distributed with the coefficient of variation `burstiness` (1: a Poisson
    process, 0: evenly spaced); lengths are log-normal with the means `prompt` and `output`. What does not
    fit the model's `longest` context is cut, the prompt first; of an encoder-decoder, whose stacks count
    `apart`, each for itself.
    """
    random = np.random.default_rng(traffic.seed)
    count = traffic.count
    gaps = _gamma(random, traffic.burstiness, count)
    prompts = _lengths(random, prompt, traffic.prompt_cv, count)
    outputs = np.minimum(_lengths(random, output, traffic.output_cv, count), longest - (not apart))
    room = longest if apart else longest - outputs
    return Requests(np.cumsum(gaps) - gaps[0], np.minimum(prompts, room), outputs)


def _gamma(random: np.random.Generator, variation: float, count: int) -> NDArray[np.float64]:
    if variation == 0:
        return np.ones(count)
    shape = 1 / variation**2
    return random.gamma(shape, 1 / shape, count)


def _lengths(random: np.random.Generator, mean: int, variation: float, count: int) -> NDArray[np.int64]:
    if variation == 0:
        return np.full(count, mean)
    spread = math.sqrt(math.log1p(variation**2))
    drawn = random.lognormal(math.log(mean) - spread**2 / 2, spread, count)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def recorded(table: pd.DataFrame, path: Path | str, longest: int, *, apart: bool = False) -> Requests:
    """Requests of a recorded table with columns arrival_s (seconds or dates), prompt and output.

    None may be longer than the model's `longest` context; see `drawn`.

    Raises InputError naming the column or row of `path` where it holds something else.
    """
    if not hasattr(table, "columns"):
        raise InputError(f"{path} is {table!r}; expected a file or a table of requests.")
    if not 0 < len(table) <= MOST_REQUESTS:
        raise InputError(f"{path}: has {len(table)} requests; expected 1 to {MOST_REQUESTS}.")
    arrival, prompt, output = (_column(table, path, name) for name in COLUMNS)
    order = np.argsort(arrival, kind="stable")
    found = Requests(
        arrival[order] - arrival.min(), prompt[order].astype(np.int64), output[order].astype(np.int64)
    )
    long = np.maximum(found.prompt, found.output) if apart else found.prompt + found.output
    too_long = long > longest
    if too_long.any():
        row = int(order[np.argmax(too_long)])
        raise InputError(
            f"{path}: request {row} has {prompt[row]:.0f} + {output[row]:.0f} tokens, and the model has "
            f"positions for {longest}; take such requests out or choose another model."
        )
    return found


def _column(table: Any, path: Path | str, name: str) -> NDArray[np.float64]:
    import pandas as pd

    known = next((column for column in COLUMNS[name] if column in table.columns), None)
    if known is None:
        raise InputError(f"{path}: has no column {name!r}; it has {', '.join(map(str, table.columns))}.")
    values = table[known]
    if name == "arrival_s" and not pd.api.types.is_numeric_dtype(values):
        dates = pd.to_datetime(values, errors="coerce", format="ISO8601")
        values = (dates - dates.min()).dt.total_seconds()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    least = 0.0 if name == "arrival_s" else 1.0
    bad = ~(np.isfinite(numbers) & (numbers >= least))
    if bad.any():
        row = int(np.argmax(bad))
        found = table[known].iloc[row]
        shown = repr(found) if isinstance(found, str) else "empty" if pd.isna(found) else str(found)
        raise InputError(f"{path}: row {row + 1} has {known} = {shown}; expected a number from {least:g}.")
    return np.asarray(numbers, float)
