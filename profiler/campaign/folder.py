"""The folder of a campaign: what it is called, and what opens it without the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from specfiles.errors import InputError
from specfiles.reading import exists, read_json
from specfiles.strict import Strict, validated

HEAD, OPERATORS, DEVICE, CALIBRATION = "campaign.json", "operators.parquet", "device.yaml", "calibration.json"


class Head(Strict, frozen=True, kw_only=True):
    """`campaign.json`: on what and how a campaign ran."""

    schema_version: Literal[1] = 1
    created: str
    command: str
    device: str
    dtypes: list[str]
    environment: dict[str, Any]
    seconds: float = 0.0  # measured so far, over all its sittings
    operators: int = 0
    notes: list[str] = []

    @property
    def source(self) -> str:
        """What a constant that was fitted to its rows says of where it comes from."""
        versions = (
            f"{key} {self.environment[key]}" for key in ("torch", "cuda", "driver") if key in self.environment
        )
        return ", ".join([f"roofline campaign of {self.created[:10]} on {self.device}", *versions])


def open_campaign(folder: Path) -> Head:
    """The head of a campaign; an InputError says what is missing or broken."""
    if not exists(folder / HEAD, Path.is_file):
        raise InputError(
            f"{folder}: is no campaign, it has no {HEAD}; `roofline campaign -o {folder}` makes one."
        )
    head = validated(Head, read_json(folder / HEAD), str(folder / HEAD))
    if not exists(folder / OPERATORS, Path.is_file):
        raise InputError(f"{folder}: has no {OPERATORS}; `roofline campaign -o {folder}` goes on with it.")
    return head
