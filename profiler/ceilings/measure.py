"""Measure a machine's ceilings and the constants of its operator classes.

Every figure is the median over passes: a pass measures everything once, so that a slow minute of the machine
affects one repeat of each figure and not all repeats of one. Measurements are saved at once: the next command
continues one that was ended in any way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hwspecs import Device
from profiler.allocator import keep_freed_memory
from profiler.ceilings.device import device_of, lacking
from profiler.ceilings.inside import Inside, Running, wanted_steps
from profiler.ceilings.journal import Journal, journal_of, kept
from profiler.ceilings.plan import Findings, Key, OutOfTimeError, Plan
from profiler.device_file import as_yaml
from profiler.environment import answers
from profiler.interrupts import raise_swallowed
from profiler.power import PowerMonitor, clocks, throttling
from profiler.probes import INT8, TF32, Probe, probes
from specfiles.errors import InputError, reason
from specfiles.writing import write_text

Times = list[tuple[Key, list[float]]]


def measure_ceilings(plan: Plan, out: Path | None = None) -> Device:
    """The device file of this machine: system facts, measured figures, fitted constants.

    It is written to `out` after every pass, also with the measurements so far after an error or an interrupt;
    a journal beside it lets the next command with this `out` continue.
    Raises InputError where too little can be measured for a device file, OutOfTimeError where the plan's time
    ends within a pass.
    """
    found = Findings()
    with kept(out, plan.device, found) as journal:
        work = _Work(plan, found, journal, out)
        device = work.carry_out()
        if journal is not None:
            journal.remove()
    return device


class _Work:
    """Passes over all measurements."""

    def __init__(self, plan: Plan, found: Findings, journal: Journal | None, out: Path | None) -> None:
        plan = replace(plan, dtypes=tuple(dict.fromkeys((*plan.dtypes, *_begun_formats(found)))))
        self.plan, self.found, self.journal, self.out = plan, found, journal, out
        self.probes: list[tuple[Key, Probe]] = list(probes(plan.device, plan.dtypes, plan.cache_bytes))
        self.steps: list[Inside] = wanted_steps(plan, found)
        self.wanted = [*(key for key, _ in self.probes), *(step.key for step in self.steps)]
        self.running: Running | None = None
        self.until = time.monotonic() + plan.most_s

    def carry_out(self) -> Device:
        """Run all passes and return the device."""
        import torch

        keep_freed_memory()
        state: list[str] = []
        if known := sum(self.found.visits.values()):
            self.plan.progress(f"continuing with {known} measurements")
        try:
            with torch.inference_mode(), PowerMonitor(self.plan.device) as power:
                self._passes()
                state += [*clocks(power.samples()), *throttling(power.samples()), *power.notes]
        except BaseException as error:
            stopped = "an interrupt" if isinstance(error, KeyboardInterrupt) else reason(error)
            self.found.ended = self.found.ended or stopped
            self._save_part()
            raise
        device = device_of(self.plan, self.found, state)
        self._save(device)
        return device

    def _passes(self) -> None:
        plan, found, begin = self.plan, self.found, time.monotonic()
        found.count(self.wanted)
        found.ended = found.enough(plan, 0.0) if found.done else ""
        while not found.ended:
            plan.progress(f"pass {found.done + 1} of {plan.passes}")
            for key, probe in self.probes:
                self._visit(key, lambda key=key, probe=probe: [(key, [probe()])])  # type: ignore[misc]
            for step in self.steps:
                self._visit(step.key, lambda step=step: self._inside().visit(step))  # type: ignore[misc]
            found.done += 1
            found.ended = found.enough(plan, time.monotonic() - begin)
            if not found.ended:
                self._save_part()

    def _visit(self, key: Key, measure: Callable[[], Times]) -> None:
        """Measure a key once per pass; a failure is reported and the key left out of later passes."""
        raise_swallowed()
        found = self.found
        if key in found.failed or found.visits[key] > found.done:
            return
        if time.monotonic() > self.until:
            raise OutOfTimeError(f"the time ended in pass {found.done + 1}")
        self._begin(key)
        try:
            times = measure()
        except BaseException as error:
            self._begin(key, -1)
            if not isinstance(error, Exception):
                raise
            found.failed[key] = reason(error)
            words = " ".join(map(str, key))
            self.plan.progress(f"  {words} cannot be measured: {found.failed[key]}")
            if not answers(self.plan.device):
                if self.journal is not None:  # the next command leaves it out
                    self.journal.add(key, [], lost=found.failed[key])
                raise InputError(f"{words} failed, and the device answers no more: {reason(error)}") from None
            return
        found.add(key, times)
        if self.journal is not None:
            self.journal.add(key, times)

    def _begin(self, key: Key, by: int = 1) -> None:
        """Note the start or the failure of a first visit."""
        if self.journal is not None and not self.found.visits[key]:
            self.journal.begin(key, by)

    def _inside(self) -> Running:
        """The models, built only when their first step is due, after all probes."""
        if self.running is None:
            self.running = Running(self.plan.device, self.steps)
        return self.running

    def _save_part(self) -> None:
        """Write the file so far; after an incomplete first pass only where no file exists."""
        if self.out is None or self.journal is None:
            return
        part = self.found if self.found.done else self.found.without_halves(self.wanted)
        if not lacking(self.plan, part) and (self.found.done or not self.out.exists()):
            self._save(device_of(self.plan, part, []))
            told = f"what was measured so far is in {self.out}"
        else:
            told = f"{sum(self.found.visits.values())} measurements are kept"
        if self.found.ended:
            self.plan.progress(f"{told}; the same command continues from {journal_of(self.out)}")

    def _save(self, device: Device) -> None:
        if self.out is not None:
            write_text(self.out, as_yaml(device))


def _begun_formats(found: Findings) -> list[str]:
    """The formats whose products earlier commands began: half of the sizes would give no peak."""
    return [key[1] for key in found.visits if key[0] == "matmul" and key[1] not in (INT8, TF32)]
