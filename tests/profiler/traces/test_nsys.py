"""Nsight Systems: real reports against what SQL says of them, small ones against what was put into them."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.traces import kineto, ncu, ncurep, nsys, nsysrep
from profiler.traces.attribution import attribute
from profiler.traces.reading import reader_of
from profiler.traces.samples import memory
from profiler.traces.tables import SCHEMAS, Trace
from specfiles.errors import InputError

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
Row = dict[str, Any]


def process(pid: int) -> int:
    """A process as reports number it: the machine in the high bits, the thread in the low ones."""
    return (1 << 48) + (pid << 24)


def kernel(start: int, end: int, correlation: int = 0, pid: int = 7, **more: Any) -> Row:
    return {
        "start": start,
        "end": end,
        "deviceId": 0,
        "streamId": 13,
        "correlationId": correlation,
        "globalPid": process(pid),
        "demangledName": 1,
        **more,
    }


def call(start: int, end: int, correlation: int, pid: int = 7, tid: int = 7) -> Row:
    return {
        "start": start,
        "end": end,
        "globalTid": process(pid) + tid,
        "correlationId": correlation,
        "nameId": 2,
    }


def nvtx(start: int, end: int | None, text: str | None, kind: int = 59, **more: Any) -> Row:
    return {"start": start, "end": end, "eventType": kind, "text": text, "globalTid": process(7) + 7, **more}


NAMES = [{"id": 1, "value": "gemm<128, 64>(float*)"}, {"id": 2, "value": "cudaLaunchKernel_v7000"}]


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    """An SQLite file with tables of these rows; columns are those that the rows name."""

    def write(name: str = "report.sqlite", **tables: Iterable[Row]) -> Path:
        path = tmp_path / name
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as file:
            for table, rows in {"StringIds": NAMES, **tables}.items():
                columns = list(dict.fromkeys(column for row in rows for column in row))
                texts = {c for row in rows for c in row if isinstance(row[c], str)} | {"text"}
                declared = (f'"{c}" {"TEXT" if c in texts else "INTEGER"}' for c in columns)
                file.execute(f"CREATE TABLE {table} ({', '.join(declared)})")
                marks = ", ".join("?" * len(columns))
                values = [[row.get(column) for column in columns] for row in rows]
                file.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
        file.close()
        return path

    return write


def lost(trace: Trace, what: str) -> dict[str, int]:
    return {loss.sentence: loss.count for loss in trace.losses if loss.what == what}


def times(trace: Trace) -> list[tuple[int, int]]:
    return [(row["start_ns"], row["end_ns"]) for row in trace["activities"].to_pylist()]


# --- real reports -----------------------------------------------------------------------------------


def test_two_gpus_link_by_process_as_well(shared: Callable[[str], Path]) -> None:
    path = shared("traces/nsys_3.25.0_2gpu_before.sqlite")
    trace = nsys.read(path)
    rows = trace["activities"].to_pylist()
    kernels = [row for row in rows if row["kind"] == "kernel"]
    assert len(kernels) == 4010
    assert sum(row["launch"] >= 0 for row in kernels) == 3986
    launches = trace["launches"].to_pylist()
    assert all(launches[k["launch"]]["process"] == k["process"] for k in kernels if k["launch"] >= 0)
    assert lost(trace, "unlinked") == {"activities whose launching call was not recorded": 31}
    assert not lost(trace, "dropped")


def test_annotations_of_torch_become_names(shared: Callable[[str], Path]) -> None:
    ranges = nsys.read(shared("traces/nsys_3.25.0_2gpu_before.sqlite"))["ranges"].to_pylist()
    assert len(ranges) == 19118
    kinds = Counter(row["kind"] for row in ranges)
    assert kinds["nvtx"] + kinds["operator"] == len(ranges)
    names = Counter(row["name"] for row in ranges)
    assert names["ncclSend"] == 132
    assert not any("op_id" in name for name in names)


def test_a_graph_is_an_activity(shared: Callable[[str], Path]) -> None:
    path = shared("traces/nsys_3.24.0_rtx3060_graphtrace.sqlite")
    trace = nsys.read(path)
    rows = trace["activities"].to_pylist()
    assert Counter(row["kind"] for row in rows) == {"kernel": 3, "graph": 2, "copy": 1}
    launches = trace["launches"].to_pylist()
    for row in rows:
        if row["kind"] == "graph":
            assert launches[row["launch"]]["name"] == "cudaGraphLaunch"
            assert row["graph"] > 0
    (device,) = trace.devices
    assert (device.name, device.processors, device.byte_per_s) == (
        "NVIDIA GeForce RTX 3060",
        28,
        360048000000,
    )
    assert trace.origins[0].version == "2025.5.2.266"


# --- reports made here ------------------------------------------------------------------------------


def test_the_oldest_columns_are_enough(report: Callable[..., Path]) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[{"start": 5, "end": 9}])
    trace = nsys.read(path)
    assert times(trace) == [(5, 9)]
    (row,) = trace["activities"].to_pylist()
    assert row["kind"] == "kernel"
    assert {row[name] for name in ("device", "stream", "launch", "grid_x", "bytes")} == {-1}
    assert trace["activities"].schema == SCHEMAS["activities"]


def test_correlation_ids_of_two_processes_do_not_mix(report: Callable[..., Path]) -> None:
    path = report(
        CUPTI_ACTIVITY_KIND_KERNEL=[
            kernel(10, 20, 3, pid=7),
            kernel(11, 21, 3, pid=8),
            kernel(12, 22, 4, pid=8),
        ],
        CUPTI_ACTIVITY_KIND_RUNTIME=[call(2, 3, 3, pid=8), call(1, 2, 3, pid=7)],
    )
    trace = nsys.read(path)
    launches = trace["launches"].to_pylist()
    found = [
        (row["process"], launches[row["launch"]]["process"] if row["launch"] >= 0 else None)
        for row in trace["activities"].to_pylist()
    ]
    assert found == [(7, 7), (8, 8), (8, None)]
    assert [row["name"] for row in launches] == ["cudaLaunchKernel", "cudaLaunchKernel"]


@pytest.mark.parametrize("highest", [2**32 - 1, 2**63 - 1])
def test_any_correlation_id_is_compared_whole_within_its_32_bits(
    report: Callable[..., Path], highest: int
) -> None:
    """The keys of many processes with the highest ids are beyond 32 bits; a missing id links nothing."""
    pids = range(1, 9)
    calls = [call(pid * 10, pid * 10 + 5, highest, pid) for pid in pids] + [call(200, 205, 3, 2)]
    kernels = [kernel(pid * 10 + 300, pid * 10 + 305, highest, pid) for pid in pids]
    others = [
        kernel(600, 605, 3, 2),
        kernel(700, 705, 3, 1),
        kernel(800, 805, -1, 1),
        kernel(900, 905, 3, 99),
    ]
    trace = nsys.read(report(**{KERNEL: kernels + others, RUNTIME: calls}))
    assert trace.column("activities", "launch").tolist() == [*range(8), 8, -1, -1, -1]


def test_every_kernel_of_a_graph_launch_has_that_call(report: Callable[..., Path]) -> None:
    kernels = [kernel(10 * i, 10 * i + 5, 9, graphNodeId=i) for i in range(1, 6)]
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=kernels, CUPTI_ACTIVITY_KIND_RUNTIME=[call(1, 2, 9)])
    rows = nsys.read(path)["activities"].to_pylist()
    assert [row["launch"] for row in rows] == [0] * 5
    assert [row["graph_node"] for row in rows] == [1, 2, 3, 4, 5]


def test_kernels_of_a_replay_are_in_the_ranges_that_captured_their_nodes(report: Callable[..., Path]) -> None:
    """Through clones of the instantiated graph, in any order, as on two streams; the step is the replay's."""
    sizes = [f"aten::mm, op_id = {n}, sizes = [[4, 16], [16, {32 * n}]]" for n in (1, 2, 3)]
    ranges = [nvtx(100 * n, 100 * n + 50, text) for n, text in enumerate(sizes, 1)]
    made = [
        {**call(100 * n + 10, 100 * n + 10, 0), "graphNodeId": n, "originalGraphNodeId": None}
        for n in (1, 2, 3)
    ]
    clones = [{**call(500, 500, 0), "graphNodeId": 10 + n, "originalGraphNodeId": n} for n in (1, 2, 3)]
    other = {**call(110, 110, 0, pid=8), "graphNodeId": 13, "originalGraphNodeId": None}
    path = report(
        NVTX_EVENTS=[*ranges, nvtx(900, 1000, "step[DECODE bs=4]"), nvtx(1100, 1200, "step[DECODE bs=8]")],
        CUDA_GRAPH_NODE_EVENTS=[other, *clones, *made],
        CUPTI_ACTIVITY_KIND_RUNTIME=[call(910, 920, 5), call(1110, 1120, 6)],
        CUPTI_ACTIVITY_KIND_KERNEL=[
            kernel(at + 10 * place, at + 10 * place + 5, correlation, graphNodeId=10 + n)
            for at, correlation in ((930, 5), (1130, 6))
            for place, n in enumerate((2, 1, 3, 9))
        ],
    )
    found = attribute(nsys.read(path))["attribution"].to_pydict()
    assert found["how"] == ["capture", "capture", "capture", None] * 2
    assert found["matrix_flops"] == [2 * 4 * 16 * 32 * n for n in (2, 1, 3, 0)] * 2
    assert found["step"] == [0] * 4 + [1] * 4
    assert len(set(found["instance"])) == 8


@pytest.mark.parametrize("begin", [b"PAR1", b"ARROW1\0\0", b"\x89HDF\r\n\x1a\n"])
def test_exports_of_other_kinds_are_refused_with_the_one_to_make(begin: bytes, tmp_path: Path) -> None:
    path = tmp_path / "StringIds"
    path.write_bytes(begin + bytes(100))
    with pytest.raises(InputError, match="nsys export --type sqlite"):
        reader_of(path)


@pytest.mark.parametrize("original", [1, 2], ids=["itself", "each other"])
def test_nodes_that_clone_each_other_end(report: Callable[..., Path], original: int) -> None:
    nodes = [
        {**call(1, 1, 0), "graphNodeId": node, "originalGraphNodeId": source}
        for node, source in ((1, original), (2, 1))
    ]
    trace = nsys.read(
        report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(5, 6, 3, graphNodeId=1)], CUDA_GRAPH_NODE_EVENTS=nodes)
    )
    assert trace["activities"].num_rows == 1


def test_a_correlation_id_used_twice_is_said(report: Callable[..., Path]) -> None:
    path = report(
        CUPTI_ACTIVITY_KIND_KERNEL=[kernel(10, 20, 3)],
        CUPTI_ACTIVITY_KIND_RUNTIME=[call(5, 6, 3), call(1, 2, 3)],
    )
    trace = nsys.read(path)
    assert trace["activities"]["launch"].to_pylist() == [0]
    assert trace["launches"]["start_ns"].to_pylist() == [1, 5]
    assert list(lost(trace, "noted").values()) == [1]


def test_odd_times_are_dropped_and_counted(report: Callable[..., Path]) -> None:
    hour = 3600 * 10**9
    rows = [kernel(10, 20), kernel(30, 25), kernel(40, 41 + hour), kernel(None, 3), kernel(50, 50)]
    trace = nsys.read(report(CUPTI_ACTIVITY_KIND_KERNEL=rows))
    assert times(trace) == [(10, 20), (50, 50)]
    assert lost(trace, "dropped") == {
        "events of negative duration": 1,
        "events longer than an hour": 1,
        "events without a start or an end": 1,
    }


def test_a_kernel_recorded_twice_counts_once(report: Callable[..., Path]) -> None:
    same = kernel(10, 20, 3)
    others = [kernel(10, 20, 3, streamId=14), kernel(10, 20, 3, deviceId=1), kernel(10, 21, 4, streamId=15)]
    trace = nsys.read(report(CUPTI_ACTIVITY_KIND_KERNEL=[same, *others, same, kernel(1, 2), same]))
    assert len(times(trace)) == 5
    assert lost(trace, "repaired") == {"activities recorded twice, counted once": 2}


def test_order_of_rows_does_not_matter(report: Callable[..., Path]) -> None:
    rows = [kernel(10 * i, 10 * i + 7, i) for i in range(1, 50)]
    calls = [call(10 * i - 5, 10 * i - 4, i) for i in range(1, 50)]
    ordered = nsys.read(report(CUPTI_ACTIVITY_KIND_KERNEL=rows, CUPTI_ACTIVITY_KIND_RUNTIME=calls))
    mixed = nsys.read(
        report(CUPTI_ACTIVITY_KIND_KERNEL=rows[::-1], CUPTI_ACTIVITY_KIND_RUNTIME=calls[25:] + calls[:25])
    )
    for table in ("activities", "launches"):
        assert mixed[table].to_pylist() == ordered[table].to_pylist()


def test_ranges_of_every_sort(report: Callable[..., Path]) -> None:
    rows = [
        nvtx(1, 9, "outer"),
        nvtx(2, 3, None, textId=1),
        nvtx(4, None, "open", kind=60),
        nvtx(0, None, "a mark", kind=34),
        nvtx(0, None, "roofline", kind=75),
        nvtx(5, 6, "aten::mm, seq = 3, op_id = 12, sizes = [[4, 5], [5, 6]], input_op_ids = [[1,0]]"),
        nvtx(6, 7, None),
    ]
    trace = nsys.read(report(NVTX_EVENTS=rows))
    found = [
        (r["name"], r["kind"], r["start_ns"], r["end_ns"], r["shapes"]) for r in trace["ranges"].to_pylist()
    ]
    assert found == [
        ("outer", "nvtx", 1, 9, None),
        ("gemm<128, 64>(float*)", "nvtx", 2, 3, None),
        ("open", "nvtx", 4, 9, None),
        ("aten::mm", "operator", 5, 6, '{"dims":[[4, 5], [5, 6]]}'),
        ("(no name)", "nvtx", 6, 7, None),
    ]
    assert lost(trace, "repaired") == {"ranges never closed, taken to last to the end": 1}


def test_sizes_that_a_range_tells_are_the_work_of_its_kernels(report: Callable[..., Path]) -> None:
    """A product of 2 x 3 x 5, 60 FLOP and 2 (6 + 15 + 10) bytes; two ranges whose sizes cannot be."""
    told = ['{"kind":"gemm","m":2,"n":5,"k":3}', '{"kind":"gemm","m":"2","n":5,"k":3}', '{"kind":"gemm"}']
    named = [nvtx(0, None, text, kind=33, domainId=1, category=i) for i, text in enumerate(told, 1)]
    ranges = [nvtx(100 * i, 100 * i + 50, f"op_{i}", domainId=1, category=i) for i in (1, 2, 3)]
    trace = nsys.read(
        report(
            CUPTI_ACTIVITY_KIND_KERNEL=[
                row
                for i in (1, 2, 3)
                for row in (kernel(100 * i + 50, 100 * i + 59, i), kernel(100 * i + 60, 100 * i + 80, i))
            ],
            CUPTI_ACTIVITY_KIND_RUNTIME=[call(100 * i + 5, 100 * i + 6, i) for i in (1, 2, 3)],
            NVTX_EVENTS=named + ranges,
        )
    )
    rows = attribute(trace)["attribution"].to_pylist()
    assert [row["operator"] for row in rows] == [f"op_{i}" for i in (1, 1, 2, 2, 3, 3)]
    assert [row["matrix_flops"] for row in rows] == [0, 60, 0, 0, 0, 0]  # on the longest kernel of the range
    assert [row["work_bytes"] for row in rows] == [0, 62, 0, 0, 0, 0]
    assert [row["how"] for row in rows] == ["shapes"] * 2 + [None] * 4


def test_ranges_that_the_tool_could_not_see_are_said(report: Callable[..., Path]) -> None:
    trace = nsys.read(report(NVTX_EVENTS=[nvtx(0, None, "roofline", kind=75)]))
    assert lost(trace, "noted")[nsys.UNSEEN] == 1


def test_visible_devices_are_numbered_as_the_machine_does(report: Callable[..., Path]) -> None:
    numbers = [{"gpuId": 0, "cudaId": 0, "pid": 7}, {"gpuId": 3, "cudaId": 0, "pid": 8}]
    path = report(
        CUPTI_ACTIVITY_KIND_KERNEL=[kernel(1, 2, pid=7), kernel(1, 2, pid=8)], TARGET_INFO_CUDA_DEVICE=numbers
    )
    for brief in (True, False):
        assert nsys.read(path, brief=brief)["activities"]["device"].to_pylist() == [0, 3]


def test_clocks_and_loads_are_samples(report: Callable[..., Path]) -> None:
    values = [
        {"timestamp": t, "typeId": 256 + 1, "metricId": m, "value": v}
        for t, m, v in ((5, 1, 1410), (5, 2, 50), (6, 1, 1400), (6, 3, 9))
    ]
    names = [
        {"typeId": 257, "metricId": 1, "metricName": "GPC Clock Frequency [MHz]"},
        {"typeId": 257, "metricId": 2, "metricName": "SMs Active [Throughput %]"},
        {"typeId": 257, "metricId": 3, "metricName": "Something Else [Parsecs]"},
    ]
    path = report(GPU_METRICS=values, TARGET_INFO_GPU_METRICS=names, NVTX_EVENTS=[nvtx(1, 2, "r")])
    rows = nsys.read(path)["samples"].to_pylist()
    found = sorted((r["time_ns"], r["device"], r["quantity"], r["value"]) for r in rows)
    assert found == [(5, 1, "sm_active", 0.5), (5, 1, "sm_clock_hz", 1.41e9), (6, 1, "sm_clock_hz", 1.4e9)]


def test_a_metric_without_a_number_is_refused(report: Callable[..., Path]) -> None:
    values = [{"timestamp": 5, "typeId": 1, "metricId": 1, "value": "much"}]
    names = [{"typeId": 1, "metricId": 1, "metricName": "SMs Active [%]"}]
    with pytest.raises(InputError, match="much"):
        nsys.read(report(GPU_METRICS=values, TARGET_INFO_GPU_METRICS=names, META_DATA_EXPORT=NAMES))


def test_names_are_only_names(report: Callable[..., Path]) -> None:
    texts = ["<script>alert(1)</script>", "a\x00b\x1b[31m", "n" * 3_000_000, "é ö"]
    names = [{"id": i + 1, "value": text} for i, text in enumerate(texts)]
    rows = [kernel(10 * i, 10 * i + 5, demangledName=i + 1) for i in range(6)]
    trace = nsys.read(report(StringIds=names, CUPTI_ACTIVITY_KIND_KERNEL=rows))
    found = trace["activities"]["name"].to_pylist()
    assert found[0] == texts[0]
    assert found[3] == "é ö"
    assert "\x00" not in found[1]
    assert len(found[2]) < 5000
    assert found[4:] == ["(string 5)", "(string 6)"]


def test_invalid_utf8_is_read(report: Callable[..., Path]) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(1, 2)], NVTX_EVENTS=[nvtx(1, 2, "x")])
    with sqlite3.connect(path) as file:
        file.execute("UPDATE StringIds SET value = CAST(x'67ff65' AS TEXT)")
        file.execute("UPDATE NVTX_EVENTS SET text = CAST(x'67ff65' AS TEXT)")
    file.close()
    trace = nsys.read(path)
    assert trace["activities"]["name"].to_pylist() == ["g\ufffde"]
    assert trace["ranges"]["name"].to_pylist() == ["g\ufffde"]


# --- bad input --------------------------------------------------------------------------------------


def test_reading_changes_nothing_and_runs_nothing(report: Callable[..., Path], tmp_path: Path) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(1, 2), kernel(3, 4)])
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE TRIGGER gone AFTER INSERT ON {KERNEL} BEGIN DELETE FROM {KERNEL}; END")
        file.execute(f"CREATE VIEW {RUNTIME} AS SELECT load_extension('/nowhere/x') AS start, 2 AS end")
    file.close()
    before = path.read_bytes()
    path.chmod(stat.S_IRUSR)
    trace = nsys.read(path)
    assert times(trace) == [(1, 2), (3, 4)]
    assert trace["launches"].num_rows == 0  # a view is no table of a report
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("column", "value"), [("start", "soon"), ("streamId", "main"), ("correlationId", 1.5), ("gridX", b"\x00")]
)
def test_a_column_of_another_type_is_refused(report: Callable[..., Path], column: str, value: Any) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[{**kernel(1, 2), "gridX": 1}, kernel(3, 4)])
    with sqlite3.connect(path) as file:
        file.execute(f"UPDATE {KERNEL} SET {column} = ? WHERE start = 3", [value])
    file.close()
    with pytest.raises(InputError, match=r"report\.sqlite"):
        nsys.read(path)


def test_a_missing_time_is_named(report: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"KERNEL has no column 'end' \(it has: start, streamId\)"):
        nsys.read(report(CUPTI_ACTIVITY_KIND_KERNEL=[{"start": 1, "streamId": 1}]))


def test_other_databases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE people (name TEXT)")
    file.close()
    with pytest.raises(InputError, match="no export of Nsight Systems"):
        nsys.read(path)


def test_an_empty_report_says_so(report: Callable[..., Path]) -> None:
    trace = nsys.read(report(META_DATA_EXPORT=[{"name": "EXPORT_PRODUCT_VERSION", "value": "2024.1"}]))
    assert trace["activities"].num_rows == 0
    assert trace.origins[0].version == "2024.1"
    assert lost(trace, "noted") == {"report without any kernel, copy or set": 1}


def test_a_file_in_the_making_is_refused(report: Callable[..., Path]) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(1, 2)])
    Path(f"{path}-wal").write_bytes(b"\x37\x7f\x06\x82")
    with pytest.raises(InputError, match="still being written"):
        nsys.read(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(report: Callable[..., Path], share: float) -> None:
    path = report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(10 * i, 10 * i + 5) for i in range(5000)])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"report\.sqlite"):
        nsys.read(path)


@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=40))
def test_damaged_bytes_end_in_a_sentence_or_a_table(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.sqlite"
    if not (sound := path.with_suffix(".sound")).exists():
        with sqlite3.connect(sound) as file:
            file.execute(
                f"CREATE TABLE {KERNEL} (start INTEGER, end INTEGER, streamId INTEGER, demangledName INTEGER)"
            )
            file.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
            file.executemany(f"INSERT INTO {KERNEL} VALUES (?, ?, 7, 1)", [(i, i + 5) for i in range(300)])
            file.execute("INSERT INTO StringIds VALUES (1, 'gemm')")
        file.close()
    raw = bytearray(sound.read_bytes())
    for place, byte in changes:
        raw[place % len(raw)] = byte
    path.write_bytes(raw)
    try:
        table = nsys.read(path)["activities"]
    except InputError as error:
        said = str(error)
        assert str(path) in said
        return
    start, end = table["start_ns"].to_numpy(), table["end_ns"].to_numpy()
    assert (end >= start).all()
    assert (np.diff(start) >= 0).all()


# --- .nsys-rep --------------------------------------------------------------------------------------


def test_formats_are_known_by_content(report: Callable[..., Path], tmp_path: Path) -> None:
    files = {
        "a.json": report(CUPTI_ACTIVITY_KIND_KERNEL=[kernel(1, 2)]).read_bytes(),
        "b.sqlite": nsysrep.MAGIC + b" 1.0",
        "c.nsys-rep": ncurep.MAGIC,
        "d.gz": b'"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n',
        "e.csv": b'{"traceEvents": []}',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    readers = [reader_of(tmp_path / name) for name in files]
    assert readers == [nsys.read, nsysrep.read, ncurep.read, ncu.read, kineto.read]


def test_a_binary_report_needs_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"nsys export --type sqlite x\.nsys-rep"):
        nsysrep.read(tmp_path / "x.nsys-rep")


def test_what_nsys_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nsys"
    program.write_text("#!/bin/sh\necho 'unsupported version' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    with pytest.raises(InputError, match="unsupported version"):
        nsysrep.read(tmp_path / "x.nsys-rep")


def test_a_clock_may_begin_before_its_zero(report: Callable[..., Path]) -> None:
    rows = [kernel(-500, -400), kernel(-1, 5), kernel(100, 200)]
    assert times(nsys.read(report(**{KERNEL: rows}))) == [(-500, -400), (-1, 5), (100, 200)]


def test_names_may_stand_in_the_table_itself(report: Callable[..., Path]) -> None:
    rows = [{**kernel(10 * i, 10 * i + 5, i + 1), "demangledName": f"gemm_{i % 2}"} for i in range(4)]
    calls = [{**call(10 * i, 10 * i + 1, i + 1), "nameId": "cudaLaunchKernel_v7000"} for i in range(4)]
    for brief in (False, True):
        trace = nsys.read(report(**{KERNEL: rows, RUNTIME: calls}), brief=brief)
        assert trace["activities"]["name"].to_pylist() == ["gemm_0", "gemm_1"] * 2
    assert (
        nsys.read(report(**{KERNEL: rows, RUNTIME: calls}))["launches"]["name"].to_pylist()
        == ["cudaLaunchKernel"] * 4
    )


def test_a_view_is_not_run_and_said(report: Callable[..., Path]) -> None:
    path = report(**{"other": [kernel(0, 5)]})
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE VIEW {KERNEL} AS SELECT * FROM other")
        file.execute(f"CREATE TABLE {RUNTIME} (start INTEGER, end INTEGER)")
    file.close()
    assert lost(nsys.read(path), "dropped") == {
        "views in the place of tables: what they ask for is not run": 1
    }


@pytest.mark.parametrize("declared", ["start INTEGER PRIMARY KEY, end INTEGER) WITHOUT ROWID", "*"])
def test_rows_need_no_number(report: Callable[..., Path], declared: str) -> None:
    path = report()
    columns = "start INTEGER, end INTEGER, rowid INTEGER)" if declared == "*" else declared
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE TABLE {KERNEL} ({columns}")
        file.executemany(f"INSERT INTO {KERNEL} (start, end) VALUES (?, ?)", [(0, 5), (10, 15)])
    file.close()
    assert times(nsys.read(path)) == [(0, 5), (10, 15)]


def test_memory_is_what_was_allocated_and_not_yet_freed(report: Callable[..., Path]) -> None:
    def event(start: int, address: int, size: int, freed: int, kind: int = 2, pid: int = 7) -> Row:
        place = {"deviceId": 0, "globalPid": process(pid), "address": address}
        return {"start": start, **place, "bytes": size, "memKind": kind, "memoryOperationType": freed}

    events = [
        event(1, 64, 1000, 0),
        event(2, 128, 5000, 0),
        event(3, 64, 0, 1),  # a freeing need not say its size
        event(4, 999, 4000, 1),  # allocated before the recording: never counted, never taken away
        event(5, 64, 200, 0, pid=8),  # another process has addresses of its own
        event(6, 256, 10**9, 0, kind=1),  # pinned memory of the host
    ]
    trace = nsys.read(report(**{KERNEL: [kernel(0, 5)], "CUDA_GPU_MEMORY_USAGE_EVENTS": events}))
    assert [row["value"] for row in trace["samples"].to_pylist()] == [1000, 6000, 5000, 5200]
    (found,) = memory(trace)
    assert found["peak_allocated_bytes"] == 6000
    assert found["peak_reserved_bytes"] is None
