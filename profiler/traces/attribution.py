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
from profiler.traces.model_match import Lengths, match_model
from profiler.traces.neighbours import known_by_neighbours, signatures
from profiler.traces.rules import COMMUNICATION, UNKNOWN, Known, known_kernel
from profiler.traces.steps import StepFacts, step_facts
from profiler.traces.tables import ATTRIBUTION, NONE, Trace
from profiler.traces.work import operator_rule, recorded_work
from workloads.model import Model
from workloads.operators import Attention, Operator
from workloads.step import Setting

LAYER = re.compile(r"(?:\w*(?:Layer|Block)_|(?:^|[./: ])(?:layers?|blocks?|h)[._](?=\d))(\d{1,4})(?:\D|$)")
ANY_STEP = StepFacts("decode", decode=1, decode_tokens=1, kv=1)
WORK = ("matrix_flops", "vector_flops", "special_ops", "work_bytes", "comm_bytes")
# Kinds that say less than the operator around a kernel does.
VAGUE = ("elementwise", "copy", "set", "index", "reduce", "residual", "other", UNKNOWN)


@dataclass(frozen=True)
class Question:
    """What the user says of a trace: the model that ran, how, and lengths that the trace does not say."""

    model: Model
    setting: Setting
    lengths: Lengths = Lengths()


def attribute(trace: Trace, question: Question | None = None) -> Trace:
    """The trace with its attribution table, a row per activity; with a model's operators if it is named."""
    found = _Ranges(trace)
    step, facts = found.steps(trace)
    trace, captured = link_captures(trace, step, facts)
    keep_rows = np.arange(trace["activities"].num_rows)
    shrunk = without_captures(trace)
    if shrunk is not trace:
        sources = shrunk.column("activities", "source")
        keep_rows = np.flatnonzero(np.isin(trace.column("activities", "source"), np.unique(sources)))
    done = _Attribution(shrunk, found, step[keep_rows], facts, captured[keep_rows]).trace()
    if question is not None:
        done = match_model(done, question.model, question.setting, facts, question.lengths)
    return counted(done)


class _Ranges:
    """The ranges of a trace, and questions about what lies around a row."""

    def __init__(self, trace: Trace) -> None:
        self.parent = trace.column("ranges", "parent")
        self.name = trace.column("ranges", "name")
        self.words = [*trace.words("ranges", "name"), ""]  # code -1: no name
        kinds = trace.words("ranges", "kind")
        self.kind = trace.column("ranges", "kind")
        self.kinds = {kind: code for code, kind in enumerate(kinds)}
        self.facts = [step_facts(word) for word in self.words]
        self.layers = np.array([_layer(word) for word in self.words])

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
        says = np.array([f.known for f in self.facts], bool)[self.name] & ~self.is_kind("operator")
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
        self._neighbours(set(works))
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
            # Steps that say the same ask for the same work.
            said = list(dict.fromkeys([StepFacts(), *self.facts]))
            fact = np.array([*(said.index(f) for f in self.facts), 0])[self.step[rows]]
            steps = len(said)
            keys = pairs[owner[rows]] * steps + fact
            combos, where = np.unique(keys, return_inverse=True)
            self.combination[rows] = where
            for at, key in enumerate(combos.tolist()):
                pair, step = key // steps, key % steps
                rule = operator_rule(ranges.words[pair // width])
                work = recorded_work(rule, shape_words[pair % width - 1], said[step]) if rule else None
                if work is not None:
                    works[at] = work
        return owner, works

    def _neighbours(self, works: set[int]) -> None:
        """Executions that no range explains, by those that have the same kernels around them."""
        base, count = self.base, self.count
        self.twin = np.full(count, NONE, np.int64)  # an activity that is explained and looks the same
        self.around = self.owner  # the range of the work, a twin's where there is none
        explained = (self.owner >= 0) & np.isin(self.combination, list(works))
        if not explained.any():
            return
        group = _numbered(*(base.column("activities", c) for c in ("source", "device", "stream")))
        sizes = [base.column("activities", f"{what}_{axis}") for what in ("grid", "block") for axis in "xyz"]
        signature = signatures(_numbered(self.name, *sizes), group, np.lexsort((self.start, group)))
        combination = known_by_neighbours(signature, np.where(explained, self.combination, NONE))
        alike = (combination >= 0) & (self.range < 0)
        first = np.full(signature.max() + 1, NONE, np.int64)
        first[signature[explained]] = np.flatnonzero(explained)
        self.twin = np.where(alike, first[signature], NONE)
        self.combination = np.where(alike, combination, self.combination)
        self.around = np.where(self.owner >= 0, self.owner, np.where(alike, self.owner[self.twin], NONE))

    def _instances(self) -> None:
        """One number per execution of an operator: replays of a graph share ranges, not instances."""
        replay = np.where(self.captured, self.base.column("activities", "launch"), NONE)
        own = np.where(self.owner >= 0, 0, self._runs() + 1)
        self.instance = _numbered(self.owner, replay, own)

    def _runs(self) -> Any:
        """A number per activity, the same for neighbours whose twins are of one execution."""
        twin_owner = np.where(self.twin >= 0, self.around, NONE)
        place = [self.base.column("activities", c) for c in ("stream", "device", "source")]
        order = np.lexsort((self.start, *place))
        owner = twin_owner[order]
        new = np.ones(self.count, bool)
        new[1:] = (owner[1:] != owner[:-1]) | (owner[1:] < 0)
        found = np.empty(self.count, np.int64)
        found[order] = np.cumsum(new)
        return found

    def _kinds(self) -> list[str]:
        """By the kernel's name; where that says little, by the operator around it."""
        rules = {
            r: operator_rule(self.ranges.words[self.ranges.name[r]])
            for r in np.unique(self.around[self.around >= 0]).tolist()
        }
        by_range = {r: rule.kind for r, rule in rules.items() if rule}
        rows = zip(self.name.tolist(), self.activity.tolist(), self.around.tolist(), strict=True)
        return [
            _kind(self.known[name].kind, self.activity_kinds[activity], by_range.get(around))
            for name, activity, around in rows
        ]

    def _operators(self) -> list[str | None]:
        """The owner's name, else the innermost operator's, else that of a range that is no step."""
        ranges = self.ranges
        operator = ranges.up(self.range, ranges.is_kind("operator"))
        says = np.array([f.known for f in ranges.facts], bool)[ranges.name]
        plain = ranges.up(self.range, ranges.is_kind("annotation", "nvtx") & ~says)
        row = np.where(self.around >= 0, self.around, np.where(operator >= 0, operator, plain))
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
        size = max(works, default=-1) + 1
        table = np.zeros((len(WORK), size + 1))
        dtypes = [""] * (size + 1)
        for at, operator in works.items():
            work = operator.work()
            values = (work.matrix_flops, work.vector_flops, work.special_ops, work.bytes, work.comm_bytes)
            table[:, at] = [float(value) for value in values]
            dtypes[at] = str(work.dtype)
        known = np.isin(self.combination, list(works))
        place = np.where(known, self.combination, size)
        main = known & self._longest()
        how = np.where(known, np.where(self.twin >= 0, 2, np.where(self.captured, 1, 0)), NONE).astype(
            np.int32
        )
        distinct = list(dict.fromkeys(dtypes))
        code = np.array([distinct.index(d) for d in dtypes], np.int32)[place]
        return {
            "how": _coded(how, ["shapes", "capture", "neighbours"]),
            "dtype": _coded(np.where(known, code, NONE), distinct),
            **{name: np.where(main, row[place], 0.0) for name, row in zip(WORK, table, strict=True)},
        }

    def _longest(self) -> Any:
        """Which activity is the longest of its instance: it carries the instance's work."""
        order = np.lexsort((self.start - self.end, self.instance))
        first = np.ones(len(order), bool)
        first[1:] = self.instance[order][1:] != self.instance[order][:-1]
        found = np.zeros(self.count, bool)
        found[order[first]] = True
        return found


def _kind(kernel: str, activity: str, around: str | None) -> str:
    """The kind of an activity from its name, from what sort of activity it is, and from its operator."""
    kind = kernel if activity == "kernel" else activity
    if activity == "graph":
        return "graph"
    if around and kind not in COMMUNICATION and (kind in VAGUE or around not in VAGUE):
        return around
    return kind


def _numbered(*columns: Any) -> Any:
    """A number per row, equal where all columns are."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1]


def _coded(codes: Any, words: list[str]) -> pa.DictionaryArray:
    indices = pa.array(codes, pa.int32(), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(words, pa.string()))


def _layer(word: str) -> int:
    found = LAYER.search(word)
    return int(found.group(1)) if found else NONE
