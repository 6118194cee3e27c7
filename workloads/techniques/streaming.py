"""What techniques that keep tensors outside device memory share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloads.operators import Changed
from workloads.techniques.changes import IN_LAYERS, PRODUCTS, on
from workloads.work import Role, Traffic, Work

if TYPE_CHECKING:
    from workloads.phases import Named
    from workloads.schedule import Change
    from workloads.step import Step


@dataclass(frozen=True)
class Streamed:
    """The edit of an operator of whose tensors shares pass links too, while it computes."""

    tensor: str  # what the bytes are called
    roles: tuple[Role, ...]  # of the tensors that are streamed
    host: float = 0.0  # shares of their bytes
    disk: float = 0.0
    wire: float = 0.0

    def __call__(self, work: Work) -> Work:
        """The work with the streamed bytes beside it."""
        size = work.bytes_as(*self.roles)
        shares = {Role.HOST: self.host, Role.DISK: self.disk, Role.WIRE: self.wire}
        more = [Traffic(self.tensor, role, size * share) for role, share in shares.items() if share]
        return replace(work, traffic=(*work.traffic, *more)) if size else work


def streamed_weights(edit: Streamed, here: float) -> Change:
    """A change that streams weights of the layers' products, of which a share stays on the device."""
    return on((*PRODUCTS, Changed), lambda product: Changed(product, edit, stored=here), IN_LAYERS)


def streamed_cache(edit: Streamed) -> Change:
    """A change that streams what operators of the layers read or write of the cache."""

    def change(rows: Sequence[Named], step: Step) -> list[Named]:
        return [
            replace(row, operator=Changed(row.operator, edit))
            if IN_LAYERS in row.name and row.operator.work().kv_bytes
            else row
            for row in rows
        ]

    return change
