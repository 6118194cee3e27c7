"""Kernels over neighbouring rows: convolutions, causal or not, and RWKV's token shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.kernels import fused
from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.place import Place
from profiler.kernels.state import State
from workloads.operators import CausalConv, SequenceConv, TokenShift

if TYPE_CHECKING:
    import torch


@build.register
def _(op: CausalConv, place: Place) -> Kernel:
    """A depthwise convolution over the last and the new inputs."""
    from torch.nn.functional import conv1d, pad, silu

    batch, q_len, channels, taps = map(whole, (op.batch, op.q_len, op.channels, op.kernel))
    x = place.random(batch, q_len, channels).transpose(1, 2)
    weights = place.cold(channels, 1, taps)
    bias = place.random(channels) if op.bias else None
    state = State(place, op.past, place.dtype, (batch, taps - 1, channels))
    first, last = state.first, silu if op.silu else _same

    def run(i: int) -> torch.Tensor:
        found = state.found(i)
        rows = pad(x, (taps - 1, 0)) if found is None else _behind(found.mT, x, -1)
        state.keep(i, rows[..., q_len:].mT)
        return last(conv1d(rows, weights[i % len(weights)], bias, groups=channels)).transpose(1, 2)

    def exact() -> torch.Tensor:
        rows = pad(x.double(), (taps - 1, 0)) if first is None else _behind(first.mT, x.double(), -1)
        tap = weights[0].double()
        mixed = sum(rows[..., k : k + q_len] * tap[..., k] for k in range(taps))
        mixed = mixed if bias is None else mixed + bias.double()[:, None]
        return last(mixed).transpose(1, 2)

    theirs = fused.convolution(place, state, exact, x, weights, bias, op.silu)
    return theirs or Kernel(run, exact)


@build.register
def _(op: SequenceConv, place: Place) -> Kernel:
    """All rows as those of one sequence, with zeros around it."""
    from torch.nn.functional import conv1d

    m, n, channels = whole(op.m), whole(op.n), whole(op.k) // op.kernel
    x, weights = place.random(1, channels, m * op.stride), place.cold(n, channels, op.kernel)
    bias = place.random(n) if op.bias else None

    def mixed(x: Any, weight: Any, bias: Any) -> torch.Tensor:
        return conv1d(x, weight, bias, stride=op.stride, padding=op.kernel // 2)

    return Kernel(
        lambda i: mixed(x, weights[i % len(weights)], bias),
        lambda: mixed(x.double(), weights[0].double(), None if bias is None else bias.double()),
    )


@build.register
def _(op: TokenShift, place: Place) -> Kernel:
    """Every mix of rows with the rows before them; the last mix is compared."""
    from torch.nn.functional import pad

    batch, q_len, width = whole(op.batch), whole(op.q_len), whole(op.width)
    x, mixes = place.random(batch, q_len, width), place.random(whole(op.mixes), width)
    state = State(place, op.past, place.dtype, (batch, 1, width))
    first = state.first

    def mixed(x: Any, mix: Any, before: Any) -> Any:
        shifted = pad(x, (0, 0, 1, -1)) if before is None else _behind(before, x[:, :-1], 1)
        return [x * part + shifted * (1 - part) for part in mix][-1]

    def run(i: int) -> torch.Tensor:
        result: torch.Tensor = mixed(x, mixes, state.found(i))
        state.keep(i, x[:, -1:])
        return result

    return Kernel(run, lambda: mixed(x.double(), mixes.double(), first))


def _behind(before: Any, x: Any, dim: int) -> torch.Tensor:
    import torch

    return torch.cat((before, x), dim)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x
