"""Mixture of experts: a router, the experts' matrices, and perhaps one that all tokens share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from specfiles.frozen import dataclass
from workloads.blocks.base import RMS_NORM, Block, Part, Place, indivisible
from workloads.blocks.mlp import MlpBlock
from workloads.dtypes import Size
from workloads.operators import AllToAll, Combine, Gemm, GroupedGemm, Permute, Residual, RoutedLayer, TopK
from workloads.operators.experts import expected_devices, expected_distinct
from workloads.step import Setting


@dataclass(frozen=True)
class MoeBlock(Block):
    """Experts of one width, of which the router chooses `top_k` for each token."""

    branch: ClassVar[str] = "mlp"
    prefix: ClassVar[str] = "moe"
    spreads: ClassVar[bool] = True

    experts: int
    top_k: int
    width: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False  # of the experts' matrices
    router_bias: bool = False
    shared: MlpBlock | None = None  # what every token goes through too
    latent: int = 0  # width that routed experts work in, between two matrices (Nemotron 3); 0: the stream's
    shared_gates: int = 0  # columns of one more projection, which scale its result or those of its parts
    latent_norm: bool = False  # of what they return, before the second of these matrices (Kimi K3)
    latent_in_norm: bool = False  # of what they read, behind the first (Muse Spark)
    expert_norm: bool = False  # of each expert's result, with one scale for all (Muse Spark)
    listed: bool = False  # a table says which experts a token goes to; the router only weights them
    idle: int = 0  # choices that return their input (zero-computation experts, arXiv:2509.01322)

    @property
    def chosen(self) -> float:
        """Experts of a token, in expectation under uniform routing where some choices are idle."""
        return self.top_k * self.experts / (self.experts + self.idle) if self.idle else self.top_k

    def parts(self, place: Place) -> Iterator[Part]:
        """Choose, send to the experts' devices, sort, multiply, sum, send back; then the shared expert."""
        if self.listed:  # all else is as where they are chosen
            others = replace(self, listed=False).parts(place)
            for name, key, operator in others:
                if name != "topk":  # whose kernel is the router's in other layers
                    yield name, (self if name == "router" else key), operator
            return
        p, choices = place.setting.precision, self.experts + self.idle
        yield "router", choices, _unquantised(place, choices, self.router_bias)
        scores = TopK(place.tokens, choices, self.top_k, p.wide, place.fused)
        yield "topk", (choices, self.top_k), scores
        inside = replace(place, hidden=self.latent or place.hidden)
        if self.latent:
            yield "latent_in_proj", self, place.linear(self.latent, place.hidden, self.bias)
        if self.latent_in_norm:
            yield "latent_in_norm", self.latent, place.norm(place.tokens, self.latent, RMS_NORM)
        yield from self._sent(inside, "dispatch")
        yield from self._experts(inside, _Load.of(self, inside))
        yield from self._sent(inside, "return")
        if self.latent:
            if self.latent_norm:
                yield "latent_norm", self.latent, place.norm(place.tokens, self.latent, RMS_NORM)
            yield "latent_out_proj", self, place.linear(place.hidden, self.latent, self.bias)
        if self.idle:  # the input by the sum of the idle choices' weights
            own = Combine(place.tokens, place.tokens, place.hidden, p.wide, place.fused)
            yield "idle_combine", None, own
        if self.shared is not None:
            for name, key, operator in self.shared.parts(place):
                yield f"shared_{name}", key, operator
            if self.shared_gates:
                gates = _unquantised(place, self.shared_gates, bias=False)
                yield "shared_gate", self.shared_gates, gates
            if self.shared_gates == 1:  # those of parts scale them inside
                yield "shared_gate_mul", None, place.gate(place.hidden, 1)
            added = Residual(place.tokens, place.hidden, p.wide, place.fused)
            yield "shared_sum", None, added

    def _experts(self, place: Place, load: _Load) -> Iterator[Part]:
        p, hidden, fused = place.setting.precision, place.hidden, place.fused
        yield "permute", self, Permute(load.tokens, load.rows, hidden, p.wide, fused)
        formats = p.expert_activations, p.expert_weights, p.wide
        shape = (load.groups, load.touched, *formats, self.bias)
        gathered, summed, layer = (load.tokens, load.tokens, self._layer(place)) if fused else (None,) * 3
        into = load.width * (2 if self.gated else 1)
        first = GroupedGemm(load.rows, into, hidden, *shape, read_rows=gathered, layer=layer)
        yield "experts_gate_up_proj" if self.gated else "experts_up_proj", self, first
        act = place.activation(load.width, self.activation, self.gated, load.rows)
        yield "experts_act_mul", self, act
        last = GroupedGemm(load.rows, hidden, load.width, *shape, written_rows=summed, layer=layer)
        yield "experts_down_proj", self, last
        if self.expert_norm:
            yield "experts_norm", self, place.norm(load.rows, hidden, RMS_NORM)
        yield "combine", self, Combine(load.tokens, load.rows, hidden, p.wide, fused)

    def _layer(self, place: Place) -> RoutedLayer:
        setting = place.setting
        chosen = max(1, round(self.chosen))  # kernels have whole choices
        sizes = place.tokens * setting.replicas, place.hidden, self.width, chosen, self.experts
        shared = setting.expert_width_parallel, setting.expert_parallel
        return RoutedLayer(*sizes, *shared, self.gated, setting.replicas > 1, setting.expert_skew)

    def _sent(self, place: Place, name: str) -> Iterator[Part]:
        """Each token travels once to each other device that holds an expert of its, and its sums back."""
        setting, p = place.setting, place.setting.precision
        if setting.replicas == 1:  # all devices that share the experts have all the tokens
            return
        devices = setting.expert_parallel
        reached = expected_devices(self.experts, self.top_k, devices, self.idle) * (devices - 1) / devices
        dtype = p.expert_activations if name == "dispatch" else p.wide
        yield f"{name}_alltoall", self, AllToAll(place.tokens * reached, place.hidden, dtype, devices)

    def unsplit(self, devices: int) -> Iterator[str]:
        """The width of the shared expert is divided evenly."""
        if self.shared is not None:
            yield from self.shared.unsplit(devices)

    def unspread(self, setting: Setting) -> Iterator[str]:
        """Whole experts are shared out evenly, and the width of each by the devices that share it."""
        yield from indivisible("experts", self.experts, setting.expert_parallel)
        yield from indivisible("expert width", self.width, setting.expert_width_parallel)


@dataclass(frozen=True)
class ShortcutMoeBlock(MoeBlock):
    """Experts that read what the MLP before them read, normalised for both; their result is added later, so
    that sending tokens and attending overlap (arXiv:2509.01322, section 2.2).
    """

    branch: ClassVar[str] = "shortcut"
    normalises: ClassVar[bool] = True


@dataclass(frozen=True)
class _Load:
    """What one device's experts have to do, under balanced routing where several devices share them."""

    tokens: Size  # that at least one of its experts wants
    rows: Size  # pairs of a token and one of its experts
    groups: int
    touched: Size
    width: int

    @classmethod
    def of(cls, block: MoeBlock, place: Place) -> _Load:
        setting: Setting = place.setting
        devices, tokens = setting.expert_parallel, place.tokens * setting.replicas
        touched = expected_distinct(block.experts, block.chosen, tokens, setting.expert_skew)
        width = block.width // setting.expert_width_parallel
        if devices == 1:
            return cls(tokens, tokens * block.chosen, block.experts, touched, width)
        wanted = expected_devices(block.experts, block.top_k, devices, block.idle) / devices
        rows = tokens * block.chosen / devices
        return cls(tokens * wanted, rows, block.experts // devices, touched / devices, width)


def _unquantised(place: Place, n: int, bias: bool) -> Gemm:
    """Routers stay wide where experts are quantised: a choice must not change."""
    wide = place.setting.precision.wide
    return Gemm(place.tokens, n, place.hidden, wide, wide, wide, bias=bias)
