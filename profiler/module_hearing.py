"""Intercept every operation of a module's pass: dispatched ones, and fused attention as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

Run = Callable[[], Any]


class Listener(Protocol):
    """Runs each intercepted operation and returns its result."""

    def operation(self, run: Run, func: Any, args: Any, kwargs: Any) -> Any:
        """A dispatched operation."""

    def attention(self, run: Run, query: Any, key: Any, value: Any, mask: Any, causal: bool) -> Any:
        """A fused attention; its parts are not intercepted."""


@contextmanager
def plainly(device: str) -> Iterator[None]:
    """Run passes without gradients and without kernels that fuse whole layers, intercepted or not.

    Tensors that a module's own code creates are on the device by default.
    """
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.enter_context(torch.no_grad())
        if device != "cpu":  # the default, and setting it costs time at every call
            stack.enter_context(torch.device(device))
        yield


@contextmanager
def hearing(listener: Listener) -> Iterator[None]:
    """Intercept every operation in the block."""
    from torch.nn import functional

    operations = _operations(listener)
    original = functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        causal = bool(kwargs.get("is_causal", args[1] if len(args) > 1 else False))
        run = partial(original, query, key, value, attn_mask, *args, **kwargs)
        operations.paused = True
        try:
            return listener.attention(run, query, key, value, attn_mask, causal)
        finally:
            operations.paused = False

    functional.scaled_dot_product_attention = attend
    try:
        with operations:
            yield
    finally:
        functional.scaled_dot_product_attention = original


def _operations(listener: Listener) -> Any:
    """A dispatch mode that intercepts every operation unless paused."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):  # type: ignore[misc]
        paused = False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            run = partial(func, *args, **(kwargs or {}))
            return run() if self.paused else listener.operation(run, func, args, kwargs or {})

    return Operations()
