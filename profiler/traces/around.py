"""The context of a row of a trace: its enclosing ranges, and the step and layer that they name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from profiler.traces.columns import NONE
from profiler.traces.nesting import PIECE
from profiler.traces.sound import constant
from profiler.traces.steps import StepFacts, step_facts
from profiler.traces.tables import Trace

LAYER = re.compile(r"(?:\w*(?:Layer|Block)_|(?:^|[./: ])(?:layers?|blocks?|h)[._](?=\d))(\d{1,4})(?:\D|$)")


class Ranges:
    """The ranges of a trace, and look-ups of a row's enclosing ranges."""

    def __init__(self, trace: Trace) -> None:
        self.parent = trace.column("ranges", "parent")
        self.name = trace.column("ranges", "name")
        self.words = [*trace.words("ranges", "name"), ""]  # code -1: no name
        kinds = trace.words("ranges", "kind")
        self.kind = trace.column("ranges", "kind")
        self.kinds = {kind: code for code, kind in enumerate(kinds)}
        self.facts = [step_facts(word) for word in self.words]
        self.layers = np.array([_layer(word) for word in self.words], np.int32)

    def is_kind(self, *kinds: str) -> Any:
        """A mask of the ranges of these kinds."""
        return np.isin(self.kind, [self.kinds[k] for k in kinds if k in self.kinds])

    def up(self, rows: Any, good: Any) -> Any:
        """The innermost range at or around each row for which `good` holds; -1 where there is none."""
        if not len(good):
            return constant(np.int32(NONE), len(rows))
        found = np.empty(len(rows), np.int32)
        for first in range(0, len(rows), PIECE):
            piece = rows[first : first + PIECE]
            while (lost := (piece >= 0) & ~good[np.maximum(piece, 0)]).any():
                piece = np.where(lost, self.parent[piece], piece)
            found[first : first + PIECE] = piece
        return found

    def steps(self, trace: Trace) -> tuple[Any, list[StepFacts]]:
        """The step of each activity and the facts of each step, from annotations around the launch."""
        says = np.array([f.known for f in self.facts], bool)[self.name] & ~self.is_kind("operator")
        steps = says | self.is_kind("step")
        launch, around = trace.column("activities", "launch"), trace.column("activities", "range")
        called = np.append(trace.column("launches", "range"), np.int32(NONE))[launch]
        rows = self.up(np.where(called >= 0, called, around), steps)  # not of the capture, but of the replay
        known = np.zeros(len(steps) + 1, bool)
        known[rows] = True  # the last is for no step
        known[-1] = False
        number = np.cumsum(known, dtype=np.int32) - 1
        number[-1] = NONE
        return number[rows], [self.facts[self.name[row]] for row in np.flatnonzero(known)]

    def module_layers(self, rows: Any) -> Any:
        """The layer number in the names of the ranges around each row; -1 where there is none."""
        if not len(self.name):
            return constant(np.int32(NONE), len(rows))
        numbered = (self.layers[self.name] >= 0) & ~self.is_kind("operator")
        row = self.up(rows, numbered)
        return np.append(self.layers[self.name], np.int32(NONE))[row]

    def operators(self, rows: Any, around: Any) -> Any:
        """The code of each row's operator name: of the range `around` it that gave its work, else of the
        innermost operator, else of a range other than a step; -1 without any."""
        operator = self.up(rows, self.is_kind("operator"))
        says = np.array([f.known for f in self.facts], bool)[self.name]
        plain = self.up(rows, self.is_kind("annotation", "nvtx") & ~says)
        row = np.where(around >= 0, around, np.where(operator >= 0, operator, plain))
        return np.append(self.name, np.int32(NONE))[row]


def _layer(word: str) -> int:
    found = LAYER.search(word)
    return int(found.group(1)) if found else NONE
