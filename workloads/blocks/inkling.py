"""Inkling's blocks: short convolutions of keys, of values and of what blocks return, and biases by distance.

A convolution adds its input, as a 1 on the tap of a position itself would (transformers, models/inkling).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import Part, Place
from workloads.blocks.mlp import MlpBlock
from workloads.blocks.moe import MoeBlock
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.dtypes import Size
from workloads.operators import CausalConv, Gemm
from workloads.step import Setting, Step


@dataclass(frozen=True)
class DistanceAttentionBlock(AttentionBlock):
    """Each query head mixes profiles of a bias by distance; keys and values pass convolutions.

    Biases are written once for all distances within `extent`; what the core reads of them is not counted.
    """

    adds: ClassVar[bool] = False

    profiles: int = 0
    extent: int = 0
    kernel: int = 0

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, convolutions behind keys and values, the biases before the core."""
        heads, _ = self._heads(place.setting.tensor_parallel)
        wide = place.setting.precision.wide
        for name, key, operator in super().parts(place):
            if name == self.core_name:
                shape = heads * self.profiles
                yield "profile_proj", shape, place.linear(shape, place.hidden)
                rows = place.tokens * heads
                bias = Gemm(rows, self.extent, self.profiles, wide, wide, wide)
                yield "distance_bias", (heads, self.extent), bias
            yield name, key, operator
            if name in ("k_proj", "v_proj"):
                yield f"{name[0]}_conv1d", self, self._convolution(place.step, place.setting)

    def _convolution(self, step: Step, setting: Setting) -> CausalConv:
        _, kv_heads = self._heads(setting.tensor_parallel)
        return _plain(step, setting, kv_heads * self.head_dim, self.kernel)

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """Keys, values, and the last inputs of both convolutions."""
        inputs = self._convolution(Step(1, 1, 1), setting).state_bytes()
        return super().cache_bytes(tokens, setting) + 2 * inputs


def _plain(step: Step, setting: Setting, channels: int, kernel: int) -> CausalConv:
    return replace(convolution(step, setting, channels, kernel, bias=False), silu=False)


@dataclass(frozen=True)
class ScaledMlpBlock(MlpBlock):
    """An MLP whose result one number scales, before a convolution reads it."""

    adds: ClassVar[bool] = False

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of an MLP."""
        yield from _scaled("act_mul", super().parts(place))


@dataclass(frozen=True)
class ScaledMoeBlock(MoeBlock):
    """Experts whose weights one number scales, before a convolution reads their sum."""

    adds: ClassVar[bool] = False

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of experts."""
        yield from _scaled("experts_act_mul", super().parts(place))


def _scaled(scaled: str, parts: Iterator[Part]) -> Iterator[Part]:
    for name, key, operator in parts:
        yield name, key, replace(operator, learned=1) if name == scaled else operator  # type: ignore[type-var]


@dataclass(frozen=True)
class ResultConvBlock(RecurrentBlock):
    """The convolution of what attention returned, summed over devices."""

    branch: ClassVar[str] = "attention_conv"
    normalises: ClassVar[bool] = True
    replicated: ClassVar[bool] = True

    hidden: int
    kernel: int

    def parts(self, place: Place) -> Iterator[Part]:
        """The convolution alone."""
        yield "conv1d", self, *self.states(place.step, place.setting)

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv]:
        """The convolution, which keeps its last inputs."""
        return (_plain(step, setting, self.hidden, self.kernel),)


@dataclass(frozen=True)
class MlpConvBlock(ResultConvBlock):
    """The convolution of what an MLP or experts returned."""

    branch: ClassVar[str] = "mlp_conv"
