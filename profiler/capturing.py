"""Capture CUDA graphs, restoring PyTorch's state where a capture fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, device: str) -> Iterator[None]:
    """Capture the block's launches as a graph. Raises the block's error, if it has one.

    Ending a broken capture also fails, with an error that does not name the cause.
    """
    import torch

    pool = torch.cuda.graph_pool_handle()
    before = torch.cuda.current_stream(device)
    inside: Exception | None = None
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            try:
                yield
            except Exception as error:
                inside = error
                raise
    except Exception as error:
        torch.cuda.set_stream(before)  # as its end failed, PyTorch (at least to 2.13) stays on the capture's
        _recover(device, pool)
        raise inside or error from None


def _recover(device: str, pool: tuple[int, int]) -> None:
    """Reset what PyTorch (at least 2.6 to 2.11) does not reset where the end of a capture fails.

    The allocator continues as if capturing and releases no cached memory, and random number generation
    fails until another capture has ended.
    """
    import torch

    index = torch.device(device).index or 0
    with contextlib.suppress(AttributeError, RuntimeError, TypeError):  # private functions, which may change
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    with contextlib.suppress(RuntimeError):  # a lost device cannot capture
        number = torch.zeros(1, device=device)
        with torch.cuda.device(device), torch.cuda.graph(torch.cuda.CUDAGraph()):
            number.add_(1)
