"""What each activity was for: operator, kind, phase, layer, step, and the work of its operator."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.capture import link_captures, without_captures
from profiler.traces.counters import counted
from profiler.traces.layers import ANCHORS, Sequence, layers_and_steps
from profiler.traces.rules import COMMUNICATION, UNKNOWN, Known, known_kernel
from profiler.traces.steps import StepFacts, step_facts
from profiler.traces.tables import ATTRIBUTION, NONE, Trace
from profiler.traces.work import operator_rule, recorded_work
from workloads.operators import Attention, Operator
from workloads.work import Work

LAYER = re.compile(r"(?:\w*(?:Layer|Block)_|(?:^|[./: ])(?:layers?|blocks?|h)[._](?=\d))(\d{1,4})(?:\D|$)")
ANY_STEP = StepFacts("decode", decode=1, decode_tokens=1, kv=1)
# Kinds that say less than the operator around a kernel does.
VAGUE = ("elementwise", "copy", "set", "index", "reduce", "residual", "other", UNKNOWN)


def attribute(trace: Trace) -> Trace:
    """The trace with its attribution table, one row per activity."""
    found = _Ranges(trace)
    step, facts = found.steps(trace)
    trace, captured = link_captures(trace, step, facts)
    keep_rows = np.arange(trace["activities"].num_rows)
    shrunk = without_captures(trace)
    if shrunk is not trace:
        sources = shrunk.column("activities", "source")
        keep_rows = np.flatnonzero(np.isin(trace.column("activities", "source"), np.unique(sources)))
    return counted(_Attribution(shrunk, found, step[keep_rows], facts, captured[keep_rows]).trace())


class _Ranges:
    """The ranges of a trace, and questions about what lies around a row."""

    def __init__(self, trace: Trace) -> None:
        self.parent = trace.column("ranges", "parent")
        self.name = trace.column("ranges", "name")
        self.words = trace.words("ranges", "name")
        kinds = trace.words("ranges", "kind")
        self.kind = trace.column("ranges", "kind")
        self.kinds = {kind: code for code, kind in enumerate(kinds)}
        self.facts = [step_facts(word) for word in self.words]
        self.layers = np.array([_layer(word) for word in self.words] or [NONE])

    def is_kind(self, *kinds: str) -> Any:
        """Which ranges are of these kinds."""
        return np.isin(self.kind, [self.kinds[k] for k in kinds if k in self.kinds])

    def up(self, rows: Any, good: Any) -> Any:
        """The nearest range at or around each row for which `good` holds; -1 where there is none."""
        rows = rows.copy()
        if not len(good):
            return np.full(len(rows), NONE)
        while (lost := (rows >= 0) & ~good[np.maximum(rows, 0)]).any():
            rows[lost] = self.parent[rows[lost]]
        return rows

    def steps(self, trace: Trace) -> tuple[Any, list[StepFacts]]:
        """The step of each activity and the facts of each step, from annotations around the launch."""
        says = np.array([f.known for f in self.facts] or [False], bool)[self.name] & ~self.is_kind("operator")
        steps = says | self.is_kind("step")
        rows = self.up(trace.column("activities", "range"), steps)
        known, index = np.unique(rows[rows >= 0], return_inverse=True)
        step = np.full(len(rows), NONE, np.int64)
        step[rows >= 0] = index
        return step, [self.facts[self.name[row]] for row in known]


@dataclass
class _Attribution:
    base: Trace
    ranges: _Ranges
    step: Any
    facts: list[StepFacts]
    captured: Any

    def trace(self) -> Trace:
        base = self.base
        self.count = base["activities"].num_rows
        self.start, self.end = base.column("activities", "start_ns"), base.column("activities", "end_ns")
        names, self.name = base.words("activities", "name"), base.column("activities", "name")
        self.known = [*(known_kernel(word) for word in names), Known()]
        self.activity = base.column("activities", "kind")
        self.activity_kinds = [*base.words("activities", "kind"), ""]
        self.range = base.column("activities", "range")
        self.owner, works = self._owners()
        self._instances()
        kinds = self._kinds()
        layer = self._module_layers()
        layer, step = self._sequence(layer)
        phase = self._phases(step, works)
        operator_names = self._operators()
        columns = {
            "operator": pa.array(operator_names, pa.string()).dictionary_encode(),
            "kind": pa.array(kinds, pa.string()).dictionary_encode(),
            "phase": pa.array(phase, pa.string()).dictionary_encode(),
            "layer": layer,
            "step": step,
            "instance": self.instance,
            **self._work_columns(works),
            "warning": pa.array(
                [
                    "sparse tensor cores: dense peaks are no ceiling" if self.known[c].sparse else None
                    for c in self.name
                ],
                pa.string(),
            ).dictionary_encode(),
        }
        arrays = [
            values if isinstance(values := columns[field.name], pa.Array) else pa.array(values, field.type)
            for field in ATTRIBUTION
        ]
        return base.with_table("attribution", pa.table(arrays, names=ATTRIBUTION.names))

    def _owners(self) -> tuple[Any, dict[int, Operator]]:
        """The range that each activity's work is known by, and the work by activity's combination code."""
        ranges, base = self.ranges, self.base
        shapes, shape_words = base.column("ranges", "shapes"), [*base.words("ranges", "shapes"), "{}"]
        width = len(shape_words) + 1
        pairs = ranges.name * width + shapes + 1
        distinct, index = np.unique(pairs, return_inverse=True)
        possible = np.zeros(len(distinct), bool)
        for at, pair in enumerate(distinct.tolist()):
            rule = operator_rule(ranges.words[pair // width]) if pair >= 0 else None
            shape = pair % width - 1
            possible[at] = (
                rule is not None
                and shape >= 0
                and recorded_work(rule, shape_words[shape], ANY_STEP) is not None
            )
        good = (
            possible[index] & ranges.is_kind("operator", "annotation") if len(distinct) else np.zeros(0, bool)
        )
        owner = ranges.up(self.range, good)
        self.combination = np.full(self.count, NONE, np.int64)
        works: dict[int, Operator] = {}
        rows = np.flatnonzero(owner >= 0)
        if len(rows):
            steps = len(self.facts) + 1
            keys = pairs[owner[rows]] * steps + self.step[rows] + 1
            combos, where = np.unique(keys, return_inverse=True)
            self.combination[rows] = where
            for at, key in enumerate(combos.tolist()):
                pair, step = key // steps, key % steps - 1
                rule = operator_rule(ranges.words[pair // width])
                facts = self.facts[step] if step >= 0 else StepFacts()
                work = recorded_work(rule, shape_words[pair % width - 1], facts) if rule else None
                if work is not None:
                    works[at] = work
        return owner, works

    def _instances(self) -> None:
        """One number per execution of an operator: replays of a graph share ranges, not instances."""
        launch = self.base.column("activities", "launch")
        replay = np.where(self.captured, launch, NONE)
        own = self.count + np.arange(self.count)
        key = np.where(self.owner >= 0, 0, own + 1)
        _, self.instance = np.unique(np.stack([self.owner, replay, key]), axis=1, return_inverse=True)

    def _kinds(self) -> list[str]:
        by_owner = {
            r: rule.kind
            for r in np.unique(self.owner[self.owner >= 0]).tolist()
            if (rule := operator_rule(self.ranges.words[self.ranges.name[r]]))
        }
        found = []
        for name, activity, owner in zip(
            self.name.tolist(), self.activity.tolist(), self.owner.tolist(), strict=True
        ):
            kernel, what = self.known[name], self.activity_kinds[activity]
            kind = kernel.kind if what in ("kernel", "graph") else what
            kind = "graph" if what == "graph" and kind == UNKNOWN else kind
            around = by_owner.get(owner)
            if around and kind not in COMMUNICATION and (kind in VAGUE or around not in VAGUE):
                kind = around
            found.append(kind)
        return found

    def _operators(self) -> list[str | None]:
        """The owner's name, else the innermost operator's, else that of a range that is no step."""
        ranges = self.ranges
        operator = ranges.up(self.range, ranges.is_kind("operator"))
        says = (
            np.array([f.known for f in ranges.facts] or [False], bool)[ranges.name]
            if len(ranges.name)
            else np.zeros(0, bool)
        )
        plain = ranges.up(self.range, ranges.is_kind("annotation", "nvtx") & ~says)
        row = np.where(self.owner >= 0, self.owner, np.where(operator >= 0, operator, plain))
        return [ranges.words[ranges.name[r]] if r >= 0 else None for r in row.tolist()]

    def _module_layers(self) -> Any:
        ranges = self.ranges
        if not len(ranges.name):
            return np.full(self.count, NONE, np.int64)
        numbered = (ranges.layers[ranges.name] >= 0) & ~ranges.is_kind("operator")
        row = ranges.up(self.range, numbered)
        return np.where(row >= 0, ranges.layers[ranges.name[np.maximum(row, 0)]], NONE)

    def _sequence(self, layer: Any) -> tuple[Any, Any]:
        """Layers and steps by the order of kernels, on devices where ranges say too little."""
        layer, step = layer.copy(), self.step.copy()
        source, device = (self.base.column("activities", key) for key in ("source", "device"))
        kernel = np.array([k in ("kernel",) for k in self.activity_kinds])[self.activity]
        for s, d in sorted(set(zip(source.tolist(), device.tolist(), strict=True))):
            rows = np.flatnonzero((source == s) & (device == d) & kernel)
            rows = rows[np.argsort(self.start[rows], kind="stable")]
            known = [self.known[code] for code in self.name[rows]]
            found, steps = layers_and_steps(
                Sequence([k.kind for k in known], [k.helper for k in known], self.name[rows])
            )
            if not (layer[rows] >= 0).any():
                layer[rows] = found
            if not (step[rows] >= 0).any() and (steps >= 0).any():
                step[rows] = steps + (step.max() + 1 if len(step) else 0)
        return layer, step

    def _phases(self, step: Any, works: dict[int, Operator]) -> list[str | None]:
        """What the step's annotation says; else what its attention kernels and shapes are made for."""
        hint = np.zeros(self.count, np.int64)  # 1: prefill, 2: decode
        bits = {"prefill": 1, "decode": 2}
        by_name = np.array([bits.get(known.phase, 0) for known in self.known])[self.name]
        by_work = {
            at: 2 if np.all(op.q_len == 1) else 1 for at, op in works.items() if isinstance(op, Attention)
        }
        hint = np.array([by_work.get(c, 0) for c in self.combination.tolist()] or [0], np.int64)[: self.count]
        hint = np.where(hint == 0, by_name, hint)
        graph = self.base.column("activities", "graph") >= 0
        said = {at: facts.phase for at, facts in enumerate(self.facts) if facts.phase}
        words = {0: None, 1: "prefill", 2: "decode", 3: "mixed"}
        found: dict[int, str | None] = {}
        for each in np.unique(step).tolist():
            mine = step == each
            seen = int(np.bitwise_or.reduce(hint[mine])) if mine.any() else 0
            if not seen and graph[mine].any() and self._has_anchor(mine):
                seen = 2  # language models replay graphs to decode: a prompt's length changes each time
            found[each] = said.get(each) or words[seen]
        return [found[s] for s in step.tolist()]

    def _has_anchor(self, mine: Any) -> bool:
        return any(self.known[code].kind in ANCHORS for code in np.unique(self.name[mine]))

    def _work_columns(self, works: dict[int, Operator]) -> dict[str, Any]:
        done: dict[int, Work] = {at: op.work() for at, op in works.items()}
        how: list[str | None] = [None] * self.count
        dtype: list[str | None] = [None] * self.count
        numbers = {
            c: np.zeros(self.count)
            for c in ("matrix_flops", "vector_flops", "special_ops", "work_bytes", "comm_bytes")
        }
        order = np.lexsort((self.start - self.end, self.instance))  # the longest of each instance first
        first = np.ones(len(order), bool)
        first[1:] = self.instance[order][1:] != self.instance[order][:-1]
        main = np.zeros(self.count, bool)
        main[order[first]] = True
        for row, at in enumerate(self.combination.tolist()):
            work = done.get(at)
            if work is None:
                continue
            how[row] = "capture" if self.captured[row] else "shapes"
            dtype[row] = str(work.dtype)
            if main[row]:
                values = (work.matrix_flops, work.vector_flops, work.special_ops, work.bytes, work.comm_bytes)
                for column, value in zip(numbers.values(), values, strict=True):
                    column[row] = float(value)
        words = {"how": how, "dtype": dtype}
        return {**{k: pa.array(v, pa.string()).dictionary_encode() for k, v in words.items()}, **numbers}


def _layer(word: str) -> int:
    found = LAYER.search(word)
    return int(found.group(1)) if found else NONE
