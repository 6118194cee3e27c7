"""The highest rate of requests at which most of them are still served within limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from roofline.serve.cluster import Cluster
from roofline.serve.outcome import Limits, outcome
from roofline.serve.requests import Requests
from specfiles.errors import InputError

ENOUGH = 0.9  # of the requests are within the limits (DistServe's attainment)
CLOSE = 1.02  # ratio of the rates between which the capacity lies when the search ends
STAYS = 20  # times that a request stays in the server: how long a run lasts that the answer is taken from
FEWEST = 2000  # requests in it, of which a queue that grows by 5 % is told from a long one (see `outcome`)
SLOWEST = 1e-3  # over the rate of requests served one by one: where the search gives up


def capacity(
    requests: Requests, cluster: Cluster, limits: Limits, first: int | None = None
) -> dict[str, Any]:
    """The outcome at the highest rate that is within limits, the same requests coming faster or slower.

    A rate counts only where the engines are seen to keep up with it: in a short run a growing queue is not
    yet long, or the server not yet full.
    With `first`, so many of the requests are tried, and then as many as make the run `STAYS` times as long as
    a request stays: too short a run ends before the server is full, and reaches rates that do not last.

    Raises InputError where even a request alone is not.
    """
    count = min(first or len(requests), len(requests))
    alone = _alone_per_s(requests, cluster)
    found = _search(requests.take(np.arange(count)), cluster, limits, alone, 2.0)
    while count < (more := min(len(requests), needed(found))):
        count = more
        found = _search(requests.take(np.arange(count)), cluster, limits, found["rate_per_s"], 1.25)
    return found


def needed(found: dict[str, Any]) -> int:
    """Requests in a run that is long against the time that one stays; by Little, rate * latency are there."""
    return max(FEWEST, int(STAYS * found["rate_per_s"] * found["latency_mean_s"]))


def _search(
    requests: Requests, cluster: Cluster, limits: Limits, rate: float, stride: float
) -> dict[str, Any]:
    slowest = rate * SLOWEST

    def tried(rate: float) -> tuple[bool, dict[str, Any]]:
        found = outcome(requests.at_rate(rate), cluster, limits)
        return found["within_limits"] >= ENOUGH and found["keeps_up"] is True, found

    good, found = tried(rate)
    low, high = rate, stride * rate
    if good:
        while (at_high := tried(high))[0]:
            low, found, high = high, at_high[1], stride * high
    while not good:
        low, high = low / stride, low
        good, found = tried(low)
        if not good and low < slowest:
            raise InputError(
                f"requests that come one by one wait {found['ttft_p50_s']:.3g} s for the first token and "
                f"{found['tpot_p50_s'] or 0:.3g} s for each other, so no rate is within the limits; "
                "choose others, or a faster device."
            )
    while high / low > CLOSE:
        middle = (low * high) ** 0.5
        good, at_middle = tried(middle)
        if good:
            low, found = middle, at_middle
        else:
            high = middle
    return found


def _alone_per_s(requests: Requests, cluster: Cluster) -> float:
    """Requests per second if one were served after the other, by the mean lengths."""
    prompt, output = int(requests.prompt.mean()), int(requests.output.mean())
    times = cluster.times
    contexts = prompt + 1 + np.arange(max(0, output - 1), dtype=float)
    decode = float(times.decode_s(1, contexts, prompt).sum()) if len(contexts) else 0.0
    cached = times.cached(prompt)
    return cluster.count / (times.mixed_s(0, 0.0, [(prompt - cached, cached)], 1) + decode)
