"""Small Kineto traces made by hand, whose answers are known on paper."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Made:
    """A Kineto trace under construction; times in microseconds."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.correlation = 100

    def add(
        self, cat: str, name: str, ts: float, dur: float, *, tid: int = 7, pid: int = 7, **args: Any
    ) -> None:
        event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur}
        self.events.append({**event, "args": args})

    def kernel(
        self, name: str, ts: float, dur: float, *, launched: float | None = None, stream: int = 7, **args: Any
    ) -> None:
        """A kernel and, where `launched` is given, the call that launched it."""
        self.correlation += 1
        ids = {"device": 0, "stream": stream, "correlation": self.correlation}
        if launched is not None:
            self.add("cuda_runtime", "cudaLaunchKernel", launched, 2.0, correlation=self.correlation)
        self.add("kernel", name, ts, dur, pid=0, tid=stream, **{**ids, **args})

    def text(self, **around: Any) -> str:
        return json.dumps({"schemaVersion": 1, **around, "traceEvents": self.events, "traceName": "made"})


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A file of bytes or text, packed where asked."""

    def at(content: bytes | str, name: str = "trace.json", packed: bool = False) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if packed else data)
        return path

    return at
