"""The interface of all operators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from workloads.dtypes import bytes_per_element
from workloads.work import Work


class Operator(ABC):
    """One operation of a model at given sizes. Sizes may be numbers or NumPy arrays over a grid."""

    kind: ClassVar[str]

    @abstractmethod
    def work(self) -> Work:
        """FLOP by unit and bytes by tensor of one execution."""

    def parameters(self) -> int:
        """Weight elements that belong to this operator (a tied matrix belongs to the embedding)."""
        return 0

    def active_parameters(self) -> int:
        """Weight elements that this execution uses: all, or those of the experts that tokens reach."""
        return self.parameters()

    def stored_bytes(self) -> float:
        """Bytes of its weights in memory."""
        owned = self.parameters()
        return owned * bytes_per_element(self.weights) if owned else 0.0  # type: ignore[attr-defined]
