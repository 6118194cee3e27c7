"""Match kernels of a step with a model's operators by order, for graphs and traces without ranges."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.grouping import groups
from profiler.traces.layer_match import Target, joined_name, match_layer
from profiler.traces.rules import UNKNOWN, known_kernel
from profiler.traces.steps import StepFacts
from profiler.traces.tables import SCHEMAS, WORK, Loss, Trace, make_table, work_values
from workloads.blocks import Place
from workloads.model import Model
from workloads.step import Setting, Step

FORMAT = re.compile("mxfp4|nvfp4")
LATENT = re.compile("mla", re.IGNORECASE)
AGREE = 0.02  # maximum relative difference of recorded and predicted FLOP of a product


@dataclass(frozen=True)
class Lengths:
    """User input on steps that the trace does not describe."""

    batch: int = 0
    prompt: int = 0
    context: int = 0


class ModelMatch:
    """Match the steps of an attributed trace with a model.

    `recorded` are the passes of steps by recorded sizes, which stand before a user's `lengths`.
    """

    def __init__(
        self,
        trace: Trace,
        model: Model,
        setting: Setting,
        facts: Sequence[StepFacts],
        recorded: Mapping[int, Step],
        lengths: Lengths,
    ) -> None:
        self.trace, self.model, self.setting = trace, model, as_named(setting, trace)
        self.facts, self.recorded, self.lengths = facts, recorded, lengths
        self.notes: dict[str, int] = defaultdict(int)
        names, code = trace.words("activities", "name"), trace.column("activities", "name")
        known = [*(known_kernel(name) for name in names)]
        # The framework operator around a kernel may give its kind better than its name.
        words = [*trace.words("attribution", "kind"), UNKNOWN]
        around = trace.column("attribution", "kind")
        self.kinds = [
            known[c].kind if known[c].kind != UNKNOWN else words[a] for c, a in zip(code, around, strict=True)
        ]
        self.helper = [known[c].helper for c in code]
        self.start, self.end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
        self.layer, self.step = trace.column("attribution", "layer"), trace.column("attribution", "step")
        self.table = {f.name: trace["attribution"][f.name].to_pylist() for f in trace["attribution"].schema}
        alone = len(np.unique(self.step[self.step >= 0])) == 1  # a step that the one given length is of
        given = ["prefill"] * bool(lengths.prompt) + ["decode"] * bool(lengths.context)
        self.said = given[0] if alone and len(given) == 1 else ""  # the phase where nothing recorded tells
        self.passes: dict[int, tuple[str, Step]] = {}
        self.next = int(max(self.table["instance"], default=-1)) + 1

    def run(self) -> Trace:
        """The trace with names, work and instances of the model's operators; a note counts unmatched rows."""
        place = [self.trace.column("activities", key) for key in ("source", "device")]
        for rows in groups(np.flatnonzero(self.step >= 0), [*place, self.step], self.start):
            self._step(rows, int(self.step[rows[0]]))
        schema = self.trace["attribution"].schema
        arrays = [
            pa.array(self.table[f.name], pa.string() if pa.types.is_dictionary(f.type) else f.type)
            for f in schema
        ]
        arrays = [a.dictionary_encode() if pa.types.is_string(a.type) else a for a in arrays]
        trace = self.trace.with_table("attribution", pa.table(arrays, names=schema.names))
        trace = trace.with_table("passes", self._passes())
        losses = [Loss(what="noted", count=n, sentence=s) for s, n in self.notes.items()]
        return replace(trace, losses=(*trace.losses, *losses))

    def _passes(self) -> pa.Table:
        found = [(step, phase, s.batch, s.q_len, s.kv_len) for step, (phase, s) in self.passes.items()]
        columns = zip(*found, strict=True) if found else [[]] * len(SCHEMAS["passes"])
        return make_table("passes", dict(zip(SCHEMAS["passes"].names, map(list, columns), strict=True)))

    def _step(self, rows: Any, step: int) -> None:
        layers = self.layer[rows]
        if not (layers >= 0).any():
            return
        seen, wanted = int(layers.max()) + 1, len(self.model.layers)
        if seen != wanted:
            self.notes[f"steps show {seen} layers, {self.model.name} has {wanted}: not matched"] += 1
            return
        found = self._sizes(step, rows)
        if found is None:
            self.notes[
                "steps whose batch and lengths are not known; give --batch, --prompt or --context"
            ] += 1
            return
        self.passes[step] = found
        _, sizes = found
        for number, layer in enumerate(self.model.layers):
            self._match(rows[layers == number], self._targets(layer, sizes))
        self._ends(rows, layers, sizes)

    def _sizes(self, step: int, rows: Any) -> tuple[str, Step] | None:
        """The phase of a step and its pass; None for mixed steps, which keep recorded values."""
        facts = self.facts[step] if step < len(self.facts) else StepFacts()
        phases = {self.table["phase"][row] for row in rows.tolist()}
        phase = facts.phase or next((p for p in phases if p), self.said)
        sized = {"decode": self._decoded, "prefill": self._prompts}.get(phase)
        sizes = sized(facts, self.recorded.get(step)) if sized else None
        return (phase, sizes) if sizes and sizes.batch and sizes.kv_len else None

    def _decoded(self, facts: StepFacts, shapes: Step | None) -> Step:
        """As the step's annotation says, else as recorded, else as given; drafts that are verified count."""
        batch, length, new = facts.decode or self.lengths.batch, self.lengths.context, 1
        if facts.decode_tokens and facts.decode:
            new = max(1, round(facts.decode_tokens / facts.decode))
        elif shapes:
            new = int(shapes.q_len)
        if facts.kv and facts.decode:
            length = round(facts.kv / facts.decode)
        elif shapes:  # a cache may have more room than positions, so that a given context stands
            batch, length = int(shapes.batch), length or int(shapes.kv_len)
        return Step(batch, new, length, scored=new)

    def _prompts(self, facts: StepFacts, shapes: Step | None) -> Step:
        """As the step's annotation says, else as recorded, else as given."""
        batch, length, visible = facts.prefill or self.lengths.batch, self.lengths.prompt, 0
        if facts.prefill_tokens and facts.prefill:
            length = round(facts.prefill_tokens / facts.prefill)
            visible = round(
                facts.prefill_kv / facts.prefill
            )  # more than the new ones: a chunk, a known prefix
        elif shapes:
            self._differs(self.lengths, shapes)
            batch, length = int(shapes.batch), int(shapes.q_len)
        return Step(batch, length, max(length, visible))

    def _differs(self, given: Lengths, shapes: Step) -> None:
        """Note where a user's sizes of a prompt are not the recorded ones."""
        if (given.batch or shapes.batch, given.prompt or shapes.q_len) != (shapes.batch, shapes.q_len):
            self.notes[
                f"steps whose attention was recorded for {shapes.batch} sequences of {shapes.q_len} tokens: "
                "not what --batch and --prompt say"
            ] += 1

    @cache  # noqa: B019  (a match lives for one import)
    def _targets(self, layer: Any, sizes: Step) -> tuple[Target, ...]:
        place = Place(self.model.hidden, sizes, self.setting)
        return tuple(Target(f"layers.{name}", operator) for name, _, operator in layer.parts(place))

    def _match(self, rows: Any, targets: Sequence[Target]) -> None:
        kinds = [self.kinds[row] for row in rows.tolist()]
        helper = [self.helper[row] for row in rows.tolist()]
        for kernels, found in match_layer(kinds, helper, targets):
            self._write([int(rows[k]) for k in kernels], found)

    def _ends(self, rows: Any, layers: Any, sizes: Step) -> None:
        """The operators before the first layer and after the last."""
        place = Place(self.model.hidden, sizes, self.setting)
        inside = np.flatnonzero(layers >= 0)
        before, after = rows[: inside[0]], rows[inside[-1] + 1 :]
        stack = self.model.stack
        begin = (part for block in stack.inputs for part in block.parts(place))
        for part, operators in ((before, begin), (after, stack.ends(place))):
            self._match(part, [Target(name, operator) for name, _, operator in operators])

    def _write(self, rows: list[int], targets: Sequence[Target]) -> None:
        works = [target.operator.work() for target in targets]
        values = [sum(parts) for parts in zip(*map(work_values, works), strict=True)]
        recorded, predicted = sum(self.table["matrix_flops"][row] for row in rows), values[0]
        kind = targets[0].kind
        if kind == "gemm" and recorded and abs(recorded - predicted) > AGREE * predicted:
            self.notes[
                f"executions whose recorded sizes are not those of {self.model.name}: recorded ones kept"
            ] += 1
            return
        longest = max(rows, key=lambda row: self.end[row] - self.start[row])
        for row in rows:
            self.table["operator"][row] = joined_name(targets)
            self.table["kind"][row] = kind
            self.table["instance"][row] = self.next
            self.table["how"][row] = "model"
            self.table["dtype"][row] = str(works[0].dtype)
            for column, value in zip(WORK, values, strict=True):
                self.table[column][row] = value if row == longest else 0.0
        self.next += 1


def as_named(setting: Setting, trace: Trace) -> Setting:
    """The setting, refined by the names of the kernels that ran."""
    return _absorbed_as_named(_stored_as_named(setting, trace), trace)


def _stored_as_named(setting: Setting, trace: Trace) -> Setting:
    """The setting with the experts' format from kernel names, where none was given."""
    names = trace.words("activities", "name")
    found = {f.group() for n in names if known_kernel(n).kind == "grouped_gemm" and (f := FORMAT.search(n))}
    if setting.precision.experts is not None or len(found) != 1:
        return setting
    return replace(setting, precision=replace(setting.precision, experts=found.pop()))


def _absorbed_as_named(setting: Setting, trace: Trace) -> Setting:
    """The setting with absorbed latents where an attention kernel that reads cached latents ran."""
    names = trace.words("activities", "name")
    absorbs = any(known_kernel(name).kind == "attention" and LATENT.search(name) for name in names)
    if not absorbs or setting.convention.absorbs_latents:
        return setting
    return replace(setting, convention=replace(setting.convention, absorbs_latents=True))
