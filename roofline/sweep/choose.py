"""Which points of a sweep meet limits, and what their tokens cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from roofline.cost import price, usd_per_million_tokens
from roofline.target import GOALS

if TYPE_CHECKING:
    import pandas as pd

    from roofline.target import Goal

COST = "usd_per_million_tokens"


def within(table: pd.DataFrame, goal: Goal) -> pd.DataFrame:
    """The points that reach every goal: times at most, throughput at least."""
    for name, wanted in goal.goals.items():
        reached = table[GOALS[name]]
        table = table[reached >= wanted if name == "throughput" else reached <= wanted]
    return table


def priced(table: pd.DataFrame, hardware: Sequence[str], prices: Mapping[str, float]) -> pd.DataFrame:
    """The points with COST, empty where nobody gave a price; `prices` are USD per hour by device name."""
    import pandas as pd

    from hwspecs import load_device

    devices = map(load_device, hardware)
    known = {device.name: price(device, prices) for device in devices}
    devices = table[["tensor_parallel", "expert_parallel"]].max(axis=1) * table["pipeline_parallel"]
    hourly = pd.to_numeric(table["hardware"].map(known)) * devices
    return table.assign(**{COST: usd_per_million_tokens(hourly, table["tokens_per_s"])})
