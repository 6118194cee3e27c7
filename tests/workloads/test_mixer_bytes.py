"""Bytes and products of recurrent mixers, by running the reference implementations on small tensors.

Bytes are those of the tensors that the reference takes and gives. Matrix products are what torch's
counter sees in its chunked forms, which multiply whole chunks where we count the lower triangle.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.workloads.tensors import moved, rows, size
from workloads.operators import CausalConv, GatedDelta, LinearAttention, SelectiveScan, Ssd, Wkv
from workloads.work import Role

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers.models.kimi_linear.modeling_kimi_linear import (  # noqa: E402
    chunk_kimi_delta_attention,
    recurrent_kimi_delta_attention,
)
from transformers.models.mamba.modeling_mamba import mamba_selective_scan  # noqa: E402
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan  # noqa: E402
from transformers.models.qwen3_next.modeling_qwen3_next import (  # noqa: E402
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu  # noqa: E402

BATCH, TOKENS, CHUNK = 2, 24, 8


def products(function: Any, *args: Any, **named: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args, **named)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("past", [0, 5])
def test_selective_scan(past: int) -> None:
    channels, state = 12, 4
    x, dt, z = (rows(BATCH, channels, TOKENS) for _ in "xdz")
    b, c = (rows(BATCH, state, TOKENS) for _ in "bc")
    a, d = rows(channels, state), rows(channels)
    y, h = mamba_selective_scan(x, dt, a.float(), b, c, D=d, z=z, return_last_state=True)
    op = SelectiveScan(BATCH, TOKENS, past, channels, state)
    assert op.parameters() == a.numel() + d.numel()
    h = h.to(torch.bfloat16)
    assert op.state_bytes() == h.nbytes
    assert moved(op) == {
        Role.INPUT: size(x, dt, z, b, c),
        Role.WEIGHT: size(a, d),
        Role.OUTPUT: y.to(torch.bfloat16).nbytes,
        Role.KV_WRITE: h.nbytes,
        **({Role.KV_READ: h.nbytes} if past else {}),
    }


def ssd() -> tuple[list[Any], dict[str, Any]]:
    heads, dim, state = 6, 4, 5
    x, dt = rows(BATCH, TOKENS, heads, dim), rows(BATCH, TOKENS, heads)
    b, c = (rows(BATCH, TOKENS, heads, state) for _ in "bc")  # as many groups as heads
    weights = {"D": rows(heads), "dt_bias": rows(heads), "return_final_states": True}
    return [x, dt, rows(heads), b, c, CHUNK], weights


def test_state_space_dual() -> None:
    (x, dt, a, b, c, _), weights = arguments = ssd()
    y, h = mamba2_chunk_scan(*arguments[0], **arguments[1])
    op = Ssd(BATCH, TOKENS, 0, 6, 4, 6, 5, CHUNK, state_dtype="fp32")
    assert op.parameters() == sum(t.numel() for t in (a, weights["D"], weights["dt_bias"]))
    assert moved(op) == {
        Role.INPUT: size(x, dt, b, c),
        Role.WEIGHT: size(a, weights["D"], weights["dt_bias"]),
        Role.OUTPUT: y.to(x.dtype).nbytes,
        Role.KV_WRITE: h.nbytes,
    }


def test_products_of_the_state_space_dual() -> None:
    """The reference multiplies whole chunks and carries states by a product over all earlier chunks."""
    arguments, named = ssd()
    op = Ssd(BATCH, TOKENS, 0, 6, 4, 6, 5, CHUNK)
    chunks = TOKENS // CHUNK
    masked = BATCH * chunks * CHUNK * (CHUNK - 1) // 2 * 2 * 6 * (4 + 5)
    carried = 2 * BATCH * 6 * (chunks + 1) ** 2 * 4 * 5
    assert products(mamba2_chunk_scan, *arguments, **named) == op.work().matrix_flops + masked + carried


def delta(tokens: int) -> list[Any]:
    heads, key_dim, value_dim = 6, 4, 5
    q, k = (rows(BATCH, tokens, heads, key_dim) for _ in "qk")
    return [
        q,
        k,
        rows(BATCH, tokens, heads, value_dim),
        -rows(BATCH, tokens, heads),
        rows(BATCH, tokens, heads),
    ]


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_gated_delta_rule(tokens: int) -> None:
    rule = torch_recurrent_gated_delta_rule if tokens == 1 else torch_chunk_gated_delta_rule
    inputs = delta(tokens)
    y, s = rule(*inputs, output_final_state=True)
    op = GatedDelta(BATCH, tokens, 0, 6, 6, 4, 5, state_dtype="fp32")
    assert moved(op) == {
        Role.INPUT: size(*inputs),
        Role.WEIGHT: 2 * 6 * 2,
        Role.OUTPUT: y.nbytes,
        Role.KV_WRITE: s.nbytes,
    }


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_kimi_delta_attention(tokens: int) -> None:
    """A decay for each channel of a key instead of one for each head."""
    q, k, v, _, beta = delta(tokens)
    decays = -rows(BATCH, tokens, 6, 4)
    rule = recurrent_kimi_delta_attention if tokens == 1 else chunk_kimi_delta_attention
    y, s = rule(q, k, v, decays, beta, initial_state=None, output_final_state=True)
    op = GatedDelta(BATCH, tokens, 0, 6, 6, 4, 5, state_dtype="fp32", channelwise=True)
    assert op.parameters() == 6 + 6 * 4
    assert moved(op) == {
        Role.INPUT: size(q, k, v, decays, beta),
        Role.WEIGHT: (6 + 6 * 4) * 2,
        Role.OUTPUT: y.nbytes,
        Role.KV_WRITE: s.float().nbytes,
    }


def test_products_of_the_gated_delta_rule() -> None:
    """Whole chunks, and the two triangular solves, which the counter does not see."""
    op = GatedDelta(BATCH, TOKENS, 0, 6, 6, 4, 5, CHUNK)
    chunks = BATCH * TOKENS // CHUNK
    upper, below = CHUNK * (CHUNK - 1) // 2, CHUNK * (CHUNK - 1) // 2
    masked = chunks * 6 * 2 * (upper * (4 + 4 + 5) + CHUNK * 4)  # K K' without its diagonal, Q K', scores V
    solves = chunks * 6 * 2 * below * (4 + 5)
    seen = products(torch_chunk_gated_delta_rule, *delta(TOKENS), chunk_size=CHUNK)
    assert seen == op.work().matrix_flops + masked - solves


def test_wkv() -> None:
    channels = 12
    key, value = (rows(BATCH, TOKENS, channels) for _ in "kv")
    decay, first = rows(channels), rows(channels)
    y, states = rwkv_linear_attention_cpu(decay, first, key, value, return_state=True)
    op = Wkv(BATCH, TOKENS, 0, channels)
    assert op.parameters() == decay.numel() + first.numel()
    assert moved(op) == {
        Role.INPUT: size(key, value),
        Role.WEIGHT: size(decay, first),
        Role.OUTPUT: y.nbytes,
        Role.KV_WRITE: size(*states),
    }


def test_causal_convolution_keeps_all_but_one_of_its_taps() -> None:
    channels, kernel = 12, 4
    x = rows(BATCH, channels, TOKENS)
    conv = torch.nn.Conv1d(channels, channels, kernel, groups=channels, padding=kernel - 1, dtype=x.dtype)
    y = conv(x)[..., :TOKENS].contiguous()
    kept = x[..., -(kernel - 1) :].contiguous()
    again = conv(torch.cat([kept, rows(BATCH, channels, 1)], dim=-1))  # all that the next output needs
    assert again.shape[-1] == 2 * kernel - 1
    op = CausalConv(BATCH, TOKENS, 3, channels, kernel)
    assert op.parameters() == sum(p.numel() for p in conv.parameters())
    assert moved(op) == {
        Role.INPUT: x.nbytes,
        Role.WEIGHT: size(*conv.parameters()),
        Role.OUTPUT: y.nbytes,
        Role.KV_READ: kept.nbytes,
        Role.KV_WRITE: kept.nbytes,
    }


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention(causal: bool) -> None:
    """The definition with tensors: both sums are its state, and their products are what is counted."""
    heads, features, dim = 6, 5, 4
    q, k, v = (rows(BATCH, heads, TOKENS, n) for n in (features, features, dim))

    def attend() -> tuple[Any, Any]:
        values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        s = k.transpose(-1, -2) @ values
        y = q @ s
        return (y[..., :dim] / y[..., dim:]).contiguous(), s

    y, s = attend()
    op = LinearAttention(BATCH, TOKENS, 0, heads, features, dim, causal=causal)
    state = {Role.KV_WRITE: s.nbytes} if causal else {}
    assert moved(op) == {Role.INPUT: size(q, k, v), Role.OUTPUT: y.nbytes, **state}
    if not causal:
        assert op.work().matrix_flops == products(attend)
