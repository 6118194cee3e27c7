"""A CUDA device of a machine that has none: tensors that say they are on it, computed by the CPU.

What is checked is that the code for CUDA runs to its end as torch.cuda's reference asks for it: operands are
on the device, nothing is read back while a graph is captured, a graph gives its results when it is replayed
and not before, events are timed where they may be, and kernels that exist on a GPU alone get the formats and
layouts that they take. Times are made up: the device's clock goes on by a little with every operation.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd.profiler_util import Interval
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

# PyTorch without CUDA knows no way to make a CUDA device the current one: this does nothing, and suffices.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
struct OneDevice final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, OneDevice);
"""
CPU = torch.device("cpu")
NAME = "NVIDIA H100 80GB HBM3"
PER_OPERATION_S, PER_BYTE_S, KERNEL_US = 1e-4, 1e-12, 1
MOVES = ("copy_", "_to_copy", "to", "lift_fresh", "pin_memory")  # between devices
READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2")
RANDOM = ("randn", "rand", "randint", "randperm", "normal_", "uniform_", "exponential_", "random_")
INDEXED = (
    "index",
    "index_put_",
    "index_put",
    "_index_put_impl_",
)  # CPU indices are copied, for which the host waits


class OnDevice(torch.Tensor):
    """A tensor of the device; `elem` holds its values."""

    elem: torch.Tensor

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device="cuda:0",
        )
        made.elem = elem
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return MACHINE.run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnDevice({self.elem!r})"

    def tolist(self) -> Any:
        """Waits for the device, as item() does."""
        MACHINE.waited("tolist")
        return self.elem.tolist()


class Everything(TorchDispatchMode):
    """Hears of tensors that are made, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return MACHINE.run(func, args, kwargs or {})


class Machine:
    """The device: its clock, and the graph that is being captured."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As it was in the beginning."""
        self.now_s = 0.0
        self.capturing: Graph | None = None
        self.stream: Stream | None = None  # the current one; None: the default
        self.waits = 0
        self.pools: set[Any] = set()  # that the allocator fills while something is captured
        self.random_in_capture = False

    def waited(self, what: str) -> None:
        """The host waits for the device, which it may not while a graph is captured."""
        self.waits += 1
        if self.capturing is not None:
            self.capturing.broken = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation, wherever its tensors are."""
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        mine = [tensor for tensor in given if isinstance(tensor, OnDevice)]
        on_device = bool(mine)
        asked = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
        if asked is not None:
            on_device = asked.type == "cuda"
            if name in MOVES and bool(mine) != on_device:
                self._moved(name, kwargs.get("non_blocking", False), given)
            args, kwargs = tree_map(lambda v: CPU if isinstance(v, torch.device) else v, (args, kwargs))
        elif name == "copy_":
            on_device = isinstance(given[0], OnDevice)
            if 0 < len(mine) < len(given):
                self._moved(name, kwargs.get("non_blocking", False) or (len(args) > 2 and args[2]), given)
        elif mine:
            self._same_device(name, given)
        if mine and name in READS:
            self.waited(name)
        if on_device and name in RANDOM and self.random_in_capture and self.capturing is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        kwargs.pop("pin_memory", None)
        known = {id(tensor.elem): tensor for tensor in mine}
        plain_args, plain_kwargs = tree_map(_elem, (args, kwargs))
        call = ON_GPU.get(name, func) if mine else func
        found = call(*plain_args, **plain_kwargs)
        if not (on_device or mine):
            return found
        leaves, shape = tree_flatten(found)
        self.now_s += PER_OPERATION_S + PER_BYTE_S * sum(t.nbytes for t in given)
        if self.capturing is not None:
            self.capturing.add(call, plain_args, plain_kwargs, leaves)
        outside = bool(mine) and not on_device  # a copy to the host
        if outside:
            return found
        return tree_unflatten([_wrapped(leaf, known) for leaf in leaves], shape)

    def _moved(self, name: str, non_blocking: bool, given: list[torch.Tensor]) -> None:
        if not non_blocking:
            self.waited(f"{name} between host and device")

    def _same_device(self, name: str, given: list[torch.Tensor]) -> None:
        """Only numbers may come from elsewhere."""
        strangers = [t for t in given if not isinstance(t, OnDevice) and t.ndim and name not in MOVES]
        if strangers and name in INDEXED:
            self.waited(f"{name} with indices of the host")
        elif strangers:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                f"cpu! ({name} of {[tuple(t.shape) for t in given]})"
            )


def _wrapped(leaf: Any, known: dict[int, OnDevice]) -> Any:
    """A result as a tensor of the device; what was written in place is the tensor that it was."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    same = known.get(id(leaf))
    return OnDevice(leaf) if same is None else same


def _elem(leaf: Any) -> Any:
    return leaf.elem if isinstance(leaf, OnDevice) else leaf


MACHINE = Machine()


class Graph:
    """torch.cuda.CUDAGraph: what it captured runs when it is replayed, into the same memory."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Any]]] = []
        self.broken, self.captured = False, False

    def add(self, call: Any, args: Any, kwargs: Any, results: list[Any]) -> None:
        """An operation that was captured."""
        self.calls.append((call, args, kwargs, results))

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Operations are remembered from here on."""
        if MACHINE.capturing is not None:
            raise RuntimeError("CUDA error: a capture is under way")
        MACHINE.capturing, self.pool, MACHINE.random_in_capture = self, pool or object(), True
        MACHINE.pools.add(self.pool)

    def capture_end(self) -> None:
        """What was computed meanwhile is no result: a device computes nothing while it captures."""
        MACHINE.capturing = None
        if self.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        MACHINE.random_in_capture = False  # a capture that broke leaves this and its pool as they are
        MACHINE.pools.remove(self.pool)
        self.captured = True
        for _, args, kwargs, results in self.calls:
            inputs = {id(leaf) for leaf in tree_leaves((args, kwargs))}
            for found in results:
                if isinstance(found, torch.Tensor) and id(found) not in inputs and not _is_view(found, args):
                    _poison(found)

    def replay(self) -> None:
        """Every operation again; what they gave comes where it was."""
        if not self.captured:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        if MACHINE.capturing is not None:
            raise RuntimeError("CUDA error: a graph is replayed inside a capture")
        for call, args, kwargs, results in self.calls:
            again = tree_leaves(call(*args, **kwargs))
            for old, new in zip(results, again, strict=True):
                if isinstance(old, torch.Tensor) and new is not old and new.data_ptr() != old.data_ptr():
                    _write(old, new)
            MACHINE.now_s += PER_OPERATION_S / 4


def _write(old: torch.Tensor, new: torch.Tensor) -> None:
    """Beside the profiler, which would take it for a kernel."""
    if old.is_contiguous() and new.is_contiguous():
        ctypes.memmove(old.data_ptr(), new.data_ptr(), old.nbytes)
    else:
        old.copy_(new)


def _is_view(found: torch.Tensor, args: Any) -> bool:
    storages = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
    return found.untyped_storage().data_ptr() in storages


def _poison(found: torch.Tensor) -> None:
    with _disable_current_modes():
        if found.is_floating_point() and found.element_size() > 1:
            found.fill_(float("nan"))
        elif found.dtype in (torch.int64, torch.int32):
            found.fill_(-1)


class Event:
    """torch.cuda.Event on the device's clock."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self.timed, self.at_s, self.in_capture = enable_timing, None, False

    def record(self, stream: Any = None) -> None:
        """At the device's time, on the stream that is current where none is named."""
        assert isinstance(stream or torch.cuda.current_stream(), Stream)
        self.at_s, self.in_capture = MACHINE.now_s, MACHINE.capturing is not None

    def synchronize(self) -> None:
        """The host waits."""
        MACHINE.waited("cudaEventSynchronize")

    def query(self) -> bool:
        """All is done."""
        return True

    def wait(self, stream: Any = None) -> None:
        """A stream waits, not the host."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds between two."""
        if not (self.timed and end.timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self.at_s is None or end.at_s is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if self.in_capture or end.in_capture:
            raise RuntimeError("CUDA error: invalid resource handle: an event that was recorded in a capture")
        MACHINE.waited("cudaEventElapsedTime")
        return max(1e-6, (end.at_s - self.at_s) * 1e3)


class Stream:
    """torch.cuda.Stream: everything is done where it is asked for, in order."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = torch.device(device if device is not None else "cuda:0")
        assert self.device.type == "cuda"

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        MACHINE.waited("cudaStreamSynchronize")


@contextmanager
def on(_: Any) -> Iterator[None]:
    """torch.cuda.device and torch.cuda.stream."""
    yield


class capture:  # noqa: N801 - torch.cuda.graph
    """torch.cuda.graph: synchronises, empties the cache, captures on a stream of its own.

    As PyTorch's it stays on that stream where the end of the capture fails.
    """

    def __init__(
        self, cuda_graph: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"
    ):
        self.graph, self.pool = cuda_graph, pool

    def __enter__(self) -> None:
        MACHINE.waited("cudaDeviceSynchronize")
        self.before, MACHINE.stream = MACHINE.stream, Stream()
        self.graph.capture_begin(self.pool)

    def __exit__(self, *_: object) -> None:
        self.graph.capture_end()
        MACHINE.stream = self.before


class Profile(torch.profiler.profile):
    """torch.profiler.profile: what the CPU ran by itself stands for the device's kernels, each as long."""

    def __init__(self, *, activities: Any = None, **options: Any) -> None:
        assert torch.profiler.ProfilerActivity.CUDA in activities
        super().__init__(activities=[torch.profiler.ProfilerActivity.CPU], **options)

    def events(self) -> Any:
        """Those of the host, with a kernel for each operation that has no others inside, and the kernels."""
        found = list(super().events())
        kernels = []
        for event in found:
            if not event.name.startswith("aten::") or event.name[6:] in VIEWS:
                continue
            if any(child.name.startswith("aten::") for child in event.cpu_children):
                continue
            if not event.kernels:
                event.append_kernel(f"kernel of {event.name}", 0, KERNEL_US)
            kernels.append(
                SimpleNamespace(
                    id=event.id,
                    name=f"kernel of {event.name}",
                    device_type=torch.autograd.DeviceType.CUDA,
                    time_range=Interval(event.time_range.start, event.time_range.start + KERNEL_US),
                    is_user_annotation=False,
                    cpu_parent=None,
                    cpu_children=[],
                    kernels=[],
                )
            )
        return found + kernels


VIEWS = (
    *("view", "reshape", "t", "transpose", "slice", "select", "detach", "expand", "unsqueeze", "as_strided"),
    *("permute", "alias", "split", "chunk", "unbind", "empty", "empty_strided", "resolve_conj"),
)


def scaled_mm(a: Any, b: Any, scale_a: Any, scale_b: Any, *more: Any, **named: Any) -> Any:
    """torch._scaled_mm with the checks that it makes for one scale per matrix (ScaledBlas.cpp)."""
    options = {
        **dict(zip(("bias", "scale_result", "out_dtype", "use_fast_accum"), more, strict=False)),
        **named,
    }
    out_dtype = options["out_dtype"]
    assert a.dtype == b.dtype == torch.float8_e4m3fn
    assert a.ndim == b.ndim == 2
    assert a.stride(1) == 1, "mat_a must be row-major"
    assert b.stride(0) == 1, "mat_b must be column-major"
    assert a.shape[1] % 16 == 0
    assert b.shape[0] % 16 == 0
    assert b.shape[1] % 16 == 0
    assert scale_a.numel() == scale_b.numel() == 1
    assert scale_a.dtype == scale_b.dtype == torch.float32
    assert out_dtype in (torch.bfloat16, torch.float16, torch.float32)
    return ((a.float() @ b.float()) * scale_a * scale_b).to(out_dtype)


def scaled_mm_v2(
    a: Any, b: Any, scale_a: Any, recipe_a: Any, swizzle_a: Any, scale_b: Any, recipe_b: Any, swizzle_b: Any,
    bias: Any = None, out_dtype: Any = None, dims: Any = (), fast: bool = False,
) -> Any:  # fmt: skip
    """torch._scaled_mm_v2 with scales per 1 x 128 and 128 x 128, per 16 or 32: checks and layouts."""
    from torch.nn.functional import ScalingType, SwizzleType

    assert bias is None
    assert not fast, "scaled_gemm doesn't support fast accum with 1x128 blockwise scaling, nor with fp4"
    assert out_dtype == torch.bfloat16
    assert a.stride(1) == 1
    assert b.stride(0) == 1
    assert [size % 16 for size in (a.shape[1], *b.shape)] == [0, 0, 0]
    (m, k), n, (of_a,), (of_b,) = a.shape, b.shape[1], scale_a, scale_b
    recipes = [ScalingType(value) for value in (*recipe_a, *recipe_b)]
    if recipes == [ScalingType.BlockWise1x128, ScalingType.BlockWise128x128]:
        assert a.dtype == b.dtype == torch.float8_e4m3fn
        assert of_a.dtype == of_b.dtype == torch.float32
        blocks = (k + 127) // 128
        padded = (blocks + 3) // 4 * 4
        assert (*of_a.shape, *of_a.stride()) == (m, blocks, 1, m)
        assert (*of_b.shape, *of_b.stride()) == (padded, (n + 127) // 128, 1, padded)
        assert m % 4 == 0, "CUBLAS_STATUS_NOT_SUPPORTED"
        along, across = torch.arange(k) // 128, torch.arange(n) // 128
        rows = a.double() * of_a.double()[:, along]
        columns = b.double() * of_b.double()[along][:, across]
    else:
        group = {ScalingType.BlockWise1x16: 16, ScalingType.BlockWise1x32: 32}[recipes[0]]
        assert recipes[0] == recipes[1]
        assert [SwizzleType(value) for value in (*swizzle_a, *swizzle_b)] == [SwizzleType.SWIZZLE_32_4_4] * 2
        fours = a.dtype == torch.float4_e2m1fn_x2
        assert a.dtype == (torch.float4_e2m1fn_x2 if fours or group == 16 else torch.float8_e4m3fn) == b.dtype
        assert of_a.dtype == (torch.float8_e4m3fn if group == 16 else torch.float8_e8m0fnu) == of_b.dtype
        rows, columns = _in_groups(a, of_a, group), _in_groups(b.t(), of_b, group).t()
    return (rows @ columns).to(out_dtype)


def _in_groups(codes: Any, scales: Any, group: int) -> torch.Tensor:
    """The numbers of rows; scales by the offsets in cuBLAS's documentation, section 3.1.4.3.2."""
    packed = codes.dtype == torch.float4_e2m1fn_x2
    height, width = codes.shape[0], codes.shape[1] * (1 + packed)
    tiles = (width + 4 * group - 1) // (4 * group)
    assert scales.is_contiguous()
    assert scales.numel() == (height + 127) // 128 * 128 * tiles * 4

    def scale(row: int, column: int) -> float:
        tile = 512 * (row // 128 * tiles + column // 4)
        return float(flat[tile + row % 32 * 16 + row % 128 // 32 * 4 + column % 4])

    def number(row: int, at: int) -> float:
        if not packed:
            return float(octets[row][at])
        octet = octets[row][at // 2]
        code = octet >> 4 if at % 2 else octet & 15
        exponent, mantissa = code >> 1 & 3, code & 1
        size = 2.0 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
        return -size if code & 8 else size

    flat, stored = scales.float().tolist(), codes.contiguous()
    octets = (stored.view(torch.uint8) if packed else stored.float()).tolist()
    found = [[number(row, at) * scale(row, at // group) for at in range(width)] for row in range(height)]
    return torch.tensor(found, dtype=torch.float64)


def grouped_mm(a: Any, b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """torch._grouped_mm of rows by group: aten/src/ATen/native/GroupedMMUtils.h."""
    assert a.dtype == b.dtype == torch.bfloat16
    assert (a.ndim, b.ndim) == (2, 3)
    assert offs.dtype == torch.int32
    assert offs.shape == (b.shape[0],)
    assert b.shape[0] <= 1024
    for size in (a.stride(0), *(s for s in b.stride() if s != 1)):
        assert size * a.element_size() % 16 == 0, "strides should be multiple of 16 bytes"
    assert a.data_ptr() % 16 == 0
    assert b.data_ptr() % 16 == 0
    found, begin = a.new_zeros(a.shape[0], b.shape[2]), 0
    for group, end in enumerate(offs.tolist()):
        found[begin:end] = a[begin:end] @ b[group]
        begin = end
    return found


def convert_int4(packed: Any, tiles: int) -> Any:
    """aten::_convert_weight_to_int4pack: aten/src/ATen/native/cuda/int4mm.cu."""
    assert packed.dtype == torch.uint8
    assert packed.ndim == 2
    assert packed.is_contiguous()
    assert tiles in (2, 4, 8)
    assert packed.shape[0] % 8 == 0
    assert packed.shape[1] * 2 % (tiles * 16) == 0
    return packed.clone()


def int4_mm(rows: Any, packed: Any, group: int, scales: Any) -> Any:
    """aten::_weight_int4pack_mm over what `convert_int4` made."""
    assert rows.dtype == torch.bfloat16
    assert rows.ndim == 2
    assert rows.is_contiguous()
    assert group in (32, 64, 128, 256)
    outputs, inputs = packed.shape[0], packed.shape[1] * 2
    assert scales.shape == (inputs // group, outputs, 2)
    assert scales.dtype == torch.bfloat16
    assert scales.is_contiguous()
    q = torch.stack([packed >> 4, packed & 15], 2).view(outputs, inputs).float() - 8
    scale, zero = (scales[..., which].float().t().repeat_interleave(group, 1) for which in range(2))
    return (rows.float() @ (q * scale + zero).t()).to(rows.dtype)


ON_GPU: dict[str, Callable[..., Any]] = {
    "_scaled_mm": scaled_mm,
    "_scaled_mm_v2": scaled_mm_v2,
    "_grouped_mm": grouped_mm,
    "_convert_weight_to_int4pack": convert_int4,
    "_weight_int4pack_mm": int4_mm,
}


class _Generator(torch.Generator):
    """One of the device."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")


def jit_fn(code: str, **_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch.cuda.jiterator._create_jit_fn: parses as that does, computes something of the same shape."""
    from torch.cuda.jiterator import _CodeParser

    _CodeParser(code)
    return lambda x: x * 0.5


def install(patch: pytest.MonkeyPatch, folder: Path, l2_bytes: int = 1 << 18) -> Machine:
    """Let torch see the device, as long as `patch` lasts; the test is skipped without a C++ compiler."""
    if torch.version.cuda:
        pytest.skip("this PyTorch is built with CUDA: its own device is tested, where there is one")
    _register_guard(folder)
    properties = SimpleNamespace(
        name=NAME,
        total_memory=85_000_000_000,
        multi_processor_count=132,
        L2_cache_size=l2_bytes,
        major=9,
        minor=0,
        uuid="0a1b",
        warp_size=32,
    )
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (80_000_000_000, 85_000_000_000),
        "synchronize": lambda device=None: MACHINE.waited("cudaDeviceSynchronize"),
        "current_stream": lambda device=None: MACHINE.stream or Stream(device),
        "set_stream": lambda stream: setattr(MACHINE, "stream", stream),
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: MACHINE.capturing is not None,
        "cudart": lambda: SimpleNamespace(cudaProfilerStart=lambda: 0, cudaProfilerStop=lambda: 0),
        "device": on,
        "stream": on,
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": capture,
        "graph_pool_handle": object,
    }
    for name, value in cuda.items():
        assert hasattr(torch.cuda, name), name
        patch.setattr(torch.cuda, name, value)
    own = {  # of PyTorch's own module, which has them where it is built with CUDA
        "_cuda_endAllocateToPool": lambda device, pool: MACHINE.pools.remove(pool),
        "_cuda_releasePool": lambda device, pool: None,
    }
    for name, function in own.items():
        patch.setattr(torch._C, name, function, raising=False)
    patch.setattr("torch.cuda.jiterator._create_jit_fn", jit_fn)
    patch.setattr(torch.profiler, "profile", Profile)
    patch.setattr(torch, "Generator", _Generator)
    MACHINE.reset()
    return MACHINE


@contextmanager
def everything() -> Iterator[None]:
    """Inside, operations and tensors of the device are ours."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(.., device=..) moves where we hear of it
    try:
        with Everything():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


_LOADED: list[Any] = []


def _register_guard(folder: Path) -> None:
    if _LOADED:
        return
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to tell PyTorch of a device")
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    root = Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", source, "-o", library]
    subprocess.run([*command, f"-L{root / 'lib'}", "-lc10"], check=True, capture_output=True)
    _LOADED.append(ctypes.CDLL(str(library)))
