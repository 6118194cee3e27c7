"""Bytes by counting real tensors: what the operator reads and writes, made in PyTorch and added up."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from workloads.operators import (
    Activation,
    AllReduce,
    AllToAll,
    Attention,
    Combine,
    Embedding,
    Gemm,
    GroupedGemm,
    IndexScores,
    KvAppend,
    Norm,
    Operator,
    Permute,
    Residual,
    Rope,
    Sampling,
    TopK,
)
from workloads.work import Role

torch = pytest.importorskip("torch")
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    "fp64": torch.float64,
}
FORMATS = list(itertools.product(["bf16", "fp8", "int8"], repeat=3))
TOKENS, WIDTH = 7, 24


def rows(*shape: int, dtype: str = "bf16") -> Tensor:
    return torch.zeros(shape, dtype=TORCH[dtype])


def moved(op: Operator) -> dict[Role, float]:
    work = op.work()
    assert work.bytes + work.comm_bytes == sum(t.bytes for t in work.traffic)
    return {role: work.bytes_as(role) for role in Role if work.bytes_as(role)}


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "fp64"])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(dtype: str, bias: bool) -> None:
    a, layer = rows(TOKENS, WIDTH, dtype=dtype), torch.nn.Linear(WIDTH, 10, bias=bias, dtype=TORCH[dtype])
    assert moved(Gemm(TOKENS, 10, WIDTH, dtype, dtype, dtype, bias=bias)) == {
        Role.INPUT: a.nbytes,
        Role.WEIGHT: sum(p.nbytes for p in layer.parameters()),
        Role.OUTPUT: layer(a).nbytes,
    }


@pytest.mark.parametrize("formats", FORMATS, ids="-".join)
def test_gemm_in_mixed_formats(formats: tuple[str, str, str]) -> None:
    inputs, weights, outputs = formats
    assert moved(Gemm(TOKENS, 10, WIDTH, inputs, weights, outputs)) == {
        Role.INPUT: rows(TOKENS, WIDTH, dtype=inputs).nbytes,
        Role.WEIGHT: rows(10, WIDTH, dtype=weights).nbytes,
        Role.OUTPUT: rows(TOKENS, 10, dtype=outputs).nbytes,
    }


def test_a_gemm_with_two_weights_to_the_byte() -> None:
    packed = torch.zeros(10, WIDTH // 2, dtype=torch.uint8)
    assert moved(Gemm(TOKENS, 10, WIDTH, weights="int4"))[Role.WEIGHT] == packed.nbytes


def test_block_scales_are_weight_bytes() -> None:
    """MXFP4: 32 values of 4 bits and one 8-bit scale; NVFP4: 16 values and one fp8 scale."""
    for name, block in (("mxfp4", 32), ("nvfp4", 16)):
        values = torch.zeros(10, 64 // 2, dtype=torch.uint8)
        scales = torch.zeros(10, 64 // block, dtype=torch.uint8)
        assert moved(Gemm(TOKENS, 10, 64, weights=name))[Role.WEIGHT] == values.nbytes + scales.nbytes


@pytest.mark.parametrize("window", [None, 3, 50])
@pytest.mark.parametrize(("q_len", "kv_len"), [(1, 20), (20, 20), (5, 20)])
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
def test_attention(window: int | None, q_len: int, kv_len: int, kv_dtype: str) -> None:
    batch, heads, kv_heads, dim = 2, 8, 2, 16
    query = rows(batch, heads, q_len, dim)
    keys, values = (rows(batch, kv_heads, kv_len, dim, dtype=kv_dtype) for _ in "kv")
    at = torch.arange(kv_len - q_len, kv_len)[:, None]
    visible = (torch.arange(kv_len) <= at) & (torch.arange(kv_len) > at - (window or kv_len))
    seen = visible.any(dim=0)
    wide = [t.to(query.dtype).repeat_interleave(heads // kv_heads, dim=1) for t in (keys, values)]
    output = F.scaled_dot_product_attention(query, *wide, attn_mask=visible)
    op = Attention(batch, q_len, kv_len, heads, kv_heads, dim, kv_dtype=kv_dtype, window=window)
    assert moved(op) == {
        Role.INPUT: query.nbytes,
        Role.KV_READ: keys[:, :, seen].contiguous().nbytes + values[:, :, seen].contiguous().nbytes,
        Role.OUTPUT: output.nbytes,
    }


def test_unfused_attention_moves_its_scores_four_times() -> None:
    query, key = rows(2, 8, 5, 16), rows(2, 2, 20, 16)
    scores = query @ key.repeat_interleave(4, dim=1).transpose(-1, -2)
    op = Attention(2, 5, 20, 8, 2, 16, causal_exact=False, fused=False)
    assert moved(op)[Role.SCORES] == 4 * scores.nbytes


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(bias: bool) -> None:
    x, norm = rows(TOKENS, WIDTH), torch.nn.LayerNorm(WIDTH, bias=bias, dtype=torch.bfloat16)
    op = Norm(TOKENS, WIDTH, center=True, bias=bias)
    assert op.parameters() == sum(p.numel() for p in norm.parameters())
    assert moved(op) == {
        Role.INPUT: x.nbytes,
        Role.OUTPUT: norm(x).nbytes,
        Role.WEIGHT: sum(p.nbytes for p in norm.parameters()),
    }


def test_rms_norm() -> None:
    x, norm = rows(TOKENS, WIDTH), torch.nn.RMSNorm(WIDTH, dtype=torch.bfloat16)
    op = Norm(TOKENS, WIDTH)
    assert op.parameters() == sum(p.numel() for p in norm.parameters())
    assert moved(op) == {Role.INPUT: x.nbytes, Role.OUTPUT: norm(x).nbytes, Role.WEIGHT: norm.weight.nbytes}


def test_a_norm_of_heads_has_one_row_of_weights() -> None:
    heads = rows(TOKENS, 6, 16)
    op = Norm(TOKENS * 6, 16)
    assert moved(op)[Role.INPUT] == heads.nbytes
    assert moved(op)[Role.WEIGHT] == rows(16).nbytes


@pytest.mark.parametrize("rotary", [16, 8])
def test_rope_touches_what_rotates(rotary: int) -> None:
    query, key = rows(TOKENS, 6, 16), rows(TOKENS, 2, 16)
    turned = torch.cat([query[..., :rotary], key[..., :rotary]], dim=1)
    assert moved(Rope(TOKENS, 6 + 2, rotary)) == {Role.INPUT: turned.nbytes, Role.OUTPUT: turned.nbytes}


def test_activations() -> None:
    gate, up = rows(TOKENS, WIDTH), rows(TOKENS, WIDTH)
    out = F.silu(gate) * up
    read = gate.nbytes + up.nbytes
    assert moved(Activation(TOKENS, WIDTH)) == {Role.INPUT: read, Role.OUTPUT: out.nbytes}
    assert moved(Activation(TOKENS, WIDTH, function="relu", gated=False)) == {
        Role.INPUT: up.nbytes,
        Role.OUTPUT: F.relu(up).nbytes,
    }
    heads = rows(TOKENS, 4)  # a gate for each
    scaled = up.unflatten(1, (4, -1)) * heads[..., None].sigmoid()
    op = Activation(TOKENS, WIDTH, function="sigmoid", columns=4)
    assert moved(op) == {Role.INPUT: up.nbytes + heads.nbytes, Role.OUTPUT: scaled.nbytes}
    assert op.work().special_ops == heads.numel()
    assert op.work().vector_flops == 2 * heads.numel() + up.numel()


def test_residual() -> None:
    x, y = rows(TOKENS, WIDTH, dtype="fp32"), rows(TOKENS, WIDTH, dtype="fp32")
    assert moved(Residual(TOKENS, WIDTH, "fp32")) == {
        Role.INPUT: x.nbytes + y.nbytes,
        Role.OUTPUT: (x + y).nbytes,
    }


def test_an_embedding_reads_rows_not_the_table() -> None:
    table = torch.nn.Embedding(1000, WIDTH, dtype=torch.bfloat16)
    found = table(torch.arange(TOKENS))
    op = Embedding(TOKENS, 1000, WIDTH)
    assert op.parameters() == table.weight.numel()
    assert moved(op) == {Role.WEIGHT: table.weight[:TOKENS].nbytes, Role.OUTPUT: found.nbytes}


@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
def test_an_append_writes_the_new_tokens_only(kv_dtype: str) -> None:
    new, cache = rows(2, TOKENS, 4, 16), rows(2, 1000, 4, 16, dtype=kv_dtype)
    written = cache[:, :TOKENS]
    written.copy_(new)
    assert moved(KvAppend(TOKENS, 4, 16, kv_dtype=kv_dtype)) == {
        Role.INPUT: new.nbytes,
        Role.KV_WRITE: written.contiguous().nbytes,
    }
    assert moved(KvAppend(TOKENS, 4, 16, kv_dtype=kv_dtype, fused=True)) == {
        Role.KV_WRITE: written.contiguous().nbytes
    }


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_sampling_reads_logits_and_writes_indices(dtype: str) -> None:
    logits = rows(3, 1000, dtype=dtype)
    assert moved(Sampling(3, 1000, dtype)) == {
        Role.INPUT: logits.nbytes,
        Role.OUTPUT: logits.argmax(-1).nbytes,
    }


@pytest.mark.parametrize("devices", [1, 2, 4, 7])
def test_a_ring_all_reduce_sends_each_part_twice_but_one(devices: int) -> None:
    """Simulated: n - 1 steps of reduce-scatter, n - 1 of all-gather, each sends one n-th of the tensor."""
    part = rows(devices * 6, WIDTH).chunk(devices)[0]
    sent = sum(part.nbytes for _ in range(devices - 1)) + sum(part.nbytes for _ in range(devices - 1))
    assert AllReduce(devices * 6, WIDTH, devices).work().comm_bytes == pytest.approx(sent, rel=1e-15)


@pytest.mark.parametrize(
    "op",
    [
        Norm(TOKENS, WIDTH, fused=True),
        Rope(TOKENS, 8, 16, fused=True),
        Activation(TOKENS, WIDTH, fused=True),
        Residual(TOKENS, WIDTH, fused=True),
    ],
    ids=lambda op: op.kind,
)
def test_what_is_fused_moves_its_weights_only(op: Operator) -> None:
    assert moved(op) == ({Role.WEIGHT: rows(WIDTH).nbytes} if isinstance(op, Norm) else {})


EXPERTS, TOP_K = 8, 2


def routed() -> tuple[Tensor, Tensor]:
    """Hidden rows and each row's experts: five tokens of seven meet the same two, the others two more."""
    chosen = torch.tensor([[0, 3]] * 5 + [[3, 6], [1, 6]])
    return rows(TOKENS, WIDTH), chosen


@pytest.mark.parametrize("bias", [False, True])
def test_experts_read_the_matrices_that_tokens_chose(bias: bool) -> None:
    x, chosen = routed()
    matrices, biases = rows(EXPERTS, 10, WIDTH), rows(EXPERTS, 10)
    used = chosen.unique()
    copies = x.repeat_interleave(TOP_K, dim=0)
    out = torch.stack([copies[i] @ matrices[e].T for i, e in enumerate(chosen.flatten())])
    op = GroupedGemm(len(copies), 10, WIDTH, EXPERTS, len(used), bias=bias)
    assert moved(op) == {
        Role.INPUT: copies.nbytes,
        Role.WEIGHT: matrices[used].nbytes + (biases[used].nbytes if bias else 0),
        Role.OUTPUT: out.nbytes,
    }
    assert op.parameters() == matrices.numel() + (biases.numel() if bias else 0)


def test_a_kernel_that_gathers_and_sums_moves_each_token_once() -> None:
    x, chosen = routed()
    matrices, used = rows(EXPERTS, WIDTH, WIDTH), chosen.unique()
    op = GroupedGemm(chosen.numel(), WIDTH, WIDTH, EXPERTS, len(used), read_rows=TOKENS, written_rows=TOKENS)
    weights = matrices[used].nbytes
    assert moved(op) == {Role.INPUT: x.nbytes, Role.WEIGHT: weights, Role.OUTPUT: rows(TOKENS, WIDTH).nbytes}


def test_routing() -> None:
    x, chosen = routed()
    scores = rows(TOKENS, EXPERTS)
    weights, indices = scores.topk(TOP_K)
    assert moved(TopK(TOKENS, EXPERTS, TOP_K)) == {
        Role.INPUT: scores.nbytes,
        Role.OUTPUT: weights.nbytes + indices.int().nbytes,
    }
    copies = x[chosen.flatten() // EXPERTS]
    summed = copies.view(TOKENS, TOP_K, WIDTH).sum(1)
    assert moved(Permute(TOKENS, len(copies), WIDTH)) == {Role.INPUT: x.nbytes, Role.OUTPUT: copies.nbytes}
    combined = moved(Combine(TOKENS, len(copies), WIDTH))
    assert combined == {Role.INPUT: copies.nbytes, Role.OUTPUT: summed.nbytes}


def test_tokens_on_their_way_to_other_devices() -> None:
    sent = rows(5, WIDTH)
    assert moved(AllToAll(5, WIDTH)) == {
        Role.INPUT: sent.nbytes,
        Role.OUTPUT: sent.nbytes,
        Role.WIRE: sent.nbytes,
    }


def test_latent_attention_reads_one_vector_per_position() -> None:
    """Absorbed: 8 heads on one cached vector of 24 + 8 elements, whose first 24 are the value too."""
    query, latent = rows(2, 8, 1, 32), rows(2, 1, 20, 32)
    output = torch.softmax(query @ latent.transpose(-1, -2), -1) @ latent[..., :24]
    op = Attention(2, 1, 20, 8, 1, 32, value_dim=24, values_in_keys=True)
    assert moved(op) == {Role.INPUT: query.nbytes, Role.KV_READ: latent.nbytes, Role.OUTPUT: output.nbytes}
    appended = latent[:, :, :1].contiguous()
    assert moved(KvAppend(2, 1, 32, fused=True, latent=True)) == {Role.KV_WRITE: appended.nbytes}


def test_expanded_keys_and_values_are_activations() -> None:
    query, key, value = rows(2, 8, 5, 32), rows(2, 8, 5, 32), rows(2, 8, 5, 16)
    output = F.scaled_dot_product_attention(query, key, value)
    op = Attention(2, 5, 5, 8, 8, 32, value_dim=16, cached=False, kv_dtype="fp8")
    assert moved(op) == {Role.INPUT: query.nbytes + key.nbytes + value.nbytes, Role.OUTPUT: output.nbytes}


def test_sinks_are_one_weight_per_head() -> None:
    plain, sinks = Attention(2, 5, 20, 8, 2, 16), rows(8)
    op = Attention(2, 5, 20, 8, 2, 16, sinks=True)
    assert op.parameters() == sinks.numel()
    assert moved(op) == {**moved(plain), Role.WEIGHT: sinks.nbytes}


def test_an_index_reads_one_key_per_position() -> None:
    query, weights, keys = rows(2, 3, 4, 16), rows(2, 3, 4), rows(2, 20, 16, dtype="fp8")
    assert moved(IndexScores(2, 3, 20, 4, 16, kv_dtype="fp8")) == {
        Role.INPUT: query.nbytes + weights.nbytes,
        Role.KV_READ: keys.nbytes,
    }
    alone = {Role.INPUT: query.nbytes, Role.KV_READ: keys.nbytes}
    assert moved(IndexScores(2, 3, 20, 4, 16, kv_dtype="fp8", summed=False)) == alone


@pytest.mark.parametrize(
    ("name", "values", "extra"),
    [
        ("int4_g128", lambda: rows(10, 128, dtype="int8"), lambda: rows(10, 2)),
        ("int8_g128", lambda: rows(10, 256, dtype="int8"), lambda: rows(10, 2)),
        ("int4_g32", lambda: rows(10, 128, dtype="int8"), lambda: rows(10, 8)),
    ],
)
def test_scales_and_zero_points_of_groups_are_weight_bytes(name: str, values: Any, extra: Any) -> None:
    """A 16-bit scale per group, and a zero point of as many bits as a weight."""
    scales, bits = extra(), int(name[3])
    zeros = scales.numel() * bits / 8
    op = Gemm(TOKENS, 10, 256, weights=name)
    assert moved(op)[Role.WEIGHT] == values().nbytes + scales.nbytes + zeros


def test_fp8_tiles_have_a_32_bit_scale() -> None:
    values, scales = rows(256, 512, dtype="fp8"), rows(2, 4, dtype="fp32")
    assert moved(Gemm(TOKENS, 256, 512, weights="fp8_block"))[Role.WEIGHT] == values.nbytes + scales.nbytes


@pytest.mark.parametrize("experts", [False, True])
def test_a_bias_stays_wide_where_weights_are_quantised(experts: bool) -> None:
    values, bias = rows(10, WIDTH, dtype="int8"), rows(10)
    op: Operator = Gemm(TOKENS, 10, WIDTH, weights="int8", bias=True)
    if experts:
        op = GroupedGemm(TOKENS, 10, WIDTH, 1, 1, weights="int8", bias=True)
    assert moved(op)[Role.WEIGHT] == op.stored_bytes() == values.nbytes + bias.nbytes
