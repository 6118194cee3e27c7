"""Products of operands in narrow formats with scales, by PyTorch's scaled products.

The operands are quantised before: a time is that of the product alone. Results are in bf16. The layouts of
scales are cuBLAS's: https://docs.nvidia.com/cuda/cublas/#narrow-precision-data-types-usage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.kernels.base import Kernel, checked_part, whole
from profiler.kernels.place import BLOCKS, FP8, MXFP4, MXFP8, NVFP4, PACKED
from specfiles.errors import InputError

if TYPE_CHECKING:
    import torch

    from profiler.kernels.place import Place
    from workloads.operators import Gemm

MULTIPLES = {FP8: 16, BLOCKS: 128, MXFP8: 32, MXFP4: 32, NVFP4: 32}  # of n and k: 16 bytes, or whole groups
BLOCK, GROUP = 128, {MXFP8: 32, MXFP4: 32, NVFP4: 16}  # elements of one scale: of a block's side, of a row
FOUR = 4  # scales of a column start on 16 bytes
TILE = (128, 4)  # rows and columns of scales of groups that lie together
EXPONENT = 127  # of the scale one in e8m0, the power of two of the MX formats
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by code; codes from 8 are negative (OCP Microscaling 1.0)


def scaled(op: Gemm, place: Place) -> Kernel:
    """The product in the format of `place`. Raises InputError for sizes that its kernel does not take."""
    multiple = MULTIPLES[place.dtype]
    m, n, k = whole(op.m), whole(op.n), whole(op.k)
    if n % multiple or k % multiple or op.bias:
        raise InputError(f"{place.dtype} products need n and k in multiples of {multiple} and no bias.")
    made = {FP8: _by_matrix, BLOCKS: _by_block}.get(place.dtype, _by_group)
    return made(place, m, n, k)


def _by_matrix(place: Place, m: int, n: int, k: int) -> Kernel:
    """One scale per matrix.

    Sums are accumulated in the matrix units, as in inference engines; on Hopper the alternative is slower.
    """
    import torch

    x, weights = place.random(m, k), place.cold(n, k)
    one = torch.ones((), device=place.device)

    def run(i: int) -> torch.Tensor:
        turned = weights[i % len(weights)].t()
        return torch._scaled_mm(
            x, turned, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    def exact() -> torch.Tensor:
        high, wide = checked_part(m, n, k)
        return x[-high:].double() @ weights[0][-wide:].double().t()

    return Kernel(run, exact, name="torch._scaled_mm")


def _by_block(place: Place, m: int, n: int, k: int) -> Kernel:
    """A scale per 128 elements of a row, and per 128 x 128 of the weights (DeepSeek-V3, arXiv:2412.19437).

    Both are stored by columns, of which the rows' number must be a multiple of four, as that of their scales
    along k: with others the kernel is refused, or wrong (pytorch/pytorch#166752, vllm-project/vllm#49932).
    """
    import torch
    from torch.nn.functional import ScalingType, scaled_mm

    rows, blocks = _up(m, FOUR), k // BLOCK
    x, weights = place.random(rows, k), place.cold(n, k)
    of_x = _scales(place, blocks, rows).t()
    of_weights = _scales(place, n // BLOCK, _up(blocks, FOUR)).t()
    one, square = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128

    def run(i: int) -> torch.Tensor:
        turned = weights[i % len(weights)].t()
        return scaled_mm(x, turned, of_x, one, of_weights, square, output_dtype=torch.bfloat16)[:m]

    def exact() -> torch.Tensor:
        high, wide = checked_part(m, n, k)
        each = of_weights[:blocks].t().double().repeat_interleave(BLOCK, 0)[-wide:]
        matrix = weights[0][-wide:].double() * each.repeat_interleave(BLOCK, 1)
        last = slice(m - high, m)
        return (x[last].double() * of_x[last].double().repeat_interleave(BLOCK, 1)) @ matrix.t()

    return Kernel(run, exact, name="torch.scaled_mm")


def _by_group(place: Place, m: int, n: int, k: int) -> Kernel:
    """A scale per 16 or 32 elements of a row; of fp4 two elements are in a byte, the first one below."""
    import torch
    from torch.nn.functional import ScalingType, SwizzleType, scaled_mm

    size, stored = GROUP[place.dtype], k // 2 if place.dtype in PACKED else k
    x, weights = place.random(m, stored), place.cold(n, stored)
    scales = [_of_groups(place, rows, k // size) for rows in (m, n)]
    of_x, of_weights = map(in_tiles, scales)
    copies = of_weights.view(torch.uint8).repeat(len(weights), 1).view(of_weights.dtype)  # as cold as weights
    group = ScalingType.BlockWise1x16 if size == GROUP[NVFP4] else ScalingType.BlockWise1x32
    tiles = SwizzleType.SWIZZLE_32_4_4

    def run(i: int) -> torch.Tensor:
        at = i % len(weights)
        return scaled_mm(
            *(x, weights[at].t(), of_x, group, copies[at], group, tiles, tiles), output_dtype=torch.bfloat16
        )

    def exact() -> torch.Tensor:
        a, b = (
            _decoded(codes[-last:]) * _decoded(scale[-last:]).repeat_interleave(size, 1)
            for codes, scale, last in zip((x, weights[0]), scales, checked_part(m, n, k), strict=True)
        )
        return a @ b.t()

    return Kernel(run, exact, name="torch.scaled_mm")


def in_tiles(scales: torch.Tensor) -> torch.Tensor:
    """[rows, columns] scales as cuBLAS reads them: tiles of 128 x 4, padded, each of 32 x 4 x 4."""
    import torch

    (rows, columns), (high, wide) = scales.shape, TILE
    padded = torch.zeros(_up(rows, high), _up(columns, wide), dtype=torch.uint8, device=scales.device)
    padded[:rows, :columns] = scales.view(torch.uint8)
    parts = padded.view(len(padded) // high, 4, high // 4, padded.shape[1] // wide, wide)
    return parts.permute(0, 3, 2, 1, 4).flatten().view(scales.dtype)


def _decoded(codes: torch.Tensor) -> torch.Tensor:
    """The numbers of packed fp4, of e8m0 or of fp8 in fp64."""
    import torch

    if codes.dtype == torch.float8_e8m0fnu:
        return torch.exp2(codes.view(torch.uint8).double() - EXPONENT)
    if codes.dtype != torch.float4_e2m1fn_x2:
        return codes.double()
    values = torch.tensor((*E2M1, *(-value for value in E2M1)), dtype=torch.float64, device=codes.device)
    octets = codes.view(torch.uint8).long()
    return values[torch.stack((octets & 15, octets >> 4), -1).flatten(-2)]


def _scales(place: Place, rows: int, columns: int) -> torch.Tensor:
    """Scales about one; each differs, so that a wrong layout is a wrong result."""
    import torch

    return 0.5 + torch.rand(rows, columns, device=place.device)


def _of_groups(place: Place, rows: int, columns: int) -> torch.Tensor:
    """Scales of groups in the format that goes with that of the elements."""
    import torch

    if place.dtype == NVFP4:
        return _scales(place, rows, columns).to(torch.float8_e4m3fn)
    powers = torch.randint(EXPONENT - 1, EXPONENT + 2, (rows, columns), device=place.device)
    return powers.to(torch.uint8).view(torch.float8_e8m0fnu)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
