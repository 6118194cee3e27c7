"""The tables of a run as they grow, and what its head says of them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from profiler.energy import Counter
from profiler.measured_point import Measured, Tables, point_rows
from profiler.noting import compiled_words, label, overhead_words, repeated_words
from profiler.overhead import overhead
from roofline.run import Run
from roofline.run_head import Attributed, Compilation, Overhead
from roofline.run_tables import TABLES

SAVE_EVERY_S = 10.0


@dataclass
class Rows:
    """Tables as they grow; written to the run now and then, so that a stop loses seconds."""

    run: Run
    tables: Tables = field(default_factory=lambda: {name: [] for name in TABLES})
    notes: list[str] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    compilations: list[Compilation] = field(default_factory=list)
    attributed: list[Attributed] = field(default_factory=list)
    attended: set[str] = field(default_factory=set)
    under_way: list[Measured] = field(default_factory=list)
    counter: Counter | None = None  # of the device's energy
    began: float = field(default_factory=time.perf_counter)  # the zero of times
    saved: float = float("-inf")

    def close(self) -> None:
        """Points that were under way are measured."""
        for measured in self._begun():
            cost = overhead(measured.point, measured.timed)
            self.overheads.append(cost)
            self.notes.append(overhead_words(cost, measured.way.watching))
            if (compilation := measured.way.compilation) is not None:
                self.compilations.append(compilation)
                self.notes.append(compiled_words(compilation))
            self.notes += repeated_words(
                label(measured.point),
                measured.whole,
                measured.timed,
                self.began,
                by_wall=measured.way.by_wall,
            )
        self.tables, self.under_way = self._grown(), []

    def save(self, every_s: float = 0.0) -> None:
        """Write every table as far as it has grown, unless that was done just before."""
        import pandas as pd

        if time.monotonic() - self.saved < every_s:
            return
        for name, rows in self._grown().items():
            if rows:
                self.run.write_table(name, pd.DataFrame(rows, columns=list(TABLES[name])))
        self.saved = time.monotonic()

    def stopped(self, error: BaseException) -> None:
        """Keep what was measured, as far as it can be written, and say what ended it."""
        self.close()
        self.notes.append(f"stopped: {type(error).__name__}: {error}")
        with suppress(Exception):  # a disk that was full still is
            self.save()
        with suppress(Exception):
            self.run.write_head(status="failed", **self.facts())

    def facts(self) -> dict[str, Any]:
        """What the tables do not hold, as fields of the run's head."""
        return {
            "notes": self.notes,
            "overheads": self.overheads,
            "compilations": self.compilations,
            "attributed": self.attributed,
            "attention": ", ".join(sorted(self.attended)),
        }

    def _begun(self) -> list[Measured]:
        return [measured for measured in self.under_way if measured.timed.plain and measured.timed.ranged]

    def _grown(self) -> Tables:
        grown = {name: list(rows) for name, rows in self.tables.items()}
        for measured in self._begun():
            for name, rows in point_rows(measured, self.began).items():
                grown[name] += rows
        return grown
