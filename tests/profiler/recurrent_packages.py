"""Stand-ins for packages of recurrent kernels, with the signatures and demands of the packages' functions.

Sources: Dao-AILab/causal-conv1d (causal_conv1d_interface.py, csrc/causal_conv1d.cpp), mamba-ssm 2.3
(ops/selective_scan_interface.py, ops/triton/selective_state_update.py, ops/triton/ssd_combined.py),
fla-core 0.6 (ops/gated_delta_rule). Positions are computed in turn, in fp32.
"""
# ruff: noqa: N803 - the packages' names of arguments

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import conv1d, normalize, pad, silu, softplus

Tensor = torch.Tensor


def causal_conv1d_fn(
    x: Tensor,  # [batch, channels, positions]
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Any = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    channels, taps = weight.shape
    assert x.stride(1) == 1 < x.stride(2), "states are only supported for the channel last layout"
    assert x.stride(0) % 8 == x.stride(2) % 8 == channels % 8 == 0
    assert return_final_states
    for states in (initial_states, final_states_out):
        if states is not None:
            assert states.shape == (len(x), channels, taps - 1)
            assert states.dtype == x.dtype
            assert states.stride(1) == 1
    rows = pad(x, (taps - 1, 0)) if initial_states is None else torch.cat((initial_states, x), -1)
    final_states_out.copy_(rows[..., x.shape[2] :])
    return _convolved(rows, weight, bias, activation), final_states_out


def causal_conv1d_update(
    x: Tensor,  # [batch, channels]
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    assert conv_state.shape == (*x.shape, weight.shape[1] - 1)
    rows = torch.cat((conv_state, x[..., None]), -1)
    conv_state.copy_(rows[..., 1:])
    return _convolved(rows, weight, bias, activation)[..., 0]


def _convolved(rows: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    assert 2 <= weight.shape[1] <= 4
    mixed = conv1d(rows, weight[:, None], bias, groups=len(weight))
    return silu(mixed) if activation == "silu" else mixed


def selective_scan_fn(
    u: Tensor,  # [batch, channels, positions], as delta and z; B, C[batch, state, positions]
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> tuple[Tensor, Tensor]:
    assert A.dtype == D.dtype == torch.float32
    for given in (u, delta, B, C, z):
        assert given.is_contiguous(), "another layout is copied before the kernel"
    assert return_last_state
    state = torch.zeros(*u.shape[:2], A.shape[1])
    bias = torch.zeros(len(D)) if delta_bias is None else delta_bias
    ys = []
    for t in range(u.shape[2]):
        x, dt, b, c, gate = (given[..., t] for given in (u, delta, B, C, z))
        ys.append(selective_state_update(state, x, dt, A, b, c, D, gate, bias, delta_softplus))
    return torch.stack(ys, -1), state


def selective_state_update(
    state: Tensor,  # [batch, channels, state] or [batch, heads, channels, state]
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Any = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    assert dt_bias is not None, "its strides are read in any case"
    assert dt.shape == x.shape == state.shape[:-1]
    assert A.shape == state.shape[1:]
    assert D.shape == dt_bias.shape == x.shape[1:]
    assert dt_softplus
    if state.ndim == 4:  # with one value per head the kernel has one decay per head
        assert A.stride()[1:] == (0, 0)
        assert dt.stride(-1) == dt_bias.stride(-1) == 0
    heads = x.shape[1] if state.ndim == 4 else 1
    groups = [t.float() if state.ndim == 4 else t.float()[:, None] for t in (B, C)]
    b, c = (t.repeat_interleave(heads // t.shape[1], 1).reshape(len(x), -1, 1, t.shape[-1]) for t in groups)
    step = softplus(dt.float() + dt_bias.float())[..., None]
    shape = (len(x), heads, -1, state.shape[-1])
    h = ((step * A).exp() * state.float()).view(shape) + (step * x.float()[..., None]).view(*shape[:3], 1) * b
    state.copy_(h.view(state.shape))
    y = (h * c).sum(-1).view(x.shape) + x.float() * D.float()
    return (y if z is None else y * silu(z.float())).to(x.dtype)


def mamba_chunk_scan_combined(
    x: Tensor,  # [batch, positions, heads, channels]; dt[batch, positions, heads]
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Any = None,
    z: Tensor | None = None,
    dt_bias: Any = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
) -> tuple[Tensor, Tensor]:
    batch, positions, heads, width = x.shape
    assert A.shape == D.shape == dt_bias.shape == (heads,)
    assert return_final_states
    state = torch.zeros(batch, heads, width, B.shape[-1])
    if initial_states is not None:
        state.copy_(initial_states)
    decays = A[:, None, None].expand(state.shape[1:])
    skip, bias = (t[:, None].expand(-1, width) for t in (D, dt_bias))
    steps = dt[..., None].expand(x.shape)
    ys = []
    for t in range(positions):
        u, step, b, c = (given[:, t] for given in (x, steps, B, C))
        ys.append(selective_state_update(state, u, step, decays, b, c, skip, z, bias, dt_softplus))
    return torch.stack(ys, 1), state


def chunk_gated_delta_rule(
    q: Tensor,  # [batch, positions, heads, width]; g, beta[batch, positions, heads]
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
) -> tuple[Tensor, Tensor]:
    assert q.dtype == k.dtype == v.dtype != torch.float32
    assert q.shape[:3] == v.shape[:3], "before 0.6 heads are not shared"
    return _delta(q, k, v, g, beta, initial_state, output_final_state and use_qk_l2norm_in_kernel)


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Any = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Any = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
) -> tuple[Tensor, Tensor]:
    return _delta(q, k, v, g, beta, initial_state, output_final_state and use_qk_l2norm_in_kernel)


def _delta(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None, asked: bool
) -> tuple[Tensor, Tensor]:
    assert asked
    q, k = (
        normalize(t.float(), dim=-1).repeat_interleave(v.shape[2] // t.shape[2], 2)[..., None] for t in (q, k)
    )
    s = torch.zeros(len(v), v.shape[2], k.shape[3], v.shape[3]) if state is None else state.float()
    ys = []
    for t in range(v.shape[1]):
        s = s * g[:, t, :, None, None].exp()
        new = (v[:, t, :, None].float() - k[:, t].mT @ s) * beta[:, t, :, None, None].float()
        s = s + k[:, t] * new
        ys.append((q[:, t].mT @ s)[..., 0, :] / k.shape[3] ** 0.5)
    return torch.stack(ys, 1).to(v.dtype), s


PACKAGES = {
    "causal_conv1d": (causal_conv1d_fn, causal_conv1d_update),
    "mamba_ssm": (),
    "mamba_ssm.ops": (),
    "mamba_ssm.ops.selective_scan_interface": (selective_scan_fn,),
    "mamba_ssm.ops.triton": (),
    "mamba_ssm.ops.triton.selective_state_update": (selective_state_update,),
    "mamba_ssm.ops.triton.ssd_combined": (mamba_chunk_scan_combined,),
    "fla": (),
    "fla.ops": (),
    "fla.ops.gated_delta_rule": (chunk_gated_delta_rule, fused_recurrent_gated_delta_rule),
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make them the packages that are found and imported."""
    for name, functions in PACKAGES.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        for function in functions:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
