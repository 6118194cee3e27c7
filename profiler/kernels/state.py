"""Recurrent states in memory, and chunks of a sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from profiler.kernels.base import whole

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place
    from workloads.dtypes import DtypeLike, Size

WIDE = ("fp64", "fp32")


@dataclass(frozen=True)
class State:
    """States of `shape`, so many that each is cold; every call writes to one.

    A step without past positions only writes them. Values are positive, as denominators may be among them.
    """

    place: Place
    past: Size
    dtype: DtypeLike
    shape: tuple[int, ...]

    @cached_property
    def copies(self) -> torch.Tensor:
        """[copies, *shape] in the state's format, or in that of the place if it is wide."""
        place = self.place
        stored = place if place.dtype in WIDE else replace(place, dtype=str(self.dtype))
        size = math.prod(self.shape) * stored.torch_dtype.itemsize
        count = max(2, int(place.cold_bytes // max(1, size))) if place.cold_bytes else 1
        return stored.random(count, *self.shape).abs()

    @cached_property
    def first(self) -> torch.Tensor | None:
        """The state before the first call in fp64, read before any call; None without past positions."""
        import torch

        return self.copies[0].to(torch.float64, copy=True) if whole(self.past) else None

    def found(self, i: int) -> torch.Tensor | None:
        """The state before call `i`."""
        return self.at(i) if whole(self.past) else None

    def at(self, i: int) -> torch.Tensor:
        """The memory of the state of call `i`."""
        return self.copies[i % len(self.copies)]

    def keep(self, i: int, state: torch.Tensor) -> None:
        """Store the state after call `i`."""
        self.at(i).copy_(state)


def wide(x: torch.Tensor) -> torch.Tensor:
    """In fp32 or more, as in model code."""
    import torch

    return x.to(torch.promote_types(x.dtype, torch.float32))


def chunked(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """[batch, positions, heads, ...] as [batch, heads, chunks, chunk, ...], padded with zeros."""
    from torch.nn.functional import pad

    missing = -x.shape[1] % chunk
    padded = pad(x, (*(0, 0) * (x.ndim - 2), 0, missing))
    return padded.unflatten(1, (-1, chunk)).movedim(3, 1)


def joined(x: torch.Tensor, positions: int) -> torch.Tensor:
    """The inverse of `chunked`."""
    return x.movedim(1, 3).flatten(1, 2)[:, :positions]


def decays(logarithms: torch.Tensor, rows: int = 0) -> torch.Tensor:
    """exp of the sum over ]j, i] of [..., positions]: [..., rows, positions], zero where j is after i.

    `rows` are the last positions; 0: all.
    """
    import torch

    sums = logarithms.cumsum(-1)
    between = sums[..., -rows:, None] - sums[..., None, :]
    later = torch.ones(between.shape[-2:], dtype=torch.bool, device=between.device)
    return between.masked_fill(later.triu(1 + sums.shape[-1] - between.shape[-2]), -math.inf).exp()
