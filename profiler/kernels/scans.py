"""Mamba's selective scan and RWKV-4's WKV, position by position in plain torch, or fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.kernels import fused
from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.place import Place
from profiler.kernels.state import State, wide
from workloads.operators import SelectiveScan, Wkv

if TYPE_CHECKING:
    import torch

BY_POSITION = "position by position"


@build.register
def _(op: SelectiveScan, place: Place) -> Kernel:
    """h = exp(dt A) h + dt B x; y = (C h + D x) silu(z). Only the recurrence of h is sequential."""
    import torch
    from torch.nn.functional import silu, softplus

    batch, q_len, channels, width = map(whole, (op.batch, op.q_len, op.channels, op.state))
    x, dt, z = (place.random(batch, q_len, channels) for _ in range(3))
    b, c = (place.random(batch, q_len, width) for _ in range(2))
    rates, skip = place.cold(channels, width), place.random(channels)  # logarithms of -A, and D
    state = State(place, op.past, op.state_dtype, (batch, channels, width))
    first = state.first

    def run(i: int) -> torch.Tensor:
        step = wide(softplus(dt))[..., None]
        kept = (step * -wide(rates[i % len(rates)]).exp()).exp()
        added = step * wide(b)[:, :, None] * wide(x)[..., None]
        found = state.found(i)
        h = torch.zeros_like(added[:, 0]) if found is None else wide(found)
        y = torch.empty_like(x)
        for t in range(q_len):
            h = kept[:, t] * h + added[:, t]
            y[:, t] = (h.to(c.dtype) @ c[:, t, :, None])[..., 0]
        state.keep(i, h)
        return (y + x * skip) * silu(z)

    def exact() -> torch.Tensor:
        rate, ys = -rates[0].double().exp(), []
        h = rate.new_zeros(batch, channels, width) if first is None else first
        for t in range(q_len):
            step = softplus(dt[:, t].double())[..., None]
            h = (step * rate).exp() * h + step * (x[:, t, :, None].double() * b[:, t, None].double())
            ys.append((h * c[:, t, None].double()).sum(-1))
        return (torch.stack(ys, 1) + x.double() * skip.double()) * silu(z.double())

    theirs = fused.selective_scan(place, state, exact, x, dt, z, b, c, rates, skip)
    return theirs or Kernel(run, exact, name=BY_POSITION)


LEAST = -1e38  # the initial largest exponent, as in transformers 5.23.0


@build.register
def _(op: Wkv, place: Place) -> Kernel:
    """Sums of exp(key) value and exp(key), both over exp of the largest exponent so far."""
    import torch

    batch, q_len, channels = whole(op.batch), whole(op.q_len), whole(op.channels)
    key, value = (place.random(batch, q_len, channels) for _ in range(2))
    decays, bonus = place.random(channels), place.random(channels)  # the first as logarithms
    state = State(place, op.past, op.state_dtype, (3, batch, channels))
    first = state.first

    def run(i: int) -> torch.Tensor:
        decay, found, y = -wide(decays).exp(), state.found(i), torch.empty_like(key)
        zeros = decay.new_zeros(batch, channels)
        above, below, most = (zeros, zeros, zeros + LEAST) if found is None else wide(found)
        for t in range(q_len):
            k, v = wide(key[:, t]), value[:, t]
            top = torch.maximum(most, k + bonus)
            old, new = (most - top).exp(), (k + bonus - top).exp()
            y[:, t] = (old * above + new * v) / (old * below + new)
            top = torch.maximum(most + decay, k)
            old, new = (most + decay - top).exp(), (k - top).exp()
            above, below, most = old * above + new * v, old * below + new, top
        state.keep(i, torch.stack((above, below, most)))
        return y

    def exact() -> torch.Tensor:
        """Without the exponent: e to the random keys is far within the range of fp64."""
        kept, weights, v = (-decays.double().exp()).exp(), key.double().exp(), value.double()
        ys, above, below = [], torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0])
        if first is not None:
            above, below = first[0] * first[2].exp(), first[1] * first[2].exp()
        for t in range(q_len):
            now = weights[:, t] * bonus.double().exp()
            ys.append((above + now * v[:, t]) / (below + now))
            above, below = kept * above + weights[:, t] * v[:, t], kept * below + weights[:, t]
        return torch.stack(ys, 1)

    return Kernel(run, exact, name=BY_POSITION)
