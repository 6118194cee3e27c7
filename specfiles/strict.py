"""Records with a schema: unknown keys are errors; an error is one sentence with the path of the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from specfiles.errors import TYPO, InputError, nearest
from specfiles.reading import read_text

Record = TypeVar("Record", bound="Strict")
MOST = 1e30  # beyond any physical quantity here; refuses infinity
TYPES = {
    **{"array": "a list", "object": "a mapping", "str": "text"},
    **{"int": "a whole number", "float": "a number", "bool": "true or false"},
}

Positive = Annotated[float, msgspec.Meta(gt=0, lt=MOST)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=MOST)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A frozen record; unknown keys and values of the wrong type are errors.

    Subclasses repeat `frozen=True, kw_only=True`, which a type checker does not inherit.

    msgspec and not pydantic: it imports in a quarter of the time, and a prediction is mostly imports.
    """

    def replace(self: Record, **changes: Any) -> Record:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def read_record(record: type[Record], path: Path, *, most_bytes: int) -> Record:
    """A record from a large JSON file of numbers; unlike `read_json` it does not detect duplicate keys.

    Raises InputError for a file that is larger, no JSON, or breaks the schema.
    """
    try:
        data = msgspec.json.decode(read_text(path, most_bytes=most_bytes).encode())
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from None
    return validated(record, data, str(path))


def validated(record: type[Record], data: Any, origin: str) -> Record:
    """`data` as a record. Raises InputError naming `origin`, the key, and what was expected."""
    try:
        return msgspec.convert(data, record)
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: {_complaint(record, data, '') or error}") from None


def plain_data(record: Strict) -> Any:
    """A record as dictionaries, lists and numbers, under the keys of its file, without fields that are None.

    In a mapping of the file's own keys, such as a model's config, a null stays: it may mean something else
    than a missing key.
    """
    return _without_none(msgspec.to_builtins(record), record)


def _without_none(value: Any, record: Any) -> Any:
    """`value` is what `record` became."""
    if isinstance(record, msgspec.Struct):
        fields = {field.encode_name: field.name for field in msgspec.structs.fields(record)}
        return {  # a tag, which says of several kinds of record which one this is, is no field
            key: _without_none(item, getattr(record, fields.get(key, ""), None))
            for key, item in value.items()
            if item is not None
        }
    if isinstance(record, Mapping):
        return {
            key: _without_none(item, made)
            for (key, item), made in zip(value.items(), record.values(), strict=True)
        }
    if isinstance(record, list | tuple):
        return [_without_none(item, made) for item, made in zip(value, record, strict=True)]
    return value


def _complaint(kind: Any, data: Any, path: str) -> str | None:
    """The sentence for the first error in `data`; None where it is valid."""
    kind = _alternative(kind, data)
    error = _error(kind, data)
    if error is None:
        return None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(data, dict):
        return _in_record(kind, data, path) or f"{path + ': ' if path else ''}{error}"
    if get_origin(kind) is dict and isinstance(data, dict):
        return _in_mapping(kind, data, path) or f"{path}: {error}"
    if get_origin(kind) is Literal:
        return f"{path}: expected {' or '.join(map(str, get_args(kind)))}, not {_shown(data)}."
    if get_origin(kind) is list and isinstance(data, list):
        (item,) = get_args(kind)
        inside = (_complaint(item, value, f"{path}.{i}") for i, value in enumerate(data))
        return next(filter(None, inside), None) or f"{path}: {_lower(error)}, not {_shown(data)}."
    return f"{path}: {_lower(error)}, not {_shown(data)}."


def _in_record(kind: Any, data: dict[Any, Any], path: str) -> str | None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in data:
        if key not in fields:
            return _unknown(_join(path, key), str(key), list(fields))
    for name, field in fields.items():
        if name not in data and field.required:
            return f"key {_join(path, name)!r} is missing; add it."
    inside = (
        _complaint(field.type, data[name], _join(path, name))
        for name, field in fields.items()
        if name in data
    )
    return next(filter(None, inside), None)


def _in_mapping(kind: Any, data: dict[Any, Any], path: str) -> str | None:
    of_key, of_value = get_args(kind)
    for key, value in data.items():
        if _error(of_key, key) is not None:
            return _unknown(_join(path, key), str(key), [str(name) for name in get_args(of_key)])
        if complaint := _complaint(of_value, value, _join(path, key)):
            return complaint
    return None


def _alternative(kind: Any, data: Any) -> Any:
    """Of a union, also an `Annotated` one, the member that has the shape of the data."""
    if get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) in (list, dict):
        kind = get_args(kind)[0] if _error(get_args(kind)[0], data) else kind
    if get_origin(kind) not in (Union, UnionType):
        return kind
    if data is None and type(None) in get_args(kind):
        return type(None)
    members = [member for member in get_args(kind) if member is not type(None)]
    shapes: dict[Any, Any] = {dict: (dict, msgspec.Struct), list: list}
    shape = shapes.get(type(data))
    for member in members:
        bare = get_args(member)[0] if get_origin(member) is Annotated else member
        outer = get_origin(bare) or bare
        if shape is not None and isinstance(outer, type) and issubclass(outer, shape):
            return member
    return members[0] if shape is None else kind


def _error(kind: Any, data: Any) -> str | None:
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        return _in_words(str(error).partition(" - at `")[0])
    return None


def _in_words(said: str) -> str:
    """msgspec's sentence with the types of YAML and JSON in words, and without the type that was given."""
    before, _, rest = said.partition("`")
    types, _, after = rest.partition("`")
    if not before.startswith("Expected "):
        return said
    words = " or ".join(TYPES.get(name, name) for name in types.split(" | ") if name != "null")
    return f"{before}{words}{after.partition(', got ')[0]}"


def _unknown(path: str, key: str, known: list[str]) -> str:
    close, listed = nearest(key, known, most=1), f"known keys: {', '.join(known)}"
    if not close:
        return f"unknown key {path!r}; {listed}."
    spelt = nearest(key, known, most=1, cutoff=TYPO)  # else it may be another word for any of them
    return f"unknown key {path!r}; did you mean {close[0]!r}?" + ("" if spelt else f" ({listed})")


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].replace("`", "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
