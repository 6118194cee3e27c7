"""Capture CUDA graphs so that a capture that fails leaves PyTorch as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, device: str) -> Iterator[None]:
    """What is launched on the device inside becomes a graph. Raises what went wrong first.

    The end of a broken capture fails, too, and says only that something did.
    """
    import torch

    pool = torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            yield
    except Exception as error:
        _recover(device, pool)
        raise _first(error) from None


def _first(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _recover(device: str, pool: tuple[int, int]) -> None:
    """Undo what PyTorch (2.6 to 2.11 at least) leaves undone where the end of a capture fails.

    The allocator goes on as if something were captured and gives no cached memory back, and random numbers
    are refused until another capture has ended.
    """
    import torch

    index = torch.device(device).index or 0
    with contextlib.suppress(AttributeError, RuntimeError):  # functions of PyTorch's own, which may change
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    with contextlib.suppress(RuntimeError):  # a device that is lost captures nothing any more
        number = torch.zeros(1, device=device)
        with torch.cuda.device(device), torch.cuda.graph(torch.cuda.CUDAGraph()):
            number.add_(1)
