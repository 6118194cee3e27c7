"""Operators whose work a technique changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.operators.base import Operator
from workloads.work import Work


@dataclass(frozen=True)
class Changed(Operator):
    """An operator whose work a technique changes in a way that its own sizes cannot say."""

    kind: ClassVar[str] = "changed"

    operator: Operator
    edit: Callable[[Work], Work]  # a record that compares by its values
    stored: float = 1.0  # bytes of its weights in memory over those of the operator

    def work(self) -> Work:
        """The work of the operator, edited."""
        return self.edit(self.operator.work())

    def parameters(self) -> int:
        """Those of the operator."""
        return self.operator.parameters()

    def stored_bytes(self) -> float:
        """Bytes that its weights take in memory."""
        return self.operator.stored_bytes() * self.stored

    def unchanged(self) -> Operator:
        """The operator before every change."""
        return self.operator.unchanged() if isinstance(self.operator, Changed) else self.operator
