"""The tables of a run during measurement, and the derived fields of its head."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from profiler.energy import Counter
from profiler.measured_point import Measured, Tables, point_rows
from profiler.noting import compiled_words, label, overhead_words, repeated_words
from profiler.steps import overhead
from roofline.run import Run
from roofline.run_head import Attributed, Compilation, Overhead
from roofline.run_tables import TABLES

SAVE_EVERY_S = 10.0
STOPPED = "stopped: "


@dataclass
class Rows:
    """Growing tables, written to the run periodically, so that an interruption loses seconds."""

    run: Run
    tables: Tables = field(default_factory=lambda: {name: [] for name in TABLES})
    notes: list[str] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)
    compilations: list[Compilation] = field(default_factory=list)
    attributed: list[Attributed] = field(default_factory=list)
    attended: set[str] = field(default_factory=set)
    under_way: list[Measured] = field(default_factory=list)
    counter: Counter | None = None  # the device's energy
    doing: str = "the reference steps"  # the point that is measured, in words
    began: float = field(default_factory=time.perf_counter)  # the zero of times
    saved: float = float("-inf")

    def close(self) -> None:
        """Mark the points in progress as complete."""
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
        """Write every table so far, unless the last save was less than `every_s` ago."""
        if time.monotonic() - self.saved >= every_s:
            self.run.write_rows(self._grown())
            self.saved = time.monotonic()

    def stopped(self, error: BaseException) -> None:
        """Save the measurements if possible, and note the error."""
        self.close()
        self.notes.append(f"{stopped_words(error)} (in {self.doing})")
        with suppress(Exception):  # a full disk remains full
            self.save()
        with suppress(Exception):
            self.run.write_head(status="failed", **self.facts())

    def facts(self) -> dict[str, Any]:
        """Fields of the run's head that no table holds."""
        return {
            "notes": self.notes,
            "overheads": self.overheads,
            "compilations": self.compilations,
            "attributed": self.attributed,
            "attention": ", ".join(sorted(self.attended)),
        }

    def _begun(self) -> list[Measured]:
        return [measured for measured in self.under_way if measured.begun]

    def _grown(self) -> Tables:
        grown = {name: list(rows) for name, rows in self.tables.items()}
        for measured in self._begun():
            for name, rows in point_rows(measured, self.began).items():
                grown[name] += rows
        return grown


def stopped_words(error: BaseException) -> str:
    """The note of a run that an error ended."""
    return f"{STOPPED}{type(error).__name__}: {error}"


def is_interrupt(note: str) -> bool:
    """Whether this note of a run says that a user stopped it."""
    return note.startswith(f"{STOPPED}{KeyboardInterrupt.__name__}")
