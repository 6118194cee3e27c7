"""Recurrences with a matrix as state, in plain torch or fused: by chunks of matrix products, or one position.

Mamba-2's dual (arXiv:2405.21060, section 6) and the gated delta rule (arXiv:2412.06464, section 3.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.kernels import fused
from profiler.kernels.base import Kernel, build, whole
from profiler.kernels.place import Place
from profiler.kernels.scans import BY_POSITION
from profiler.kernels.state import State, chunked, decays, joined, wide
from specfiles.errors import InputError
from workloads.operators import GatedDelta, Ssd

if TYPE_CHECKING:
    import torch

BY_CHUNK = "chunk by chunk"
CHECKED = 16  # last positions of the dual compared with fp64


@build.register
def _(op: Ssd, place: Place) -> Kernel:
    """h = exp(dt A) h + dt x B'; y = h C + D x."""
    from torch.nn.functional import softplus

    batch, q_len, heads, width = map(whole, (op.batch, op.q_len, op.heads, op.head_dim))
    groups, states = whole(op.groups), whole(op.state)
    x, dt = place.random(batch, q_len, heads, width), place.random(batch, q_len, heads)
    b, c = (place.random(batch, q_len, groups, states) for _ in range(2))
    rates, skip, bias = (place.random(heads) for _ in range(3))  # the first as logarithms of -A
    state = State(place, op.past, op.state_dtype, (batch, heads, width, states))
    first = state.first

    def steps(dt: Any, bias: Any, rates: Any) -> tuple[Any, Any]:
        """dt, and the logarithm of the decay."""
        step = softplus(dt + bias)
        return step, step * -rates.exp()

    def run(i: int) -> torch.Tensor:
        step, kept = steps(wide(dt), bias, wide(rates))
        found = state.found(i)
        h = kept.new_zeros(state.shape) if found is None else wide(found)
        scaled, wide_b, wide_c = wide(x) * step[..., None], wide(b), wide(c)
        if q_len == 1:
            y, h = _one(scaled, kept, wide_b, wide_c, h)
        else:
            y, h = _dual(scaled, kept, wide_b, wide_c, h, min(q_len, whole(op.chunk)))
        state.keep(i, h)
        return (y + wide(x) * skip[:, None]).to(x.dtype)

    def exact() -> torch.Tensor:
        """The weighted sum over all earlier positions, without a state."""
        step, kept = steps(dt.double(), bias.double(), rates.double())
        last = slice(-min(q_len, CHECKED), None)
        wide_b, wide_c = (_of_heads(t.double(), heads).transpose(1, 2) for t in (b, c[:, last]))
        scores = decays(kept.transpose(1, 2), min(q_len, CHECKED)) * (wide_c @ wide_b.mT)
        y = scores @ (x.double() * step[..., None]).transpose(1, 2)
        if first is not None:
            y = y + kept.cumsum(1).transpose(1, 2)[..., last, None].exp() * (wide_c @ first.mT)
        return y.transpose(1, 2) + x[:, last].double() * skip.double()[:, None]

    theirs = fused.dual(place, state, exact, whole(op.chunk), x, dt, b, c, rates, skip, bias)
    return theirs or Kernel(run, exact, name=_form(q_len))


def _one(x: Any, kept: Any, b: Any, c: Any, h: Any) -> tuple[Any, Any]:
    """One position of the dual, and the state after it."""
    b, c = (_of_heads(t, x.shape[2])[:, 0] for t in (b, c))
    h = kept[:, 0].exp()[..., None, None] * h + x[:, 0, ..., None] * b[:, :, None]
    return (h @ c[..., None])[..., 0][:, None], h


def _dual(x: Any, kept: Any, b: Any, c: Any, h: Any, chunk: int) -> tuple[Any, Any]:
    """y[batch, positions, heads, width] and the last state; heads of a group share B C'."""
    import torch

    positions, heads = x.shape[1], x.shape[2]
    x, kept, b, c = (chunked(t, chunk) for t in (x, kept, b, c))
    shared = heads // b.shape[1]
    sums = kept.cumsum(-1)
    y = ((c @ b.mT).repeat_interleave(shared, dim=1) * decays(kept)) @ x
    b, c = (t.repeat_interleave(shared, dim=1) for t in (b, c))
    added = (x * (sums[..., -1:] - sums).exp()[..., None]).mT @ b
    found = []
    for part in range(x.shape[2]):
        found.append(h)
        h = sums[:, :, part, -1].exp()[..., None, None] * h + added[:, :, part]
    y = y + (c * sums.exp()[..., None]) @ torch.stack(found, 2).mT
    return joined(y, positions), h


@build.register
def _(op: GatedDelta, place: Place) -> Kernel:
    """S = a (S - b k k' S) + b k v'; y = S' q, with queries and keys of unit length."""
    if op.channelwise:
        raise InputError("there is no reference kernel for a delta rule whose channels decay one by one.")
    import torch
    from torch.nn.functional import normalize, softplus

    batch, q_len, heads, keys = map(whole, (op.batch, op.q_len, op.value_heads, op.key_heads))
    key_dim, value_dim = whole(op.key_dim), whole(op.value_dim)
    q, k = (place.random(batch, q_len, keys, key_dim) for _ in range(2))
    v = place.random(batch, q_len, heads, value_dim)
    gates = [place.random(batch, q_len, heads) for _ in range(2)]
    rates, bias = place.random(heads), place.random(heads)
    state = State(place, op.past, op.state_dtype, (batch, heads, key_dim, value_dim))
    first = state.first

    def inputs(widen: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Queries, keys, values, the logarithm of the decay a, and the step size b."""
        kept = -widen(rates).exp() * softplus(widen(gates[0]) + widen(bias))
        query, key = (_of_heads(normalize(widen(t), dim=-1), heads) for t in (q, k))
        return query / key_dim**0.5, key, widen(v), kept, widen(gates[1]).sigmoid()

    def run(i: int) -> torch.Tensor:
        given, found = inputs(wide), state.found(i)
        s = given[0].new_zeros(state.shape) if found is None else wide(found)
        y, s = _replaced(*given, s) if q_len == 1 else _delta(*given, s, min(q_len, whole(op.chunk)))
        state.keep(i, s)
        return y.to(v.dtype)

    def exact() -> torch.Tensor:
        query, key, value, kept, share = inputs(torch.Tensor.double)
        ys, s = [], query.new_zeros(state.shape) if first is None else first
        for t in range(q_len):
            part, much = key[:, t, ..., None], share[:, t, :, None, None]
            s = kept[:, t, :, None, None].exp() * (s - much * part @ (part.mT @ s))
            s = s + much * part @ value[:, t, :, None]
            ys.append((query[:, t, :, None] @ s)[..., 0, :])
        return torch.stack(ys, 1)

    theirs = fused.delta_rule(place, state, exact, whole(op.chunk), q, k, v, *inputs(wide)[3:])
    return theirs or Kernel(run, exact, name=_form(q_len))


def _replaced(q: Any, k: Any, v: Any, kept: Any, share: Any, s: Any) -> tuple[Any, Any]:
    """One position of the delta rule, and the state after it."""
    q, k, v = (t[:, 0] for t in (q, k, v))
    s = kept[:, 0].exp()[..., None, None] * s
    change = (v - (s * k[..., None]).sum(-2)) * share[:, 0, :, None]
    s = s + k[..., None] * change[..., None, :]
    return (s * q[..., None]).sum(-2)[:, None], s


def _delta(q: Any, k: Any, v: Any, kept: Any, share: Any, s: Any, chunk: int) -> tuple[Any, Any]:
    """y[batch, positions, heads, width] and the last state.

    The values that a chunk writes, and their part that the previous state already has, solve one triangular
    system with two right-hand sides.
    """
    import torch

    positions, width = v.shape[1], v.shape[-1]
    q, k, v, kept, share = (chunked(t, chunk) for t in (q, k, v, kept, share))
    sums, between, share = kept.cumsum(-1), decays(kept), share[..., None]
    right = torch.cat((v, k * sums.exp()[..., None]), -1) * share
    solved = torch.linalg.solve_triangular(
        share * (k @ k.mT) * between, right, upper=False, unitriangular=True
    )
    scores, q = (q @ k.mT) * between, q * sums.exp()[..., None]
    k, ends = k * (sums[..., -1:] - sums).exp()[..., None], sums[..., -1].exp()[..., None, None]
    ys = []
    for part in range(q.shape[2]):
        written, known = solved[:, :, part].split((width, solved.shape[-1] - width), -1)
        new = written - known @ s
        ys.append(q[:, :, part] @ s + scores[:, :, part] @ new)
        s = s * ends[:, :, part] + k[:, :, part].mT @ new
    return joined(torch.stack(ys, 2), positions), s


def _of_heads(x: Any, heads: int) -> Any:
    """[batch, positions, groups, ...] with each group repeated for its heads."""
    return x.repeat_interleave(heads // x.shape[2], dim=2)


def _form(q_len: int) -> str:
    return BY_POSITION if q_len == 1 else BY_CHUNK
