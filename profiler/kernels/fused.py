"""Recurrences by kernels of causal-conv1d, mamba-ssm and flash-linear-attention, where these are installed.

Each function gives None where the package is missing or has no kernel for the sizes. What a layer computes
before its scan is computed once and not timed: A of its logarithm, the gates of the delta rule.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from profiler.kernels.base import Kernel
from profiler.kernels.state import State, wide

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place

Exact = Callable[[], "torch.Tensor"]

MODULES = {
    "causal_conv1d_fn": "causal_conv1d",
    "causal_conv1d_update": "causal_conv1d",
    "selective_scan_fn": "mamba_ssm.ops.selective_scan_interface",
    "selective_state_update": "mamba_ssm.ops.triton.selective_state_update",
    "mamba_chunk_scan_combined": "mamba_ssm.ops.triton.ssd_combined",
    "chunk_gated_delta_rule": "fla.ops.gated_delta_rule",
    "fused_recurrent_gated_delta_rule": "fla.ops.gated_delta_rule",
}
TAPS = range(2, 5)  # widths of causal-conv1d's kernels
CHANNELS = 8  # of which its channel-last kernel takes multiples
CHUNK = 64  # positions, fixed in chunk_gated_delta_rule


def convolution(place: Place, state: State, exact: Exact, x: Any, weights: Any, bias: Any, silu: bool) -> Any:
    """x[batch, channels, positions], channel-last as its state [batch, kernel - 1, channels]."""
    one = _one(x.shape[2], state)
    name = "causal_conv1d_update" if one else "causal_conv1d_fn"
    if weights[0].shape[2] not in TAPS or x.shape[1] % CHANNELS or not _installed(name, place):
        return None
    call, activation = _function(name), "silu" if silu else None

    def prompt(i: int) -> Any:
        found, options = state.found(i), {"return_final_states": True, "final_states_out": state.at(i).mT}
        before = None if found is None else found.mT
        weight = weights[i % len(weights)][:, 0]
        y, _ = call(x, weight, bias, initial_states=before, **options, activation=activation)
        return y.mT

    def token(i: int) -> Any:
        weight = weights[i % len(weights)][:, 0]
        return call(x[..., 0], state.at(i).mT, weight, bias, activation)[:, None]

    return _kernel(name, token if one else prompt, exact)


def selective_scan(
    place: Place, state: State, exact: Exact, x: Any, dt: Any, z: Any, b: Any, c: Any, rates: Any, skip: Any
) -> Kernel | None:
    """x, dt, z[batch, positions, channels]; the kernel for prompts reads no state."""
    one = _one(x.shape[1], state)
    name = "selective_state_update" if one else "selective_scan_fn"
    if not _installed(name, place) or (state.first is not None and not one):
        return None
    call, a, d = _function(name), [-wide(rate).exp() for rate in rates], wide(skip)
    turned = [t.mT.contiguous() for t in (x, dt, b, c, z)]  # positions last in memory
    no_bias = d.new_zeros(d.shape)  # a kernel of one token has to be given one

    def prompt(i: int) -> Any:
        u, delta, b, c, z = turned
        options = {"delta_softplus": True, "return_last_state": True}
        y, last = call(u, delta, a[i % len(a)], b, c, D=d, z=z, **options)
        state.keep(i, last)
        return y.mT

    def token(i: int) -> Any:
        options = {"D": d, "z": z[:, 0], "dt_bias": no_bias, "dt_softplus": True}
        return call(state.at(i), x[:, 0], dt[:, 0], a[i % len(a)], b[:, 0], c[:, 0], **options)[:, None]

    return _kernel(name, token if one else prompt, exact)


def dual(
    place: Place, state: State, exact: Exact, chunk: int, x: Any, dt: Any, b: Any, c: Any, *heads: Any
) -> Kernel | None:
    """x[batch, positions, heads, width]; of each head the logarithm of -A, D and the bias of dt."""
    one = _one(x.shape[1], state)
    name = "selective_state_update" if one else "mamba_chunk_scan_combined"
    if not _installed(name, place):
        return None
    call, (rates, skip, bias) = _function(name), heads
    a, width, states = -wide(rates).exp(), x.shape[3], b.shape[3]

    def prompt(i: int) -> Any:
        options = {"D": skip, "dt_bias": bias, "dt_softplus": True, "return_final_states": True}
        y, last = call(x, dt, a, b, c, chunk, initial_states=state.found(i), **options)
        state.keep(i, last)
        return y

    def token(i: int) -> Any:
        """One value per head, expanded: the kernel then computes one decay per head."""
        per_head = {"D": _expanded(skip, width), "dt_bias": _expanded(bias, width), "dt_softplus": True}
        steps, decays = _expanded(dt[:, 0], width), _expanded(a, width, states)
        return call(state.at(i), x[:, 0], steps, decays, b[:, 0], c[:, 0], **per_head)[:, None]

    return _kernel(name, token if one else prompt, exact)


def delta_rule(
    place: Place, state: State, exact: Exact, chunk: int, q: Any, k: Any, v: Any, kept: Any, share: Any
) -> Kernel | None:
    """q, k[batch, positions, key heads, width], not yet of unit length; the logarithm of the decay."""
    one = _one(q.shape[1], state)
    name = "fused_recurrent_gated_delta_rule" if one else "chunk_gated_delta_rule"
    if not _installed(name, place) or not (one or chunk == CHUNK):
        return None
    call, beta = _function(name), share.to(v.dtype)
    if not one:  # releases before 0.6 take as many key heads as value heads here
        q, k = (t.repeat_interleave(v.shape[2] // t.shape[2], dim=2) for t in (q, k))

    def run(i: int) -> Any:
        options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
        y, last = call(q, k, v, g=kept, beta=beta, initial_state=state.found(i), **options)
        state.keep(i, last)
        return y

    return _kernel(name, run, exact)


def _one(positions: int, state: State) -> bool:
    """Whether one position updates a state."""
    return positions == 1 and state.first is not None


def _expanded(x: Any, *sizes: int) -> Any:
    """With further dimensions, without copies of the values."""
    return x[(..., *(None for _ in sizes))].expand(*x.shape, *sizes)


def _installed(name: str, place: Place) -> bool:
    return place.has_package(_package(name))


def _function(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(import_module(MODULES[name]), name)
    return function


def _kernel(name: str, run: Callable[[int], Any], exact: Exact) -> Kernel:
    return Kernel(run, exact, _package(name), name)


def _package(name: str) -> str:
    return MODULES[name].partition(".")[0]
