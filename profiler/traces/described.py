"""Operators fully described by a range: kind and sizes as JSON, as `roofline profile --nsys` writes them."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import msgspec

from profiler.traces.tables import work_values
from specfiles.errors import InputError
from workloads.operators import Operator
from workloads.operators.kinds import KINDS

MOST_SIZE = 2**48
MARK = '{"kind":'
BY_KIND = {kind.kind: kind for kind in KINDS}
TYPES: dict[str, tuple[type, ...]] = {
    "Size": (int, float),
    "Size | None": (int, float),
    "DtypeLike": (str,),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "FeatureKind": (str,),
}


@cache
def described(shapes: str) -> Operator | None:
    """The operator; None for an unknown kind or invalid sizes."""
    if not shapes.startswith(MARK):
        return None
    try:
        told = msgspec.json.decode(shapes.encode())
        kind = BY_KIND[told.pop("kind")]
        types = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if not all(_is_a(value, types[name]) for name, value in told.items()):
            return None
        operator = kind(**told)
        known = all(0 <= value < math.inf for value in work_values(operator.work()))
    except (KeyError, TypeError, ValueError, ArithmeticError, msgspec.DecodeError, InputError):
        return None
    return operator if known else None


def _is_a(value: Any, kind: str) -> bool:
    """Whether a value has the field's type: a string would be repeated by a product of sizes."""
    number = type(value) in (int, float)
    return type(value) in TYPES.get(kind, ()) and (not number or 0 <= value <= MOST_SIZE)
