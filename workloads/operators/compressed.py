"""Attention to a window and to entries that stand for many positions each (DeepSeek-V4), and their making.

An entry is complete with the last of its positions. Numbers of entries are means over positions, not whole,
so that they are linear in the context.
"""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.arrays import maximum, minimum
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.attention import Attention, entries_seen
from workloads.operators.recurrence import Recurrence
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class CompressedAttention(Attention):
    """Of each query to the positions in its window and to entries, one per `stride` positions, at once.

    Where `chosen` is given, a query sees at most so many entries, picked by an index. One vector is key and
    value of a position, or of an entry, for all heads.
    """

    kind: ClassVar[str] = "compressed_attention"

    stride: int = 1
    chosen: Size | None = None

    def pairs(self) -> Any:
        """Those of the window, and of the entries that lie behind each query whole."""
        if not self.causal_exact:
            return self.q_len * self.keys_read()
        past = self.kv_len - self.q_len
        return super().pairs() + self._entries(self.kv_len) - self._entries(past)

    def _entries(self, length: Any) -> Any:
        """Pairs of entries with the first `length` positions."""
        if self.chosen is None:
            return entries_seen(length, self.stride)
        few = minimum(length, self.chosen * self.stride)  # positions that see fewer than they may
        return entries_seen(few, self.stride) + (length - few) * self.chosen

    def keys_read(self) -> Any:
        """The window's, and entries that at least one query sees; picked ones differ from query to query."""
        entries = self.kv_len / self.stride
        if self.chosen is not None:
            entries = minimum(entries, self.chosen * self.q_len)
        return super().keys_read() + entries


@dataclass(frozen=True)
class Compression(Recurrence):
    """Entries of `width`: sums over positions j of softmax(g_j + b_j) c_j, a softmax for each column.

    c, g[batch, q_len, series x width]; b[stride, series x width] are weights. With two series an entry takes
    one from its own `stride` positions and the other from those before (DeepSeek-V4). Rows of positions whose
    entry is not complete are kept in fp32, as many as an entry needs.
    """

    kind: ClassVar[str] = "compression"

    width: Size
    stride: int
    series: int = 1
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"

    def work(self) -> Work:
        """Add the bias, subtract the largest, weight and sum twice: 6 FLOP and an exponential per element."""
        tokens, element = self.batch * self.q_len, bytes_per_element(self.dtype)
        elements = tokens * self.series * self.width
        needed = self.series * self.stride  # positions of an entry
        row = 2 * self.series * self.width * bytes_per_element("fp32")
        begun = self.batch * minimum(self.q_len * self.series, needed) * row * (self.past > 0)
        kept = self.batch * minimum(self.q_len, needed) * row
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("values, gates", Role.INPUT, 2 * elements * element),
                Traffic("bias", Role.WEIGHT, self._bias() * bytes_per_element(self.weights)),
                Traffic("entries", Role.OUTPUT, tokens / self.stride * self.width * element),
                Traffic("rows", Role.KV_READ, begun),
                Traffic("new rows", Role.KV_WRITE, kept),
            ),
            vector_flops=6 * elements,
            special_ops=elements,
            outputs=maximum(tokens / self.stride, 1) * self.width,
        )

    def state_bytes(self) -> Any:
        """Rows of values and gates that the next entry may need, of all sequences."""
        rows = self.batch * self.series * self.stride
        return rows * 2 * self.series * self.width * bytes_per_element("fp32")

    def parameters(self) -> int:
        """The bias of each position of an entry."""
        return int(self._bias())

    def _bias(self) -> Any:
        return self.stride * self.series * self.width
