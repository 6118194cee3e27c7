"""Kineto traces: exact times, every layout, and nothing lost in silence."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.traces import kineto
from profiler.traces.reading import read_traces
from profiler.traces.samples import memory
from profiler.traces.tables import Trace
from profiler.traces.totals import totals
from specfiles.errors import InputError

Write = Callable[..., Path]


def busy(trace: Trace) -> int:
    return round(totals(trace)["gpu_busy_s"] * 1e9)


def sentences(trace: Trace) -> str:
    return "\n".join(f"{loss.what} {loss.count} {loss.sentence}" for loss in trace.losses)


def two_kernels(made: Any, base: float = 1000.0) -> Any:
    """Two kernels that overlap on two streams: 10.5 and 4 us, busy 12.25 us, span 12.25 us."""
    made.kernel("gemm_a", base + 10.125, 10.5, launched=base)
    made.kernel("gemm_b", base + 18.375, 4.0, launched=base + 3, stream=8)
    return made


PLAIN = {
    "kernels": 2,
    "kernel_time_s": 14.5e-6,
    "gpu_busy_s": 12.25e-6,
    "gpu_span_s": 12.25e-6,
    "gpu_idle_s": 0.0,
}


def check(trace: Trace) -> None:
    found = totals(trace)
    assert {name: found[name] for name in PLAIN} == pytest.approx(PLAIN, abs=1e-15)


@pytest.mark.parametrize("packed", [False, True], ids=["json", "gzip"])
@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz", "trace"])
def test_content_decides_not_the_name(made: Any, write: Write, packed: bool, name: str) -> None:
    check(read_traces([write(two_kernels(made).text(), name, packed)]))


@pytest.mark.parametrize(
    "layout",
    [
        lambda e: json.dumps({"traceEvents": e}),
        lambda e: json.dumps({"traceEvents": e}, indent=4),
        lambda e: json.dumps({"traceEvents": e}, separators=(",", ":")),
        lambda e: json.dumps(e),
        lambda e: json.dumps(e, indent=1)[:-1],  # Chrome needs no closing bracket
        lambda e: (
            "\ufeff"
            + json.dumps({"a": [1, {"traceEvents": [{}]}], "b": '"traceEvents": [', "traceEvents": e})
        ),
        lambda e: json.dumps({"traceEvents": e, "deviceProperties": [{"id": 0}, {"id": 1}], "z": {"y": []}}),
        lambda e: (
            "\r\n\t "
            + json.dumps([{k: x[k] for k in reversed(list(x))} for x in e]).replace("}, {", "}\t,\r\n{")
        ),
    ],
    ids=["object", "indented", "dense", "list", "open list", "decoys", "trailer", "reversed"],
)
def test_any_layout(made: Any, write: Write, layout: Callable[[list[Any]], str]) -> None:
    trace = read_traces([write(layout(two_kernels(made).events))])
    check(trace)
    assert trace.losses == ()


@pytest.mark.parametrize(
    "base", [0.0, 6520618853487.0, 1751410836123456.0], ids=["zero", "months", "since 1970"]
)
def test_nanoseconds_are_exact(write: Write, base: float) -> None:
    # 0.001 us apart: a float of microseconds since 1970 cannot tell them.
    whole = int(base)
    times = [(f"{whole}.{n:03d}", "0.001") for n in (0, 1, 3, 998)]
    events = ",".join(
        f'{{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":{ts},"dur":{dur},"args":{{"stream":7}}}}'
        for ts, dur in times
    )
    trace = kineto.read(write(f'{{"traceEvents":[{events}]}}'))
    starts = trace.column("activities", "start_ns").tolist()
    assert starts == [whole * 1000 + n for n in (0, 1, 3, 998)]
    assert busy(trace) == 4


@pytest.mark.parametrize("quoted", [False, True])
def test_whole_microseconds_since_1970_are_exact(write: Write, quoted: bool) -> None:
    # As PyTorch wrote them before 2.3: a float of their nanoseconds is off by up to 128.
    times = [1_665_000_000_000_123 + 7 * n for n in range(50)]
    events = [
        {
            "ph": "X",
            "cat": "kernel",
            "name": "k",
            "pid": 0,
            "tid": 7,
            "ts": str(at) if quoted else at,
            "dur": 3,
        }
        for at in times
    ]
    trace = kineto.read(write(json.dumps({"traceEvents": events})))
    assert trace.column("activities", "start_ns").tolist() == [1000 * at for at in times]


def test_kernels_find_their_operators(made: Any, write: Write) -> None:
    made.add("user_annotation", "outer", 0.0, 100.0)
    made.add("cpu_op", "aten::mm", 10.0, 20.0)
    made.kernel("gemm", 50.0, 5.0, launched=15.0)
    made.kernel("copy", 60.0, 5.0, launched=40.0)
    made.add("cpu_op", "other thread", 10.0, 20.0, tid=8)
    trace = read_traces([write(made.text())])
    words, names = trace.words("ranges", "name"), trace.column("ranges", "name")
    around = [words[names[row]] for row in trace.column("activities", "range")]
    assert around == ["aten::mm", "outer"]
    assert totals(trace)["unattributed_s"] == 0


def test_a_kernel_s_launch_says_more_than_the_id_of_its_operator(made: Any, write: Write) -> None:
    """A range inside an operator is narrower; without a launch the operator is all that is known."""
    number = {"External id": 9}
    made.add("cpu_op", "aten::mm", 0.0, 100.0, **number)
    made.add("user_annotation", "inside", 10.0, 20.0)
    made.kernel("launched", 50.0, 5.0, launched=15.0, **number)
    made.add("kernel", "alone", 60.0, 5.0, pid=0, **number)
    trace = read_traces([write(made.text())])
    words, names = trace.words("ranges", "name"), trace.column("ranges", "name")
    assert [words[names[row]] for row in trace.column("activities", "range")] == ["inside", "aten::mm"]


def test_a_kernel_is_attributed_by_its_launch_or_its_operator(made: Any, write: Write) -> None:
    made.add("cpu_op", "aten::mm", 0.0, 10.0, **{"External id": 9})
    made.kernel("launched outside", 50.0, 1.0, launched=20.0)
    made.add("kernel", "of the operator", 60.0, 2.0, pid=0, **{"External id": 9})
    made.add("kernel", "of nobody", 70.0, 4.0, pid=0)
    assert totals(read_traces([write(made.text())]))["unattributed_s"] == pytest.approx(4e-6)


def test_the_same_id_twice_means_the_launch_before(made: Any, write: Write) -> None:
    made.add("cpu_op", "first", 0.0, 9.0)
    made.add("cpu_op", "second", 100.0, 9.0)
    for at in (1.0, 101.0):
        made.add("cuda_runtime", "cudaLaunchKernel", at, 2.0, correlation=5)
        made.add("kernel", f"k{at}", at + 20, 5.0, pid=0, stream=7, correlation=5)
    trace = read_traces([write(made.text())])
    words, names = trace.words("ranges", "name"), trace.column("ranges", "name")
    assert [words[names[row]] for row in trace.column("activities", "range")] == ["first", "second"]


def test_one_id_for_all_links_nothing(made: Any, write: Write) -> None:
    made.add("cuda_runtime", "cudaLaunchKernel", 0.0, 2.0, correlation=5)
    for at in range(20):
        made.add("kernel", "k", 10.0 * at, 5.0, pid=0, stream=7, correlation=5)
    trace = read_traces([write(made.text())])
    assert set(trace.column("activities", "launch").tolist()) == {-1}
    assert "unlinked 20" in sentences(trace)
    assert totals(trace)["unattributed_s"] == pytest.approx(100e-6)


def test_the_kernels_of_a_graph_share_its_launch(made: Any, write: Write) -> None:
    made.add("cuda_runtime", "cudaGraphLaunch", 0.0, 2.0, correlation=5)
    for at in range(20):
        made.add("kernel", "k", 10.0 + 10 * at, 5.0, pid=0, stream=7, correlation=5)
    trace = read_traces([write(made.text())])
    assert set(trace.column("activities", "launch").tolist()) == {0}
    assert set(trace.column("activities", "graph").tolist()) == {0}


def odd(**changes: Any) -> Callable[[Any], Any]:
    """One more kernel, with some fields changed or (None) left out."""

    def change(made: Any) -> Any:
        made.kernel("odd", 5000.0, 7.0, launched=4990.0)
        event = made.events[-1]
        for key, value in changes.items():
            place = event["args"] if key in event["args"] else event
            place.pop(key, None) if value is None else place.__setitem__(key, value)
        return made

    return change


@pytest.mark.parametrize(
    ("change", "counted", "says"),
    [
        (odd(dur=-3.0), False, "dropped 1 events of negative duration"),
        (odd(dur=1e13), False, "dropped 1 events longer than an hour"),
        (odd(dur=None), False, "dropped 1 events without a time"),
        (odd(ts=None), False, "dropped 1 events without a time"),
        (odd(ts="soon"), False, "dropped 1 events without a time"),
        (odd(ts=1e300), False, "dropped 1 events without a time"),
        (odd(ts=float("nan")), False, "dropped 1 events without a time"),
        (odd(ts=8e12), False, "dropped 1 events more than a week"),
        (odd(ts="5000.0", dur="7.0"), True, ""),
        (odd(stream=None), True, ""),
        (odd(correlation="103"), True, ""),
        (odd(args=None), True, ""),
        (odd(args=[1, 2]), True, "repaired 1"),
        (odd(name=None), True, ""),
        (odd(name=17), True, ""),
        (odd(pid={"a": 1}), True, "repaired 1"),
        (odd(grid="many", block=["1", "2", "3"]), True, ""),
        (odd(cat=None), True, "repaired 1 events without a category"),
        (odd(name="x" * 1_000_000), True, "noted 1 names that were cut"),
        (odd(name="a\u0000b\u001b[31m"), True, "noted 1 names that were cut or had control"),
    ],
)
def test_an_odd_event_is_used_or_counted_as_lost(
    made: Any, write: Write, change: Callable[[Any], Any], counted: bool, says: str
) -> None:
    trace = read_traces([write(change(two_kernels(made)).text())])
    found = totals(trace)
    assert found["kernels"] == 2 + counted
    assert found["kernel_time_s"] == pytest.approx(14.5e-6 + 7e-6 * counted)
    assert says in sentences(trace)
    assert all(char.isprintable() for name in trace.words("activities", "name") for char in name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"gemm_b"', b'"gemm\x01_b"'),
        (b'"gemm_b"', b'"gemm\n_b"'),
        (b'"gemm_b"', b'"gemm_\xff\xfe"'),
        (b'"gemm_b"', rb'"C:\Users\gemm"'),
        (b'"stream": 8', b'"stream": 8, "x": NaN, "y": -Infinity'),
    ],
    ids=["control", "newline", "not utf-8", "backslash", "nan"],
)
def test_broken_characters_are_mended(made: Any, write: Write, old: bytes, new: bytes) -> None:
    check(read_traces([write(two_kernels(made).text().encode().replace(old, new))]))


def test_a_stray_quote_costs_its_event_only(made: Any, write: Write) -> None:
    for at in range(50):
        made.kernel("even", 100.0 * at, 10.0, launched=100.0 * at - 50)
    text = made.text().replace('"even"', '"od"d"', 1)
    trace = read_traces([write(text)])
    found = totals(trace)
    assert 48 <= found["kernels"] <= 49
    assert found["dropped_events"] >= 1


def test_what_is_recorded_twice_counts_once(made: Any, write: Write) -> None:
    two_kernels(made)
    made.events += [dict(event) for event in made.events]
    trace = read_traces([write(made.text())])
    check(trace)
    assert "repaired 2 activities recorded twice, counted once" in sentences(trace)


def test_order_does_not_matter(made: Any, write: Write) -> None:
    two_kernels(made).events.reverse()
    check(read_traces([write(made.text())]))


def test_begin_and_end_make_a_range(made: Any, write: Write) -> None:
    for ph, name, ts in (("B", "outer", 0.0), ("B", "inner", 10.0), ("E", "", 30.0), ("B", "open", 60.0)):
        made.events.append({"ph": ph, "cat": "user_annotation", "name": name, "pid": 7, "tid": 7, "ts": ts})
    made.kernel("k", 100.0, 5.0, launched=12.0)
    trace = read_traces([write(made.text())])
    found = dict(zip(trace["ranges"]["name"].to_pylist(), trace["ranges"]["end_ns"].to_pylist(), strict=True))
    assert found["inner"] == 30_000
    assert "repaired 2 ranges that never end" in sentences(trace)


def test_a_cut_file_gives_what_is_whole(made: Any, write: Write) -> None:
    for at in range(2000):
        made.kernel("k", 100.0 * at, 10.0)
    packed = gzip.compress(made.text().encode())
    trace = read_traces([write(packed[: len(packed) // 2])])
    count = totals(trace)["kernels"]
    assert 100 < count < 2000
    assert busy(trace) == 10_000 * count
    assert "ends too early" in "".join(
        loss.sentence for loss in trace.losses
    ) or "end too early" in sentences(trace)
    half = made.text()[: len(made.text()) // 2]
    trace = read_traces([write(half)])
    assert totals(trace)["kernels"] == half.count('"k"') - (not half.rstrip().endswith("}"))
    assert "the JSON ends too early" in sentences(trace)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"   \n", "it is empty"),
        (b"\x1f\x8b", "gzip data end too early"),
        (b"{}", "not a Chrome or Kineto trace"),
        (b"hello", "not a Chrome or Kineto trace"),
        (b"<html></html>", "not a Chrome or Kineto trace"),
        (b"[]", "no event"),
        (b'{"traceEvents": []}', "no event"),
        (b'{"traceEvents": 5}', "not a Chrome or Kineto trace"),
        (b"[" * 100_000, "no event"),
        (b'{"a":' * 100_000, "not a Chrome or Kineto trace"),
        (b"\x00" * 10_000, "not a Chrome or Kineto trace"),
    ],
)
def test_what_is_no_trace_is_said_in_a_sentence(write: Write, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_traces([write(content)])


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_traces([tmp_path / "absent.json"])
    with pytest.raises(InputError, match="is a folder"):
        read_traces([tmp_path])


@pytest.mark.slow
def test_a_bomb_is_left_alone(write: Write) -> None:
    bomb = gzip.compress(b'{"traceEvents": [' + b" " * (300 << 20), 9)
    with pytest.raises(InputError, match=r"grow by more than 300 times|no event"):
        read_traces([write(bomb)])


def test_a_trace_of_the_host_alone_is_said_to_be_one(made: Any, write: Write) -> None:
    made.add("cpu_op", "aten::mm", 0.0, 10.0)
    trace = read_traces([write(made.text())])
    assert totals(trace)["gpu_busy_s"] == 0
    assert "noted 1 ranges of the host and no activity of a device" in sentences(trace)


def test_ends_without_a_category_close_what_is_open_on_their_thread(write: Write) -> None:
    events = []
    for at in range(10):
        begin = {"ph": "B", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": at * 1.0}
        events += [{**begin, "args": {"device": 0, "stream": 7}}]
        events += [{"ph": "B", "cat": "cpu_op", "name": "aten::mm", "pid": 5, "tid": 5, "ts": at * 1.0}]
        events += [{"ph": "E", "pid": pid, "tid": tid, "ts": at + 0.7} for pid, tid in ((0, 7), (5, 5))]
    path = write(json.dumps({"traceEvents": [*events, {"ph": "E", "pid": 9, "tid": 9, "ts": 3.0}]}))
    for brief in (False, True):
        trace = kineto.read(path, brief=brief)
        assert totals(trace)["gpu_busy_s"] == pytest.approx(10 * 0.7e-6)
        assert "dropped 1 ends of ranges that never began" in sentences(trace)


def test_what_stands_behind_the_end_of_the_json_is_said(made: Any, write: Write) -> None:
    made.kernel("k", 0.0, 1.0)
    trace = kineto.read(write(made.text() + '\n{"status": "done"}'))
    assert trace["activities"].num_rows == 1
    assert "goes on behind the end of its JSON" in sentences(trace)


def test_many_documents_in_one_file_take_no_time(write: Write) -> None:
    trace = kineto.read(write('[{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":2}]' + "[]" * 200_000))
    assert trace["activities"].num_rows == 1
    assert "goes on behind the end of its JSON" in sentences(trace)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"])
def test_other_packers_are_named(write: Write, magic: bytes) -> None:
    with pytest.raises(InputError, match="unpack it first"):
        read_traces([write(magic + b"rest")])


def test_ids_that_two_processes_use_are_said(write: Write) -> None:
    events = [
        {
            "ph": "X",
            "cat": "cuda_runtime",
            "name": "cudaLaunchKernel",
            "pid": pid,
            "tid": 1,
            "ts": pid,
            "dur": 1,
        }
        | {"args": {"correlation": 5}}
        for pid in (10, 20)
    ]
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 30, "dur": 1}
    events += [{**kernel, "args": {"device": 0, "stream": 7, "correlation": 5}}]
    trace = kineto.read(write(json.dumps(events)))
    assert "several processes used" in sentences(trace)


def test_memory_has_a_highest_point(made: Any, write: Write) -> None:
    made.kernel("k", 0.0, 1.0)
    readings = [(0, 1, 100, 500), (1, 1, 900, 1000), (2, 1, 300, 1000), (3, 0, 7000, 0)]
    for ts, kind, allocated, reserved in readings:
        args = {"Device Type": kind, "Device Id": 2, "Total Allocated": allocated, "Total Reserved": reserved}
        event = {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": 1, "ts": ts}
        made.events.append({**event, "s": "t", "args": args})
    device, host = memory(read_traces([write(made.text())]))
    assert (device["device"], device["peak_allocated_bytes"], device["peak_reserved_bytes"]) == (2, 900, 1000)
    assert (device["peak_s"], device["last_allocated_bytes"]) == (pytest.approx(1e-6), 300)
    assert (host["device"], host["peak_allocated_bytes"]) == (-1, 7000)


def test_process_ids_that_no_system_gives_stay_apart(made: Any, write: Callable[..., Path]) -> None:
    """Ids of 64 bits as some exporters invent them: two processes, each kernel linked to its own call."""
    for process, at in ((2**40, 10.0), (2**40 + 1, 20.0)):
        made.add("cuda_runtime", "cudaLaunchKernel", at, 2.0, pid=process, correlation=int(at))
        made.add("kernel", "gemm", at + 5, 1.0, pid=0, device=0, stream=7, correlation=int(at))
    trace = read_traces([write(made.text())])
    processes = trace.column("launches", "process").tolist()
    assert len(set(processes)) == 2
    launches = trace.column("activities", "launch").tolist()
    assert trace.column("activities", "process").tolist() == [processes[row] for row in launches]
