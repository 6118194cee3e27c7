"""State-space mixers: causal convolution, the selective scan of Mamba, the SSD of Mamba-2."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.elementwise import stream
from workloads.operators.recurrence import Recurrence, by_form, chunk_pairs
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class CausalConv(Recurrence):
    """Depthwise convolution of rows[batch, q_len, channels] over `kernel` positions, then perhaps SiLU.

    The state is the last kernel - 1 inputs of each sequence (arXiv:2312.00752), or with taps `dilation`
    positions apart so many times them; some programs keep `kernel`, which is more than is needed.
    """

    kind: ClassVar[str] = "causal_conv1d"

    channels: Size
    kernel: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    bias: bool = True
    silu: bool = True
    fused: bool = False
    dilation: int = 1

    def work(self) -> Work:
        """A multiply-add per element and tap, 2 FLOP and one exponential for SiLU, 1 FLOP for the bias."""
        elements = self.batch * self.q_len * self.channels
        size = elements * bytes_per_element(self.dtype)
        weights = Traffic("weight", Role.WEIGHT, self._weights() * bytes_per_element(self.weights))
        return Work(
            dtype=self.dtype,
            traffic=(
                *stream(self.fused, size, size),
                weights,
                *self.carried("inputs"),
            ),
            vector_flops=(2 * self.kernel + 2 * bool(self.silu) + bool(self.bias)) * elements,
            special_ops=elements * bool(self.silu),
            outputs=elements,
            fused=self.fused,
        )

    def state_bytes(self) -> Any:
        """Bytes of the last inputs of all sequences."""
        kept = (self.kernel - 1) * self.dilation
        return self.batch * self.channels * kept * bytes_per_element(self.dtype)

    def parameters(self) -> int:
        """A tap per channel and position, and perhaps a bias."""
        return int(self._weights())

    def _weights(self) -> Any:
        return self.channels * (self.kernel + bool(self.bias))


@dataclass(frozen=True)
class SelectiveScan(Recurrence):
    """h = exp(dt A) h + dt B x; y = C h + D x, gated by SiLU(z) (Mamba, arXiv:2312.00752).

    x, dt, z, y[batch, q_len, channels]; B, C[batch, q_len, state]; h[batch, channels, state]. The
    discretised A and B never leave the chip: states move only at the ends of a step.
    """

    kind: ClassVar[str] = "selective_scan"

    channels: Size
    state: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    state_dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """Per state 6 FLOP (dt A, a h + b, B(dt x), C h) and one exponential, in any order of the scan.

        Per channel 7 FLOP (dt x, D x, softplus, gate) and 3 exponentials or logarithms.
        """
        tokens = self.batch * self.q_len
        elements, states = tokens * self.channels, tokens * self.channels * self.state
        element = bytes_per_element(self.dtype)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("x, dt, z", Role.INPUT, 3 * elements * element),
                Traffic("B, C", Role.INPUT, 2 * tokens * self.state * element),
                Traffic("A, D", Role.WEIGHT, self._weights() * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * element),
                *self.carried("state"),
            ),
            vector_flops=6 * states + 7 * elements,
            special_ops=states + 3 * elements,
            outputs=elements,
        )

    def state_bytes(self) -> Any:
        """Bytes of h of all sequences."""
        return self.batch * self.channels * self.state * bytes_per_element(self.state_dtype)

    def parameters(self) -> int:
        """A per channel and state, D per channel."""
        return int(self._weights())

    def _weights(self) -> Any:
        return self.channels * (self.state + 1)


@dataclass(frozen=True)
class Ssd(Recurrence):
    """The state-space dual of Mamba-2: one decay per head, so that the scan is made of matrix products.

    x, y[batch, q_len, heads, head_dim]; B, C[batch, q_len, groups, state]; h[batch, heads, head_dim, state]
    (arXiv:2405.21060). Heads of a group share B and C.
    """

    kind: ClassVar[str] = "ssd"

    heads: Size
    head_dim: Size
    groups: Size
    state: Size
    chunk: Size = 256
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    state_dtype: DtypeLike = "bf16"

    def work(self) -> Work:
        """In chunks, per pair: C B' once per group, its product with x per head; per token: B x into and
        C h out of the state. One position: a h + B x (3 FLOP per state) and C h (2). Beside either: decays,
        dt x and D x.
        """
        tokens = self.batch * self.q_len
        elements, states = tokens * self.heads * self.head_dim, self.heads * self.head_dim * self.state
        pairs = self.batch * chunk_pairs(self.q_len, self.chunk)
        inside = 2 * pairs * (self.groups * self.state + self.heads * self.head_dim)
        matrix, vector = by_form(self.q_len, 5 * tokens * states, inside + 4 * tokens * states)
        element = bytes_per_element(self.dtype)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("x", Role.INPUT, elements * element),
                Traffic("B, C", Role.INPUT, 2 * tokens * self.groups * self.state * element),
                Traffic("dt", Role.INPUT, tokens * self.heads * element),
                Traffic("A, D, dt bias", Role.WEIGHT, 3 * self.heads * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * element),
                *self.carried("state"),
            ),
            matrix_flops=matrix,
            vector_flops=vector + 3 * elements,
            special_ops=3 * tokens * self.heads,
            outputs=elements,
        )

    def state_bytes(self) -> Any:
        """Bytes of h of all sequences."""
        states = self.batch * self.heads * self.head_dim * self.state
        return states * bytes_per_element(self.state_dtype)

    def parameters(self) -> int:
        """A, D and the bias of dt, one each per head."""
        return int(3 * self.heads)
