"""Every reference kernel gives what fp64 arithmetic gives, and reads memory that is really cold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler import ranges
from profiler.forward import Point
from profiler.kernels import (
    TOLERANCE,
    TORCH_DTYPES,
    Kernel,
    Place,
    company,
    kernel,
    known_kernel_dtype,
    paged,
)
from profiler.kernels.base import MOST_CHECKED, checked_part
from profiler.kernels.groups import Groups
from profiler.kernels.paged import BACKENDS, _Cache
from profiler.kernels.place import PRODUCTS, multiplies, product_dtypes
from profiler.steps import operators_at
from roofline.formats import DTYPES
from specfiles.errors import InputError
from workloads.catalogue import Loaded
from workloads.operators import (
    Activation,
    AllReduce,
    Attention,
    CausalConv,
    Combine,
    Copy,
    Embedding,
    GatedDelta,
    Gemm,
    GroupedGemm,
    IndexScores,
    KvAppend,
    Norm,
    Operator,
    Permute,
    Residual,
    Rope,
    RoutedExperts,
    Sampling,
    SelectiveScan,
    SequenceConv,
    Ssd,
    TokenShift,
    TopK,
    Wkv,
)

torch = pytest.importorskip("torch")

COLD = 1 << 20  # bytes: small enough for a test, larger than any tensor in it
# (sequences, positions, positions before them) of what keeps a state
STEPS = {"a prompt": (2, 37, 0), "a part of one": (2, 37, 9), "two tokens": (1, 2, 0), "a token": (3, 1, 9)}


def recurrent(batch: int, q_len: int, past: int) -> Iterator[tuple[str, Callable[[str], Operator]]]:
    """Operators with a state, in chunks that divide a prompt and that do not."""
    at = (batch, q_len, past)
    yield "convolution", lambda d: CausalConv(*at, 6, 4, d, d)
    yield "convolution alone", lambda d: CausalConv(*at, 6, 3, d, d, bias=False, silu=False)
    yield "convolution without bias", lambda d: CausalConv(*at, 6, 2, d, d, bias=False)
    yield "selective scan", lambda d: SelectiveScan(*at, 6, 5, d, d, d)
    yield "selective scan, fp32 state", lambda d: SelectiveScan(*at, 6, 5, d, d, "fp32")
    yield "dual", lambda d: Ssd(*at, 6, 8, 2, 5, 8, d, d, d)
    yield "dual, one chunk", lambda d: Ssd(*at, 4, 8, 4, 5, 256, d, d, "fp32")
    yield "delta rule", lambda d: GatedDelta(*at, 6, 2, 8, 5, 8, d, d, "fp32")
    yield "delta rule, one chunk", lambda d: GatedDelta(*at, 3, 3, 8, 8, 64, d, d, d)
    yield "WKV", lambda d: Wkv(*at, 10, d, d)
    yield "token shift", lambda d: TokenShift(*at, 10, 3, d, d)


OPERATORS: dict[str, Callable[[str], Operator]] = {
    "gemv": lambda d: Gemm(1, 40, 30, d, d, d),
    "gemm": lambda d: Gemm(7, 40, 30, d, d, d),
    "gemm with bias": lambda d: Gemm(7, 40, 30, d, d, d, bias=True),
    "frames": lambda d: SequenceConv(9, 6, 15, d, d, d, bias=True, kernel=3),
    "every second frame": lambda d: SequenceConv(9, 6, 15, d, d, d, kernel=3, stride=2),
    "a long sum": lambda d: Gemm(3, 5, 5000, d, d, d),
    "prefill": lambda d: Attention(2, 17, 17, 4, 4, 16, dtype=d, kv_dtype=d),
    "prefill, grouped heads": lambda d: Attention(2, 17, 17, 6, 2, 16, dtype=d, kv_dtype=d),
    "prefill, one KV head": lambda d: Attention(1, 17, 17, 6, 1, 16, dtype=d, kv_dtype=d),
    "encoder": lambda d: Attention(2, 17, 17, 6, 2, 16, dtype=d, kv_dtype=d, causal=False),
    "cross attention": lambda d: Attention(1, 5, 17, 4, 4, 16, dtype=d, kv_dtype=d, causal=False),
    "a window that holds all": lambda d: Attention(1, 17, 17, 4, 4, 16, dtype=d, kv_dtype=d, window=17),
    "a window": lambda d: Attention(2, 17, 17, 6, 2, 16, dtype=d, kv_dtype=d, window=5),
    "a chunk": lambda d: Attention(2, 5, 17, 6, 2, 16, dtype=d, kv_dtype=d),
    "a chunk with a window": lambda d: Attention(1, 5, 17, 4, 4, 16, dtype=d, kv_dtype=d, window=7),
    "more queries than are checked": lambda d: Attention(1, 90, 90, 4, 2, 16, dtype=d, kv_dtype=d),
    "decode with a window": lambda d: Attention(3, 1, 90, 6, 2, 16, dtype=d, kv_dtype=d, window=8),
    "decode": lambda d: Attention(3, 1, 90, 4, 4, 16, dtype=d, kv_dtype=d),
    "decode, grouped heads": lambda d: Attention(3, 1, 90, 6, 2, 16, dtype=d, kv_dtype=d),
    "decode, one KV head": lambda d: Attention(3, 1, 90, 6, 1, 16, dtype=d, kv_dtype=d),
    "RMSNorm": lambda d: Norm(7, 48, d, d),
    "LayerNorm": lambda d: Norm(7, 48, d, d, center=True, bias=True),
    "RoPE": lambda d: Rope(9, 8, 16, d),
    "RoPE of one head each": lambda d: Rope(9, 2, 16, d),
    **{
        f"{name}, {'gated' if gated else 'plain'}": lambda d, name=name, gated=gated: Activation(
            5, 30, d, name, gated=gated
        )
        for name in ("silu", "sigmoid", "relu", "relu2", "gelu", "gelu_tanh", "xielu", "identity")
        for gated in (False, True)
    },
    "experts' product, a row each": lambda d: GroupedGemm(3, 40, 30, 8, 3, d, d, d),
    "experts' product": lambda d: GroupedGemm(29, 40, 32, 8, 8, d, d, d),
    "experts' product with bias": lambda d: GroupedGemm(29, 40, 32, 8, 5, d, d, d, bias=True),
    "experts' layer": lambda d: RoutedExperts(9, 18, 5, 32, 24, 3, d, d, d),
    "experts' layer without a gate": lambda d: RoutedExperts(9, 18, 5, 32, 24, 2, d, d, d),
    "router's choice": lambda d: TopK(7, 16, 4, d),
    "index's scores": lambda d: IndexScores(2, 5, 17, 4, 16, d, d),
    "index's scores by head": lambda d: IndexScores(2, 5, 17, 4, 16, d, d, summed=False),
    "gates of heads": lambda d: Activation(5, 30, d, "sigmoid", columns=6),
    "index's choice": lambda d: TopK(7, 16, 4, d, normalised=False),
    "rows for experts": lambda d: Permute(7, 14, 20, d),
    "experts' sum": lambda d: Combine(7, 14, 20, d),
    "copy": lambda _: Copy(4096),
    "residual": lambda d: Residual(4, 10, d),
    "residual with a factor": lambda d: Residual(4, 10, d, learned=8),
    "embedding": lambda d: Embedding(6, 100, 20, d, d),
    "append to the KV cache": lambda d: KvAppend(6, 2, 16, d, d),
    "greedy sampling": lambda d: Sampling(2, 1000, d),
    "softmax of the vocabulary": lambda d: Sampling(2, 1000, d, softmax=True),
    **{f"{name}, {when}": make for when, sizes in STEPS.items() for name, make in recurrent(*sizes)},
}


@pytest.mark.parametrize(
    ("make", "most", "checked"),
    [
        (lambda p: kernel(Gemm(7, 40, 30, "fp32", "fp32", "fp32", bias=True), p), 30 * 25, (1, 5, 5)),
        (lambda p: kernel(Gemm(1, 40, 30, "fp32", "fp32", "fp32"), p), 30 * 25, (1, 1, 25)),
        (
            lambda p: kernel(GroupedGemm(12, 16, 8, 4, 4, "fp32", "fp32", "fp32", bias=True), p),
            8 * 16,
            (4, 4),
        ),
        (
            lambda p: kernel(RoutedExperts(9, 18, 4, 24, 16, 3), p),
            3 * 24 * 16 * 2 * 4,
            (4, 24),
        ),
        (lambda p: kernel(Attention(3, 5, 11, 6, 2, 8, dtype="fp32", kv_dtype="fp32"), p), 1, (1, 5, 24)),
        (lambda p: paged(Attention(3, 1, 11, 6, 2, 8, dtype="fp32", kv_dtype="fp32"), p, 4), 1, (1, 3, 8)),
    ],
    ids=["gemm", "one row", "grouped", "experts", "attention", "paged"],
)
def test_of_a_large_operator_the_end_is_checked(
    make: Callable[[Place], Kernel], most: int, checked: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many GPUs multiply in fp64 at a 64th of the rate of fp32: minutes for all of a long prompt."""
    monkeypatch.setattr("profiler.kernels.base.MOST_CHECKED", most)
    made = make(Place("cpu", "fp32"))
    assert made.exact().shape == checked
    assert made.error() <= TOLERANCE["fp32"]
    wrong = Kernel(lambda i: made.run(i).flip(-1), made.exact)
    assert wrong.error() > 1e-2


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**9))
def test_what_is_checked_is_bounded_and_all_of_what_is_small(rows: int, columns: int, each: int) -> None:
    high, wide = checked_part(rows, columns, each)
    assert 1 <= high <= rows
    assert 1 <= wide <= columns
    assert high * wide * each <= MOST_CHECKED
    if rows * columns * each <= MOST_CHECKED:
        assert (high, wide) == (rows, columns)
    else:  # what fits is used, up to the rounding to whole rows and columns
        assert (high + 1) * (wide + 1) * each > MOST_CHECKED


@pytest.mark.parametrize("cold_bytes", [0, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_kernel_computes_what_its_operator_says(name: str, dtype: str, cold_bytes: int) -> None:
    assert kernel(OPERATORS[name](dtype), Place("cpu", dtype, cold_bytes)).error() <= TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_kernel_computes_what_its_operator_says_on_cuda(dtype: str, cuda: str) -> None:
    for name, operator in OPERATORS.items():
        assert kernel(operator(dtype), Place(cuda, dtype, COLD)).error() <= TOLERANCE[dtype], name


@pytest.mark.parametrize("name", OPERATORS)
def test_a_kernel_can_be_called_again_and_again(name: str) -> None:
    """Calls rotate over the copies of what is cold; each is a valid execution."""
    run = kernel(OPERATORS[name]("fp32"), Place("cpu", "fp32", COLD)).run
    shapes = {run(i).shape for i in (0, 1, 2, 1000, 1_000_003)}
    assert len(shapes) == 1


FAMILIES = [
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "gpt2", "opt"),
    *("mamba", "mamba2", "rwkv", "jamba", "bamba", "nemotron_h", "qwen3_next", "qwen3_5_text"),
    *("t5", "switch_transformers", "bart"),
]


@pytest.mark.parametrize(
    "point", [Point("prefill", 1, 7, 7), Point("decode", 2, 1, 8)], ids=lambda p: p.phase
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_of_a_family_has_a_kernel(
    family: str, point: Point, tiny: Callable[..., Loaded]
) -> None:
    loaded = tiny(family)
    read = replace(point, encoder_len=7) if loaded.model.has_memory else point
    for named in operators_at(loaded, "fp32", read):
        assert kernel(named.operator, Place("cpu")).error() <= TOLERANCE["fp32"], named.name


@pytest.mark.parametrize(
    "point", [Point("prefill", 1, 1, 1), Point("decode", 1, 1, 2)], ids=lambda p: p.phase
)
@pytest.mark.parametrize("family", ranges.FAMILIES)
def test_an_operator_is_measured_alone_or_left_out_with_a_reason(
    family: str, point: Point, tiny: Callable[..., Loaded]
) -> None:
    loaded = tiny(family)
    if point.phase not in loaded.model.phases:
        return
    point = replace(point, encoder_len=1) if loaded.model.has_memory else point
    for named in operators_at(loaded, "fp32", point):
        with suppress(InputError):
            kernel(named.operator, Place("cpu")).checked_error("fp32")


def test_less_than_a_row_a_step_is_not_measured_alone() -> None:
    with pytest.raises(InputError, match=r"an average step has 0\.25 of a row or column of it"):
        kernel(Norm(0.25, 8, "fp32"), Place("cpu"))


@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_reads_the_bias_that_its_operator_counts(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out on both sides, in the kernel and in fp64, it is missed by no comparison of results."""
    seen: list[bool] = []
    layer_norm = torch.nn.functional.layer_norm

    def watched(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        seen.append(bias is not None)
        return layer_norm(x, shape, weight, bias, eps)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", watched)
    kernel(Norm(7, 48, "fp32", "fp32", center=True, bias=bias), Place("cpu")).run(0)
    assert seen == [bias]


def test_the_comparison_is_sharp() -> None:
    """One part in a thousand too much is seen in fp32, and not a number is never within tolerance."""
    right = kernel(OPERATORS["gemm"]("fp32"), Place("cpu"))
    assert Kernel(lambda i: 1.001 * right.run(i), right.exact).error() == pytest.approx(1e-3, rel=0.1)
    assert not Kernel(lambda i: right.run(i) * float("nan"), right.exact).error() <= TOLERANCE["fp32"]


@pytest.mark.parametrize(
    ("operator", "what"),
    [
        (Activation(5, 30, "bf16", "swish_of_tomorrow"), "activation 'swish_of_tomorrow'"),
        (AllReduce(5, 30, 2), "kernel for allreduce"),
    ],
    ids=["activation", "collective"],
)
def test_what_has_no_kernel_is_said(operator: Operator, what: str) -> None:
    with pytest.raises(InputError, match=what):
        kernel(operator, Place("cpu"))


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        ("fp8", "^fp8 is a format of matrix products alone, .*; other operators run in .*fp32"),
        ("int4", "dtype that can be measured named 'int4'; .*fp32"),
    ],
)
def test_a_format_without_kernels_is_refused(dtype: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        known_kernel_dtype(dtype)
    with pytest.raises(InputError, match=dtype):
        kernel(Residual(1, 1), Place("cpu", dtype))


def spans(tensors: list[Any]) -> list[tuple[int, int]]:
    """First and last address of each tensor, in order."""
    return sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.26, 0.34, 0.49, 0.51, 1.7])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_cold_tensors_do_not_overlap_and_outgrow_the_cache(share: float, dtype: str) -> None:
    """Two thirds of `cold_bytes` at least, which is three times the last-level cache."""
    place = Place("cpu", dtype, COLD)
    columns = int(share * COLD) // place.torch_dtype.itemsize // 8
    tensors = place.cold(8, columns)
    addresses = spans(tensors)
    assert all(t.shape == (8, columns) for t in tensors)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(addresses))
    assert sum(end - begin for begin, end in addresses) >= 0.65 * COLD
    assert len(tensors) >= 2  # what was touched last is never next


def test_cold_windows_begin_on_cache_lines() -> None:
    (first, _), *others = spans(Place("cpu", "fp32", COLD).cold(3, 7))
    assert all((begin - first) % 64 == 0 for begin, _ in others)


def test_without_a_cache_to_outgrow_there_is_one_tensor() -> None:
    assert len(Place("cpu").cold(100, 100)) == 1


@pytest.mark.parametrize("operator", [Attention(1, 1, 90, 6, 2, 16), Attention(1, 40, 40, 6, 2, 16)])
def test_keys_and_values_are_different_memory(operator: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are the keys come from the cache that the keys have just filled."""
    seen: list[tuple[Any, Any]] = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Any, k: Any, v: Any, **options: Any) -> Any:
        seen.append((k, v))
        return sdpa(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    run = kernel(replace(operator, dtype="fp32", kv_dtype="fp32"), Place("cpu", "fp32", COLD)).run
    for i in range(3):
        run(i)
    addresses = spans([t for pair in seen for t in pair])
    assert all(end <= begin for (_, end), (begin, _) in pairwise(addresses))


def test_company_streams_weights_on_a_cpu_and_is_absent_on_a_gpu() -> None:
    between = company(Place("cpu", "fp32", 1 << 23))
    assert between is not None
    assert between(0) is not None
    assert company(Place("cuda:0", "fp32", 1 << 23)) is None


PAGES = [1, 16, 64]
PAGED = Attention(3, 1, 90, 6, 2, 16, dtype="fp32", kv_dtype="fp32")


@pytest.mark.parametrize("cold_bytes", [0, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("page", PAGES)
def test_paged_attention_finds_its_blocks(page: int, dtype: str, cold_bytes: int) -> None:
    made = paged(PAGED, Place("cpu", dtype, cold_bytes), page)
    assert made.error() <= TOLERANCE[dtype]
    assert (made.backend, made.name) == ("torch", "paged")


def test_paged_attention_takes_results_as_kernels_of_a_gpu_lay_them_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory-efficient attention, which multiplies in fp32, has the rows in front of the heads in memory."""
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def rows_first(*tensors: torch.Tensor) -> torch.Tensor:
        return sdpa(*tensors).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", rows_first)
    assert paged(PAGED, Place("cpu", "fp32"), 16).error() <= TOLERANCE["fp32"]


def test_the_fp64_reference_of_paged_attention_is_that_of_contiguous_attention() -> None:
    """The gather that kernel and reference share is held to positions laid out by hand."""
    cache = _Cache(PAGED, Place("cpu", "fp64"), 16)
    keys, values = (copies[0] for copies in cache.blocks)
    q = cache.queries
    for sequence in range(3):
        at = [(int(cache.table[sequence, position // 16]), position % 16) for position in range(90)]
        for head in range(6):
            k, v = (torch.stack([blocks[b, p, head // 3] for b, p in at]) for blocks in (keys, values))
            expected = (k @ q[sequence, head] / 4.0).softmax(0) @ v
            torch.testing.assert_close(cache.exact()[sequence, head], expected)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("page", [16, 256])
def test_paged_attention_finds_its_blocks_on_cuda(page: int, backend: str, cuda: str) -> None:
    if backend != "torch":
        pytest.importorskip(backend)
    if backend == "flash_attn" and page % 256:
        pytest.skip("FlashAttention takes blocks of 256 positions")
    operator = Attention(3, 1, 900, 16, 4, 128, dtype="bf16", kv_dtype="bf16")
    cache = _Cache(operator, Place(cuda, "bf16", COLD), page)
    assert Kernel(BACKENDS[backend](cache), cache.exact).error() <= TOLERANCE["bf16"]


@pytest.mark.parametrize(
    ("change", "what"),
    [({"q_len": 5}, "decode steps"), ({"window": 8}, "without a window")],
    ids=["chunk", "window"],
)
def test_paged_attention_is_decode_over_everything(change: dict[str, int], what: str) -> None:
    with pytest.raises(InputError, match=what):
        paged(replace(PAGED, **change), Place("cpu"), 16)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_groups_share_their_rows_evenly(rows: int, count: int, touched: int) -> None:
    groups = Groups(Place("cpu"), rows, count, touched)
    owners = [group for group, _, _ in groups.spans]
    sizes = [end - begin for _, begin, end in groups.spans]
    assert len(owners) == len(set(owners)) == min(rows, count, touched)
    assert set(owners) <= set(range(count))
    assert sum(sizes) == rows
    assert max(sizes) - min(sizes) <= 1
    offsets = groups._offsets.tolist()
    assert len(offsets) == count
    assert offsets[-1] == rows
    assert [offsets[g] - (offsets[g - 1] if g else 0) for g in owners] == sizes


@pytest.mark.gpu
def test_experts_are_one_kernel_where_pytorch_has_one(cuda: str) -> None:
    if torch.cuda.get_device_capability(cuda)[0] not in (9, 10):
        pytest.skip("one grouped kernel exists for Hopper and Blackwell data-center GPUs")
    made = kernel(GroupedGemm(500, 256, 128, 16, 16), Place(cuda, "bf16", COLD))
    assert made.name == "torch._grouped_mm"
    assert made.error() <= TOLERANCE["bf16"]


def test_products_in_fp8_are_those_of_their_rounded_inputs() -> None:
    made = kernel(Gemm(7, 48, 32, "fp8", "fp8", "bf16"), Place("cpu", "fp8", COLD))
    assert made.error() <= 4e-3  # the result's bf16; rounding inputs again would cost 4e-2
    assert made.run(0).dtype == torch.bfloat16


@pytest.mark.gpu
def test_products_in_fp8_are_those_of_their_rounded_inputs_on_cuda(cuda: str) -> None:
    if torch.cuda.get_device_capability(cuda) < (8, 9):
        pytest.skip("the device has no fp8 units")
    for m in (1, 17, 512):
        assert kernel(Gemm(m, 1024, 4096, "fp8", "fp8", "bf16"), Place(cuda, "fp8", COLD)).error() <= 2e-2


@pytest.mark.skipif(not hasattr(torch.nn.functional, "scaled_mm"), reason="this PyTorch is older than 2.10")
@pytest.mark.parametrize(
    ("capability", "formats"),
    [
        ((8, 0), ()),
        ((8, 9), ("fp8",)),
        ((9, 0), ("fp8", "fp8_block")),
        ((10, 0), ("fp8", "mxfp8", "mxfp4", "nvfp4")),
        ((12, 0), ("fp8", "mxfp8", "nvfp4")),
    ],
)
def test_a_gpu_multiplies_in_the_formats_of_its_generation(
    capability: tuple[int, int], formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert product_dtypes((), "cuda:0", ("bf16",), PRODUCTS) == ("bf16", *formats)
    peaks = tuple(name for name in formats if name in ("fp8", "nvfp4"))
    assert product_dtypes((), "cuda:0", ("bf16",)) == ("bf16", *peaks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp8_block", "mxfp8", "mxfp4", "nvfp4"])
def test_products_with_many_scales_are_those_of_their_numbers_on_cuda(dtype: str, cuda: str) -> None:
    if not multiplies(cuda, dtype):
        pytest.skip(f"PyTorch has no kernel of {dtype} for the device")
    for m, n, k in ((1, 1024, 4096), (17, 256, 640), (512, 1024, 4096)):  # five blocks of k: padded to eight
        assert kernel(Gemm(m, n, k, *DTYPES[dtype]), Place(cuda, dtype, COLD)).error() <= 2e-2


@pytest.mark.parametrize("operator", [Gemm(7, 40, 32), Gemm(7, 48, 30), Gemm(7, 48, 32, bias=True)])
def test_fp8_says_which_sizes_it_needs(operator: Operator) -> None:
    with pytest.raises(InputError, match="fp8 products need n and k in multiples of 16 and no bias"):
        kernel(operator, Place("cpu", "fp8"))
    with pytest.raises(InputError, match="fp8_block products need n and k in multiples of 128"):
        kernel(Gemm(7, 192, 128, *DTYPES["fp8_block"]), Place("cpu", "fp8_block"))
