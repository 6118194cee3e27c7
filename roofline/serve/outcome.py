"""What requests waited for, and how many of them in time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from roofline.serve.cluster import Cluster
    from roofline.serve.engine import Log
    from roofline.serve.requests import Requests

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
WARM_UP = 0.1  # of the requests, the first: they meet an emptier server than the others
FULLS = 4  # times that a run fills the server: once to fill, once to drain, and two halves to compare
DEVIATIONS = 2  # standard deviations of the number of arrivals; a growth of the latency beyond is not chance


@dataclass(frozen=True)
class Limits:
    """What a request must be served within; None: no matter how long."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def met(self, ttft_s: NDArray[np.float64], tpot_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which requests are within both; an answer of one token has no time per further token."""
        within = np.ones(len(ttft_s), bool)
        if self.ttft_s is not None:
            within &= ttft_s <= self.ttft_s
        if self.tpot_s is not None:
            within &= ~(tpot_s > self.tpot_s)
        return within


@dataclass(frozen=True)
class Serving:
    """What was simulated, and a record per batching and rate (see `outcome`)."""

    model: str
    hardware: str
    fidelity: str
    devices: int  # of all engines
    limits: Limits
    prompt: float  # mean tokens
    output: float
    requests: int
    rows: list[dict[str, Any]]
    engine: str | None = None  # whose overheads are in the times, and where they come from
    enough: int | None = None  # requests that a search for the highest rate takes, where it had fewer
    notes: tuple[str, ...] = ()  # what of the formats and devices the times take for granted
    layout: str = ""  # how the devices are shared out
    formats: str = ""  # of weights, activations and cache

    def table(self) -> pd.DataFrame:
        """The records: a row per batching and rate, columns as in docs/serving.md."""
        import pandas as pd

        return pd.DataFrame(self.rows)


def outcome(requests: Requests, cluster: Cluster, limits: Limits) -> dict[str, Any]:
    """Serve the requests and sum up: latencies of those after the warm-up, rates of all.

    ttft: from arrival to the first token. tpot: mean time of the others of a request. itl: time between two
    tokens of a request, over all tokens. goodput: requests per second within the limits.
    """
    whole, logs = cluster.serve(requests)
    requests = replace(requests, arrival_s=whole.arrival_s)
    warm = slice(int(WARM_UP * len(requests)), None)
    since = requests.arrival_s - cluster.policy.before_s(requests.prompt)
    latency = whole.last_s - since
    ttft = (whole.first_s - since)[warm]
    more = np.maximum(requests.output - 1, 1)
    tpot = np.where(requests.output > 1, (whole.last_s - whole.first_s) / more, np.nan)[warm]
    span = float(whole.last_s.max() - requests.arrival_s[0])
    within = float(limits.met(ttft, tpot).mean())
    served = len(requests) / span
    return {
        "users": requests.users or None,
        "requests": len(requests),
        "rate_per_s": requests.rate_per_s,
        "served_per_s": served,
        "keeps_up": _keeps_up(requests, latency),
        "tokens_per_s": float(requests.output.sum()) / span,
        **_quantiles("ttft", ttft),
        **_quantiles("tpot", tpot[~np.isnan(tpot)]),
        **_quantiles("latency", latency[warm]),
        "itl_p99_s": _weighted(whole, 0.99),
        "within_limits": within,
        "goodput_per_s": within * served,
        **_engines(logs, cluster, span),
    }


def _engines(logs: list[Log], cluster: Cluster, span: float) -> dict[str, Any]:
    busy = sum(log.busy_s for log in logs)
    return {
        "mean_batch": sum(log.decoding for log in logs) / busy if busy else 0.0,
        "busy": busy / (span * cluster.count),
        "cache_peak": max(log.peak_bytes for log in logs) / cluster.room.bytes,
        "preempted": sum(log.preempted for log in logs),
    }


def _quantiles(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    """The mean and the quantiles of a latency; null where no request has one."""
    mean = {f"{name}_mean_s": float(values.mean()) if len(values) else None}
    return mean | {
        f"{name}_{label}_s": float(np.quantile(values, share)) if len(values) else None
        for label, share in QUANTILES.items()
    }


def _weighted(log: Log, share: float) -> float | None:
    """A quantile of the gaps between tokens, each counted for every request that waited for it."""
    if not log.gaps_s:
        return None
    gaps, weights = np.concatenate(log.gaps_s), np.concatenate(log.weights)
    order = np.argsort(gaps)
    reached = np.cumsum(weights[order])
    return float(gaps[order][np.searchsorted(reached, share * reached[-1])])


def _keeps_up(requests: Requests, latency_s: NDArray[np.float64]) -> bool | None:
    """Whether who comes later does not stay longer, by the halves of the requests after the warm-up.

    Where requests come `load` times as fast as they can leave, each second of arrivals adds load - 1 to the
    latency. The number of Poisson arrivals varies by its root, so n of them tell no load up to 1 + n**-0.5
    from 1. A server is full when rate * latency requests are in it (Little's law): None where nobody stays
    longer and fewer than `FULLS` times as many came. Latency grows while a server fills, whatever the load,
    and the last requests leave sooner, as nobody comes any more: in a short run the two hide a queue.
    """
    if requests.users:
        return True
    first = int(WARM_UP * len(requests))
    middle = (first + len(requests)) // 2
    if middle == first:
        return None
    early, late = slice(first, middle), slice(middle, None)
    longer = latency_s[late].mean() - latency_s[early].mean()
    later = requests.arrival_s[late].mean() - requests.arrival_s[early].mean()
    if longer > DEVIATIONS / len(requests) ** 0.5 * later:
        return False
    full = requests.rate_per_s * float(latency_s.mean())
    return True if FULLS * full <= len(requests) else None
