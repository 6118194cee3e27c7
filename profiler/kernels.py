"""Every operator alone, as the PyTorch kernels that a model runs for it, with an fp64 reference.

Weights and KV caches are rotated over windows of a pool larger than the last-level cache, because in a
model each layer's come from memory; activations stay warm, as the operator before has just made them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, singledispatch
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError, choose
from workloads.operators import (
    Activation,
    Attention,
    Embedding,
    Gemm,
    KvAppend,
    Norm,
    Operator,
    Residual,
    Rope,
    Sampling,
)

if TYPE_CHECKING:
    import torch

TORCH_DTYPES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def known_kernel_dtype(name: str) -> str:
    """The dtype, where PyTorch has kernels for all operators in it; an InputError lists them."""
    if name not in TORCH_DTYPES:
        raise choose(name, list(TORCH_DTYPES), "dtype that can be measured")
    return name


@dataclass(frozen=True)
class Place:
    """Where and in what format kernels run, and how much memory makes a buffer cold."""

    device: str
    dtype: str = "fp32"
    cold_bytes: float = 0.0  # 0 keeps every buffer warm

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype; an InputError names those that reference kernels have."""
        import torch

        return getattr(torch, TORCH_DTYPES[known_kernel_dtype(self.dtype)])

    def random(self, *shape: int) -> torch.Tensor:
        """A tensor of normal random numbers; zeros would draw less power and run faster."""
        import torch

        return torch.randn(*shape, device=self.device).to(self.torch_dtype)

    def cold(self, *shape: int) -> list[torch.Tensor]:
        """Random tensors, enough that each is out of the cache when its turn comes again."""
        elements = math.prod(shape)
        pool = _pool(self)
        if elements > len(pool) // 2:  # larger than the cache by itself
            return [self.random(*shape) for _ in range(2 if self.cold_bytes else 1)]
        stride = -(-elements // ALIGN) * ALIGN
        return [pool[at : at + elements].view(shape) for at in range(0, len(pool) - elements + 1, stride)]


ALIGN = 64  # elements: windows start on cache lines


@lru_cache(maxsize=2)
def _pool(place: Place) -> torch.Tensor:
    """Random numbers that all the cold tensors of a place are windows of."""
    itemsize = place.torch_dtype.itemsize
    return place.random(max(ALIGN, int(place.cold_bytes) // itemsize))


COMPANY = (1024, 512)  # a weight matrix of 2 MB in fp32


def company(place: Place) -> Callable[[int], object] | None:
    """What runs between timed calls on a CPU: a matrix-vector product that streams weights.

    In a model the operator before has just pushed code and data of the next one out of the nearer
    caches. Timed back to back, an operator of one token looks up to five times faster than it is. A
    GPU's launch does not depend on it: there, None.
    """
    if place.device != "cpu":
        return None
    from torch.nn.functional import linear

    rows, columns = COMPANY
    x, weights = place.random(1, columns), place.cold(rows, columns)
    return lambda i: linear(x, weights[i % len(weights)])


@dataclass(frozen=True)
class Kernel:
    """A callable per execution number (it selects the copy of rotated buffers), and what it should give."""

    run: Callable[[int], torch.Tensor]
    exact: Callable[[], torch.Tensor]  # the same result in fp64, or its last positions

    def error(self) -> float:
        """Largest deviation of the result from fp64, relative to the largest element."""
        import torch

        result, exact = self.run(0), self.exact()
        if result.ndim > 1 and result.shape[1] > exact.shape[1]:
            result = result[:, -exact.shape[1] :]
        return float((result.to(torch.float64) - exact).abs().max() / exact.abs().max().clamp_min(1e-30))


TOLERANCE = {"fp64": 1e-12, "fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}  # rounding of inputs and sums


@singledispatch
def kernel(operator: Operator, place: Place) -> Kernel:
    """The kernel of an operator; an InputError where there is none."""
    raise InputError(f"there is no reference kernel for {operator.kind}.")


@kernel.register
def _(op: Gemm, place: Place) -> Kernel:
    from torch.nn.functional import linear

    x, weights = place.random(1, _n(op.m), _n(op.k)), place.cold(_n(op.n), _n(op.k))
    bias = place.random(_n(op.n)) if op.bias else None
    return Kernel(
        lambda i: linear(x, weights[i % len(weights)], bias),
        lambda: linear(x.double(), weights[0].double(), None if bias is None else bias.double()),
    )


CHECKED = 64  # query positions compared with fp64: the scores of all would not fit for a long prompt


@kernel.register
def _(op: Attention, place: Place) -> Kernel:
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    batch, heads, kv_heads = _n(op.batch), _n(op.heads), _n(op.kv_heads)
    q_len, kv_len, width = _n(op.q_len), _n(op.kv_len), _n(op.head_dim)
    window = kv_len if op.window is None else min(kv_len, _n(op.window))
    q = place.random(batch, q_len, heads, width).transpose(1, 2)
    keys, values = _pairs(place, batch, kv_heads, kv_len, width)
    groups = heads // kv_heads
    plain = window == kv_len and (q_len == kv_len or not op.causal)  # masks that a kernel makes by itself
    mask = None if plain or q_len == 1 else visible(q_len, kv_len, window, op.causal, place.device)

    def attend(q: Any, k: Any, v: Any) -> torch.Tensor:
        if q_len == 1:  # the queries of a KV head become its rows: no masking, no copies of K and V
            seen = (t[:, :, -window:] for t in (k, v))
            packed = sdpa(q.reshape(batch, kv_heads, groups, width), *seen)
            return packed.reshape(batch, 1, heads * width)
        causal = op.causal and mask is None
        mixed = sdpa(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1)
        return mixed.transpose(1, 2).reshape(batch, q_len, heads * width)

    def exact() -> torch.Tensor:
        checked = min(q_len, CHECKED)
        k, v = (t[0].double().repeat_interleave(groups, dim=1) for t in (keys, values))
        scores = q[:, :, -checked:].double() @ k.transpose(2, 3) / math.sqrt(width)
        scores = scores.masked_fill(~visible(checked, kv_len, window, op.causal, place.device), -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, checked, heads * width)

    return Kernel(lambda i: attend(q, keys[i % len(keys)], values[i % len(values)]), exact)


def visible(q_len: int, kv_len: int, window: int, causal: bool, device: str) -> torch.Tensor:
    """Which of `kv_len` positions each of the last `q_len` attends to: bool[q_len, kv_len]."""
    import torch

    query = torch.arange(kv_len - q_len, kv_len, device=device)[:, None]
    key = torch.arange(kv_len, device=device)
    ahead = key > query if causal else torch.zeros(q_len, kv_len, dtype=torch.bool, device=device)
    return ~ahead & (key > query - window)


@kernel.register
def _(op: Norm, place: Place) -> Kernel:
    import torch
    from torch.nn.functional import layer_norm

    x, scale = place.random(1, _n(op.tokens), _n(op.width)), place.random(_n(op.width))
    bias = place.random(_n(op.width)) if op.bias else None
    if op.center:
        wide_bias = None if bias is None else bias.double()
        return Kernel(
            lambda _: layer_norm(x, scale.shape, scale, bias),
            lambda: layer_norm(x.double(), scale.shape, scale.double(), wide_bias),
        )

    def rms(x: Any, scale: Any, wide: torch.dtype) -> torch.Tensor:
        # Step by step in fp32 or more, as model code has it: these are several kernels, not one.
        high = x.to(wide)
        high = high * torch.rsqrt(high.pow(2).mean(-1, keepdim=True) + 1e-6)
        return scale * high.to(x.dtype)

    inside = torch.promote_types(x.dtype, torch.float32)
    return Kernel(lambda _: rms(x, scale, inside), lambda: rms(x.double(), scale.double(), torch.float64))


@kernel.register
def _(op: Rope, place: Place) -> Kernel:
    import torch

    tokens, heads, width = _n(op.tokens), _n(op.heads), _n(op.rotary_dim)
    keys = max(1, heads // 4)  # queries and keys are rotated by two calls
    q, k = (place.random(1, tokens, n, width).transpose(1, 2) for n in (heads - keys, keys))
    angle = place.random(1, 1, tokens, width)
    cos, sin = angle.cos(), angle.sin()

    def turn(x: Any, cos: Any, sin: Any) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-high, low), dim=-1) * sin

    def run(_: int) -> torch.Tensor:
        turn(k, cos, sin)
        return turn(q, cos, sin)

    return Kernel(run, lambda: turn(q.double(), cos.double(), sin.double()))


@kernel.register
def _(op: Activation, place: Place) -> Kernel:
    from torch.nn import functional

    x, up = (place.random(1, _n(op.tokens), _n(op.width)) for _ in range(2))
    functions: dict[str, Callable[[Any], torch.Tensor]] = {
        "silu": functional.silu,
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda t: functional.gelu(t, approximate="tanh"),
    }
    if op.function not in functions:
        raise InputError(f"there is no reference kernel for the activation {op.function!r}.")
    function = functions[op.function]
    if not op.gated:
        return Kernel(lambda _: function(x), lambda: function(x.double()))
    return Kernel(lambda _: function(x) * up, lambda: function(x.double()) * up.double())


@kernel.register
def _(op: Residual, place: Place) -> Kernel:
    x, y = (place.random(1, _n(op.tokens), _n(op.width)) for _ in range(2))
    return Kernel(lambda _: x + y, lambda: x.double() + y.double())


@kernel.register
def _(op: Embedding, place: Place) -> Kernel:
    import torch
    from torch.nn.functional import embedding

    table = place.random(_n(op.vocabulary), _n(op.width))
    rows = [
        torch.randint(_n(op.vocabulary), (1, _n(op.tokens)), device=place.device) for _ in range(64)
    ]  # other rows each time: a token's row is rarely in the cache
    return Kernel(lambda i: embedding(rows[i % 64], table), lambda: embedding(rows[0], table.double()))


@kernel.register
def _(op: KvAppend, place: Place) -> Kernel:
    tokens, heads, width = _n(op.tokens), _n(op.kv_heads), _n(op.head_dim)
    new = [place.random(1, heads, tokens, width) for _ in range(2)]
    caches = _pairs(place, 1, heads, 2 * tokens, width)

    def run(i: int) -> torch.Tensor:
        for cache, fresh in zip(caches, new, strict=True):
            cache[i % len(cache)][:, :, tokens:] = fresh
        return caches[0][i % len(caches[0])][:, :, tokens:]

    return Kernel(run, new[0].double)


@kernel.register
def _(op: Sampling, place: Place) -> Kernel:
    logits = place.random(_n(op.rows), _n(op.vocabulary))
    exact = logits.double()
    if op.softmax:
        return Kernel(lambda _: logits.softmax(-1), lambda: exact.softmax(-1))
    return Kernel(lambda _: logits.argmax(-1), lambda: exact.argmax(-1).double())


def _pairs(place: Place, *shape: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Cold tensors for keys and for values, in memory of their own."""
    both = place.cold(2, *shape)
    return [pair[0] for pair in both], [pair[1] for pair in both]


def _n(size: Any) -> int:
    """A size of a single operator, a number or an array of one: reference kernels take no grids."""
    return int(size.item() if hasattr(size, "item") else size)
