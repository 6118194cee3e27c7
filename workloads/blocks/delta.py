"""The gated delta net of Qwen3-Next and Qwen3.5, and their attention with a gate at its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Block, Part, Place, indivisible
from workloads.blocks.mamba import convolution, single_step
from workloads.dtypes import Size
from workloads.operators import Activation, CausalConv, GatedDelta, Gemm
from workloads.step import Setting, Step


@dataclass(frozen=True)
class DeltaBlock(Block):
    """Projections, a convolution of q, k and v, the gated delta rule, a gated norm of heads, out."""

    branch: ClassVar[str] = "delta"

    value_heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    together: bool = False  # q, k, v and z are one matrix, as are the gates
    state_dtype: str = "fp32"

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution; q, k, v, z and the gates a and b are projections of the input."""
        keys, values = self._shared(place.setting.tensor_parallel)
        mixed, inner = 2 * keys * self.key_dim + values * self.value_dim, values * self.value_dim
        if self.together:
            projections = {"in_proj_qkvz": mixed + inner, "in_proj_ba": 2 * values}
        else:
            projections = {"in_proj_qkv": mixed, "in_proj_z": inner, "in_proj_b": values, "in_proj_a": values}
        for name, width in projections.items():
            yield name, width, place.linear(width, place.hidden)
        yield "conv1d", self, self._conv(place.step, place.setting)
        yield "rule", self, self._rule(place.step, place.setting)
        yield "norm", self, place.norm(place.tokens * values, self.value_dim, RMS_NORM)
        wide = place.setting.precision.wide
        yield "gate_mul", self, Activation(place.tokens, inner, wide, "silu", True, place.fused)
        yield "out_proj", self, place.linear(place.hidden, inner)

    def _shared(self, devices: int) -> tuple[int, int]:
        """Key and value heads of one device."""
        return self.key_heads // devices, self.value_heads // devices

    def _conv(self, step: Step, setting: Setting) -> CausalConv:
        keys, values = self._shared(setting.tensor_parallel)
        channels = 2 * keys * self.key_dim + values * self.value_dim
        return convolution(step, setting, channels, self.kernel, bias=False)

    def _rule(self, step: Step, setting: Setting) -> GatedDelta:
        keys, values = self._shared(setting.tensor_parallel)
        p = setting.precision
        return GatedDelta(
            step.batch,
            step.q_len,
            step.past,
            values,
            keys,
            self.key_dim,
            self.value_dim,
            dtype=p.wide,
            weights=p.wide,
            state_dtype=self.state_dtype,
        )

    def cache_bytes(self, tokens: Size, setting: Setting) -> Any:
        """The states of convolution and rule, whatever the number of positions."""
        one = single_step()
        return self._conv(one, setting).state_bytes() + self._rule(one, setting).state_bytes()

    def unsplit(self, devices: int) -> Iterator[str]:
        """Key and value heads are shared out evenly."""
        yield from indivisible("key heads of linear attention", self.key_heads, devices)
        yield from indivisible("value heads of linear attention", self.value_heads, devices)


@dataclass(frozen=True)
class GatedAttentionBlock(AttentionBlock):
    """Attention whose result is multiplied by a sigmoid of the input; the query matrix yields both."""

    def parts(self, place: Place) -> Iterator[Part]:
        """Those of attention, with twice the query width and the gate before the way back."""
        width = self.heads // place.setting.tensor_parallel * self.head_dim
        for name, key, operator in super().parts(place):
            if name == "q_proj":
                assert isinstance(operator, Gemm)
                yield name, ("gated", key), replace(operator, n=2 * operator.n)
                continue
            if name == "o_proj":
                wide = place.setting.precision.wide
                gate = Activation(place.tokens, width, wide, "sigmoid", True, place.fused)
                yield "gate_mul", width, gate
            yield name, key, operator
