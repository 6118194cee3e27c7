"""The interface of all blocks: operators, cache, and divisibility over devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.dtypes import Size
from workloads.operators import Activation, AllReduce, Gemm, Norm, Operator
from workloads.step import Setting, Step

# A range name, what besides the name decides the operator, and the operator. Layers whose parts agree
# on the first two share a row; sizes of the step are left out of the key, because they may be arrays.
Part = tuple[str, object, Operator]


@dataclass(frozen=True)
class NormShape:
    """How activations are normalised."""

    center: bool = False  # LayerNorm; otherwise RMSNorm
    bias: bool = False
    scale: bool = True


RMS_NORM = NormShape()
UNSCALED = NormShape(scale=False)


@dataclass(frozen=True)
class Place:
    """Where a block runs: the width of the residual stream, the sizes of the step, the setting."""

    hidden: int
    step: Step
    setting: Setting

    @property
    def tokens(self) -> Size:
        """New positions of all sequences."""
        return self.step.tokens

    @property
    def scored(self) -> Size:
        """Positions of all sequences that are projected to the vocabulary."""
        return self.step.batch * self.step.scored

    @property
    def behind_layers(self) -> Size:
        """Positions that run behind the last layer.

        Model code picks those that are scored only when it projects them; fused kernels need no others.
        """
        return self.scored if self.fused else self.tokens

    @property
    def fused(self) -> bool:
        """Whether elementwise operators are fused into neighbouring kernels."""
        return self.setting.convention.elementwise_fused

    def share_of(self, vocabulary: int) -> int:
        """Tokens of the vocabulary whose rows one device holds: an equal part, rounded up.

        Engines share tables so (vLLM, VocabParallelEmbedding).
        """
        return -(-vocabulary // self.setting.tensor_parallel)

    def linear(self, n: int, k: int, bias: bool = False, rows: Size = None, tied: bool = False) -> Gemm:
        """A projection of rows (by default all new tokens) from k to n features."""
        p, rows = self.setting.precision, self.tokens if rows is None else rows
        return Gemm(rows, n, k, p.activations, p.weights, p.wide, bias=bias, tied=tied)

    def activation(self, width: int, function: str, gated: bool, rows: Size = None) -> Activation:
        """An activation of rows[rows, width], by default of all new tokens, or its product with a gate."""
        rows = self.tokens if rows is None else rows
        return Activation(rows, width, self.setting.precision.wide, function, gated, self.fused)

    def gate(self, width: int, columns: int) -> Activation:
        """rows[tokens, width] times a sigmoid of `columns` projected ones, each for as many of them."""
        return replace(self.activation(width, "sigmoid", gated=True), columns=columns)

    def position_scale(self, width: int, heads: int) -> Activation:
        """rows[tokens, width] times a line through the logarithm of the position, one a head."""
        scaled = self.activation(width, "identity", gated=True)
        return replace(scaled, columns=heads, learned=2 * heads)

    def sum_over_devices(self, name: str, width: int) -> Iterator[Part]:
        """The sum of what devices have of rows[tokens, width], where they share the layer."""
        if (devices := self.setting.tensor_parallel) > 1:
            precision = self.setting.precision.wide
            yield f"{name}_allreduce", width, AllReduce(self.tokens, width, devices, precision)

    def norm(self, rows: Size, width: int, shape: NormShape) -> Norm:
        """A normalisation of rows[rows, width]."""
        p = self.setting.precision
        return Norm(rows, width, p.wide, p.wide, shape.center, shape.scale, shape.bias, self.fused)

    def squares(self, name: str, norms: int = 1) -> Iterator[Part]:
        """The sums of squares of `norms` rows of each token that devices share, summed in fp32.

        vLLM (MiniMaxText01RMSNormTP, Mixer2RMSNormGated) and SGLang (MiniMaxM2QKRMSNorm) send these alone;
        vLLM's OLMo gathers the rows, which takes longer.
        """
        if (devices := self.setting.tensor_parallel) > 1:
            yield f"{name}_allreduce", norms, AllReduce(self.tokens, norms, devices, "fp32")


class Block(ABC):
    """A part of a layer, or of a stack's input or output. Sizes of operators are those of one device."""

    branch: ClassVar[str] = ""  # of the residual stream: names its norm, its residual and its collective
    prefix: ClassVar[str] = ""  # of its operators' names; the branch where it is empty
    normalises: ClassVar[bool] = False  # its own input, which the layer then leaves as it is
    adds: ClassVar[bool] = True  # its result to the residual stream; else the next block reads it
    replicated: ClassVar[bool] = False  # every device computes all of it, so that nothing is summed
    of_streams: ClassVar[bool] = False  # reads and feeds all residual streams itself
    spreads: ClassVar[bool] = False  # has parts that devices can share out whole: experts
    divided: ClassVar[Mapping[str, str]] = {}  # fields that devices share evenly, and what they mean

    @abstractmethod
    def parts(self, place: Place) -> Iterator[Part]:
        """Its operators of one step in the order of execution."""

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Bytes of cache that one device holds for one sequence after `tokens` positions."""
        return 0

    def unsplit(self, devices: int) -> Iterator[str]:
        """What of it that many devices cannot share evenly, as 'has 28 attention heads, which ...'."""
        for name, what in self.divided.items():
            yield from indivisible(what, getattr(self, name), devices)

    def unspread(self, setting: Setting) -> Iterator[str]:
        """What of it the devices of a setting cannot share out whole, in the same words."""
        return iter(())


def indivisible(what: str, size: int, devices: int) -> Iterator[str]:
    """What to say of a size that is not divisible by the devices; nothing where it is."""
    if size % devices:
        yield f"has {size} {what}, which {devices} devices do not divide"
