"""What techniques that keep tensors outside device memory share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Changed
from workloads.schedule import Change
from workloads.techniques.changes import IN_LAYERS, PRODUCTS, on, on_rows
from workloads.work import Role, Traffic, Work


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
    return on_rows(
        lambda row: IN_LAYERS in row.name and row.operator.work().kv_bytes,
        lambda operator: Changed(operator, edit),
    )
