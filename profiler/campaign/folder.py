"""The folder of a campaign: file names, and its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from specfiles.errors import InputError
from specfiles.reading import exists, read_json
from specfiles.strict import Strict, validated

HEAD, OPERATORS, DEVICE, CALIBRATION = "campaign.json", "operators.parquet", "device.yaml", "calibration.json"


class Head(Strict, frozen=True, kw_only=True):
    """`campaign.json`: device, command and environment of a campaign."""

    schema_version: Literal[1] = 1
    created: str
    command: str
    device: str
    dtypes: list[str]
    environment: dict[str, Any]
    seconds: float = 0.0  # measured so far, by all processes
    operators: int = 0
    notes: list[str] = []

    @property
    def source(self) -> str:
        """The source of constants fitted to its rows."""
        versions = (
            f"{key} {self.environment[key]}" for key in ("torch", "cuda", "driver") if key in self.environment
        )
        return ", ".join([f"roofline campaign of {self.created[:10]} on {self.device}", *versions])


def open_campaign(folder: Path) -> Head:
    """The head of a campaign. Raises InputError where a file is missing or broken."""
    if not exists(folder / HEAD, Path.is_file):
        raise InputError(
            f"{folder}: is no campaign, it has no {HEAD}; `roofline campaign -o {folder}` makes one."
        )
    head = validated(Head, read_json(folder / HEAD), str(folder / HEAD))
    if not exists(folder / OPERATORS, Path.is_file):
        raise InputError(f"{folder}: has no {OPERATORS}; `roofline campaign -o {folder}` continues it.")
    return head
