"""Kernels with a state: transformers' own functions give the same, and chunks what positions in turn give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.kernels import Kernel, Place, kernel
from profiler.kernels.chunks import _delta, _dual, _one, _replaced
from profiler.kernels.state import State, chunked, decays, joined
from workloads.operators import CausalConv, GatedDelta, Operator, SelectiveScan, Ssd, Wkv

torch = pytest.importorskip("torch")
functional = torch.nn.functional

AT = (2, 19, 0)  # sequences, positions, positions before them
Tensors = list[Any]


@dataclass(frozen=True)
class Listening(Place):
    """A place that remembers what it gave."""

    given: Tensors = field(default_factory=list, compare=False)

    def random(self, *shape: int) -> Any:
        self.given.append(super().random(*shape))
        return self.given[-1]

    def cold(self, *shape: int) -> Tensors:
        return [self.random(*shape)]


def of_transformers(module: str, name: str) -> Callable[..., Any]:
    pytest.importorskip("transformers")
    models = import_module(f"transformers.models.{module}.modeling_{module}")
    if not hasattr(models, name):
        pytest.skip(f"this version of transformers has no {name} in {module}")
    function: Callable[..., Any] = getattr(models, name)
    return function


def convolution(given: Tensors) -> Any:
    x, weight, bias, *_ = given
    conv = of_transformers("mamba", "causal_conv1d_fn")
    return conv(x.transpose(1, 2), weight[:, 0], bias, activation="silu").transpose(1, 2)


def selective_scan(given: Tensors) -> Any:
    x, dt, z, b, c, rates, skip, *_ = given
    scan = of_transformers("mamba", "mamba_selective_scan")
    turned = (t.transpose(1, 2) for t in (x, dt))
    b, c, z = (t.transpose(1, 2) for t in (b, c, z))
    found = scan(*turned, -rates.exp(), b, c, skip, z, delta_softplus=True)
    return found.transpose(1, 2)


def dual(given: Tensors) -> Any:
    x, dt, b, c, rates, skip, bias, *_ = given
    scan = of_transformers("mamba2", "mamba2_chunk_scan")
    return scan(x, dt, -rates.exp(), b, c, 8, skip, bias, dt_softplus=True)


def delta_rule(given: Tensors) -> Any:
    q, k, v, a, b, rates, bias, *_ = given
    rule = of_transformers("qwen3_next", "torch_recurrent_gated_delta_rule")
    kept = -rates.exp() * functional.softplus(a + bias)
    # Heads of queries serve neighbouring ones of values; transformers 5.17 takes them repeated.
    q, k = (heads.repeat_interleave(v.shape[2] // heads.shape[2], dim=2) for heads in (q, k))
    return rule(q, k, v, kept, b.sigmoid(), use_qk_l2norm_in_kernel=True)[0]


def wkv(given: Tensors) -> Any:
    key, value, decay, bonus, *_ = given
    return of_transformers("rwkv", "rwkv_linear_attention_cpu")(decay, bonus, key, value)[0]


SAME: list[tuple[Operator, Callable[[Tensors], Any]]] = [
    (CausalConv(*AT, 6, 4), convolution),
    (SelectiveScan(*AT, 6, 5), selective_scan),
    (Ssd(*AT, 6, 8, 2, 5, 8), dual),
    (GatedDelta(*AT, 6, 2, 8, 5, 8), delta_rule),
    (Wkv(*AT, 10), wkv),
]


@pytest.mark.parametrize(("operator", "theirs"), SAME, ids=lambda it: getattr(it, "kind", ""))
def test_a_reference_is_what_transformers_computes(
    operator: Operator, theirs: Callable[[Tensors], Any]
) -> None:
    place = Listening("cpu")
    made = kernel(operator, place)
    assert made.error() <= 1e-5
    assert Kernel(lambda _: theirs(place.given), made.exact).error() <= 1e-5


@pytest.mark.parametrize("operator", [operator for operator, _ in SAME], ids=lambda op: op.kind)
def test_a_state_that_is_not_there_is_not_read(operator: Operator) -> None:
    """Each call of a prompt begins anew; each token finds what the one before has left."""
    fresh = kernel(operator, Place("cpu"))
    assert torch.equal(fresh.run(0).clone(), fresh.run(1))
    token = type(operator)(*(2, 1, 9), *list(vars(operator).values())[3:])
    following = kernel(token, Place("cpu"))
    assert not torch.equal(following.run(0).clone(), following.run(1))


SIZES = st.tuples(
    st.integers(1, 2), st.integers(1, 9), st.integers(1, 3), st.integers(1, 2), st.integers(1, 5)
)


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_chunks_of_the_dual_are_its_positions_in_turn(sizes: tuple[int, int, int, int, int]) -> None:
    batch, positions, groups, shared, chunk = sizes
    heads = groups * shared
    x, kept = torch.randn(batch, positions, heads, 3).double(), -torch.rand(batch, positions, heads).double()
    b, c = torch.randn(2, batch, positions, groups, 4).double()
    h = begin = torch.randn(batch, heads, 3, 4).double()
    ys = []
    for t in range(positions):
        y, h = _one(*(part[:, t : t + 1] for part in (x, kept, b, c)), h)
        ys.append(y)
    found, last = _dual(x, kept, b, c, begin, chunk)
    torch.testing.assert_close(found, torch.cat(ys, 1))
    torch.testing.assert_close(last, h)


@settings(max_examples=25, deadline=None)
@given(SIZES)
def test_chunks_of_the_delta_rule_are_its_positions_in_turn(sizes: tuple[int, int, int, int, int]) -> None:
    batch, positions, heads, width, chunk = sizes
    q, v = (
        torch.randn(batch, positions, heads, 4).double(),
        torch.randn(batch, positions, heads, width).double(),
    )
    k = functional.normalize(torch.randn(batch, positions, heads, 4).double(), dim=-1)
    kept, share = -torch.rand(batch, positions, heads).double(), torch.rand(batch, positions, heads).double()
    s = begin = torch.randn(batch, heads, 4, width).double()
    ys = []
    for t in range(positions):
        y, s = _replaced(*(part[:, t : t + 1] for part in (q, k, v, kept, share)), s)
        ys.append(y)
    found, last = _delta(q, k, v, kept, share, begin, chunk)
    torch.testing.assert_close(found, torch.cat(ys, 1))
    torch.testing.assert_close(last, s)


def test_decays_are_products_of_what_is_kept_between() -> None:
    kept = torch.tensor([0.5, 0.25, 0.125])
    expected = torch.tensor([[1, 0, 0], [0.25, 1, 0], [0.03125, 0.125, 1]])
    torch.testing.assert_close(decays(kept.log()), expected)
    torch.testing.assert_close(decays(kept.log(), 2), expected[1:])


@given(st.integers(1, 20), st.integers(1, 7))
def test_chunks_are_joined_again(positions: int, chunk: int) -> None:
    x = torch.arange(2 * positions * 3 * 2).view(2, positions, 3, 2)
    parts = chunked(x, chunk)
    assert parts.shape == (2, 3, -(-positions // chunk), chunk, 2)
    assert torch.equal(joined(parts, positions), x)


def test_states_are_cold_and_not_the_pool_that_weights_come_from() -> None:
    place = Place("cpu", "bf16", 1 << 16)
    before = [window.clone() for window in place.cold(8)]
    state = State(place, 9, "fp32", (4, 8))
    assert state.copies.dtype == torch.float32
    assert state.copies.nbytes == 1 << 16
    for i in range(len(state.copies)):
        state.keep(i, torch.full((4, 8), float("nan")))
    assert all(map(torch.equal, before, place.cold(8)))
