"""Read the fields of a Hugging Face `config.json` with errors that name field, value and expectation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from specfiles.errors import InputError
from specfiles.frozen import dataclass

MOST = {"layers": 2_000, "size": 100_000_000}  # beyond any published model; a typo or an attack


@dataclass(frozen=True)
class Config:
    """A model's config; `origin` (a path or a name) is named in errors."""

    fields: Mapping[str, Any]
    origin: str

    @property
    def kind(self) -> str:
        """The family that it states, its `model_type`; empty where there is none."""
        return self.text("model_type", default="")

    def size(self, *names: str, default: int | None = None, most: int = MOST["size"]) -> int:
        """A positive whole number under the first of `names` that is set."""
        name, value = self._first(names)
        if value is None:
            if default is not None:
                return default
            raise InputError(
                f"{self.origin}: field {names[0]!r} is missing; expected a positive whole number."
            )
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self._wrong(name, value, f"a whole number from 1 to {most}")
        return value

    def count(self, name: str, default: int) -> int:
        """A whole number from 0."""
        value = self.fields.get(name)
        return 0 if value == 0 and not isinstance(value, bool) else self.size(name, default=default)

    def layers(self, *names: str, default: int | None = None) -> int:
        """The number of layers."""
        return self.size(*names, default=default, most=MOST["layers"])

    def optional_size(self, *names: str) -> int | None:
        """A positive whole number, or None where the field is absent or null."""
        return self.size(*names) if self._first(names)[1] is not None else None

    def sizes(self, name: str, layers: int, default: int) -> list[int]:
        """A positive whole number for each layer: one for all, or a list."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            return [self.size(name, default=default)] * layers
        return [Config({name: entry}, self.origin).size(name) for entry in self._listed(name, layers) or ()]

    def fraction(self, name: str, default: float) -> float:
        """A number in (0, 1]."""
        value = self.fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self._wrong(name, value, "a number above 0 and at most 1")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self.fields.get(name, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, *names: str, default: str) -> str:
        """A string."""
        name, value = self._first(names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def per_layer(self, name: str, layers: int, allowed: tuple[str, ...]) -> list[str] | None:
        """A list with one of `allowed` per layer, or None where the field is absent."""
        entries = self._listed(name, layers)
        for entry in entries or ():
            if entry not in allowed:
                raise self._wrong(name, entry, f"one of {', '.join(allowed)} per layer")
        return entries

    def indices(self, name: str, layers: int) -> list[int] | None:
        """A list of whole numbers from 0 below the number of layers, or None where the field is absent."""
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list of layers")
        for entry in value:
            if isinstance(entry, bool) or not isinstance(entry, int) or not 0 <= entry < layers:
                raise self._wrong(name, entry, f"layers from 0 to {layers - 1}")
        return value

    def flags(self, name: str, layers: int) -> list[bool] | None:
        """A list with a truth value, or 0 or 1, per layer, or None where the field is absent or empty."""
        entries = self._listed(name, layers) if self.fields.get(name) != [] else None
        for entry in entries or ():
            if entry not in (0, 1) or isinstance(entry, float):
                raise self._wrong(name, entry, "0 or 1 per layer")
        return None if entries is None else list(map(bool, entries))

    def from_zero(self, name: str, layers: int, below: float = math.inf) -> list[float] | None:
        """A list with a number from 0 and `below` another per layer, or None where the field is absent."""
        entries = self._listed(name, layers)
        for entry in entries or ():
            if isinstance(entry, bool) or not isinstance(entry, int | float) or not 0 <= entry < below:
                limit = "" if below == math.inf else f" and below {below:g}"
                raise self._wrong(name, entry, f"a number from 0{limit} per layer")
        return entries

    def nested(self, name: str) -> Config:
        """The config inside a field; an empty one where the field is absent."""
        value = {} if self.fields.get(name) is None else self.fields[name]
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "a mapping")
        return Config(value, f"{self.origin} ({name})")

    def each_layer(self, name: str, layers: int) -> list[Config]:
        """The configs in a list with one per layer."""
        entries = self._listed(name, layers)
        if entries is None:
            raise InputError(f"{self.origin}: field {name!r} is missing; expected one entry per layer.")
        return [Config({name: entry}, self.origin).nested(name) for entry in entries]

    def positive(self, name: str, most: float) -> float:
        """A number above 0."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self._wrong(name, value, f"a number above 0 and at most {most:g}")
        return float(value)

    def within(self, part_name: str, part: int, whole_name: str, whole: int) -> None:
        """Refuse a part that is larger than the whole."""
        if part > whole:
            raise InputError(
                f"{self.origin}: {part_name} {part} is above {whole_name} {whole}; expected at most as many."
            )

    def divides(self, whole_name: str, whole: int, part_name: str, part: int) -> None:
        """Refuse sizes that contradict each other."""
        if whole % part:
            raise InputError(
                f"{self.origin}: {whole_name} {whole} is not divisible by {part_name} {part}; "
                f"expected {part_name} to divide it."
            )

    def wrong(self, name: str, expected: str) -> InputError:
        """The error for a field whose value is well formed and not supported."""
        return self._wrong(name, self.fields.get(name), expected)

    def _listed(self, name: str, layers: int) -> list[Any] | None:
        """A list with an entry per layer, or None where the field is absent."""
        value = self.fields.get(name)
        if value is None or (isinstance(value, list) and len(value) == layers):
            return value
        found = f"{len(value)} entries" if isinstance(value, list) else repr(value)[:40]
        raise InputError(f"{self.origin}: field {name!r} has {found}; expected one per layer, {layers}.")

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if self.fields.get(name) is not None:
                return name, self.fields[name]
        return names[0], None

    def _wrong(self, name: str, value: Any, expected: str) -> InputError:
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
        return InputError(f"{self.origin}: field {name!r} is {shown}; expected {expected}.")
