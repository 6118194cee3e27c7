"""RWKV with a matrix-valued state per head: the recurrences of versions 5 to 7.

Both have the two forms of `workloads.operators.recurrence`: chunks on the matrix units, in which positions
meet in pairs, and a single position on the vector units. States are kept in fp32, as the authors' code does.
"""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.recurrence import Recurrence, by_form, chunk_pairs
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class HeadStates(Recurrence):
    """Rows [batch, q_len, heads, head_dim] that update a state S[batch, heads, head_dim, head_dim]."""

    heads: Size
    head_dim: Size
    chunk: Size = 64
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    state_dtype: DtypeLike = "fp32"

    def state_bytes(self) -> Any:
        """Bytes of S of all sequences."""
        states = self.batch * self.heads * self.head_dim**2
        return states * bytes_per_element(self.state_dtype)


@dataclass(frozen=True)
class MatrixWkv(HeadStates):
    """y = r (S + u k' v), S = w S + k' v (arXiv:2404.05892): a decay w and a bonus u per channel.

    r, k, v, y[batch, q_len, heads, head_dim]; S[batch, heads, head_dim, head_dim]. The decay is a weight
    (Eagle, RWKV-5) or comes with each position (Finch, RWKV-6: `moving`).
    """

    kind: ClassVar[str] = "matrix_wkv"

    moving: bool = False

    def work(self) -> Work:
        """One position: k'v, times u, plus S, times r (2), w S plus k'v (2): 7 FLOP per state. In chunks per
        pair and channel a score (2) and its value (2), per state a read and an update (2 each); the bonus on
        the diagonal (5) and decays of r and k (3) per channel. Moving decays are exp(-exp w).
        """
        tokens, channels = self.batch * self.q_len, self.heads * self.head_dim
        elements, states = tokens * channels, tokens * channels * self.head_dim
        pairs = self.batch * chunk_pairs(self.q_len, self.chunk)
        matrix, single = by_form(self.q_len, 7 * states, 4 * pairs * channels + 4 * states)
        beside, _ = by_form(self.q_len, 0, 8 * elements)
        element = bytes_per_element(self.dtype)
        inputs = 4 if self.moving else 3
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("r, k, v, w" if self.moving else "r, k, v", Role.INPUT, inputs * elements * element),
                Traffic("decay, bonus", Role.WEIGHT, self._weights() * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * element),
                *self.carried("state"),
            ),
            matrix_flops=matrix,
            vector_flops=single + beside,
            special_ops=2 * elements if self.moving else 0,
            outputs=elements,
        )

    def parameters(self) -> int:
        """A bonus per channel, and its decay where that is a weight."""
        return int(self._weights())

    def _weights(self) -> Any:
        return self.heads * self.head_dim * (1 if self.moving else 2)


@dataclass(frozen=True)
class DeltaWkv(HeadStates):
    """S = S (diag(w) - k'(a k)) + v'k, y = S r, and a bonus r (rho k) v (arXiv:2503.14456, RWKV-7).

    r, k, v, w, a, y[batch, q_len, heads, head_dim]; S[batch, heads, head_dim, head_dim]. What is removed is
    found by k scaled and brought to length 1. Values are mixed with the first layer's (`mixed`: not in it).
    """

    kind: ClassVar[str] = "delta_wkv"

    mixed: bool = True

    def work(self) -> Work:
        """One position: S k (2), w S (1), minus what was found (2), v'k (2), S r (2): 9 FLOP per state. In
        chunks per channel and pair: scores of r with k and a k (4) and their values (4); and off the diagonal
        scores of k with both (4), their values (2) and two triangular solves (4); per state two reads and
        two updates (2 each). Beside either per channel: k scaled and brought to length 1 (4), a k (1), the
        key's update (4), the bonus (5), values mixed (3). Decay, rate and mix are a sigmoid each, the decay
        also an exponential.
        """
        tokens, channels = self.batch * self.q_len, self.heads * self.head_dim
        elements, states = tokens * channels, tokens * channels * self.head_dim
        pairs = self.batch * chunk_pairs(self.q_len, self.chunk)
        inside = channels * (8 * pairs + 10 * (pairs - tokens))
        matrix, single = by_form(self.q_len, 9 * states, inside + 8 * states)
        element, mixed = bytes_per_element(self.dtype), bool(self.mixed)
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("r, k, v, w, a", Role.INPUT, (5 + 2 * mixed) * elements * element),
                Traffic("scales", Role.WEIGHT, 3 * channels * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, elements * element),
                *self.carried("state"),
            ),
            matrix_flops=matrix,
            vector_flops=single + (14 + 3 * mixed) * elements,
            special_ops=(3 + mixed) * elements + tokens * self.heads,
            outputs=elements,
        )

    def parameters(self) -> int:
        """Per channel the scales of the removal key, of the key's update and of the bonus."""
        return int(3 * self.heads * self.head_dim)
