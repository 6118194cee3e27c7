"""What tokens cost at prices of devices: those that the user names, else those of device files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwspecs import Device
from specfiles.errors import InputError


def usd_per_million_tokens(usd_per_hour: Any, tokens_per_s: Any) -> Any:
    """The cost of a million tokens on devices that yield `tokens_per_s`; numbers or arrays."""
    return usd_per_hour / 3600 / tokens_per_s * 1e6


def with_cost(points: Sequence[dict[str, Any]], usd_per_hour: float | None) -> list[dict[str, Any]]:
    """Predictions (their JSON form); where a price is given, their totals have `usd_per_million_tokens`."""
    check_price(usd_per_hour)
    return [
        {**point, "totals": at_price(point["totals"], point["devices"], usd_per_hour)} for point in points
    ]


def check_price(usd_per_hour: float | None) -> None:
    """Raise InputError for a price that is not positive and finite."""
    if usd_per_hour is not None and not 0 < usd_per_hour < float("inf"):
        raise InputError(f"the price is {usd_per_hour}; expected USD per hour of a device, above zero.")


def at_price(record: dict[str, Any], devices: int, usd_per_hour: float | None) -> dict[str, Any]:
    """A record with `tokens_per_s`; where a price is given, also with `usd_per_million_tokens`."""
    if usd_per_hour is None:
        return record
    cost = usd_per_million_tokens(usd_per_hour * devices, record["tokens_per_s"])
    return {**record, "usd_per_million_tokens": cost}


def read_prices(path: Path) -> dict[str, float]:
    """USD per hour by the device's own name, from a YAML mapping of names or aliases."""
    from hwspecs import load_device
    from specfiles.reading import read_yaml

    prices: dict[str, float] = {}
    for name, price in read_yaml(path).items():
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 < price < float("inf"):
            raise InputError(f"{path}: the price of {name} is {price!r}; expected USD per hour, above zero.")
        device = load_device(str(name)).name
        if device in prices:
            raise InputError(f"{path}: {name} is {device}, which has a price already; keep one.")
        prices[device] = float(price)
    return prices


def price(device: Device, prices: Mapping[str, float]) -> float | None:
    """USD per hour of one device; None where no price is known."""
    stated = device.datasheet.price_usd_per_hour
    return prices.get(device.name, stated.value if stated else None)
