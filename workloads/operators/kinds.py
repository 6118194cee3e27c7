"""Every kind of operator, for those who must know them all: readers of ranges, and tests."""

from __future__ import annotations

from workloads import operators
from workloads.operators.base import Operator
from workloads.operators.changed import Changed

KINDS: tuple[type[Operator], ...] = tuple(
    kind
    for kind in (getattr(operators, name) for name in operators.NAMES)
    if issubclass(kind, Operator) and kind not in (Operator, Changed)
)
