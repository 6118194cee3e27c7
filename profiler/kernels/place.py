"""Device, format and memory of reference kernels, with cold weights and KV caches.

Weights and KV caches are rotated over windows of a pool larger than the last-level cache, because in a model
they come from memory; activations stay warm, as in a model after the operator before.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from specfiles.errors import InputError, choose

if TYPE_CHECKING:
    import torch

TORCH_DTYPES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# For matrix products only: OCP e4m3 (arXiv:2209.05433) with a scale per matrix, block or group, and fp4.
FP8, BLOCKS, MXFP8, MXFP4, NVFP4 = "fp8", "fp8_block", "mxfp8", "mxfp4", "nvfp4"
PRODUCTS = (FP8, BLOCKS, MXFP8, MXFP4, NVFP4)
PEAKS = (FP8, NVFP4)  # the format of PRODUCTS that shows what the units of its kind reach
PACKED = (MXFP4, NVFP4)  # two elements in a byte
_STORED = {
    **TORCH_DTYPES,
    **dict.fromkeys((FP8, BLOCKS, MXFP8), "float8_e4m3fn"),
    **dict.fromkeys(PACKED, "float4_e2m1fn_x2"),
}


def known_kernel_dtype(name: str) -> str:
    """The dtype, if PyTorch has kernels for all operators in it; else InputError lists those."""
    if name in PRODUCTS:
        raise InputError(
            f"{name} is a format of matrix products alone, which `roofline campaign` measures, and `roofline "
            f"profile --with fp8` in a model; other operators run in {', '.join(TORCH_DTYPES)}."
        )
    if name not in TORCH_DTYPES:
        raise choose(name, list(TORCH_DTYPES), "dtype that can be measured")
    return name


def product_dtypes(
    asked: Sequence[str], device: str, usual: tuple[str, ...], narrow: tuple[str, ...] = PEAKS
) -> tuple[str, ...]:
    """The formats of matrix products asked for; by default fp32 on a CPU, on a GPU the usual and narrow ones.

    `narrow` are the formats of PRODUCTS that may be asked for. Raises InputError for a format that PyTorch
    has no kernels for, and for one of these where a device has no units.
    """
    for name in narrow:
        if name in asked and not multiplies(device, name):
            raise InputError(f"{device} has no {name} units that PyTorch uses; leave {name} out.")
    if asked:
        return tuple(name if name in narrow else known_kernel_dtype(name) for name in asked)
    return ("fp32",) if device == "cpu" else (*usual, *(name for name in narrow if multiplies(device, name)))


def multiplies(device: str, name: str = FP8) -> bool:
    """Whether PyTorch multiplies in one of PRODUCTS on a device's matrix units.

    fp8 from compute capability 8.9; with scales per block on Hopper alone, with cuBLAS of CUDA 12.9; with
    scales per group from Blackwell. mxfp4 has CUTLASS's kernel for compute capability 10, not cuBLAS's
    (pytorch/pytorch#166526).
    """
    import torch

    if not device.startswith("cuda"):
        return False
    capability: tuple[int, int] = torch.cuda.get_device_capability(device)
    if name == FP8:
        return capability >= (8, 9)
    if not hasattr(torch.nn.functional, "scaled_mm"):  # before PyTorch 2.10
        return False
    cuda = tuple(map(int, (torch.version.cuda or "0").split(".")))
    if name == BLOCKS:
        return capability[0] == 9 and cuda >= (12, 9)
    return capability[0] == 10 if name == MXFP4 else capability >= (10, 0)


@dataclass(frozen=True)
class Place:
    """Device and format of kernels, and the bytes after which a buffer is cold."""

    device: str
    dtype: str = "fp32"
    cold_bytes: float = 0.0  # 0 keeps every buffer warm

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype. Raises InputError for formats without reference kernels."""
        import torch

        name = self.dtype if self.dtype in PRODUCTS else known_kernel_dtype(self.dtype)
        return getattr(torch, _STORED[name])

    def has_package(self, name: str) -> bool:
        """Whether a package of GPU kernels for 16-bit formats is installed and can be called here."""
        fits = self.device.startswith("cuda") and self.dtype in ("bf16", "fp16")
        return fits and importlib.util.find_spec(name) is not None

    def random(self, *shape: int) -> torch.Tensor:
        """Normal random numbers, or pairs of any fp4; with zeros GPUs draw less power and run faster."""
        import torch

        if self.dtype in PACKED:
            pairs_of_codes = torch.randint(256, shape, dtype=torch.uint8, device=self.device)
            return pairs_of_codes.view(self.torch_dtype)
        return torch.randn(*shape, device=self.device).to(self.torch_dtype)

    def cold(self, *shape: int) -> list[torch.Tensor]:
        """Random tensors, so many that each is out of the cache when it is used again."""
        elements = math.prod(shape)
        pool = _pool(self)
        if elements > len(pool) // 2:  # larger than the cache
            return [self.random(*shape) for _ in range(2 if self.cold_bytes else 1)]
        stride = -(-elements // ALIGN) * ALIGN
        return [pool[at : at + elements].view(shape) for at in range(0, len(pool) - elements + 1, stride)]


ALIGN = 64  # elements: windows start on cache lines


@lru_cache(maxsize=2)
def _pool(place: Place) -> torch.Tensor:
    """The random numbers of which all cold tensors are windows."""
    itemsize = place.torch_dtype.itemsize
    return place.random(max(ALIGN, int(place.cold_bytes) // itemsize))


COMPANY = (1024, 512)  # a weight matrix of 2 MB in fp32


def company(place: Place) -> Callable[[int], object] | None:
    """The call between timed calls on a CPU, a matrix-vector product that streams weights; else None.

    In a model the operator before evicts code and data of the next one from the nearer caches. Timed back to
    back, an operator of one token appears up to five times faster. A GPU's launch does not depend on it.
    """
    if place.device != "cpu":
        return None
    from torch.nn.functional import linear

    rows, columns = COMPANY
    x, weights = place.random(1, columns), place.cold(rows, columns)
    return lambda i: linear(x, weights[i % len(weights)])


def pairs(place: Place, *shape: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Cold tensors for keys and for values, in separate memory."""
    both = place.cold(2, *shape)
    return [pair[0] for pair in both], [pair[1] for pair in both]
