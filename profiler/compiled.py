"""A model's step under torch.compile: compile time, and the operators of each compiled kernel.

Ranges do not survive compilation. Instead, hooks in torch's code generation record each kernel call with its
origin nodes in the graph, which give its operators (`profiler/origins.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from profiler.attending import masked_as_launched
from profiler.forward import Step, greedy
from profiler.origins import operators_of
from profiler.parts.base import FRAMEWORK
from profiler.subject import out_of_memory
from profiler.wrapping import replaced
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.subject import Subject

UNCACHED = {"fx_graph_cache": False}  # a cached graph generates no code, and no call would be recorded
ON_CPU = {"cpp.enable_kernel_profile": True}  # the profiler records device kernels without this
# Views: nodes that compute nothing.
VIEWS = frozenset(
    [
        *("reshape", "view", "_unsafe_view", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze"),
        *("slice", "select", "alias"),
    ]
)


@dataclass(frozen=True)
class Site:
    """One call in the compiled code: its name in the profiler, and its operators."""

    name: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class _Call:
    """A recorded call, with its origin nodes."""

    name: str
    nodes: tuple[Any, ...]
    library: bool  # a library's function: computes a single node


def refuse_uncompilable(device: str) -> None:
    """InputError where torch.compile has no compiler for a device; checked before any long work."""
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        if not has_triton():
            raise InputError(
                "torch.compile needs Triton on CUDA, which does not work here; pip install triton."
            )
        return
    asked = os.environ.get("CXX", "")
    if not any(map(shutil.which, filter(None, (asked, "g++", "clang++")))):
        raise InputError(
            "torch.compile needs a C++ compiler on a CPU, and none is on PATH; install g++, or set CXX."
        )


class CompiledStep:
    """A step compiled by torch.compile. Its cache must have a fixed size (`forward.fixed_step`)."""

    def __init__(self, subject: Subject, run: Step) -> None:
        """Compile a step and run it once. Raises InputError where torch cannot compile it."""
        import torch

        self.subject = subject
        self.sites: list[Site] = []
        self.graphs = 0
        self._function = torch.compile(_own_code(run), backend=self._compile, dynamic=False)
        breaks = Counter(_breaks())
        begin = time.perf_counter()
        try:
            self(greedy)
            if subject.device.startswith("cuda"):
                torch.cuda.synchronize(subject.device)
        except Exception as error:  # the compiler raises many kinds
            if out_of_memory(error):
                raise
            raise InputError(
                f"torch.compile cannot compile {subject.loaded.model.name} here ({_first_line(error)})."
            ) from None
        self.compile_s = time.perf_counter() - begin
        self.breaks = Counter(_breaks())
        self.breaks.subtract(breaks)
        self.breaks = +self.breaks
        self._graphs_at_first = self.graphs

    def __call__(self, sampler: Callable[[Any], Any]) -> Any:
        """Run the compiled step; another sampler than `greedy` is compiled when it is first used."""
        with masked_as_launched():  # at each call, as torch's guards check it again
            return self._function(sampler)

    @property
    def recompilations(self) -> int:
        """Graphs compiled after the first run, within measured times."""
        return self.graphs - self._graphs_at_first

    def _compile(self, graph: Any, inputs: Any) -> Any:
        """torch.compile's default backend, with calls recorded."""
        import torch._functorch.config as functorch
        import torch._inductor.config as inductor
        from torch._inductor.compile_fx import compile_fx

        calls: list[_Call] = []
        named = operators_of(graph.graph.nodes, self.subject)
        config = UNCACHED if self.subject.device.startswith("cuda") else {**UNCACHED, **ON_CPU}
        with inductor.patch(config), functorch.patch(enable_autograd_cache=False), _heard(calls):
            made = compile_fx(graph, inputs)
        self.graphs += 1
        self.sites += _sites(calls, named)
        return made


def _own_code(function: Any) -> Any:
    """A copy of the function with its own code object: torch.compile caches by code, and points differ."""
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def _breaks() -> dict[str, int]:
    from torch._dynamo.utils import counters

    return dict(counters["graph_break"])


@contextmanager
def _heard(calls: list[_Call]) -> Iterator[None]:
    """Append every kernel call that the compiler generates in the block to `calls`, in order.

    Where a version of torch lacks the hooked functions, nothing is recorded and kernels have no operator.
    """
    with ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            from torch._inductor.codegen.cpp import CppScheduling
            from torch._inductor.codegen.triton import TritonScheduling
            from torch._inductor.ir import ExternKernel

            for scheduling in (CppScheduling, TritonScheduling):
                stack.enter_context(replaced(scheduling, "define_kernel", _hears_kernels(calls)))
            stack.enter_context(replaced(ExternKernel, "codegen_comment", _hears_libraries(calls)))
        yield


def _hears_kernels(calls: list[_Call]) -> Callable[[Any], Any]:
    def wrap(function: Any) -> Any:
        def define(self: Any, source: str, schedule: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            name = function(self, source, schedule, *args, **kwargs)
            made = (getattr(entry, "node", None) for entry in schedule)
            nodes = dict.fromkeys(node for each in made if each is not None for node in each.origins)
            calls.append(_Call(str(name), tuple(nodes), library=False))
            return name

        return define

    return wrap


def _hears_libraries(calls: list[_Call]) -> Callable[[Any], Any]:
    def wrap(function: Any) -> Any:
        def comment(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(_Call(_library_name(self), _own_node(self), library=True))
            return function(self, *args, **kwargs)

        return comment

    return wrap


def _library_name(kernel: Any) -> str:
    """The profiler's name of a call of torch's own functions, as `aten::mm`."""
    overload = getattr(kernel, "op_overload", None)
    if overload is not None and hasattr(overload, "_schema"):
        return str(overload._schema.name)
    words = str(getattr(kernel, "python_kernel_name", "") or "").removeprefix("torch.ops.").split(".")
    space = words[0] if len(words) > 2 else "aten"
    return f"{space}::{words[1] if len(words) > 2 else words[-1]}"


def _own_node(kernel: Any) -> tuple[Any, ...]:
    """The single node that a library's function computes; its inputs' nodes are listed with it."""
    if getattr(kernel, "origin_node", None) is not None:
        return (kernel.origin_node,)
    packet = getattr(getattr(kernel, "op_overload", None), "overloadpacket", None)
    return tuple(node for node in kernel.origins if getattr(node.target, "overloadpacket", None) is packet)


def _sites(calls: Sequence[_Call], named: dict[str, str]) -> Iterator[Site]:
    """The operators of each call; those of a kernel that recomputes another's are the ones it adds.

    A kernel that only prepares what a library's function reads has that function's operator.
    """
    elsewhere = {node for call in calls if call.library for node in call.nodes}
    done: set[Any] = set()
    for call in calls:
        computing = [node for node in call.nodes if not _is_view(node)]
        nodes = [node for node in computing if call.library or node not in elsewhere]
        new = [node for node in nodes if node not in done]
        done.update(nodes)
        operators = _operators(new, named) or _operators(nodes, named) or _operators(computing, named)
        yield Site(call.name, operators)


def _operators(nodes: Iterable[Any], named: dict[str, str]) -> tuple[str, ...]:
    """Operators of the model; the framework's only where there are no others, as tables fuse into readers."""
    found = tuple(dict.fromkeys(filter(None, (named.get(_captured(node)) for node in nodes))))
    return tuple(name for name in found if not name.startswith(FRAMEWORK)) or found


def _captured(node: Any) -> str:
    """The name of the captured graph's node that a node of the compiler's graph originates from."""
    source = node.meta.get("from_node") or ()
    if not source:
        return ""
    return str(getattr(source[0], "name", None) or source[0][0])


def _is_view(node: Any) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet, "__name__", "") in VIEWS


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "inner_exception", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0].rstrip('.:')}" if lines else type(cause).__name__
