"""Whatever a file holds: tables that add up, or one sentence. Structures and bytes are made up."""

from __future__ import annotations

import gzip
import json
import sqlite3
import tempfile
from contextlib import closing
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
FOUND = Path(__file__).parent / "found"  # what fuzz.py broke once
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


MARKS = [b'"', b"{", b"}", b"]", b"[", b"\\", b",", b"\x00", b"\n", b"\xff" * 8, b"9" * 5000]


def an_export() -> bytes:
    """A small report of Nsight Systems: kernels, their calls, a range, nodes of a graph, strings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.sqlite"
        with closing(sqlite3.connect(path)) as file, file:
            file.executescript("""
                PRAGMA page_size = 512;
                CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT);
                INSERT INTO StringIds VALUES (1, 'gemm'), (2, 'cudaLaunchKernel_v7000');
                CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER,
                    streamId INTEGER, correlationId INTEGER, globalPid INTEGER, demangledName INTEGER,
                    graphNodeId INTEGER);
                CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, globalTid INTEGER,
                    correlationId INTEGER, nameId INTEGER);
                CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT,
                    globalTid INTEGER);
                INSERT INTO NVTX_EVENTS VALUES (1, 100000, 59, 'layers.0.mlp', 117440519);
                CREATE TABLE CUDA_GRAPH_NODE_EVENTS (start INTEGER, end INTEGER, globalTid INTEGER,
                    graphNodeId INTEGER, originalGraphNodeId INTEGER)
            """)
            rows = range(40)
            kernels = [(100 * i + 60, 100 * i + 90, 0, 7, i + 1, 117440512, 1, i % 5) for i in rows]
            file.executemany(
                "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, ?, ?, ?, ?)", kernels
            )
            nodes = [(i, i, 117440519, i, i - 2) for i in range(2, 7)]
            file.executemany("INSERT INTO CUDA_GRAPH_NODE_EVENTS VALUES (?, ?, ?, ?, ?)", nodes)
            calls = [(100 * i + 10, 100 * i + 20, 117440519, i + 1, 2) for i in rows]
            file.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?)", calls)
        return path.read_bytes()


def a_page() -> bytes:
    """A raw page of Nsight Compute: units, then a row per kernel, of two contexts."""
    metrics = {"gpu__time_duration.sum": ("us", "1,234.5"), "dram__bytes_read.sum": ("Mbyte", "2,000,000.25")}
    lead = ("ID", "Process ID", "Kernel Name", "Context", "Stream", "Device")
    rows = [(*lead, *metrics), (*[""] * len(lead), *(unit for unit, _ in metrics.values()))]
    values = [value for _, value in metrics.values()]
    rows += [(str(i), "42", "gemm<128, 64>(float*)", str(i % 2), "7", "0", *values) for i in range(6)]
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    return f"==PROF== Connected to process 42\n{text}\n".encode()


WHOLE = {file.name: file.read_bytes() for file in sorted(CORPUS.iterdir())}
WHOLE |= {"packed.json.gz": gzip.compress(WHOLE["eager.json"], mtime=0), "nsys": an_export(), "ncu": a_page()}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut off, or with bytes changed, taken out, put in, or moved there from elsewhere in it."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        end = draw(st.integers(at, min(len(found), at + 40)))
        new = st.binary(max_size=6) | st.sampled_from(MARKS)
        source = draw(st.integers(0, len(found)))
        found[at:end] = draw(new | st.just(bytes(found[source : source + 200])))
    return bytes(found[: draw(st.just(len(found)) | st.integers(0, len(found)))])


@pytest.mark.parametrize("name", WHOLE)
def test_any_damage_adds_up_or_is_refused(name: str) -> None:
    """Files of every format, damaged before or after packing."""

    @given(damaged(WHOLE[name]), st.booleans())
    @settings(max_examples=25)
    def holds(content: bytes, packed: bool) -> None:
        if (trace := read(gzip.compress(content) if packed else content)) is not None:
            adds_up(trace)

    holds()


@given(st.binary(max_size=200))
@example(b'{"traceEvents":[{"ph":"X","cat":"kernel","name":"\\ud800","ts":1,"dur":1}]}')
@example(b'{"traceEvents":[{"ph":"X","cat":"kernel","ts":1,"dur":1,"args":{"stream":9223372036854775808}}]}')
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    if (trace := read(content)) is not None:
        adds_up(trace)


@pytest.mark.parametrize("name", WHOLE)
def test_the_corpus_is_read(name: str) -> None:
    trace = read(WHOLE[name])
    assert trace is not None
    adds_up(trace)
    assert trace["activities"].num_rows > 0


@pytest.mark.parametrize("file", sorted(FOUND.iterdir()), ids=lambda file: file.name)
def test_what_was_found_by_fuzzing_is_read_or_refused(file: Path) -> None:
    if (trace := read(file.read_bytes())) is not None:
        adds_up(trace)
