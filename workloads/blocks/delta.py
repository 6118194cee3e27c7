"""The gated delta net of Qwen3-Next and Qwen3.5, and their attention with a gate at its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.attention import AttentionBlock
from workloads.blocks.base import RMS_NORM, Part, Place
from workloads.blocks.recurrent import RecurrentBlock, convolution
from workloads.operators import CausalConv, GatedDelta, Gemm
from workloads.step import Setting, Step


@dataclass(frozen=True)
class DeltaBlock(RecurrentBlock):
    """Projections, a convolution of q, k and v, the gated delta rule, a gated norm of heads, out."""

    branch: ClassVar[str] = "delta"
    divided: ClassVar[Mapping[str, str]] = {
        "key_heads": "key heads of linear attention",
        "value_heads": "value heads of linear attention",
    }

    value_heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    together: bool = False  # q, k, v and z are one matrix, as are the gates
    state_dtype: str = "fp32"
    apart: bool = False  # q, k and v are matrices of their own (OLMo Hybrid)

    def parts(self, place: Place) -> Iterator[Part]:
        """In the order of execution; q, k, v, z and the gates a and b are projections of the input."""
        keys, values = self._shared(place.setting.tensor_parallel)
        mixed, inner = 2 * keys * self.key_dim + values * self.value_dim, values * self.value_dim
        if self.together:
            projections = {"in_proj_qkvz": mixed + inner, "in_proj_ba": 2 * values}
        else:
            key = keys * self.key_dim
            joint = {"q_proj": key, "k_proj": key, "v_proj": inner} if self.apart else {"in_proj_qkv": mixed}
            projections = {**joint, "in_proj_z": inner, "in_proj_b": values, "in_proj_a": values}
        for name, width in projections.items():
            yield name, width, place.linear(width, place.hidden)
        conv, rule = self.states(place.step, place.setting)
        yield "conv1d", self, conv
        yield "rule", self, rule
        yield "norm", self, place.norm(place.tokens * values, self.value_dim, RMS_NORM)
        yield "gate_mul", self, place.activation(inner, "silu", gated=True)
        yield "out_proj", self, place.linear(place.hidden, inner)

    def _shared(self, devices: int) -> tuple[int, int]:
        """Key and value heads of one device."""
        return self.key_heads // devices, self.value_heads // devices

    def states(self, step: Step, setting: Setting) -> tuple[CausalConv, GatedDelta]:
        """The convolution and the rule."""
        keys, values = self._shared(setting.tensor_parallel)
        channels = 2 * keys * self.key_dim + values * self.value_dim
        wide = setting.precision.wide
        formats: dict[str, Any] = {"dtype": wide, "weights": wide, "state_dtype": self.state_dtype}
        rule = GatedDelta(*step.sizes, values, keys, self.key_dim, self.value_dim, **formats)
        return convolution(step, setting, channels, self.kernel, bias=False), rule


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
                yield "gate_mul", width, place.activation(width, "sigmoid", gated=True)
            yield name, key, operator
