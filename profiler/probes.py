"""The plain ceilings of a device, one probe each: bandwidth, products, vector units, launches, links.

A probe returns the seconds of one call; its bytes or FLOP have their own functions. On CUDA kernels are
replayed from a graph, so that host launches do not dominate footprints that fit the L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from profiler.kernels import Kernel, Place, kernel
from profiler.power import nvlinks
from profiler.timing import BRIEFLY, measure, measure_replayed, stopwatch
from profiler.treatments.weight_only import dynamic, has_fbgemm
from workloads.operators import Gemm

if TYPE_CHECKING:
    import torch

Probe = Callable[[], float]  # seconds of one call
Key = tuple[Any, ...]
ARRAYS = {"copy": 2, "triad": 3, "read": 1, "write": 1}  # per access pattern
STEADY_S = 2.0  # of load before a product counts as steady
BURST = 50  # products between two readings of the clock during that load
# Footprints in last-level cache sizes: the largest, and the one above which cached data no longer matters.
# A GPU's L2 keeps part of each array between replays; on a CPU such large arrays would take minutes.
LARGEST = {"cpu": 8, "cuda": 64}
BEYOND = {"cpu": 2, "cuda": 16}
CHAIN, CHAINED = 1024, 1 << 22  # steps of one thread's chain; elements, one per thread
SPECIAL = {"cpu": "exponentials of fp32, in exp or sigmoid", "cuda": "exp of fp32"}
SPECIAL_ELEMENTS = 4096  # fp32, within a CPU's first-level cache
PINNED_BYTES = 1 << 28


def probes(device: str, dtypes: Sequence[str], cache_bytes: int) -> Iterator[tuple[Key, Probe]]:
    """The probes of one pass, by key."""
    yield ("launch",), partial(_launch, device)
    for pattern in ARRAYS:
        for size in footprints(cache_bytes, LARGEST[device.partition(":")[0]]):
            yield ("bandwidth", pattern, size), partial(_stream, device, pattern, size)
    for dtype in dtypes:
        for size in squares(device):
            yield ("matmul", dtype, size), partial(_matmul, device, dtype, size)
    if "fp32" in dtypes and device == "cpu" and has_fbgemm():
        for size in squares(device):
            yield ("matmul", INT8, size), partial(_matmul_int8, size)
    if "fp32" in dtypes and has_tf32(device):
        for size in squares(device):
            yield ("matmul", TF32, size), partial(_matmul_tf32, device, size)
    if device == "cpu":
        yield ("special",), partial(_exponentials, device)
        return
    yield ("graph_launch",), partial(_graph_launch, device)
    yield ("special",), partial(_chained, device, "exp(-x)")
    yield ("fma",), partial(_chained, device, "x * T(0.999) + T(0.001)")
    for dtype in dtypes:
        size = squares(device)[-2]
        yield ("steady", dtype, size), partial(_steady, device, dtype, size)
    for direction in ("to device", "to host"):
        yield ("pcie", direction), partial(_across, device, direction)
    if (other := nvlink_peer(device)) is not None:
        yield ("nvlink", other), partial(_to_peer, device, other)


def footprints(cache_bytes: int, largest: int = LARGEST["cpu"]) -> list[int]:
    """Footprints by factors of two, from a first-level cache to below `largest` times the last level."""
    sizes, size = [], 16_384
    while size < largest * cache_bytes:
        sizes.append(size)
        size *= 2
    return sizes


def squares(device: str) -> tuple[int, ...]:
    """Sizes of square matrix products, ascending."""
    return (256, 512, 1024, 1536) if device == "cpu" else (1024, 2048, 4096, 8192, 16384)


def special_ops(device: str) -> int:
    """Exponentials in one call of the probe `special`."""
    return SPECIAL_ELEMENTS if device == "cpu" else CHAIN * CHAINED


def fma_flops() -> int:
    """FLOP in one call of the probe `fma`."""
    return 2 * CHAIN * CHAINED


def _once(call: Callable[[int], Any], device: str) -> float:
    timed = measure if device == "cpu" else measure_replayed
    return timed(call, device, BRIEFLY).median_s


def _stream(device: str, pattern: str, footprint: int) -> float:
    """Copy, triad a = b + 3 c (STREAM), sum (reads only), fill (writes only)."""
    import torch

    arrays = ARRAYS[pattern]
    a, *rest = (torch.rand(footprint // (4 * arrays), device=device) for _ in range(arrays))
    calls: dict[str, Callable[[], Any]] = {
        "copy": lambda: a.copy_(rest[0]),
        "triad": lambda: torch.add(rest[0], rest[1], alpha=3.0, out=a),
        "read": a.sum,
        "write": lambda: a.fill_(1.0),
    }
    call = calls[pattern]
    return _once(lambda _: call(), device)


def _launch(device: str) -> float:
    """An in-place addition to one element, launched from the host each time."""
    import torch

    x = torch.ones(1, device=device)
    return measure(lambda _: x.add_(1.0), device, BRIEFLY).median_s


def _graph_launch(device: str) -> float:
    import torch

    x = torch.ones(1, device=device)
    return _once(lambda _: x.add_(1.0), device)


def _exponentials(device: str) -> float:
    """The faster of two functions of one exponential each: on x86 sigmoid takes a third of exp's time."""
    import torch

    x = torch.rand(SPECIAL_ELEMENTS, device=device)
    out = torch.empty_like(x)

    def seconds(function: Callable[..., Any]) -> float:
        return _once(lambda _: function(x, out=out), device)

    return min(seconds(torch.exp), seconds(torch.sigmoid))


def _chained(device: str, step: str) -> float:
    """A kernel in which every thread repeats x = `step`, so that memory traffic is negligible."""
    import torch

    x = torch.rand(CHAINED, device=device)
    chained = chain(step)
    return _once(lambda _: chained(x), device)


def chain(step: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A CUDA kernel of CHAIN steps per element, compiled by PyTorch on first call."""
    from torch.cuda.jiterator import _create_jit_fn

    loop = f"for (int i = 0; i < {CHAIN}; ++i) x = {step};"
    made: Callable[[torch.Tensor], torch.Tensor] = _create_jit_fn(
        f"template <typename T> T chained(T x) {{ {loop} return x; }}"
    )
    return made


def square(device: str, dtype: str, size: int) -> Kernel:
    """A product of random square matrices: zeros would draw less power and run faster."""
    return kernel(Gemm(size, size, size, dtype, dtype, dtype), Place(device, dtype))


def _matmul(device: str, dtype: str, size: int) -> float:
    """A burst of some milliseconds, too short for power or thermal throttling."""
    return measure(square(device, dtype, size).run, device, BRIEFLY).median_s


INT8 = "int8"


def _matmul_int8(size: int) -> float:
    """FBGEMM's product of fp32 rows, quantised on the fly, and INT8 weights."""
    import torch

    module = dynamic(torch.nn.Linear(size, size, bias=False))
    rows = torch.randn(size, size)
    return measure(lambda _: module(rows), "cpu", BRIEFLY).median_s


TF32 = "tf32"


def has_tf32(device: str) -> bool:
    """Whether a GPU has TF32 matrix units: compute capability 8.0 or later."""
    import torch

    return (
        device != "cpu" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _matmul_tf32(device: str, size: int) -> float:
    """The product of fp32 matrices with TF32 allowed."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return _matmul(device, "fp32", size)
    finally:
        torch.set_float32_matmul_precision(before)


def _steady(device: str, dtype: str, size: int) -> float:
    """The same product after STEADY_S of load."""
    run = square(device, dtype, size).run
    seconds = stopwatch(device)
    spent, last = 0.0, 0.0
    while spent < STEADY_S:
        last = seconds(partial(_products, run)) / BURST
        spent += BURST * last
    return last


def _products(run: Callable[[int], Any]) -> None:
    """A burst of products, each result freed: together they could exceed a small device's memory."""
    for i in range(BURST):
        run(i)


def _across(device: str, direction: str) -> float:
    """Page-locked host memory to the device, or back."""
    import torch

    host = torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(PINNED_BYTES, dtype=torch.uint8, device=device)
    target, source = (there, host) if direction == "to device" else (host, there)
    return measure(lambda _: target.copy_(source, non_blocking=True), device, BRIEFLY).median_s


def nvlink_peer(device: str) -> str | None:
    """Another GPU connected by NVLink; None where there is none, or NVML does not report it."""
    import torch

    own = torch.device(device).index or 0
    others = [i for i in range(torch.cuda.device_count()) if i != own]
    reached = [i for i in others if torch.cuda.can_device_access_peer(own, i)]
    return f"cuda:{reached[0]}" if reached and nvlinks(device) else None


def _to_peer(device: str, other: str) -> float:
    """From one GPU's memory to another's, in one direction."""
    import torch

    here = torch.empty(PINNED_BYTES, dtype=torch.uint8, device=device)
    there = torch.empty(PINNED_BYTES, dtype=torch.uint8, device=other)
    return measure(lambda _: there.copy_(here, non_blocking=True), device, BRIEFLY).median_s
