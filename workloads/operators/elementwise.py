"""Elementwise and row-wise operators: norms, RoPE, activations, residual additions, modulation, biases.

As kernels of their own they stream their tensors through memory. Fused into a neighbouring operator's kernel
(`fused`) their activations stay on the chip and their arithmetic runs on vector units beside that operator's
matrix product, so that in a lower bound only their weights take time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import DtypeLike, Size, bytes_per_element
from workloads.operators.base import Operator
from workloads.work import Role, Traffic, Work

# Activations with an exponential or a hyperbolic tangent per element, and those with more than one.
SPECIAL_ACTIVATIONS = frozenset(
    {"silu", "gelu", "gelu_tanh", "quick_gelu", "sigmoid", "tanh", "xielu", "situ"}
)
SEVERAL = {"situ": 3}  # tanh and sigmoid of the gate, tanh of what it scales (Kimi K3)
LEARNED = {"xielu": 2}  # parameters of an activation (arXiv:2411.13010)


@dataclass(frozen=True)
class Norm(Operator):
    """RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450) of rows[tokens, width]."""

    kind: ClassVar[str] = "rmsnorm"

    tokens: Size
    width: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    center: bool = False  # LayerNorm: subtract the mean
    scale: bool = True
    bias: bool = False
    fused: bool = False
    adds: bool = False  # first to the residual stream, which it reads and writes, what a block returned

    def work(self) -> Work:
        """Square, add, divide, scale: 4 FLOP per element; LayerNorm also sums and subtracts: 7 with bias."""
        elements = self.tokens * self.width
        element = bytes_per_element(self.dtype)
        flops = 3 + (2 if self.center else 0) + (1 if self.scale else 0) + (1 if self.bias else 0)
        passed = elements * element * (1 + self.adds)
        traffic = stream(self.fused, passed, passed)
        vectors = bool(self.scale) + bool(self.bias)
        if vectors:
            size = vectors * self.width * bytes_per_element(self.weights)
            traffic += (Traffic("weight", Role.WEIGHT, size),)
        return Work(
            dtype=self.dtype,
            traffic=traffic,
            vector_flops=flops * elements,
            special_ops=self.tokens,  # one root per row
            outputs=elements,
            fused=self.fused,
        )

    def parameters(self) -> int:
        """A scale and, if it has one, a bias per column; heads that are normalised share them."""
        return int(self.width * (bool(self.scale) + bool(self.bias)))


@dataclass(frozen=True)
class Rope(Operator):
    """Rotary position embedding (arXiv:2104.09864) of `heads` query and key heads per token."""

    kind: ClassVar[str] = "rope"

    tokens: Size
    heads: Size  # query heads + key heads
    rotary_dim: Size  # elements of each head that rotate
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """x cos + rotated(x) sin: 3 FLOP per element; the cos and sin rows are shared by all heads."""
        elements = self.tokens * self.heads * self.rotary_dim
        return streamed(self.dtype, self.fused, elements, elements, vector_flops=3 * elements)


@dataclass(frozen=True)
class Activation(Operator):
    """f(x), or f(gate) * up of a gated MLP (arXiv:2002.05202), on rows[tokens, width]; or f = 1.

    A gate may have fewer columns than what it scales, one per head, and so many learned parameters.
    """

    kind: ClassVar[str] = "act_mul"

    tokens: Size
    width: Size
    dtype: DtypeLike = "bf16"
    function: str = "silu"
    gated: bool = True
    fused: bool = False
    columns: Size | None = None  # of a gate; None: width
    learned: int = 0

    def work(self) -> Work:
        """One exponential (none for ReLU) and 2 FLOP around it per element, 1 more for the gate's product.

        The identity takes none: a gate alone is 1 FLOP.
        """
        elements = self.tokens * self.width
        through = elements if self.columns is None else self.tokens * self.columns  # the function
        scaled, times = elements if self.gated else 0, SEVERAL.get(self.function, 1)
        work = streamed(
            self.dtype,
            self.fused,
            through + scaled,
            elements,
            vector_flops=(0 if self.function == "identity" else 2 * times) * through + scaled,
            special_ops=times * through if self.function in SPECIAL_ACTIVATIONS else 0,
        )
        return weighted(work, self.stored_bytes())

    @property
    def weights(self) -> DtypeLike:
        """The format of its parameters: that of its rows."""
        return self.dtype

    def parameters(self) -> int:
        """Those of the function and of the gate."""
        return self.learned + LEARNED.get(self.function, 0)


@dataclass(frozen=True)
class Residual(Operator):
    """x + y on rows[tokens, width], or x + f y with a factor f of so many parameters."""

    kind: ClassVar[str] = "residual"

    tokens: Size
    width: Size
    dtype: DtypeLike = "bf16"
    fused: bool = False
    learned: int = 0

    def work(self) -> Work:
        """1 FLOP per element, 2 with a factor; two reads and one write."""
        elements = self.tokens * self.width
        flops = elements * (2 if self.learned else 1)
        work = streamed(self.dtype, self.fused, 2 * elements, elements, vector_flops=flops)
        return weighted(work, self.stored_bytes())

    @property
    def weights(self) -> DtypeLike:
        """The format of its parameters: that of its rows."""
        return self.dtype

    def parameters(self) -> int:
        """Those of the factor."""
        return self.learned


@dataclass(frozen=True)
class Modulation(Operator):
    """x (1 + scale) + shift, or x gate, of x[batch, q_len, width] (adaLN, arXiv:2212.09748).

    Scale, shift and gate are vectors, one per sequence, made of what the sequence is conditioned on.
    """

    kind: ClassVar[str] = "modulation"

    batch: Size
    q_len: Size
    width: Size
    gate: bool = False
    dtype: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """1 FLOP per element of a gate, 2 of shift and scale, whose 1 + scale is made once a sequence.

        The vectors are read in any case; x and y move where the operator has a kernel of its own.
        """
        sequences = self.batch * self.width
        elements, element = sequences * self.q_len, bytes_per_element(self.dtype)
        vectors = Traffic("shift, scale, gate", Role.INPUT, (1 if self.gate else 2) * sequences * element)
        return Work(
            dtype=self.dtype,
            traffic=(vectors, *stream(self.fused, elements * element, elements * element)),
            vector_flops=elements if self.gate else 2 * elements + sequences,
            outputs=elements,
            fused=self.fused,
        )


@dataclass(frozen=True)
class RelativeBias(Operator):
    """bias[heads, q_len, kv_len] from table[buckets, heads] by the distance of query and key (T5,
    arXiv:1910.10683).

    All layers of a stack share it. A fused attention kernel looks it up itself.
    """

    kind: ClassVar[str] = "relative_bias"

    q_len: Size
    kv_len: Size
    heads: Size
    buckets: Size
    dtype: DtypeLike = "bf16"
    weights: DtypeLike = "bf16"
    fused: bool = False

    def work(self) -> Work:
        """Table read once; per pair a logarithm and 4 FLOP find the bucket, per score it is written."""
        pairs = self.q_len * self.kv_len
        scores = pairs * self.heads
        table = self.buckets * self.heads * bytes_per_element(self.weights)
        out = () if self.fused else (Traffic("bias", Role.OUTPUT, scores * bytes_per_element(self.dtype)),)
        return Work(
            dtype=self.dtype,
            traffic=(Traffic("table", Role.WEIGHT, table), *out),
            vector_flops=4 * pairs,
            special_ops=pairs,
            outputs=scores,
            fused=self.fused,
        )

    def parameters(self) -> int:
        """The table."""
        return int(self.buckets * self.heads)


def weighted(work: Work, size: float) -> Work:
    """The work with so many bytes of parameters read, if it has any."""
    return replace(work, traffic=(*work.traffic, Traffic("weight", Role.WEIGHT, size))) if size else work


def streamed(dtype: DtypeLike, fused: bool, read: Size, written: Size, **flops: Size) -> Work:
    """The work of an operator without weights that reads and writes so many elements of one format."""
    element = bytes_per_element(dtype)
    traffic = stream(fused, read * element, written * element)
    return Work(dtype, traffic, outputs=written, fused=fused, **flops)


def stream(fused: bool, read: Size, written: Size) -> tuple[Traffic, ...]:
    """The activations of an operator with its own kernel, in bytes; nothing where it is fused."""
    if fused:
        return ()
    return (Traffic("input", Role.INPUT, read), Traffic("output", Role.OUTPUT, written))
