"""Attention: its closed form against counting pairs one by one, and what must come out equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.operators import Attention
from workloads.work import Role

LENGTH = st.integers(1, 60)
WINDOW = st.none() | st.integers(1, 80)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    """Small attention with 4 or 8 query heads on 1 to 8 KV heads."""
    q_len, before, kv_heads = draw(LENGTH), draw(st.integers(0, 60)), draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads * draw(st.sampled_from([1, 2]))
    return Attention(draw(st.integers(1, 3)), q_len, q_len + before, heads, kv_heads, 16, window=draw(WINDOW))


def mask(op: Attention) -> np.ndarray:
    """visible[query, key]: the mask as attention kernels apply it."""
    query = np.arange(op.kv_len - op.q_len, op.kv_len)[:, None]
    key = np.arange(op.kv_len)[None, :]
    visible = key <= query
    return visible if op.window is None else visible & (key > query - op.window)


@given(attentions())
def test_the_closed_form_counts_the_mask(op: Attention) -> None:
    assert op.pairs() == mask(op).sum()
    assert op.keys_read() == mask(op).any(axis=0).sum()


@given(attentions())
def test_without_causality_or_masking_all_pairs_count(op: Attention) -> None:
    full = replace(op, window=None)
    assert replace(full, causal=False).pairs() == op.q_len * op.kv_len
    assert replace(full, causal_exact=False).pairs() == op.q_len * op.kv_len


@given(attentions(), st.data())
def test_a_prefill_is_the_sum_of_its_chunks(op: Attention, data: st.DataObject) -> None:
    whole = replace(op, q_len=op.kv_len)
    cuts = sorted(data.draw(st.sets(st.integers(1, op.kv_len - 1)))) if op.kv_len > 1 else []
    ends = [*cuts, op.kv_len]
    starts = [0, *cuts]
    chunks = [replace(op, q_len=b - a, kv_len=b).work() for a, b in zip(starts, ends, strict=True)]
    for quantity in ("matrix_flops", "special_ops", "outputs", "activation_bytes"):
        assert sum(getattr(c, quantity) for c in chunks) == getattr(whole.work(), quantity)


@given(attentions())
def test_a_prefill_is_the_sum_of_decode_steps(op: Attention) -> None:
    whole = replace(op, q_len=op.kv_len).work()
    steps = [replace(op, q_len=1, kv_len=n).work() for n in range(1, op.kv_len + 1)]
    assert sum(step.matrix_flops for step in steps) == whole.matrix_flops
    # the cache is what differs: the steps read it again and again, the prefill once
    assert sum(step.kv_bytes for step in steps) >= whole.kv_bytes


@given(attentions(), st.integers(0, 100))
def test_a_window_as_long_as_the_context_is_no_window(op: Attention, beyond: int) -> None:
    assert replace(op, window=op.kv_len + beyond).work() == replace(op, window=None).work()


@given(attentions())
def test_a_narrower_window_is_never_more_work(op: Attention) -> None:
    full, windowed = replace(op, window=None).work(), op.work()
    assert windowed.flops <= full.flops
    assert windowed.bytes <= full.bytes


@given(attentions())
def test_a_window_of_one_sees_itself(op: Attention) -> None:
    alone = replace(op, window=1)
    assert alone.pairs() == alone.keys_read() == op.q_len


@given(attentions())
def test_multi_head_is_grouped_with_a_group_of_one(op: Attention) -> None:
    """FLOP depend on query heads only; KV bytes on KV heads only."""
    multi, grouped = replace(op, kv_heads=op.heads).work(), op.work()
    assert multi.flops == grouped.flops
    assert multi.kv_bytes * op.kv_heads == grouped.kv_bytes * op.heads
    if op.heads == op.kv_heads:
        assert multi == grouped


def test_decode_reads_each_kv_head_once() -> None:
    def decode(kv_heads: int) -> float:
        return float(Attention(1, 1, 2048, 32, kv_heads, 128).work().bytes)

    assert decode(8) - decode(1) == 7 * 2 * 2048 * 128 * 2  # heads, K and V, context, head_dim, bf16 bytes


@pytest.mark.parametrize("value_dim", [None, 64])
def test_results_are_as_many_as_the_elements_written(value_dim: int | None) -> None:
    work = Attention(3, 5, 7, 8, 2, 128, value_dim=value_dim).work()
    (written,) = (tensor.bytes for tensor in work.traffic if tensor.tensor == "output")
    assert work.outputs * 2 == written == 3 * 5 * 8 * (value_dim or 128) * 2


def test_llama_decode_known_on_paper() -> None:
    """Llama-3.1-8B, one layer, 2048 tokens of context: arXiv:2305.13245, section 2.2 by hand."""
    work = Attention(1, 1, 2048, 32, 8, 128).work()
    assert work.matrix_flops == 2 * 2 * 32 * 2048 * 128
    assert work.kv_bytes == 2 * 2048 * 8 * 128 * 2
    assert work.bytes_as(Role.INPUT) == work.bytes_as(Role.OUTPUT) == 32 * 128 * 2


@given(attentions())
def test_scores_off_the_chip_move_four_times_and_nothing_else_changes(op: Attention) -> None:
    """Written by QK', read and written by the softmax, read by PV."""
    on_chip, off_chip = op.work(), replace(op, fused=False).work()
    scores = op.batch * op.heads * int(mask(op).sum())
    assert off_chip.bytes - on_chip.bytes == 4 * scores * 2
    assert off_chip.bytes_as(Role.SCORES) == 4 * scores * 2
    assert off_chip.flops == on_chip.flops
    assert off_chip.special_ops == scores  # one exponential each


@given(attentions(), st.sampled_from(["fp8", "int4", "fp32"]))
def test_the_cache_format_changes_the_cache_only(op: Attention, kv: str) -> None:
    bits = {"fp8": 8, "int4": 4, "fp32": 32}[kv]
    other, base = replace(op, kv_dtype=kv).work(), op.work()
    assert other.kv_bytes * 16 == base.kv_bytes * bits
    assert other.activation_bytes == base.activation_bytes
    assert other.flops == base.flops


@given(attentions(), st.integers(1, 20))
def test_chunks_count_the_mask(op: Attention, chunk: int) -> None:
    """Llama 4's local layers: a position sees its own chunk, no further back."""
    local = replace(op, window=None, chunk=chunk)
    query = np.arange(op.kv_len - op.q_len, op.kv_len)[:, None]
    key = np.arange(op.kv_len)[None, :]
    visible = (key <= query) & (key // chunk == query // chunk)
    assert local.pairs() == visible.sum()
    assert local.keys_read() == visible.any(axis=0).sum()


@given(attentions(), st.integers(1, 20))
def test_picked_keys_are_as_many_as_a_window_and_lie_anywhere(op: Attention, chosen: int) -> None:
    near, anywhere = replace(op, window=chosen), replace(op, window=chosen, scattered=True)
    assert anywhere.pairs() == near.pairs()
    assert near.keys_read() <= anywhere.keys_read() <= op.kv_len
    one = replace(anywhere, q_len=1)
    assert one.keys_read() == one.pairs() == min(chosen, op.kv_len)


@given(attentions())
def test_absorbed_and_expanded_latent_attention_differ_by_the_width_of_heads(op: Attention) -> None:
    """FLOP per pair and head: 2 (latent + rope) + 2 latent against 2 (nope + rope) + 2 value."""
    absorbed = replace(op, kv_heads=1, head_dim=72, value_dim=64, values_in_keys=True).work()
    expanded = replace(op, kv_heads=op.heads, head_dim=24, value_dim=16, cached=False).work()
    assert absorbed.matrix_flops * (24 + 16) == expanded.matrix_flops * (72 + 64)
    assert expanded.kv_bytes == 0
    assert absorbed.special_ops == expanded.special_ops


@given(attentions())
def test_biases_caps_and_sinks_cost_no_bytes_of_the_cache(op: Attention) -> None:
    plain = op.work()
    for change, vector, special in (("alibi", 2, 0), ("softcap", 2, 1)):
        work = replace(op, **{change: True}).work()
        assert work.vector_flops == vector * plain.special_ops  # one exponential per score
        assert work.special_ops == (1 + special) * plain.special_ops
        assert work.bytes == plain.bytes
    sinks = replace(op, sinks=True).work()
    assert sinks.special_ops - plain.special_ops == op.batch * op.q_len * op.heads
    assert sinks.kv_bytes == plain.kv_bytes
