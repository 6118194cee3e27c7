"""Devices in traces without categories, identified by names of processes and threads, with rules as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from specfiles.reading import read_yaml
from specfiles.strict import Strict, Text, validated

TABLE = Path(__file__).with_name("track_rules.yaml")
NAMES = ("process_name", "thread_name")


class TrackRule(Strict, frozen=True, kw_only=True):
    """Processes and threads by full match of their names; tasks of the types in `waits` are not work."""

    process: Text
    thread: Text
    waits: Text = "(?!)"  # none


class TrackFile(Strict, frozen=True, kw_only=True):
    """The rules; the first whose process matches decides."""

    schema: Literal[1]
    rules: list[TrackRule]


@dataclass(frozen=True)
class Rule:
    """A compiled rule."""

    process: re.Pattern[str]
    thread: re.Pattern[str]
    waits: re.Pattern[str]


@cache
def _rules() -> list[Rule]:
    table = validated(TrackFile, read_yaml(TABLE), str(TABLE))
    return [Rule(*map(re.compile, (rule.process, rule.thread, rule.waits))) for rule in table.rules]


class Tracks:
    """Names of processes and threads from metadata events (`M`) so far."""

    def __init__(self) -> None:
        self._rules: dict[Any, tuple[Rule, int]] = {}  # of device processes
        self._threads: dict[tuple[Any, Any], str] = {}

    def learn(self, event: Any) -> None:
        """Add a name."""
        name = getattr(event.args, "name", None)
        if event.ph != "M" or event.name not in NAMES or not isinstance(name, str):
            return
        if event.name == "thread_name":
            self._threads[event.pid, event.tid] = name[:300]
            return
        for rule in _rules():
            if found := rule.process.fullmatch(name[:300]):
                self._rules[event.pid] = rule, int(found.groupdict().get("device") or 0)
                return

    def is_device(self, event: Any) -> bool:
        """Whether an event belongs to a device, work or not."""
        return event.pid in self._rules

    def works(self, event: Any) -> bool:
        """Whether an event of a device is work."""
        rule, _ = self._rules[event.pid]
        thread = rule.thread.fullmatch(self._threads.get((event.pid, event.tid), ""))
        task = str(getattr(event.args, "task", None) or "")[:100]
        return thread is not None and rule.waits.fullmatch(task) is None

    def device(self, event: Any) -> int:
        """The number of the event's device; -1 where it belongs to none."""
        return self._rules[event.pid][1] if event.pid in self._rules else -1
