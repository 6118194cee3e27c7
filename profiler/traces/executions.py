"""The operator execution of each activity, and its work by recorded shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from profiler.traces.around import Ranges
from profiler.traces.columns import NONE
from profiler.traces.described import described
from profiler.traces.grouping import numbered, worded
from profiler.traces.neighbours import known_by_neighbours, signatures
from profiler.traces.sound import constant, is_constant
from profiler.traces.steps import StepFacts
from profiler.traces.tables import WORK, Trace, work_values
from profiler.traces.work import operator_rule, recorded_work
from workloads.operators import Operator

ANY_STEP = StepFacts("decode", decode=1, decode_tokens=1, kv=1)
HOW = ("shapes", "capture", "neighbours")


class Executions:
    """Arrays with an entry per activity, -1 for none: `owner` is the range that gives its work, `around` the
    same or that of its `twin` (an attributed activity that looks the same), `combination` the key of its
    operator in `works`, and `instance` a number shared by the activities of one execution.

    `step` is the step of each activity, `facts` those of the steps, and `captured` a mask of activities with
    a range from a capture.
    """

    def __init__(self, base: Trace, ranges: Ranges, step: Any, facts: list[StepFacts], captured: Any) -> None:
        self.base, self.ranges, self.step, self.facts, self.captured = base, ranges, step, facts, captured
        self.count = base["activities"].num_rows
        self.start, self.end = base.column("activities", "start_ns"), base.column("activities", "end_ns")
        self.name, self.range = base.column("activities", "name"), base.column("activities", "range")
        self.told: dict[int, str] = {}  # kinds described by ranges, by name code
        self.owner, self.works = self._owners()
        self._neighbours()
        self._instances()

    def columns(self) -> Iterator[tuple[str, Any]]:
        """Columns of the attribution: source of the work, its format, and the work itself."""
        size = max(self.works, default=-1) + 1
        table = np.zeros((len(WORK), size + 1))
        dtypes = [""] * (size + 1)
        for at, operator in self.works.items():
            work = operator.work()
            table[:, at] = work_values(work)
            dtypes[at] = str(work.dtype)
        known = np.isin(self.combination, list(self.works))
        place = np.where(known, self.combination, size)
        how = np.full(self.count, NONE, np.int8)
        for which, rows in enumerate((known, known & self.captured, known & (self.twin >= 0))):
            how[rows] = which
        yield "how", worded(how, HOW)
        distinct = list(dict.fromkeys(dtypes))
        code = np.array([distinct.index(d) for d in dtypes])
        code[size] = NONE
        yield "dtype", worded(code[place], distinct)
        main = self._longest(known)
        place = place[main]
        for name, row in zip(WORK, table, strict=True):
            found = np.zeros(self.count)
            found[main] = row[place]
            yield name, found

    def _owners(self) -> tuple[Any, dict[int, Operator]]:
        """The range that gives each activity's work, and the work by combination code."""
        ranges = self.ranges
        self.shapes = self.base.words("ranges", "shapes")
        width = len(self.shapes) + 1  # a pair is the code of a name and that of sizes, 0 for none
        pairs = ranges.name.astype(np.int64) * width + self.base.column("ranges", "shapes") + 1
        distinct, index = np.unique(pairs, return_inverse=True)
        possible = np.array([self._work(pair, ANY_STEP) is not None for pair in distinct.tolist()], bool)
        sized = ranges.is_kind("operator", "annotation", "nvtx")
        good = possible[index] & sized if len(distinct) else np.zeros(0, bool)
        owner = ranges.up(self.range, good)
        self.combination = np.full(self.count, NONE, np.int32)
        works: dict[int, Operator] = {}
        rows = np.flatnonzero(owner >= 0)
        if len(rows):
            # Steps with the same facts have the same work.
            said = list(dict.fromkeys([StepFacts(), *self.facts]))
            fact = np.array([*(said.index(f) for f in self.facts), 0])[self.step[rows]]
            steps = len(said)
            keys = pairs[owner[rows]] * steps + fact
            combos, where = np.unique(keys, return_inverse=True)
            self.combination[rows] = where
            for at, key in enumerate(combos.tolist()):
                found = self._work(key // steps, said[key % steps])
                if found is not None:
                    works[at] = found
        return owner, works

    def _work(self, pair: int, step: StepFacts) -> Operator | None:
        """The operator of a range by its name and sizes; None where they are insufficient."""
        name, sizes = divmod(pair, len(self.shapes) + 1)
        if pair < 0 or sizes == 0:
            return None
        if (told := described(self.shapes[sizes - 1])) is not None:
            self.told[name] = told.kind
            return told
        rule = operator_rule(self.ranges.words[name])
        return recorded_work(rule, self.shapes[sizes - 1], step) if rule else None

    def _neighbours(self) -> None:
        """Attribute executions without a range by others with the same neighbouring kernels."""
        base, count = self.base, self.count
        self.twin = constant(np.int32(NONE), count)  # an attributed activity that looks the same
        self.around = self.owner  # the range of the work, or that of the twin
        explained = (self.owner >= 0) & np.isin(self.combination, list(self.works))
        if not explained.any():
            return
        group = numbered(*(base.column("activities", c) for c in ("source", "device", "stream")))
        sizes = [base.column("activities", f"{what}_{axis}") for what in ("grid", "block") for axis in "xyz"]
        signature = signatures(numbered(self.name, *sizes), group, np.lexsort((self.start, group)))
        combination = known_by_neighbours(signature, np.where(explained, self.combination, NONE))
        alike = (combination >= 0) & (self.range < 0)
        first = np.full(signature.max() + 1, NONE, np.int64)
        first[signature[explained]] = np.flatnonzero(explained)
        self.twin = np.where(alike, first[signature], NONE).astype(np.int32)
        self.combination[alike] = combination[alike]
        self.around = np.where(alike, self.owner[self.twin], self.owner)

    def _instances(self) -> None:
        """One number per execution of an operator: replays of a graph share ranges, not instances."""
        owned = self.owner >= 0
        replay = np.where(self.captured, self.base.column("activities", "launch"), NONE)[owned]
        self.instance = self._runs()
        self.instance[owned] = numbered(self.owner[owned], replay) + (self.count + 1)  # behind all runs

    def _runs(self) -> Any:
        """A number per activity, equal for neighbours with twins of one execution."""
        if is_constant(self.twin):  # none: each activity is by itself
            return np.arange(1, self.count + 1)
        twin_owner = np.where(self.twin >= 0, self.around, NONE)
        place = [self.base.column("activities", c) for c in ("stream", "device", "source")]
        order = np.lexsort((self.start, *place))
        owner = twin_owner[order]
        new = np.ones(self.count, bool)
        new[1:] = (owner[1:] != owner[:-1]) | (owner[1:] < 0)
        found = np.empty(self.count, np.int64)
        found[order] = np.cumsum(new)
        return found

    def _longest(self, known: Any) -> Any:
        """The longest activity of each instance, which has the instance's work, of activities with `known`
        work; an instance's work is known of all of its activities or of none."""
        rows = np.flatnonzero(known)
        rows = rows[np.lexsort((self.start[rows] - self.end[rows], self.instance[rows]))]
        first = np.ones(len(rows), bool)
        first[1:] = self.instance[rows[1:]] != self.instance[rows[:-1]]
        return rows[first]
