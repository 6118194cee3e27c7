"""Any torch.nn.Module as a model: one pass on the meta device, every aten operation an operator of ours.

The user's function is imported from the current directory because the user names it; nothing else is.
No weight is made and nothing is computed: tensors on the meta device have shapes only.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from profiler.aten import DTYPES, Counting, Weights, dtype_name
from specfiles.errors import InputError, choose
from workloads.blocks import Block, Part, Place
from workloads.model import UNLIMITED, Model, Stack
from workloads.operators import Attention, Operator
from workloads.operators.traced import Traced

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Calls(Block):
    """The operators that were seen, in order."""

    rows: tuple[tuple[str, Operator], ...]

    def parts(self, place: Place) -> Iterator[Part]:
        """Each call; equal ones under one name become one row."""
        for name, operator in self.rows:
            yield name, operator, operator


@dataclass(frozen=True)
class TracedModel(Model):
    """A module whose one pass at one size was traced."""

    phases: ClassVar[tuple[str, ...]] = ("prefill",)
    manner: ClassVar[str] = "is a traced module, of which one pass is predicted"


@dataclass(frozen=True)
class TracePass:
    """A traced model, the format of most of its matrix products, and what a reader must know."""

    model: Model
    dtype: str
    notes: tuple[str, ...]


def trace(target: str, causal_exact: bool = True) -> TracePass:
    """Trace `module:function` of the current directory; the function returns (module, inputs).

    `inputs` is a tensor, a sequence (positional), a mapping (by name), or a function that returns one of
    these. Raises InputError where nothing can be imported, built or run without data.
    """
    module, args, kwargs = _built(target)
    weights = Weights(module)
    recorder = _Recorder(module, Counting(weights), causal_exact)
    with _attempt(target, "running it on the meta device"):
        recorder.run(args, kwargs)
    rows, unused = recorder.rows, weights.unused()
    notes = ["one pass of the inputs given; tokens per second are passes per second"]
    if recorder.counting.unknown:
        listed = ", ".join(f"{name} (x{n})" for name, n in sorted(recorder.counting.unknown.items()))
        notes.append(f"counted as memory traffic alone, because their FLOP are not known: {listed}")
    if unused[0]:
        rows.append(("unused_parameters", Traced("none", 0, 0, 0, owned=unused[0], owned_bytes=unused[1])))
        notes.append(f"{unused[0]} parameters are in memory and not used by this pass")
    stack = Stack(0, (), inputs=(Calls(tuple(rows)),))
    return TracePass(TracedModel(target, "traced", 0, UNLIMITED, stack), _common(rows), tuple(notes))


def _common(rows: list[tuple[str, Operator]]) -> str:
    """The format in which most FLOP of matrix products are done."""
    flops: dict[str, float] = {}
    for _, operator in rows:
        work = operator.work()
        flops[str(work.dtype)] = flops.get(str(work.dtype), 0.0) + float(work.matrix_flops)
    return max(flops, key=flops.__getitem__, default="fp32")


class _Recorder:
    """Hears every operation of a module's forward pass."""

    def __init__(self, module: torch.nn.Module, counting: Counting, causal_exact: bool) -> None:
        self.module, self.counting, self.causal_exact = module, counting, causal_exact
        self.names = {id(part): _collapsed(name) for name, part in module.named_modules()}
        self.path: list[str] = [""]
        self.rows: list[tuple[str, Operator]] = []
        self.paused = False

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One pass."""
        import torch
        from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        with ExitStack() as stack:
            stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
            stack.callback(register_module_forward_pre_hook(self._enter).remove)
            stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.device("meta"))
            stack.enter_context(_attention_heard(self))
            stack.enter_context(_operations_heard(self))
            self.module(*args, **kwargs)

    def _enter(self, module: Any, _: Any) -> None:
        self.path.append(self.names.get(id(module), self.path[-1]))

    def _leave(self, *_: Any) -> None:
        self.path.pop()

    def add(self, name: str, operator: Operator | None) -> None:
        """One more row under the module that is running."""
        if operator is not None:
            self.rows.append((f"{self.path[-1]}.{name}" if self.path[-1] else name, operator))

    def attention(self, query: Any, key: Any, value: Any, mask: Any, causal: bool) -> None:
        """A fused attention; a mask of any pattern is read, and all its pairs are counted."""
        batch = query.shape[:-3].numel() if query.dim() > 3 else 1
        heads, kv_heads = (t.shape[-3] if t.dim() > 2 else 1 for t in (query, key))
        q_len, kv_len, dtype = query.shape[-2], key.shape[-2], DTYPES.get(dtype_name(query), "fp32")
        if causal:  # torch aligns its triangle with the first key: later keys are seen by none
            kv_len = min(kv_len, q_len)
        operator = Attention(
            batch,
            q_len,
            kv_len,
            heads,
            kv_heads,
            query.shape[-1],
            dtype,
            dtype,
            causal=causal,
            causal_exact=self.causal_exact,
            value_dim=value.shape[-1],
            cached=False,
        )
        self.add("scaled_dot_product_attention", operator)
        if mask is not None:
            self.add("attention_mask", Traced("attention_mask", mask.nbytes, 0, 0))


@contextmanager
def _attention_heard(recorder: _Recorder) -> Iterator[None]:
    """Attention is one operator, whoever calls it; otherwise the meta device shows its parts."""
    from torch.nn import functional

    original = functional.scaled_dot_product_attention

    def heard(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        causal = bool(kwargs.get("is_causal", args[1] if len(args) > 1 else False))
        recorder.paused = True
        try:
            result = original(query, key, value, attn_mask, *args, **kwargs)
        finally:
            recorder.paused = False
        recorder.attention(query, key, value, attn_mask, causal)
        return result

    functional.scaled_dot_product_attention = heard
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _operations_heard(recorder: _Recorder) -> Any:
    """A mode under which every operation that is dispatched becomes a row."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if not recorder.paused:
                name = str(func.overloadpacket).removeprefix("aten.")
                recorder.add(name, recorder.counting.operator(func, args, kwargs or {}, result))
            return result

    return Operations()


def _collapsed(path: str) -> str:
    """A module's path without the numbers of layers, which share a row where they are alike."""
    return ".".join(part for part in path.split(".") if not part.isdigit())


def _built(target: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    import torch
    from torch.utils._pytree import tree_map_only

    function = _imported(target)
    with _attempt(target, "building it"), torch.device("meta"):
        made = function()
        shaped = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)
        if not shaped:
            raise InputError(
                f"{target} returned {type(made).__name__}; expected (module, inputs) with a torch.nn.Module."
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
    inputs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), inputs)
    module = module.to("meta").eval()
    return (module, (), inputs) if isinstance(inputs, dict) else (module, tuple(inputs), {})


def _imported(target: str) -> Callable[[], Any]:
    name, _, function = target.partition(":")
    if not name or not function:
        raise InputError(f"--from-module is {target!r}; expected module:function, as in my_model:build.")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise InputError(f"importing {name} failed: {error}.") from None
        raise InputError(f"no module named {name!r} in {here} or among the installed ones.") from None
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"importing {name} failed: {_first_line(error)}.") from None
    finally:
        sys.path.remove(here)
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise choose(function, known, f"function of {name}")
    return found  # type: ignore[no-any-return]


@contextmanager
def _attempt(target: str, doing: str) -> Iterator[None]:
    """Whatever the user's code raises, as one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = _first_line(error)
        if any(word in text for word in ("meta tensor", "data-dependent", "item()", "aten::nonzero")):
            text = f"its control flow depends on data, which a meta tensor does not have ({text})"
        raise InputError(f"{target}: {doing} failed: {text}.") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
