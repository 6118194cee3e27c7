"""RWKV-4: the token shift and the WKV recurrence (arXiv:2305.13048)."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.recurrence import Recurrence
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class TokenShift(Recurrence):
    """m x + (1 - m) x_before for `mixes` vectors m, on rows[batch, q_len, width].

    The state is the last row of each sequence.
    """

    kind: ClassVar[str] = "token_shift"

    width: Size
    mixes: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """3 FLOP per element and mix; rows read once, a result per mix written."""
        elements = self.batch * self.q_len * self.width
        size = elements * bytes_per_element(self.dtype)
        moved = (Traffic("input", Role.INPUT, size), Traffic("mixed", Role.OUTPUT, self.mixes * size))
        weights = self.mixes * self.width * bytes_per_element(self.weights)
        return Work(
            dtype=self.dtype,
            traffic=(
                *(() if self.fused else moved),
                Traffic("mix", Role.WEIGHT, weights),
                *self.carried("row"),
            ),
            vector_flops=3 * self.mixes * elements,
            outputs=self.mixes * elements,
            fused=self.fused,
        )

    def state_bytes(self) -> Any:
        """Bytes of the last row of all sequences."""
        return self.batch * self.width * bytes_per_element(self.dtype)

    def parameters(self) -> int:
        """A vector per mix."""
        return int(self.mixes * self.width)


@dataclass(frozen=True)
class Wkv(Recurrence):
    """The weighted mean of values by decaying exponentials of keys, per channel.

    key, value, output[batch, q_len, channels]. The state is numerator, denominator and the largest
    exponent so far, in fp32: three numbers per channel. The recurrence has no chunked form.
    """

    kind: ClassVar[str] = "wkv"

    channels: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    state_dtype: DtypeLike = "fp32"

    def work(self) -> Work:
        """Output 10 FLOP, update 9, four exponentials per channel and token, as in transformers 5.23.0."""
        elements = self.batch * self.q_len * self.channels
        element = bytes_per_element(self.dtype)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("key, value", Role.INPUT, 2 * elements * element),
                Traffic("decay, bonus", Role.WEIGHT, 2 * self.channels * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * element),
                *self.carried("state"),
            ),
            vector_flops=19 * elements,
            special_ops=4 * elements,
            outputs=elements,
        )

    def state_bytes(self) -> Any:
        """Bytes of the three numbers of all channels and sequences."""
        return 3 * self.batch * self.channels * bytes_per_element(self.state_dtype)

    def parameters(self) -> int:
        """A decay and a bonus per channel."""
        return int(2 * self.channels)
