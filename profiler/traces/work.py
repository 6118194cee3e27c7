"""The work of recorded operators: the rule for an operator's name applied to its inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from profiler.traces.described import MARK
from profiler.traces.formulas import FORMULAS
from profiler.traces.recorded import TYPES, Recorded, Tensor
from profiler.traces.rules import read_rules
from profiler.traces.steps import StepFacts
from specfiles.errors import choose
from specfiles.strict import Strict, Text
from workloads.operators import Operator

TABLE = "operator_rules.yaml"
OVERLOAD = re.compile(r"(\w+::\w+)\.\w+")  # torch.profiler's `capture_overload_names`
MOST_DIMENSION = 2**48
NO_STEP = StepFacts()


class OperatorRule(Strict, frozen=True, kw_only=True):
    """Operators whose whole name matches; their formula and the inputs it takes."""

    name: Text
    kind: Text
    formula: Text
    at: list[int]


@cache
def _rules() -> list[tuple[re.Pattern[str], OperatorRule]]:
    rules = read_rules(TABLE, OperatorRule)
    for rule in rules:
        if rule.formula not in FORMULAS:
            raise choose(rule.formula, list(FORMULAS), f"formula ({TABLE})")
    return [(re.compile(rule.name), rule) for rule in rules]


@cache
def operator_rule(name: str) -> OperatorRule | None:
    """The rule of an operator's name, or of it without its overload (`aten::addmm.out`); None without any."""
    name = name[:300]
    plain = OVERLOAD.fullmatch(name)
    names = [name, plain[1]] if plain else [name]
    return next((rule for each in names for pattern, rule in _rules() if pattern.fullmatch(each)), None)


def recorded_work(rule: OperatorRule, shapes: str, step: StepFacts = NO_STEP) -> Operator | None:
    """The operator of a recorded call; None where its inputs are not those that the rule expects."""
    try:
        return FORMULAS[rule.formula](_recorded(shapes, step), rule.at)
    except (LookupError, ValueError, TypeError, ArithmeticError, msgspec.DecodeError):
        return None


def in_words(shapes: str) -> str:
    """Recorded tensors as people write them, `bf16[2x128] fp32[128]`; fields of a description as k=v."""
    try:
        told = msgspec.json.decode(shapes.encode())
        if shapes.startswith(MARK):
            return " ".join(f"{key}={value}" for key, value in told.items())
        call = _recorded(shapes, NO_STEP)
    except (AttributeError, TypeError, ValueError):
        return shapes
    tensors = [t for at, one in enumerate(call.inputs) for t in call.lists.get(at, (one,)) if t and t.dims]
    sizes = ("x".join(map(str, tensor.dims)) for tensor in tensors)
    named = (TYPES.get(tensor.type, tensor.type) for tensor in tensors)
    return " ".join(f"{name}[{size}]" for name, size in zip(named, sizes, strict=True)) or "no tensor"


def _recorded(shapes: str, step: StepFacts) -> Recorded:
    data = msgspec.json.decode(shapes.encode())
    dims, types, values = (_list(data.get(key)) for key in ("dims", "types", "values"))
    inputs: list[Tensor | None] = []
    lists: dict[int, tuple[Tensor, ...]] = {}
    for index, entry in enumerate(dims):
        kind = str(types[index]) if index < len(types) else ""
        inputs.append(_tensor(entry, kind))
        if isinstance(entry, list) and entry and isinstance(entry[0], list):
            found = [
                _tensor(part, kind if kind and kind != "TensorList" else _first_type(types)) for part in entry
            ]
            lists[index] = tuple(t for t in found if t is not None)
    return Recorded(tuple(inputs), lists, values, step.sequences, step.kv_tokens)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _first_type(types: Sequence[Any]) -> str:
    return next((str(t) for t in types if str(t).startswith("c10::") or t == "float"), "float")


def _tensor(entry: Any, kind: str) -> Tensor | None:
    if not isinstance(entry, list) or not all(type(n) is int and 0 <= n < MOST_DIMENSION for n in entry):
        return None
    return Tensor(tuple(entry), kind)
