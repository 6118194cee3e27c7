"""Elementwise and row-wise kernels: norms, RoPE, activations, residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.place import Place
from specfiles.errors import InputError
from workloads.operators import Activation, Norm, Residual, Rope

if TYPE_CHECKING:
    import torch


@build.register
def _(op: Norm, place: Place) -> Kernel:
    import torch
    from torch.nn.functional import layer_norm

    x, scale = place.random(1, whole(op.tokens), whole(op.width)), place.random(whole(op.width))
    bias = place.random(whole(op.width)) if op.bias else None
    if op.center:
        wide_bias = None if bias is None else bias.double()
        return Kernel(
            lambda _: layer_norm(x, scale.shape, scale, bias),
            lambda: layer_norm(x.double(), scale.shape, scale.double(), wide_bias),
        )

    def rms(x: Any, scale: Any, wide: torch.dtype) -> torch.Tensor:
        # Step by step in fp32 or more, by several kernels, as in model code.
        high = x.to(wide)
        high = high * torch.rsqrt(high.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scale * high.to(x.dtype)

    inside = torch.promote_types(x.dtype, torch.float32)
    return Kernel(lambda _: rms(x, scale, inside), lambda: rms(x.double(), scale.double(), torch.float64))


@build.register
def _(op: Rope, place: Place) -> Kernel:
    import torch

    tokens, heads, width = whole(op.tokens), whole(op.heads), whole(op.rotary_dim)
    keys = max(1, heads // 4)  # rotated separately
    q, k = (place.random(1, tokens, n, width).transpose(1, 2) for n in (heads - keys, keys))
    angle = place.random(1, 1, tokens, width)
    cos, sin = angle.cos(), angle.sin()

    def turn(x: Any, cos: Any, sin: Any) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-high, low), dim=-1) * sin

    def run(_: int) -> torch.Tensor:
        turn(k, cos, sin)
        return turn(q, cos, sin)

    return Kernel(run, lambda: turn(q.double(), cos.double(), sin.double()))


@build.register
def _(op: Activation, place: Place) -> Kernel:
    from torch.nn import functional

    x, up = (place.random(1, whole(op.tokens), whole(op.width)) for _ in range(2))
    functions: dict[str, Callable[[Any], torch.Tensor]] = {
        "silu": functional.silu,
        "identity": lambda x: x,
        "sigmoid": functional.sigmoid,
        "relu": functional.relu,
        "relu2": lambda t: functional.relu(t).square(),
        "gelu": functional.gelu,
        "gelu_tanh": lambda t: functional.gelu(t, approximate="tanh"),
        "xielu": _xielu,
    }
    if op.function not in functions:
        raise InputError(f"there is no reference kernel for the activation {op.function!r}.")
    function = functions[op.function]
    if not op.gated:
        return Kernel(lambda _: function(x), lambda: function(x.double()))
    if op.columns is None:
        return Kernel(lambda _: function(x) * up, lambda: function(x.double()) * up.double())
    columns = whole(op.columns)
    gates, up = place.random(1, whole(op.tokens), columns, 1), up.unflatten(2, (columns, -1))
    return Kernel(
        lambda _: (function(gates) * up).flatten(2),
        lambda: (function(gates.double()) * up.double()).flatten(2),
    )


def _xielu(x: torch.Tensor) -> torch.Tensor:
    """arXiv:2411.13010 with the values that its parameters begin with."""
    import torch

    alpha, beta = 0.8, 0.5
    return torch.where(x > 0, alpha * x * x, alpha * (torch.expm1(x.clamp(max=-1e-6)) - x)) + beta * x


@build.register
def _(op: Residual, place: Place) -> Kernel:
    import torch

    x, y = (place.random(1, whole(op.tokens), whole(op.width)) for _ in range(2))
    factor = 0.5 if op.learned else 1.0
    return Kernel(lambda _: torch.add(x, y, alpha=factor), lambda: x.double() + factor * y.double())
