"""Mixers whose memory is a matrix per head: linear attention and the gated delta rule."""

from __future__ import annotations

from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.recurrence import Recurrence, by_form, chunk_pairs
from workloads.work import Role, Traffic, Work


@dataclass(frozen=True)
class LinearAttention(Recurrence):
    """y = f(q) S / f(q) z with S = sum f(k) v' and z = sum f(k) (arXiv:2006.16236).

    q, k[batch, q_len, heads, features] behind the feature map f; v, y[batch, q_len, heads, value_dim];
    S[batch, heads, features, value_dim]. Causal sums grow along the sequence and are its state; otherwise
    they are taken once over all positions. Without `normalised` there is no z, as in lightning attention
    (arXiv:2401.04658), whose decay is one multiplication per state more.
    """

    kind: ClassVar[str] = "linear_attention"

    heads: Size
    features: Size
    value_dim: Size
    chunk: Size = 256
    dtype: DtypeLike = "bf16"
    state_dtype: DtypeLike = "bf16"
    causal: bool = True
    normalised: bool = True
    decayed: bool = False

    def work(self) -> Work:
        """k v' into and q S out of the state: 4 FLOP per state and token; causal chunks add their pairs."""
        tokens = self.batch * self.q_len
        columns = self.value_dim + bool(self.normalised)  # z is one more column of S
        states = self.heads * self.features * columns
        pairs = self.batch * chunk_pairs(self.q_len, self.chunk) if self.causal else 0
        inside = 2 * pairs * self.heads * (self.features + columns)
        one = (5 if self.decayed else 4) * tokens * states
        matrix, vector = by_form(self.q_len, one, inside + 4 * tokens * states)
        keys, values = tokens * self.heads * self.features, tokens * self.heads * self.value_dim
        element = bytes_per_element(self.dtype)
        state = self.carried("state") if self.causal else ()
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("query, key", Role.INPUT, 2 * keys * element),
                Traffic("value", Role.INPUT, values * element),
                Traffic("output", Role.OUTPUT, values * element),
                *state,
            ),
            matrix_flops=matrix,
            vector_flops=vector + (values if self.normalised else 0),
            outputs=values,
        )

    def state_bytes(self) -> Any:
        """Bytes of S and z of all sequences; none where sums are taken over all positions at once."""
        if not self.causal:
            return 0
        columns = self.value_dim + bool(self.normalised)
        return self.batch * self.heads * self.features * columns * bytes_per_element(self.state_dtype)


@dataclass(frozen=True)
class GatedDelta(Recurrence):
    """S = a S (I - b k k') + b v k', y = S q: the gated delta rule (arXiv:2412.06464).

    q, k[batch, q_len, key_heads, key_dim] are normalised here; v, y[batch, q_len, value_heads, value_dim];
    S[batch, value_heads, key_dim, value_dim]. Value heads share key heads. In Kimi delta attention
    (arXiv:2510.26692) a is a diagonal: `channelwise`, each row of S decays by a factor of its own.
    """

    kind: ClassVar[str] = "gated_delta"

    value_heads: Size
    key_heads: Size
    key_dim: Size
    value_dim: Size
    chunk: Size = 64
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    state_dtype: DtypeLike = "bf16"
    channelwise: bool = False

    def work(self) -> Work:
        """In chunks (arXiv:2406.06484), per pair: K K' and Q K' per key head; two triangular
        solves and scores x values per value head; per token three products with S: read by k, read by q,
        update. One position: a S, S k, S q, and the update: 7 FLOP per state. A diagonal a is multiplied
        into q and k, twice each: once for the pairs and once for the state.
        """
        tokens = self.batch * self.q_len
        keys, values = tokens * self.key_heads * self.key_dim, tokens * self.value_heads * self.value_dim
        states = self.value_heads * self.key_dim * self.value_dim
        pairs = self.batch * chunk_pairs(self.q_len, self.chunk)
        below = pairs - tokens  # without the diagonal, which K K' and the solves do not have
        inside = 2 * self.key_heads * self.key_dim * (pairs + below)
        inside = inside + 2 * self.value_heads * (
            pairs * self.value_dim + below * (self.key_dim + self.value_dim)
        )
        matrix, vector = by_form(self.q_len, 7 * tokens * states, inside + 6 * tokens * states)
        element = bytes_per_element(self.dtype)
        decays = tokens * self._decays()
        scaling = by_form(self.q_len, 0, 4 * decays)[0] if self.channelwise else 0
        return Work(
            dtype=self.dtype,
            traffic=(
                Traffic("query, key", Role.INPUT, 2 * keys * element),
                Traffic("value", Role.INPUT, values * element),
                Traffic("gates", Role.INPUT, (decays + tokens * self.value_heads) * element),
                Traffic("A, dt bias", Role.WEIGHT, self._weights() * bytes_per_element(self.weights)),
                Traffic("output", Role.OUTPUT, values * element),
                *self.carried("state"),
            ),
            matrix_flops=matrix,
            vector_flops=vector + scaling + 6 * keys + 2 * values,  # q and k to length 1; b (v - S k)
            special_ops=2 * tokens * self.key_heads + tokens * self.value_heads + 3 * decays,
            outputs=values,
        )

    def state_bytes(self) -> Any:
        """Bytes of S of all sequences."""
        states = self.batch * self.value_heads * self.key_dim * self.value_dim
        return states * bytes_per_element(self.state_dtype)

    def _decays(self) -> Any:
        """Factors of a token that S decays by."""
        return self.value_heads * (self.key_dim if self.channelwise else 1)

    def parameters(self) -> int:
        """A of each value head, and a bias of dt for each factor of decay."""
        return int(self._weights())

    def _weights(self) -> Any:
        return self.value_heads + self._decays()
