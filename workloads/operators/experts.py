"""How routing spreads tokens over experts, in expectation: what a batch touches and where its tokens go.

A router gives each token `top_k` different experts. Two assumptions make closed forms: tokens choose
independently, and expert i is among a token's choices with a known probability p_i; the p_i sum to top_k.
Uniform routing has p_i = top_k / experts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from workloads.dtypes import Size


def expected_distinct(experts: int, top_k: float, tokens: Size, skew: float = 0.0) -> Any:
    """Experts that at least one of `tokens` tokens chooses, in expectation.

    No token chooses expert i with probability (1 - p_i)^tokens; the sum of the complements is exact under
    the assumptions above: top_k experts for one token, all of them for many, never top_k x tokens.
    """
    if not skew:
        return experts * (1 - (1 - top_k / experts) ** tokens)
    return sum(1 - (1 - p) ** tokens for p in popularity(experts, top_k, skew))


@cache
def popularity(experts: int, top_k: float, skew: float) -> tuple[float, ...]:
    """The probability that a token chooses each expert, most popular first: p_i falls as rank^-skew.

    No p_i exceeds 1: what the law gives a popular expert beyond certainty is shared by the others.
    """
    certain = 0
    while True:  # at the latest the last choice is shared out: one expert gets no more than all of it
        weights = [rank**-skew for rank in range(certain + 1, experts + 1)]
        scale = (top_k - certain) / sum(weights)
        if weights[0] * scale <= 1:
            return (1.0,) * certain + tuple(weight * scale for weight in weights)
        certain += 1


def expected_devices(experts: int, top_k: int, devices: int, idle: int = 0) -> float:
    """Devices that hold a token's experts, in expectation under uniform routing, of `devices` equal shares.

    A device is spared where all top_k choices fall on the other devices' experts, or on `idle` ones that no
    device holds: a draw without return.
    """
    others, spared = experts - experts // devices + idle, 1.0
    for drawn in range(top_k):
        spared *= max(0, others - drawn) / (experts + idle - drawn)
    return devices * (1 - spared)
