"""Attribution of activities: operator, kind, phase, layer, step, and the work of the operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.around import Ranges
from profiler.traces.capture import link_captures, without_captures
from profiler.traces.columns import NONE
from profiler.traces.counters import counted
from profiler.traces.executions import Executions
from profiler.traces.grouping import encoded, numbered, shared, worded
from profiler.traces.layers import ANCHORS, Sequence, layers_and_steps
from profiler.traces.model_match import Lengths, ModelMatch
from profiler.traces.rules import COMMUNICATION, NO_RULE, SPARSE, UNKNOWN, known_kernel
from profiler.traces.steps import StepFacts
from profiler.traces.tables import ATTRIBUTION, Trace
from profiler.traces.work import operator_rule
from workloads.model import Model
from workloads.operators import Attention
from workloads.step import Setting, Step

# Kinds less specific than the operator around a kernel.
VAGUE = ("host", "elementwise", "copy", "set", "index", "reduce", "residual", "other", UNKNOWN)


@dataclass(frozen=True)
class Question:
    """User input on a trace: the model, its setting, and lengths missing from the trace."""

    model: Model
    setting: Setting
    lengths: Lengths = Lengths()


def attribute(trace: Trace, question: Question | None = None) -> Trace:
    """The trace with its attribution table, a row per activity; with a model's operators if one is named."""
    found = Ranges(trace)
    step, facts = found.steps(trace)
    trace, captured = link_captures(trace, step, facts)
    shrunk = without_captures(trace)
    if shrunk is not trace:
        sources = shrunk.column("activities", "source")
        kept = np.isin(trace.column("activities", "source"), np.unique(sources))
        step, captured = step[kept], captured[kept]
    attribution = _Attribution(shrunk, found, step, facts, captured)
    done = attribution.trace()
    if question is not None:
        sizes = attribution.recorded_sizes(done.column("attribution", "step"))
        done = ModelMatch(done, question.model, question.setting, facts, sizes, question.lengths).run()
    return counted(done)


class _Attribution:
    """The labels of a trace's activities; Python loops run over distinct names and steps, not activities."""

    def __init__(self, base: Trace, ranges: Ranges, step: Any, facts: list[StepFacts], captured: Any) -> None:
        self.base, self.ranges, self.step, self.facts = base, ranges, step, facts
        self.runs = Executions(base, ranges, step, facts, captured)
        self.name, self.start = self.runs.name, self.runs.start
        self.known = [*(known_kernel(word) for word in base.words("activities", "name")), NO_RULE]
        self.activity = base.column("activities", "kind")
        self.activity_kinds = [*base.words("activities", "kind"), ""]

    def trace(self) -> Trace:
        """The trace with its attribution."""
        layer, step = self._sequence(self.ranges.module_layers(self.runs.range))
        found = {
            name: shared(ATTRIBUTION.field(name).type, values) for name, values in self._columns(layer, step)
        }
        arrays = [found[name] for name in ATTRIBUTION.names]
        return self.base.with_table("attribution", pa.table(arrays, names=ATTRIBUTION.names))

    def _columns(self, layer: Any, step: Any) -> Iterator[tuple[str, Any]]:
        """Columns by name, one at a time, as those of one value take little memory in a table."""
        yield "operator", worded(self.ranges.operators(self.runs.range, self.runs.around), self.ranges.words)
        yield "kind", self._kinds()
        yield "phase", self._phases(step)
        yield "layer", layer
        yield "step", step
        yield "instance", self.runs.instance
        yield from self.runs.columns()
        yield "warning", self._by_name([SPARSE if known.sparse else None for known in self.known])

    def recorded_sizes(self, step: Any) -> dict[int, Step]:
        """The pass of each step whose attention was recorded with the same sizes throughout."""
        passes = {
            at: Step(int(one.batch), int(one.q_len), int(one.kv_len))
            for at, one in self.runs.works.items()
            if isinstance(one, Attention) and one.q_len == int(one.q_len) and one.kv_len == int(one.kv_len)
        }
        rows = np.flatnonzero(np.isin(self.runs.combination, list(passes)) & (step >= 0))
        found: dict[int, set[Step]] = {}
        for number, at in {*zip(step[rows].tolist(), self.runs.combination[rows].tolist(), strict=True)}:
            found.setdefault(number, set()).add(passes[at])
        return {number: sizes.pop() for number, sizes in found.items() if len(sizes) == 1}

    def _by_name(self, words: list[str | None]) -> pa.DictionaryArray:
        """A word per kernel name as a column; the last is for activities without a name."""
        return worded(np.where(self.name < 0, len(words) - 1, self.name), words)

    def _kinds(self) -> pa.DictionaryArray:
        """The kind by kernel name, or by the operator around it where the name is unspecific."""
        ranges, around = self.ranges, self.runs.around
        outer = np.append(ranges.name, np.int32(NONE))[around]
        rules = {code: operator_rule(ranges.words[code]) for code in np.unique(outer[outer >= 0]).tolist()}
        by_range = self.runs.told | {code: rule.kind for code, rule in rules.items() if rule}
        code = numbered(self.name, self.activity, outer)
        first = np.full(code.max(initial=NONE) + 1, NONE, np.int64)
        first[code[::-1]] = np.arange(len(code), dtype=np.int32)[::-1]
        seen = (column[first].tolist() for column in (self.name, self.activity, outer))
        kinds = [
            _kind(self.known[name].kind, self.activity_kinds[activity], by_range.get(outside))
            for name, activity, outside in zip(*seen, strict=True)
        ]
        return worded(code, kinds)

    def _sequence(self, layer: Any) -> tuple[Any, Any]:
        """Layers and steps, by kernel order on devices where ranges do not give them."""
        layer, step = np.require(layer, requirements="W"), self.step
        kernel = np.array([kind == "kernel" for kind in self.activity_kinds])[self.activity]
        kinds = np.array([known.kind for known in self.known], object)
        helper = np.array([known.helper for known in self.known])
        anchors = np.array([known.kind in ANCHORS for known in self.known])
        for _, _, here in self.base.by_device("activities"):
            rows = np.flatnonzero(here & kernel)
            rows = rows[np.argsort(self.start[rows], kind="stable")]
            name = self.name[rows]
            no_layer, no_step = not (layer[rows] >= 0).any(), not (step[rows] >= 0).any()
            if not (no_layer or no_step) or not anchors[name].any():
                continue
            found, steps = layers_and_steps(Sequence(kinds[name].tolist(), helper[name].tobytes(), name))
            if no_layer:
                layer[rows] = found
            if no_step and (steps >= 0).any():
                step[rows] = steps + (step.max() + 1 if len(step) else 0)
        return layer, step

    def _phases(self, step: Any) -> pa.DictionaryArray:
        """The phase by the step's annotation, else by its attention kernels and shapes."""
        runs = self.runs
        bits = {"prefill": 1, "decode": 2}
        by_work = np.zeros(max(runs.works, default=NONE) + 2, np.int8)  # the last is for no operator
        for at, operator in runs.works.items():
            if isinstance(operator, Attention):
                by_work[at] = 2 if np.all(operator.q_len == 1) else 1
        known = runs.combination < len(by_work)
        hint = by_work[np.where(known, runs.combination, NONE)]
        by_name = np.array([bits.get(known.phase, 0) for known in self.known], np.int8)
        hint = np.where(hint == 0, by_name[self.name], hint)
        anchor = np.array([known.kind in ANCHORS for known in self.known])[self.name]
        graph = self.base.column("activities", "graph") >= 0
        at, steps = encoded(step)

        def with_any(which: Any) -> Any:
            found = np.zeros(len(steps), bool)
            found[at[which > 0]] = True
            return found

        prefill, decode, graphs, anchors = map(with_any, (hint & 1, hint & 2, graph, anchor))
        # Graphs are replayed for decode, as prompt lengths vary.
        decode |= ~prefill & graphs & anchors
        said = {number: facts.phase for number, facts in enumerate(self.facts) if facts.phase}
        words = (None, "prefill", "decode", "mixed")
        each = zip(steps.tolist(), (prefill + 2 * decode).tolist(), strict=True)
        return worded(at, [said.get(number) or words[both] for number, both in each])


def _kind(kernel: str, activity: str, around: str | None) -> str:
    """The kind of an activity from its name, its type (kernel, copy, ...) and its operator."""
    kind = kernel if activity == "kernel" else activity
    if activity == "graph":
        return "graph"
    if around and kind not in COMMUNICATION and (kind in VAGUE or around not in VAGUE):
        return around
    return kind
