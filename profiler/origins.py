"""Which operator each node of a captured graph belongs to, by the module it ran in and the modules around it.

Compilation keeps of a node the modules that were running and the lines of code that made it. The table of
families (`profiler/ranges.py`) says which module, or which gap between two modules, is which operator: the
same names that ranges have in a run without compilation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from profiler.instrument import ROPE, ROTATIONS
from profiler.parts.base import INPUTS, Family
from profiler.ranges import family
from profiler.ranks.share import SUM
from profiler.subject import core_names

if TYPE_CHECKING:
    from profiler.subject import Subject

SUMMING = re.compile(r'share\.py", line \d+, in forward')
CALLS = ("call_function", "call_method", "call_module")
ATTENDING = "attention_forward"  # ends the name of every function that attends, in transformers
CACHING = re.compile(r'cache\.py", line \d+, in update')
INDEX = re.compile(r"\._modules\['(\w+)'\]|\[(\d+)\]")


def operators_of(nodes: Iterable[Any], subject: Subject) -> dict[str, str]:
    """The operator of each node that belongs to one, by the node's name.

    `nodes` are those of a graph as torch.compile captured it, in the order of the program.
    """
    placing = _Placing(family(subject.loaded.model), core_names(subject.loaded.model))
    named = ((node.name, placing.operator(node)) for node in nodes if node.op in CALLS)
    return {name: operator for name, operator in named if operator}


class _Placing:
    """Walks a graph in order: a gap is known by the module that ended before it."""

    def __init__(self, parts: Family, cores: list[str]) -> None:
        self.parts, self.cores = parts, cores
        self.modules = sorted(parts.modules.items(), key=lambda item: -len(item[0]))
        self.ended = ""  # the module of the layer that ran last, relative to the layer
        self.attends = False  # between the cache's update and what ends attention, in code of the model's own

    def operator(self, node: Any) -> str | None:
        """The operator of the next node."""
        path = module_path(node)
        if path is None:
            return self.parts.sampling if self.ended else None  # what follows the network
        for part, name in self.parts.outside.items():
            if _within(path, part):
                return name
        if not path.startswith(f"{self.parts.layers}."):
            return None if self.ended else INPUTS
        index, _, inner = path.removeprefix(f"{self.parts.layers}.").partition(".")
        return self._in_layer(int(index), inner, str(node.meta.get("stack_trace") or ""))

    def _in_layer(self, layer: int, inner: str, trace: str) -> str | None:
        if SUMMING.search(trace):  # it runs in a hook of the product whose terms it sums
            inner = f"{inner.partition('.')[0]}.{SUM}"
        for part, name in self.modules:
            if _within(inner, part):
                self.ended = inner
                self.attends = self.attends and not _within(inner, self.parts.attends_until)
                return name
        for function, name in (
            (CACHING, self.parts.append),
            (_named(*ROTATIONS), ROPE),
            (ATTEND, self.cores[layer]),
        ):
            if function.search(trace):
                self.attends = name == self.parts.append and bool(self.parts.attends_until)
                return name
        if self.attends and inner == self.parts.attends_until.rpartition(".")[0]:
            return self.cores[layer]
        gaps = [
            gap
            for gap in self.parts.gaps
            if _within(self.ended, gap.after)
            and (not _within(inner, gap.after) or inner == gap.after == gap.before)
        ]
        return max(gaps, key=lambda gap: len(gap.after)).name if gaps else None


def module_path(node: Any) -> str | None:
    """The innermost module that ran, as the model names it: `model.layers.3.mlp`; None outside of all."""
    stack = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    if not stack:
        return None
    path = str(stack[-1]).removeprefix(str(stack[0]))
    return INDEX.sub(lambda found: f".{found.group(1) or found.group(2)}", path).lstrip(".")


def _named(*functions: str) -> re.Pattern[str]:
    return re.compile(rf"in (?:{'|'.join(functions)})$", re.MULTILINE)


ATTEND = re.compile(rf"in \w*{ATTENDING}$", re.MULTILINE)


def _within(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")
