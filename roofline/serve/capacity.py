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
SLOWEST, FASTEST = 1e-3, 1e6  # over the rate of requests served one by one: where the search gives up


def capacity(requests: Requests, cluster: Cluster, limits: Limits) -> dict[str, Any]:
    """The outcome at the highest rate that is within limits, the same requests coming faster or slower.

    A rate counts only where the engines keep up with it: in a short run a growing queue is not yet long.

    Raises InputError where even a request alone is not.
    """
    alone = rate = _alone_per_s(requests, cluster)

    def tried(rate: float) -> tuple[bool, dict[str, Any]]:
        found = outcome(requests.at_rate(rate), cluster, limits)
        return found["within_limits"] >= ENOUGH and found["keeps_up"], found

    good, found = tried(rate)
    while not good:
        rate /= 2
        good, found = tried(rate)
        if not good and rate < alone * SLOWEST:
            raise InputError(
                f"requests that come one by one wait {found['ttft_p50_s']:.3g} s for the first token and "
                f"{found['tpot_p50_s'] or 0:.3g} s for each other, so no rate is within the limits; "
                "choose others, or a faster device."
            )
    low, high = rate, 2 * rate
    while (at_high := tried(high))[0] and high < alone * FASTEST:
        low, found, high = high, at_high[1], 2 * high
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
    decode = float(times.decode_s(1, contexts).sum()) if len(contexts) else 0.0
    return cluster.count / (times.mixed_s(0, 0.0, [(prompt, 0)], 1) + decode)
