"""The operator of each node of a captured graph, by its module and the modules around it.

Compilation records the stack of modules and of source lines of a node. The table of families
(`profiler/ranges.py`) maps modules, and gaps between modules, to operators: the same names as those of
ranges in an eager run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from profiler.instrument import CORE, ROPE, ROTATIONS
from profiler.module_paths import callable_at, has, module_at, parts_inside
from profiler.parts.base import INPUTS, Family
from profiler.ranges import EMBEDDING, family
from profiler.ranks.share import MET
from profiler.subject import core_names

if TYPE_CHECKING:
    from profiler.subject import Subject

MEETING = re.compile(r'share\.py", line \d+, in forward')
CALLS = ("call_function", "call_method", "call_module")
ATTENDING = "attention_forward"  # suffix of transformers' attention functions
CACHING = re.compile(r'cache\.py", line \d+, in update$', re.MULTILINE)
INDEX = re.compile(r"\._modules\['(\w+)'\]|\[(\d+)\]")


def operators_of(nodes: Iterable[Any], subject: Subject) -> dict[str, str]:
    """Operators by node name, of the nodes that have one.

    `nodes` are those of a graph captured by torch.compile, in program order.
    """
    placing = _Placing(family(subject.loaded.model), subject)
    named = ((node.name, placing.operator(node)) for node in nodes if node.op in CALLS)
    return {name: operator for name, operator in named if operator}


class _Placing:
    """Walks a graph in order: a gap is identified by the module that ended before it."""

    def __init__(self, parts: Family, subject: Subject) -> None:
        self.parts, self.subject = parts, subject
        self.cores = core_names(subject.loaded.model)
        self.ended = ""  # the module of the layer that ran last, relative to the layer
        self.outside = ""  # the operator outside the layers that ran last
        self.preparing = False  # in a method after which inputs are prepared
        self.widening = False  # behind the module after which each stream becomes the embedding
        self.attended = ""  # the attention that ran after the last module
        self.attends = False  # between cache update and end of attention, in the model's own code

    def operator(self, node: Any) -> str | None:
        """The operator of the next node."""
        path = module_path(node)
        if path is None:
            return self.parts.sampling if self.ended else None  # after the network
        trace = str(node.meta.get("stack_trace") or "")
        if (around := self._around_layers(path, trace)) is not None:
            return around
        if within := any(one.widens[0] and _within(path, one.widens[0]) for one in self.parts.stacks):
            self.widening = True
        for stack, names in zip(self.parts.stacks, self.subject.layer_names, strict=True):
            if path.startswith(f"{stack.layers}."):
                index, _, inner = path.removeprefix(f"{stack.layers}.").partition(".")
                found = self._in_layer(stack, int(index), inner, trace)
                return found and names[int(index)].of(found)
        behind = {name: filling for one in self.parts.stacks for name, filling in one.behind.items()}
        before = self.parts.widened if self.widening and not within else INPUTS
        return behind.get(self.outside) or (None if self.ended else before)

    def _around_layers(self, path: str, trace: str) -> str | None:
        """The operator of a module or method outside the layers; None where there is none."""
        if MEETING.search(trace) and not any(path.startswith(one.layers) for one in self.parts.stacks):
            module = path.partition("._forward_hooks")[0]  # in whose hook it runs
            path = f"{module.rpartition('.')[0]}.{MET}".lstrip(".")
        network, stacks = self.subject.network, self.parts.stacks
        preparing = any(_in_method(network, part, path, trace) for one in stacks for part in one.prepares)
        if self.preparing and not preparing:
            self.outside = ""
        self.preparing = preparing
        early = [one.early for one in stacks if not self.ended]  # before the layers
        for part, name in (pair for one in stacks for pair in (*filter(all, early), *one.outside.items())):
            if _within(path, part) or _in_method(network, part, path, trace):
                self.outside = name
                if name.rpartition(".")[2] in EMBEDDING:
                    self.ended = ""  # a stack begins
                return name
        return None

    def _in_layer(self, stack: Family, layer: int, inner: str, trace: str) -> str | None:
        """The operator of a node of a layer's module `inner`, or of the layer's own code where empty."""
        if MEETING.search(trace):  # runs in a hook of the product before it
            inner = f"{inner.partition('.')[0]}.{MET}"
        module = module_at(self.subject.network, f"{stack.layers}.{layer}")
        inside = parts_inside(stack, module)
        for part in sorted(inside.modules, key=len, reverse=True):
            if (called := _in_method(module, part, inner, trace)) or _within(inner, part):
                self.ended, self.attended = part if called else inner, ""
                self.attends = self.attends and not _within(inner, stack.attends_until)
                return inside.modules[part]
        of_module = (name for path, name in stack.attending.items() if _within(inner, path))
        core = next(of_module, "") or ("" if stack.attending else self.cores[layer])
        if (called_by_name := self._in_function(stack, inner, trace, core)) is not None:
            return called_by_name
        if self.attends and inner == stack.attends_until.rpartition(".")[0]:
            return core
        gaps = [
            gap
            for gap in inside.gaps
            if _within(self.ended, gap.after)
            and (not _within(inner, gap.after) or inner == gap.after == gap.before)
        ]
        if gaps:
            return max(gaps, key=lambda gap: len(gap.after)).name
        behind = stack.behind  # a layer may have its own name of attention
        return behind.get(self.attended) or (behind.get(CORE) if self.attended else None)

    def _in_function(self, stack: Family, inner: str, trace: str, core: str) -> str | None:
        """The operator of a function that models look up by name; None in the code of modules."""
        crosses = bool(core) and core.rpartition(".")[0] == stack.memory_append.rpartition(".")[0]
        for function, name in (
            (CACHING, stack.memory_append if crosses else stack.append),
            *((_named(function), name) for function, name in stack.functions.items()),
            (_named(*ROTATIONS), stack.rotations.get(inner, ROPE)),
            (ATTEND, core),
        ):
            if function.search(trace):
                self.attends = name == stack.append and bool(stack.attends_until)
                self.attended = name if name == core else ""
                return name
        return None


def module_path(node: Any) -> str | None:
    """The innermost module's path in the model, as `model.layers.3.mlp`; None outside all modules."""
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    if not stack:
        return None
    path = str(stack[-1]).removeprefix(str(stack[0]))
    return INDEX.sub(lambda found: f".{found.group(1) or found.group(2)}", path).lstrip(".")


def _named(*functions: str) -> re.Pattern[str]:
    return re.compile(rf"in (?:{'|'.join(functions)})$", re.MULTILINE)


ATTEND = re.compile(rf"in \w*{ATTENDING}$", re.MULTILINE)


def _in_method(root: Any, part: str, path: str, trace: str) -> bool:
    """Whether `part` is a method, and a node of a module inside its owner was made in it."""
    owner, _, method = part.rpartition(".")
    if (owner and not _within(path, owner)) or not has(root, part) or callable_at(root, part)[1] != method:
        return False
    return bool(_named(method).search(trace))


def _within(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")
