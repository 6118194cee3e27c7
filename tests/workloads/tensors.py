"""Tensors as a reference makes them, and what an operator says that it moves."""

from __future__ import annotations

from typing import Any

from workloads.operators import Operator
from workloads.work import Role


def rows(*shape: int, dtype: str = "bfloat16") -> Any:
    """Random values: bytes do not depend on them."""
    import torch

    return torch.rand(shape, dtype=getattr(torch, dtype))


def size(*tensors: Any) -> int:
    """Bytes of all of them."""
    return sum(tensor.nbytes for tensor in tensors)


def moved(op: Operator) -> dict[Role, float]:
    """Bytes by what they are, those that move at all."""
    work = op.work()
    return {role: work.bytes_as(role) for role in Role if work.bytes_as(role)}
