"""Traced operators as a table of a run, and the model made of them again, without the user's code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from specfiles.errors import InputError, choose
from specfiles.strict import MOST, Strict, validated
from workloads.dtypes import FORMATS
from workloads.operators import Attention, Embedding, Gemm, Operator
from workloads.operators.traced import Traced
from workloads.traced_model import Call, TracedModel, traced_model

if TYPE_CHECKING:
    import pandas as pd

    from workloads.phases import Named

KINDS: dict[str, type[Operator]] = {kind.kind: kind for kind in (Gemm, Embedding, Attention, Traced)}
MOST_CALLS = 1_000_000  # in one pass: a table may come from anywhere

_COUNT = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_SIZE = _COUNT | Annotated[float, msgspec.Meta(ge=0, lt=MOST)]
_TYPES: dict[str, Any] = {  # by the annotation of an operator's field
    "Size": _SIZE,
    "Size | None": _SIZE | None,
    "DtypeLike": str,
    "str": str,
    "bool": bool,
    "int": _COUNT,
    "float": _SIZE,
}


def table_rows(named: Iterable[Named]) -> list[dict[str, Any]]:
    """A row per operator: name, kind, executions, FLOP, bytes, and its fields as JSON."""
    rows = []
    for entry in named:
        work = entry.operator.work()
        rows.append(
            {
                "name": entry.name,
                "kind": entry.operator.kind,
                "count": int(entry.count),
                "flops": float(work.flops),
                "bytes": float(work.bytes),
                "fields": json.dumps(vars(entry.operator)),
            }
        )
    return rows


def model_of(table: pd.DataFrame, name: str, origin: str) -> TracedModel:
    """The model of such a table. An InputError names `origin` and what is wrong in it."""
    return traced_model(name, list(_calls(table, origin)))


def _calls(table: pd.DataFrame, origin: str) -> Iterator[Call]:
    seen = 0
    for row in table.itertuples(index=False):
        count = row.count if isinstance(row.count, int) else 0
        seen += count
        if count < 1 or seen > MOST_CALLS:
            raise InputError(
                f"{origin}: {row.name} has {row.count!r} calls; expected 1 to {MOST_CALLS} in all."
            )
        operator = _operator(str(row.kind), str(row.fields), f"{origin}: {row.name}")
        yield from [(str(row.name), operator)] * count


def _operator(kind: str, text: str, origin: str) -> Operator:
    if kind not in KINDS:
        raise choose(kind, list(KINDS), f"kind of traced operator in {origin}")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{origin}: its fields are not JSON ({error}); measure the run again.") from None
    found = msgspec.structs.asdict(validated(_record(kind), data, origin))
    for name in _dtypes(kind):
        if found[name] not in FORMATS:
            raise choose(str(found[name]), list(FORMATS), f"format in {origin}")
    return KINDS[kind](**found)


@cache
def _record(kind: str) -> type[Strict]:
    """The schema of a kind's fields, from the operator's class."""
    columns = [
        (f.name, _TYPES[str(f.type)]) if f.default is MISSING else (f.name, _TYPES[str(f.type)], f.default)
        for f in fields(KINDS[kind])  # type: ignore[arg-type]
    ]
    made: type[Strict] = msgspec.defstruct(kind, columns, bases=(Strict,), frozen=True, kw_only=True)  # type: ignore[assignment]
    return made


def _dtypes(kind: str) -> list[str]:
    return [f.name for f in fields(KINDS[kind]) if f.type == "DtypeLike"]  # type: ignore[arg-type]
