"""One recording whose every number is known on paper, through all that `show` says of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from profiler.traces.attribution import attribute
from profiler.traces.idle import CAUSES, idle_causes, small_grids_s
from profiler.traces.lost import HELP
from profiler.traces.reading import read_traces
from profiler.traces.summary import show
from profiler.traces.tables import make_table
from reports.show import as_text
from roofline.ceilings import ceilings

US = 1e-6
DEVICE = {"id": 0, "name": "NVIDIA Paper", "numSms": 132, "computeMajor": 9, "computeMinor": 0}
BUSY = {"block": [256, 1, 1], "registers per thread": 32, "shared memory": 0}


@pytest.fixture
def shown(made: Any, write: Any, paper_device: Any) -> dict[str, Any]:
    """100 TFLOP/s and 1 TB/s. On the device: 100-300 product, 250-400 all-reduce on another stream,
    500-550 a kernel of eight blocks, 700-720 a norm."""
    product = {"Input Dims": [[1000, 1000], [1000, 5000]], "Input type": ["c10::BFloat16"] * 2}
    made.add("user_annotation", "prefill", 0, 1000)
    made.add("cpu_op", "aten::mm", 10, 10, **product)  # 10 GFLOP: 100 us at the peak
    made.kernel("nvjet_tst_128x256", 100, 200, launched=12, grid=[132 * 8 * 5 // 4, 1, 1], **BUSY)
    made.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 250, 150, launched=30, stream=20, **BUSY)
    made.kernel("small_gemm_kernel", 500, 50, launched=40, grid=[8, 1, 1], **BUSY)
    made.add("cuda_runtime", "cudaStreamSynchronize", 545, 55, correlation=999)
    made.kernel("rms_norm_kernel", 700, 20, launched=690, **BUSY)
    for at, held in ((20, 1000), (60, 3000), (99, 500)):
        about = {"Total Allocated": held, "Total Reserved": 4000, "Device Id": 0, "Device Type": 1}
        made.add("cpu_instant_event", "[memory]", at, 0, **about)
    trace = read_traces([write(made.text(deviceProperties=[DEVICE]))])
    power = {"time_ns": [1, 2, 3], "quantity": ["power_w"] * 3, "value": [300.0, 400.0, 500.0]}
    clock = {"time_ns": [1, 2], "quantity": ["sm_clock_hz"] * 2, "value": [1.5e9, 1.7e9]}
    both = {name: [*power[name], *clock[name]] for name in power}
    more = make_table("samples", {"source": [0] * 5, "device": [0] * 5, **both})
    samples = pa.concat_tables([trace["samples"], more]).unify_dictionaries()
    return show(
        attribute(trace.with_table("samples", samples)), "kernel", ceilings(paper_device(), "datasheet")
    )


def test_every_number(shown: dict[str, Any]) -> None:
    totals, idle = shown["totals"], shown["idle"]
    assert totals["kernel_time_s"] == pytest.approx(420 * US)
    assert (totals["gpu_busy_s"], totals["gpu_span_s"]) == pytest.approx((370 * US, 620 * US))
    assert totals["communication_s"] == pytest.approx(150 * US)
    assert totals["overlapped_s"] == pytest.approx(50 * US)
    assert totals["small_grids_s"] == pytest.approx(50 * US)
    assert totals["last_waves_s"] == pytest.approx(200 * US * (1 - 1.25 / 2))
    assert totals["modelled_share"] == pytest.approx(200 / 420)
    # 400-500 launched before and behind the all-reduce; 550-600 synchronising, 600-690 nothing called,
    # 690-700 called and not started
    wanted = dict.fromkeys(CAUSES, 0) | {
        "host": 90, "synchronisation": 50, "launch latency": 10, "data wait": 100
    }  # fmt: skip
    assert idle == pytest.approx({cause: value * US for cause, value in wanted.items()})
    launches = shown["launches"]
    assert (launches["call_s"], launches["queue_depth"], launches["deepest_queue"]) == pytest.approx(
        (2 * US, (1 + 2 + 3 + 1) / 4, 3)
    )
    assert launches["delay_s"] == pytest.approx((86 + 218) / 2 * US)  # of 8, 86, 218 and 458
    (memory,) = shown["memory"]
    assert (memory["peak_allocated_bytes"], memory["peak_reserved_bytes"]) == (3000, 4000)
    assert memory["peak_s"] == pytest.approx(40 * US)
    readings = {each["quantity"]: each for each in shown["readings"]}
    assert {k: readings["power_w"][k] for k in ("mean", "least", "most", "count")} == {
        "mean": 400, "least": 300, "most": 500, "count": 3
    }  # fmt: skip
    product = shown["rows"][0]
    assert (product["attained"], product["saving_s"]) == pytest.approx((0.5, 100 * US))
    assert product["flops"] == 10e9
    assert product["waves"] == 1.25


def test_every_loss_is_a_share_of_the_devices_time_the_largest_first(shown: dict[str, Any]) -> None:
    """A fused step has no norm, a product attains half of its ceiling, a kernel without work loses nothing
    that is known, and an all-reduce of 150 us has a product beside it for 50."""
    lost = {loss["what"]: loss["time_s"] for loss in shown["lost"]}
    assert lost == pytest.approx(
        {
            "communication": 100 * US,
            "gemm slower than its ceilings": 100 * US,
            "idle (data wait)": 100 * US,
            "idle (host)": 90 * US,
            "idle (synchronisation)": 50 * US,
            "elementwise operations": 20 * US,
            "idle (launch latency)": 10 * US,
        }
    )
    assert list(lost.values()) == sorted(lost.values(), reverse=True)
    for loss in shown["lost"]:
        assert loss["share"] == pytest.approx(loss["time_s"] / (620 * US))
    assert shown["totals"]["attained"] == pytest.approx(0.5)
    text = " ".join(as_text(shown).split())
    assert "14.5 % 90.0 µs idle (host): the host launched too late; try CUDA graphs" in text


def test_every_cause_of_idle_time_has_something_that_would_help() -> None:
    assert set(CAUSES) <= set(HELP)


def test_all_of_it_is_printed(shown: dict[str, Any]) -> None:
    text = " ".join(as_text(shown).split())
    for said in (
        "4 kernels 420.0 µs, busy 370.0 µs of 620.0 µs, idle 40.3 %",
        "host 90.0 µs, synchronisation 50.0 µs, launch latency 10.0 µs, data wait 100 µs",
        "a launch call takes 2.00 µs, its kernel starts 152 µs later (medians); "
        "1.8 kernels wait in the queue on average, at most 3",
        "communication 150 µs, 100 µs of it beside no computation",
        "at most 3.00 kB allocated (40.0 µs after the first reading), 4.00 kB reserved",
        "power 400 W (300 W to 500 W, 3 readings)",
        "sm clock 1.60 GHz (1.50 GHz to 1.70 GHz, 2 readings)",
        "fewer blocks than processors: 50.0 µs",
        "last waves of blocks that fill the device in part cost 75.0 µs",
        "operators at their ceilings would save 100 µs: nvjet_tst_128x256 100 µs",
    ):
        assert said in text


LAST = 1000  # every story below: something ends at 1000 us, a kernel of stream 7 starts at 1010 us


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        ([("kernel", 7)], "between kernels"),
        ([("gpu_memcpy", 7)], "between kernels"),
        ([("kernel", 20)], "data wait"),
        ([("gpu_memcpy", 20)], "copy wait"),
        ([("gpu_memset", 20)], "copy wait"),
        ([("kernel", 20), ("kernel", 7)], "between kernels"),  # both end there: its own stream is enough
        ([("gpu_memcpy", 7), ("gpu_memcpy", 20)], "between kernels"),
        ([("kernel", -1)], "queued"),
    ],
)
@pytest.mark.parametrize("launched", [500, LAST + 4, None])
def test_what_a_launched_kernel_stood_behind(
    before: list[tuple[str, int]], cause: str, launched: int | None, made: Any, write: Any
) -> None:
    """Launched at 500 us the whole gap is the wait; at 1004 us none of it, whatever ran before."""
    for at, (cat, stream) in enumerate(before):
        about = {"device": 0, "stream": stream} if stream >= 0 else {"device": 0}
        made.add(
            cat, "before", LAST - 200 - at, 200 + at, pid=0, tid=stream if stream >= 0 else "queue", **about
        )
    made.kernel("after", LAST + 10, 5, launched=launched)
    wanted = {500: {cause: 10}, LAST + 4: {"host": 4, "launch latency": 6}, None: {"unknown": 10}}[launched]
    found = idle_causes(read_traces([write(made.text())]))
    assert found == pytest.approx(dict.fromkeys(CAUSES, 0) | {k: v * US for k, v in wanted.items()})


def test_streams_of_two_devices_are_not_one(made: Any, write: Any) -> None:
    """Device 1 idles 1000-1010 behind its own stream 7, while device 0's stream 20 ends at 1000, too."""
    made.add("kernel", "elsewhere", 0, LAST, pid=0, tid=20, device=0, stream=20)
    made.add("kernel", "before", 100, LAST - 100, pid=1, tid=7, device=1, stream=7)
    made.kernel("after", LAST + 10, 5, launched=500, device=1)
    found = idle_causes(read_traces([write(made.text())]))
    assert {cause: s for cause, s in found.items() if s} == pytest.approx({"between kernels": 10 * US})


def test_a_block_for_every_processor_is_no_small_grid(made: Any, write: Any) -> None:
    for at, (blocks, length) in enumerate(((131, 10), (132, 20), (133, 40))):
        made.kernel("gemm", 100 * at, length, grid=[blocks, 1, 1], **BUSY)
    trace = read_traces([write(made.text(deviceProperties=[DEVICE]))])
    assert small_grids_s(trace) == pytest.approx(10 * US)


@pytest.mark.parametrize(("other", "cause"), [(7, "between kernels"), (8, "data wait")])
def test_a_stream_has_an_order_within_its_process_only(made: Any, write: Any, other: int, cause: str) -> None:
    """Both are launched early, on stream 7 of their process; the second begins 50 us after the first."""
    for number, (process, begin) in enumerate(((7, 100.0), (other, 250.0)), start=1):
        made.add("cuda_runtime", "cudaLaunchKernel", 10.0 * number, 2.0, pid=process, correlation=number)
        made.add("kernel", "gemm", begin, 100.0, pid=0, device=0, stream=7, correlation=number)
    found = idle_causes(read_traces([write(made.text())]))
    assert {name: seconds for name, seconds in found.items() if seconds} == {cause: pytest.approx(50 * US)}
