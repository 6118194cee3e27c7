"""Devices in traces without categories, identified by names of processes and threads, with rules as data."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from profiler.traces.rules import read_rules
from specfiles.strict import Strict, Text

NAMES = ("process_name", "thread_name")


class TrackRule(Strict, frozen=True, kw_only=True):
    """Processes and threads by full match of their names; tasks of the types in `waits` are not work."""

    process: Text
    thread: Text
    waits: Text = "(?!)"  # none


Patterns = tuple[re.Pattern[str], re.Pattern[str]]  # of threads that work, and of tasks that only wait


@cache
def _rules() -> list[tuple[re.Pattern[str], Patterns]]:
    return [
        (re.compile(rule.process), (re.compile(rule.thread), re.compile(rule.waits)))
        for rule in read_rules("track_rules.yaml", TrackRule)
    ]


class Tracks:
    """Names of processes and threads from metadata events (`M`) so far."""

    def __init__(self) -> None:
        self._rules: dict[Any, tuple[Patterns, int]] = {}  # of device processes
        self._threads: dict[tuple[Any, Any], str] = {}

    def learn(self, event: Any) -> None:
        """Add a name."""
        name = getattr(event.args, "name", None)
        if event.ph != "M" or event.name not in NAMES or not isinstance(name, str):
            return
        if event.name == "thread_name":
            self._threads[event.pid, event.tid] = name[:300]
            return
        for process, patterns in _rules():
            if found := process.fullmatch(name[:300]):
                self._rules[event.pid] = patterns, int(found.groupdict().get("device") or 0)
                return

    def is_device(self, event: Any) -> bool:
        """Whether an event belongs to a device, work or not."""
        return event.pid in self._rules

    def works(self, event: Any) -> bool:
        """Whether an event of a device is work."""
        (working, waiting), _ = self._rules[event.pid]
        thread = working.fullmatch(self._threads.get((event.pid, event.tid), ""))
        task = str(getattr(event.args, "task", None) or "")[:100]
        return thread is not None and waiting.fullmatch(task) is None

    def device(self, event: Any) -> int:
        """The number of the event's device; -1 where it belongs to none."""
        return self._rules[event.pid][1] if event.pid in self._rules else -1
