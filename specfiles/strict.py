"""Schema-checked records: unknown keys refused, every complaint one sentence with the key's path."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from specfiles.errors import InputError, nearest

Record = TypeVar("Record", bound=BaseModel)


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know and values of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def validated(record: type[Record], data: Any, origin: str) -> Record:
    """`data` as a record; an InputError names `origin`, the key, and what was expected there."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{origin}: {_sentence(record, path, first)}") from None


def _sentence(record: type[BaseModel], path: str, error: Any) -> str:
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(record, error["loc"][:-1])
        close = nearest(str(error["loc"][-1]), known, most=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}."
        return f"unknown key {path!r}; {hint}"
    if kind == "missing":
        return f"key {path!r} is missing; add it."
    if kind == "value_error":
        return f"{path + ': ' if path else ''}{error['ctx']['error']}"
    shown = repr(found) if len(repr(found)) <= 60 else repr(found)[:57] + "..."
    return f"{path}: {error['msg'][0].lower()}{error['msg'][1:]}, not {shown}."


def _fields_at(record: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys accepted at a place in nested records; empty where it is not a record."""
    current: Any = record
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        annotation = field.annotation if field else current
        current = next((a for a in _unwrapped(annotation) if hasattr(a, "model_fields")), None)
        if current is None:
            return []
    return list(current.model_fields)


def _unwrapped(annotation: Any) -> list[Any]:
    """An annotation and everything inside its unions, lists and dictionaries."""
    inner = [a for arg in getattr(annotation, "__args__", ()) for a in _unwrapped(arg)]
    return [annotation, *inner]
