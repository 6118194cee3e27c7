"""The plain ceilings of a device, one probe each: bandwidth, products, vector units, launches, links.

A probe takes seconds of one call; what was moved or computed in it stands beside. On CUDA kernels are
replayed from a graph, so that a footprint of the L2 is not timed by the host's launches.
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
ARRAYS = {"copy": 2, "triad": 3, "read": 1, "write": 1}  # of each pattern of access
STEADY_S = 2.0  # of load before a product counts as steady
BURST = 50  # products between two looks at the clock meanwhile
# Footprints in sizes of the last-level cache: the largest, and from which on what it keeps no longer matters.
# A GPU's L2 keeps a part of each array from one replay to the next; a CPU would take minutes for such arrays.
LARGEST = {"cpu": 8, "cuda": 64}
BEYOND = {"cpu": 2, "cuda": 16}
CHAIN, CHAINED = 1024, 1 << 22  # steps of one thread's chain, and threads' elements
SPECIAL_ELEMENTS = 4096  # of fp32: in a CPU's first-level cache
PINNED_BYTES = 1 << 28


def probes(device: str, dtypes: Sequence[str], cache_bytes: int) -> Iterator[tuple[Key, Probe]]:
    """Every plain ceiling that one pass measures, under its key."""
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
    """Bytes touched, by factors of two from a first-level cache to below `largest` times the last level."""
    sizes, size = [], 16_384
    while size < largest * cache_bytes:
        sizes.append(size)
        size *= 2
    return sizes


def squares(device: str) -> tuple[int, ...]:
    """The sizes of products of square matrices, from short to long ones."""
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
    """Copy, triad a = b + 3 c (the STREAM benchmark's), a sum that reads, a fill that writes."""
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
    """One element added in place, launched from the host each time."""
    import torch

    x = torch.ones(1, device=device)
    return measure(lambda _: x.add_(1.0), device, BRIEFLY).median_s


def _graph_launch(device: str) -> float:
    import torch

    x = torch.ones(1, device=device)
    return _once(lambda _: x.add_(1.0), device)


def _exponentials(device: str) -> float:
    import torch

    x = torch.rand(SPECIAL_ELEMENTS, device=device)
    out = torch.empty_like(x)
    return _once(lambda _: torch.exp(x, out=out), device)


def _chained(device: str, step: str) -> float:
    """A kernel in which every thread repeats x = `step`, so that memory has no part in its time."""
    import torch

    x = torch.rand(CHAINED, device=device)
    chained = chain(step)
    return _once(lambda _: chained(x), device)


def chain(step: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """CUDA code that does CHAIN steps per element, compiled by PyTorch when it is first called."""
    from torch.cuda.jiterator import _create_jit_fn

    loop = f"for (int i = 0; i < {CHAIN}; ++i) x = {step};"
    made: Callable[[torch.Tensor], torch.Tensor] = _create_jit_fn(
        f"template <typename T> T chained(T x) {{ {loop} return x; }}"
    )
    return made


def square(device: str, dtype: str, size: int) -> Kernel:
    """A product of square matrices of random numbers: zeros would draw less power and run faster."""
    return kernel(Gemm(size, size, size, dtype, dtype, dtype), Place(device, dtype))


def _matmul(device: str, dtype: str, size: int) -> float:
    """A short burst: some milliseconds, before power or heat can hold clocks down."""
    return measure(square(device, dtype, size).run, device, BRIEFLY).median_s


INT8 = "int8"


def _matmul_int8(size: int) -> float:
    """FBGEMM's product of fp32 rows, which it quantises on the way, and INT8 weights."""
    import torch

    module = dynamic(torch.nn.Linear(size, size, bias=False))
    rows = torch.randn(size, size)
    return measure(lambda _: module(rows), "cpu", BRIEFLY).median_s


TF32 = "tf32"


def has_tf32(device: str) -> bool:
    """Whether a GPU multiplies fp32 on its matrix units, rounded to tf32: compute capability 8.0 on."""
    import torch

    return (
        device != "cpu" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _matmul_tf32(device: str, size: int) -> float:
    """The product of fp32 matrices with PyTorch's leave to round them."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return _matmul(device, "fp32", size)
    finally:
        torch.set_float32_matmul_precision(before)


def _steady(device: str, dtype: str, size: int) -> float:
    """The same product after seconds of nothing else."""
    run = square(device, dtype, size).run
    seconds = stopwatch(device)
    spent, last = 0.0, 0.0
    while spent < STEADY_S:
        last = seconds(partial(_products, run)) / BURST
        spent += BURST * last
    return last


def _products(run: Callable[[int], Any]) -> None:
    """A burst of products, each result freed: together they would fill a small device."""
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
    """Another GPU that this one writes to over NVLink; None where there is none, or NVML does not say."""
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
