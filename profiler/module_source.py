"""The module and the inputs that a user's function makes, on a device or without data.

Only the function that the user names is imported from the current directory. Errors of its code become one
sentence.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfiles.errors import InputError, choose

if TYPE_CHECKING:
    import torch

USERS = (Exception, SystemExit)  # a user's script may exit when imported
SPREAD = 0.02  # standard deviation of weights without values


@dataclass(frozen=True)
class Built:
    """A module in eval mode and its inputs, on one device."""

    target: str
    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """One pass."""
        return self.module(*self.args, **self.kwargs)


def names_module(words: str) -> bool:
    """Whether `words` is module:function and not an existing file."""
    return re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*", words) is not None and not Path(words).exists()


def built(target: str, device: str) -> Built:
    """Call `module:function`, which returns (module, inputs), on a device.

    `inputs` is a tensor, a sequence (positional), a mapping (by name), or a function that returns one of
    these. On any device but meta, tensors without data get random data. Raises InputError where the function
    cannot be imported or fails.
    """
    import torch
    from torch.utils._pytree import tree_map_only

    function = _imported(target)
    with attempt(target, "building it"), torch.device(device):
        made = function()
        shaped = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)
        if not shaped:
            size = f" of {len(made)}" if isinstance(made, tuple) and len(made) != 2 else ""
            raise InputError(
                f"{target} returned {type(made).__name__}{size}; expected (module, inputs) with a "
                "torch.nn.Module, and inputs as one tensor, a tuple of arguments or a dict of named ones."
            )
        module, inputs = made
        inputs = inputs() if callable(inputs) and not isinstance(inputs, torch.Tensor) else inputs
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, tuple | list | dict):
        raise InputError(
            f"{target} returned inputs of type {type(inputs).__name__}; "
            "expected a tensor, a tuple or a mapping."
        )
    with attempt(target, f"moving it to {device}"), torch.no_grad():
        inputs = tree_map_only(torch.Tensor, lambda tensor: _placed(tensor, device), inputs)
        module = _module_on(module, device, target).eval()
    if isinstance(inputs, dict):
        return Built(target, module, (), inputs)
    return Built(target, module, tuple(inputs), {})


def _module_on(module: torch.nn.Module, device: str, target: str) -> torch.nn.Module:
    """The module on the device; weights on the meta device get small random values."""
    tensors = [*module.parameters(), *module.buffers()]
    bare = sum(tensor.is_meta for tensor in tensors)
    if device == "meta" or not bare:
        return module.to(device)
    if bare < len(tensors):
        raise InputError(
            f"{target} makes {bare} of {len(tensors)} weights and buffers on the meta device; "
            "make all of them there or none."
        )
    module = module.to_empty(device=device)
    for tensor in (*module.parameters(), *module.buffers()):
        _fill(tensor, SPREAD)
    return module


def _placed(tensor: torch.Tensor, device: str) -> torch.Tensor:
    import torch

    if device == "meta" or not tensor.is_meta:
        return tensor.to(device)
    return _fill(torch.empty_like(tensor, device=device), 1.0)


def _fill(tensor: torch.Tensor, spread: float) -> torch.Tensor:
    """Normal values; zeros for integers, which may be indices."""
    if not tensor.is_floating_point():
        return tensor.zero_()
    values = tensor.new_empty(tensor.shape) if tensor.element_size() > 1 else tensor.float()
    return tensor.copy_(values.normal_(0.0, spread))


def _imported(target: str) -> Callable[[], Any]:
    name, _, function = target.partition(":")
    if not name or not function:
        raise InputError(f"{target!r} names no function; expected module:function, as in my_model:build.")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise InputError(f"importing {name} failed: {error}.") from None
        raise InputError(f"no module named {name!r} in {here} or among the installed ones.") from None
    except USERS as error:
        raise InputError(f"importing {name} failed: {_first_line(error)}.") from None
    finally:
        sys.path.remove(here)
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise choose(function, known, f"function of {name}")
    return found  # type: ignore[no-any-return]


@contextmanager
def attempt(target: str, doing: str) -> Iterator[None]:
    """Convert errors of the user's code to an InputError of one sentence."""
    try:
        yield
    except InputError:
        raise
    except USERS as error:
        text = _first_line(error)
        if any(word in text for word in ("meta tensor", "data-dependent", "item()", "aten::nonzero")):
            text = f"its control flow depends on data, which a meta tensor does not have ({text})"
        if "autocast device_type 'meta'" in text:
            text = "there is no torch.autocast there; cast the module and its inputs instead"
        raise InputError(f"{target}: {doing} failed: {text}.") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
