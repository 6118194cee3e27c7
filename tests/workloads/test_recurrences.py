"""Recurrent mixers: their FLOP against the recurrence itself, computed with numbers that count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.operators import (
    Activation,
    CausalConv,
    DeltaWkv,
    GatedDelta,
    LinearAttention,
    MatrixWkv,
    Operator,
    SelectiveScan,
    Ssd,
    TokenShift,
    Wkv,
)
from workloads.operators.recurrence import chunk_pairs

ops = {"flops": 0, "special": 0}


class Number:
    """A number whose arithmetic is tallied: what a program that followed the formula would do."""

    def _arithmetic(self, _: object) -> Number:
        ops["flops"] += 1
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _arithmetic

    def special(self) -> Number:
        """An exponential, a logarithm or a root."""
        ops["special"] += 1
        return self


x = Number()


def array(*shape: int) -> np.ndarray:
    filled = np.empty(shape, dtype=object)
    filled[...] = x
    return filled


def special(values: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: value.special(), otypes=[object])(values)


def total(values: np.ndarray, axis: int) -> np.ndarray:
    """A sum whose every term is an addition, as in a multiply-add."""
    return np.add.reduce(values, axis=axis, initial=x)


def silu(values: np.ndarray) -> np.ndarray:
    return values / (special(values) + x)


def tally(steps: Callable[[], object]) -> tuple[int, int]:
    ops.update(flops=0, special=0)
    steps()
    return ops["flops"], ops["special"]


CHANNELS, STATE, HEADS, DIM, GROUPS = 5, 3, 4, 6, 2


def test_a_selective_scan_is_its_recurrence() -> None:
    def token() -> None:
        a, h, b, c = (array(CHANNELS, STATE) for _ in "ahbc")
        u, dt, z, d = (array(CHANNELS) for _ in "udzd")
        dt = special(special(dt) + x)  # softplus
        h = special(dt[:, None] * a) * h + b * (dt * u)[:, None]
        y = total(c * h, axis=1) + d * u
        y * silu(z)

    work = SelectiveScan(1, 1, 1, CHANNELS, STATE).work()
    assert (work.vector_flops, work.special_ops) == tally(token)


def test_the_step_of_a_state_space_dual() -> None:
    def token() -> None:
        h, b, c = (array(HEADS, DIM, STATE) for _ in "hbc")
        u, dt, d = array(HEADS, DIM), array(HEADS, 1), array(HEADS, 1)
        h = array(HEADS, 1, 1) * h + b * (dt * u)[:, :, None]
        total(c * h, axis=2) + d * u

    def decay() -> None:  # of each head; its few FLOP beside dt are not counted
        dt = special(special(array(HEADS)) + x)  # softplus
        special(dt * array(HEADS))

    work = Ssd(1, 1, 1, HEADS, DIM, GROUPS, STATE).work()
    assert (work.vector_flops, work.special_ops) == (tally(token)[0], tally(decay)[1])
    assert work.matrix_flops == 0


def test_the_step_of_the_gated_delta_rule() -> None:
    def token() -> None:
        s, k, q, v = array(HEADS, DIM, STATE), array(HEADS, DIM), array(HEADS, DIM), array(HEADS, STATE)
        k, q = k * total(k * k, axis=1)[:, None], q * total(q * q, axis=1)[:, None]  # to length 1
        s = array(HEADS, 1, 1) * s
        delta = (v - total(s * k[..., None], axis=1)) * array(HEADS, 1)
        s = s + k[..., None] * delta[:, None]
        total(s * q[..., None], axis=1)

    work = GatedDelta(1, 1, 1, HEADS, HEADS, DIM, STATE).work()
    assert work.vector_flops == tally(token)[0]
    assert work.matrix_flops == 0


@pytest.mark.parametrize(("normalised", "decayed"), [(False, False), (True, False), (False, True)])
def test_the_step_of_linear_attention(normalised: bool, decayed: bool) -> None:
    columns = STATE + normalised  # the normaliser is a column whose values are 1

    def token() -> None:
        s, k, q = array(HEADS, DIM, columns), array(HEADS, DIM, 1), array(HEADS, DIM, 1)
        if decayed:  # as in lightning attention (arXiv:2401.04658)
            s = array(HEADS, 1, 1) * s
        y = total((s + k * array(HEADS, 1, columns)) * q, axis=1)
        if normalised:
            y[:, :STATE] / y[:, STATE:]

    op = LinearAttention(1, 1, 1, HEADS, DIM, STATE, normalised=normalised, decayed=decayed)
    assert op.work().vector_flops == tally(token)[0]


def test_the_step_of_wkv() -> None:
    """Line by line as the reference implementation of transformers computes it."""

    def token() -> None:
        key, value, decay, first, num, den, most = (array(CHANNELS) for _ in range(7))

        def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            ops["flops"] += CHANNELS
            return a

        bonus = key + first
        top = larger(most, bonus)
        e1, e2 = special(most - top), special(bonus - top)
        (e1 * num + e2 * value) / (e1 * den + e2)
        decayed = most + decay
        top = larger(decayed, key)
        e1, e2 = special(decayed - top), special(key - top)
        e1 * num + e2 * value, e1 * den + e2

    work = Wkv(1, 1, 1, CHANNELS).work()
    assert (work.vector_flops, work.special_ops) == tally(token)


@pytest.mark.parametrize("moving", [False, True])
def test_the_step_of_a_matrix_valued_wkv(moving: bool) -> None:
    """RWKV-5 and 6: a bonus before the position's own product is added, a decay before it is kept."""

    def token() -> None:
        s, r, u, w = array(HEADS, DIM, DIM), *(array(HEADS, DIM, 1) for _ in "ruw")
        new = array(HEADS, DIM, 1) * array(HEADS, 1, DIM)
        total((s + u * new) * r, axis=1)
        if moving:
            w = special(special(w))
        w * s + new

    work = MatrixWkv(1, 1, 1, HEADS, DIM, moving=moving).work()
    flops, exponentials = tally(token)
    assert (work.vector_flops, work.special_ops) == (flops, exponentials)
    assert work.matrix_flops == 0


@pytest.mark.parametrize("mixed", [False, True])
def test_the_step_of_the_generalised_delta_rule(mixed: bool) -> None:
    """RWKV-7: what the key finds is removed, then the value is written; line by line as its paper has it."""

    def token() -> None:
        s = array(HEADS, DIM, DIM)  # values x keys
        r, k, v, w, a, scale, update, bonus = (array(HEADS, DIM) for _ in range(8))
        found_by = k * scale
        found_by = found_by * special(total(found_by * found_by, axis=1))[:, None]
        w, a = special(special(w)), special(a)
        k = k * ((a - x) * update + x)
        if mixed:
            v = v + (array(HEADS, DIM) - v) * special(array(HEADS, DIM))
        found = total(s * found_by[:, None], axis=2)
        s = s * w[:, None] - found[..., None] * (found_by * a)[:, None] + v[..., None] * k[:, None]
        y = total(s * r[:, None], axis=2)
        y + total(r * k * bonus, axis=1)[:, None] * v

    work = DeltaWkv(1, 1, 1, HEADS, DIM, mixed=mixed).work()
    flops, specials = tally(token)
    assert (work.vector_flops, work.special_ops) == (flops, specials)
    assert work.matrix_flops == 0


def test_a_chunk_of_the_generalised_delta_rule() -> None:
    """RWKV-7 in chunks: what is removed is found by solving for each position in terms of those before it."""
    length = 7

    def chunk() -> None:
        s, many = array(HEADS, DIM, DIM), (HEADS, length, DIM)
        r, a, k, b, v, u, w = (array(*many) for _ in range(7))  # u, w: what the solves are for

        def weighed(one: np.ndarray, other: np.ndarray, *values: np.ndarray) -> None:
            score = total(one * other, axis=1)[:, None]
            for value in values:
                score * value + array(HEADS, DIM)

        for i in range(length):
            for j in range(i + 1):
                weighed(r[:, i], k[:, j], v[:, j])
                weighed(r[:, i], b[:, j], u[:, j])
            for j in range(i):
                weighed(a[:, i], k[:, j], v[:, j])
                weighed(a[:, i], b[:, j], u[:, j], w[:, j])
            for read in (a, r):
                total(s * read[:, i, :, None], axis=1)
            for key, value in ((k, v), (b, u)):
                s = s + key[:, i, :, None] * value[:, i, None]

    work = DeltaWkv(1, length, 0, HEADS, DIM, chunk=length).work()
    assert work.matrix_flops == tally(chunk)[0]


def test_a_token_shift_and_a_convolution() -> None:
    def shift() -> None:
        m, row, before = array(2, CHANNELS), array(CHANNELS), array(CHANNELS)
        m * row + m * before

    assert TokenShift(1, 1, 1, CHANNELS, 2).work().vector_flops == tally(shift)[0]

    def taps() -> None:
        rows, w = array(CHANNELS, 4), array(CHANNELS, 4)
        silu(total(rows * w, axis=1) + array(CHANNELS))

    flops, exponentials = tally(taps)
    work = CausalConv(1, 1, 1, CHANNELS, 4).work()
    assert (work.vector_flops, work.special_ops) == (flops, exponentials)

    def gated_taps() -> None:
        total(array(CHANNELS, 3) * array(CHANNELS, 3), axis=1) * array(CHANNELS)

    flops, exponentials = tally(gated_taps)
    alone = CausalConv(1, 1, 1, CHANNELS, 3, bias=False, silu=False).work()
    gate = Activation(1, CHANNELS, function="identity").work()
    assert alone.vector_flops + gate.vector_flops == flops
    assert alone.special_ops + gate.special_ops == exponentials == 0


@given(st.integers(1, 300), st.integers(1, 80))
def test_pairs_within_chunks(length: int, chunk: int) -> None:
    at = np.arange(length)
    together = at[:, None] // chunk == at[None, :] // chunk
    assert chunk_pairs(length, chunk) == (together & (at[None, :] <= at[:, None])).sum()


SEQUENTIAL: list[Operator] = [
    CausalConv(2, 40, 0, 8, 4),
    SelectiveScan(2, 40, 0, 8, 4),
    Wkv(2, 40, 0, 8),
    TokenShift(2, 40, 0, 8, 3),
]
CHUNKED: list[Operator] = [
    Ssd(2, 40, 0, 4, 8, 2, 16, chunk=8),
    LinearAttention(2, 40, 0, 4, 8, 16, chunk=8),
    GatedDelta(2, 40, 0, 4, 2, 8, 16, chunk=8),
    MatrixWkv(2, 40, 0, 4, 8, moving=True, chunk=8),
    DeltaWkv(2, 40, 0, 4, 8, chunk=8),
]


@pytest.mark.parametrize("op", SEQUENTIAL + CHUNKED, ids=lambda op: op.kind)
def test_a_prompt_is_the_sum_of_its_chunks(op: Operator) -> None:
    """Cut at chunk boundaries a prompt is the same work, but each cut carries the state through memory."""
    whole = op.work()
    parts = [replace(op, q_len=8, past=past).work() for past in range(0, 40, 8)]  # type: ignore[call-arg]
    for quantity in ("matrix_flops", "vector_flops", "special_ops", "outputs", "activation_bytes"):
        assert sum(getattr(part, quantity) for part in parts) == getattr(whole, quantity), quantity
    state = op.state_bytes()  # type: ignore[attr-defined]
    assert whole.kv_bytes == state  # written once
    assert sum(part.kv_bytes for part in parts) == 9 * state  # written five times, read by all but the first


@pytest.mark.parametrize("op", SEQUENTIAL + CHUNKED, ids=lambda op: op.kind)
def test_a_step_does_not_grow_with_what_came_before(op: Operator) -> None:
    early, late = (replace(op, q_len=1, past=past).work() for past in (1, 10**6))  # type: ignore[call-arg]
    assert early == late
    assert early.kv_bytes == 2 * op.state_bytes()  # type: ignore[attr-defined]


@pytest.mark.parametrize("op", CHUNKED, ids=lambda op: op.kind)
def test_chunks_of_one_are_the_recurrence_and_one_chunk_is_attention(op: Operator) -> None:
    """Between them lies the choice of chunk: FLOP grow with it, linearly in its length."""
    sizes = [replace(op, chunk=chunk).work().matrix_flops for chunk in (1, 8, 20, 40)]  # type: ignore[call-arg]
    assert sizes == sorted(sizes)
    assert (sizes[2] - sizes[1]) * 20 == (sizes[3] - sizes[2]) * 12  # 40 (chunk + 1) / 2 pairs


def test_sums_over_all_positions_have_no_state() -> None:
    op = LinearAttention(2, 40, 0, 4, 8, 16, causal=False)
    assert op.state_bytes() == op.work().kv_bytes == 0
    assert op.work().matrix_flops == 4 * 2 * 40 * 4 * 8 * (16 + 1)


def test_linear_attention_overtakes_softmax_attention_where_the_context_exceeds_its_features() -> None:
    """4 T^2 d against 8 T f d and the chunks: the reason for the method (arXiv:2006.16236)."""
    from workloads.operators import Attention

    def ratio(tokens: int) -> float:
        linear = LinearAttention(1, tokens, 0, 8, 64, 64, causal=False).work().matrix_flops
        return float(Attention(1, tokens, tokens, 8, 8, 64, causal=False).work().matrix_flops / linear)

    assert ratio(32) < 1 < ratio(128)
    assert ratio(4096) == pytest.approx(4096 / 65)
