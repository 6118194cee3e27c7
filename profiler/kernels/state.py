"""What kernels with a state between steps share: the state's memory, and chunks of a sequence."""

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
    """States of `shape`, as many as make each cold, in memory of their own: every call writes to one.

    Of a step without positions before it they are only written. Numbers are positive: a denominator may
    be among them.
    """

    place: Place
    past: Size
    dtype: DtypeLike
    shape: tuple[int, ...]

    @cached_property
    def copies(self) -> torch.Tensor:
        """[copies, *shape] in the state's format, or the place's where that is a wide one."""
        place = self.place
        stored = place if place.dtype in WIDE else replace(place, dtype=str(self.dtype))
        size = math.prod(self.shape) * stored.torch_dtype.itemsize
        count = max(2, int(place.cold_bytes // max(1, size))) if place.cold_bytes else 1
        return stored.random(count, *self.shape).abs()

    @cached_property
    def first(self) -> torch.Tensor | None:
        """In fp64 what the first call finds; None where nothing was before. To be asked before any call."""
        import torch

        return self.copies[0].to(torch.float64, copy=True) if whole(self.past) else None

    def found(self, i: int) -> torch.Tensor | None:
        """What call `i` finds."""
        return self.copies[i % len(self.copies)] if whole(self.past) else None

    def keep(self, i: int, state: torch.Tensor) -> None:
        """What call `i` leaves."""
        self.copies[i % len(self.copies)].copy_(state)


def wide(x: torch.Tensor) -> torch.Tensor:
    """In fp32 or more, in which model code scans."""
    import torch

    return x.to(torch.promote_types(x.dtype, torch.float32))


def chunked(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """[batch, positions, heads, ...] as [batch, heads, chunks, chunk, ...], with zeros behind the last."""
    from torch.nn.functional import pad

    missing = -x.shape[1] % chunk
    padded = pad(x, (*(0, 0) * (x.ndim - 2), 0, missing))
    return padded.unflatten(1, (-1, chunk)).movedim(3, 1)


def joined(x: torch.Tensor, positions: int) -> torch.Tensor:
    """What `chunked` took apart."""
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
