"""Whatever a file holds: tables that add up, or one sentence. Structures and bytes are made up."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiler.traces.attribution import attribute
from profiler.traces.reading import read_traces
from profiler.traces.summary import show
from profiler.traces.tables import SCHEMAS, Trace
from specfiles.errors import InputError

CORPUS = Path(__file__).parent / "corpus"
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
TIME = st.one_of(
    st.floats(0, 1e6), st.integers(0, 10**6), st.integers(0, 10**9).map(lambda n: f"{n / 1000:.3f}"), ODD
)
CATEGORIES = (
    "kernel",
    "gpu_memcpy",
    "gpu_memset",
    "cuda_runtime",
    "cpu_op",
    "user_annotation",
    "python_function",
)
NAMES = (
    "gemm",
    "flash_fwd",
    "rms_norm",
    "cudaLaunchKernel",
    "cudaGraphLaunch",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "aten::mm",
    "aten::cat",
    "nn.Module: Layer_1",
    "execute_new_1_cached_0",
    "ProfilerStep#1",
    "[memory]",
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "correlation": st.integers(0, 4) | ODD,
        "External id": st.integers(0, 4) | ODD,
        "stream": st.integers(0, 2) | ODD,
        "device": st.integers(0, 1) | ODD,
        "bytes": ODD,
        "grid": st.lists(st.integers(0, 9), min_size=3, max_size=3) | ODD,
        "Input Dims": st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=3) | ODD,
        "Input type": st.lists(st.sampled_from(["c10::BFloat16", "float", "Scalar"]), max_size=3) | ODD,
        "graph node id": ODD,
        "Total Allocated": ODD,
    },
)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        "ph": st.sampled_from(["X", "X", "X", "B", "E", "i", "M", "s"]) | ODD,
        "cat": st.sampled_from(CATEGORIES) | ODD,
        "name": st.sampled_from(NAMES) | ODD,
        "pid": st.integers(0, 2) | ODD,
        "tid": st.integers(0, 2) | ODD,
        "ts": TIME,
        "dur": TIME,
        "args": ARGUMENTS | ODD,
    },
)


def read(content: bytes) -> Trace | None:
    """The attributed trace of a file, or None where it was refused in one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_bytes(content)
        try:
            return attribute(read_traces([path]))
        except InputError:
            return None


def adds_up(trace: Trace) -> None:
    """What holds of every trace."""
    shown = show(trace, "kernel")
    totals = shown["totals"]
    assert 0 <= totals["gpu_busy_s"] <= totals["gpu_span_s"] * (1 + 1e-12)
    assert totals["gpu_idle_s"] == pytest.approx(sum(shown["idle"].values()), abs=1e-9)
    assert sum(row["count"] for row in shown["rows"]) == trace["activities"].num_rows
    assert trace["attribution"].num_rows == trace["activities"].num_rows
    assert (trace.column("activities", "end_ns") >= trace.column("activities", "start_ns")).all()
    for name, schema in SCHEMAS.items():
        assert trace[name].schema.names == schema.names
    for table, column, other in (
        ("activities", "launch", "launches"),
        ("activities", "range", "ranges"),
        ("ranges", "parent", "ranges"),
    ):
        if trace[table].num_rows:
            assert trace.column(table, column).max() < trace[other].num_rows
    json.dumps(shown, allow_nan=False)


@given(st.lists(EVENT, max_size=12), st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=50)
def test_any_structure_adds_up_or_is_refused(events: list[Any], bare: bool, indent: int | None) -> None:
    text = json.dumps(events if bare else {"traceEvents": events}, indent=indent)
    if (trace := read(text.encode())) is not None:
        adds_up(trace)


@given(st.data())
@settings(max_examples=50)
def test_any_damage_adds_up_or_is_refused(data: st.DataObject) -> None:
    """Real-looking files with bytes cut out, put in and changed, before or after packing."""
    whole = bytearray(data.draw(st.sampled_from([f.read_bytes() for f in sorted(CORPUS.iterdir())])))
    packed = data.draw(st.booleans())
    if packed and data.draw(st.booleans()):
        whole = bytearray(gzip.compress(bytes(whole)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(whole) - 1)))
        end = data.draw(st.integers(at, min(len(whole), at + 40)))
        whole[at:end] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"}", b"]", b"[", b"\\", b",", b"\x00"])
        )
    if (trace := read(bytes(whole))) is not None:
        adds_up(trace)


@given(st.binary(max_size=200))
@example(b'{"traceEvents":[{"ph":"X","cat":"kernel","name":"\\ud800","ts":1,"dur":1}]}')
@example(b'{"traceEvents":[{"ph":"X","cat":"kernel","ts":1,"dur":1,"args":{"stream":9223372036854775808}}]}')
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    if (trace := read(content)) is not None:
        adds_up(trace)


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_the_corpus_is_read(file: Path) -> None:
    trace = read(file.read_bytes())
    assert trace is not None
    adds_up(trace)
    assert trace["activities"].num_rows > 0
