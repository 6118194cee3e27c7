"""What operators with a recurrent state share: the state's traffic, and the pairs of a chunked scan.

Two forms of the same mathematics are counted. A step of one position updates the state on the vector
units. A longer one is cut into chunks: inside a chunk positions meet in pairs, as attention does, and
between chunks the state is carried, both as matrix products (arXiv:2405.21060). The pairs are
those below the diagonal: masked ones are not computed. A state lives in memory between steps, a whole
prompt is one step, and the first step finds none.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from specfiles.frozen import dataclass
from workloads.dtypes import Size
from workloads.operators.base import Operator
from workloads.work import Role, Traffic


@dataclass(frozen=True)
class Recurrence(Operator):
    """An operator along a sequence whose past is a state of constant size; sizes as in `Step.sizes`."""

    batch: Size
    q_len: Size
    past: Size  # positions before these, which the state stands for

    @abstractmethod
    def state_bytes(self) -> Any:
        """Bytes of the states of all sequences."""

    def carried(self, name: str) -> tuple[Traffic, ...]:
        """The state: read where positions precede, written in any case."""
        size = self.state_bytes()
        read = Traffic(name, Role.KV_READ, size * (self.past > 0))
        return (read, Traffic(f"new {name}", Role.KV_WRITE, size))


def chunk_pairs(length: Size, chunk: Size) -> Any:
    """Pairs (i, j <= i) within the chunks of a sequence; the last chunk may be shorter."""
    rest = length % chunk
    return (length // chunk) * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2


def by_form(length: Size, one_step: Size, chunked: Size) -> tuple[Any, Any]:
    """(matrix, vector) FLOP: chunks on the matrix units, a single position on the vector units."""
    single = length == 1
    return chunked * (1 - single), one_step * single
