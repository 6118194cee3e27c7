"""Traces as their makers write them: the same story, told in the layout of each tool and version.

The story is what a device did, kept beside the trace: the intervals that were written, and how many of
them the file links to a call. Layouts follow the sources of the tools (Kineto's `output_json.cpp` and
`ActivityType.cpp`, the XPU plugin of PyTorch, `torch_npu`'s and JAX's exporters), not this program's reader.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
HOST, THREAD = 4242, 4243


@dataclass
class Story:
    """What ran, and the file that says so."""

    text: str = ""
    ran: list[tuple[int, int, int, bool]] = field(default_factory=list)  # device, start, end [ns], a kernel
    linked: int = 0
    loses: str = ""  # what must be among the losses
    events: list[Event] = field(default_factory=list)

    def run(self, device: int, start: int, length: int, *, kernel: bool = True, linked: bool = True) -> None:
        """Something that ran on a device."""
        self.ran.append((device, start, start + length, kernel))
        self.linked += linked

    def add(self, **event: Any) -> None:
        """An event of the file."""
        self.events.append(event)

    def seconds(self) -> dict[str, float]:
        """The totals by their definition."""
        by_device: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for device, start, end, _ in self.ran:
            by_device[device].append((start, end))
        busy = sum(covered(intervals) for intervals in by_device.values())
        span = sum(max(e for _, e in found) - min(s for s, _ in found) for found in by_device.values())
        kernels = [end - start for _, start, end, kernel in self.ran if kernel]
        return {
            "kernels": len(kernels),
            "kernel_time_s": sum(kernels) / 1e9,
            "gpu_busy_s": busy / 1e9,
            "gpu_span_s": span / 1e9,
            "gpu_idle_s": (span - busy) / 1e9,
        }


def covered(intervals: list[tuple[int, int]]) -> int:
    """Nanoseconds in which anything runs, going through the intervals in order of start."""
    total = reached = 0
    for start, end in sorted(intervals):
        total += max(0, end - max(start, reached if total or reached else start))
        reached = max(reached, end) if total or reached else end
    return total


def us(nanoseconds: int) -> float:
    """Microseconds with the decimals of a nanosecond, as Kineto prints them."""
    return nanoseconds / 1000


def plan(seed: int, count: int = 40) -> list[tuple[int, int, int]]:
    """When each piece of work is called, starts and how long it lasts, in odd nanoseconds; some overlap."""
    dice = random.Random(seed)
    at, found = 1_000_003, []
    for _ in range(count):
        length = dice.randrange(911, 40_000)
        found.append((at - dice.randrange(4_000, 9_000), at, length))
        at += max(1, length + dice.randrange(-300, 6_000))
    return found


def kineto(story: Story, **header: Any) -> Story:
    """The events in Kineto's frame."""
    story.text = json.dumps(
        {"schemaVersion": 1, **header, "traceEvents": story.events, "traceName": "/t.json"}
    )
    return story


def call(story: Story, cat: str, name: str, start: int, correlation: int, **more: Any) -> None:
    """A call of the runtime."""
    args = {"cbid": 211, "correlation": correlation, **more}
    where = {"pid": HOST, "tid": THREAD, "ts": us(start), "dur": us(2_001)}
    story.add(ph="X", cat=cat, name=name, **where, args=args)


def kernel(story: Story, name: str, start: int, length: int, **args: Any) -> None:
    """Work of a device."""
    device, stream = args.get("device", 0), args.get("stream", 7)
    when = {"ts": us(start), "dur": us(length)}
    story.add(ph="X", cat=args.pop("cat", "kernel"), name=name, pid=device, tid=stream, **when, args=args)


def hip_graph() -> Story:
    """ROCm: one launch for a whole graph, blocks as texts, a nameless device, an arrow to each kernel."""
    story = Story()
    names = (
        "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x256x64_MI16x16x1",
        "void ck_tile::kentry<256, 1>",
    )
    call(story, "cuda_runtime", "hipGraphLaunch", 900_000, 77, **{"External id": 5})
    for number, (_, start, length) in enumerate(plan(1)):
        story.run(0, start, length)
        sizes = {"grid": ["1024", "1", "1"], "block": ["256", "1", "1"]}
        kernel(
            story,
            names[number % 2],
            start,
            length,
            device=0,
            stream=3,
            correlation=77,
            kind="Dispatch Kernel",
            **sizes,
        )
        story.add(ph="f", id=77, pid=0, tid=3, ts=us(start), cat="ac2g", name="ac2g", bp="e")
    story.add(ph="s", id=77, pid=HOST, tid=THREAD, ts=us(900_000), cat="ac2g", name="ac2g")
    start = story.ran[-1][2] + 5_000
    story.run(0, start, 3_001, kernel=False)
    call(story, "cuda_runtime", "hipMemcpyWithStream", start - 4_000, 78)
    kernel(
        story, "CopyDeviceToHost", start, 3_001, cat="gpu_memcpy", device=0, stream=0, correlation=78, bytes=8
    )
    device = {
        "id": 0,
        "name": "",
        "totalGlobalMem": 206141652992,
        "computeMajor": 9,
        "computeMinor": 4,
        "numSms": 304,
    }
    return kineto(story, roctracer_version=4, hip_runtime_version=60443483, deviceProperties=[device])


def xpu() -> Story:
    """Intel: calls of the unified runtime, kernels without a stream, queues as addresses, metrics."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(2), 1):
        copy = number % 9 == 0
        story.run(0, start, length, kernel=not copy)
        call(story, "xpu_runtime", "urEnqueueKernelLaunch", called, number, **{"External id": number})
        about = {
            "External id": number,
            "device": 0,
            "context": 1,
            "l0 queue": "0x55d0",
            "correlation": number,
            "kernel id": 9,
        }
        cat = {"cat": "gpu_memcpy"} if copy else {}
        kernel(
            story, "Memcpy H2D" if copy else "gemm_kernel[SIMD16 {1; 64; 1}]", start, length, **cat, **about
        )
        story.add(
            ph="X",
            cat="xpu_driver",
            name="zeCommandListAppendLaunchKernel",
            pid=HOST,
            tid=THREAD,
            ts=us(called),
            dur=1.0,
            args={},
        )
        story.add(
            ph="X",
            cat="xpu_scope_profiler",
            name="metrics",
            pid=0,
            tid=1,
            ts=us(start),
            dur=99.0,
            args={"GpuTime": 5},
        )
    return kineto(
        story,
        deviceProperties=[
            {"id": 0, "name": "Intel(R) Data Center GPU Max 1550", "totalGlobalMem": 68719476736}
        ],
    )


def mtia() -> Story:
    """Meta's accelerators: their own names of kernels and calls, and insights that are no work."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(3), 1):
        story.run(0, start, length)
        call(story, "mtia_runtime", "mtiaLaunchKernel", called, number)
        kernel(
            story, "fba_fc_bf16", start, length, cat="mtia_ccp_events", device=0, stream=0, correlation=number
        )
        kernel(story, "PE utilisation", start - 500, length + 9_000, cat="mtia_insight", device=0, stream=1)
        kernel(story, "DRAM", start - 500, length + 9_000, cat="mtia_counters", device=0, stream=1)
    return kineto(story)


def gaudi() -> Story:
    """Habana through PrivateUse1: launches that share no id with kernels, several engines at once."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(4)):
        story.run(0, start, length, linked=False)
        call(story, "privateuse1_runtime", "Launch", called, 0)
        engine = {"device": 0, "stream": number % 3}
        kernel(
            story, ("GEMM", "silu_fwd_bf16", "fused_kernel_0x123_f32")[number % 3], start, length, **engine
        )
    return kineto(story)


def ascend() -> Story:
    """torch_npu's `trace_view.json`: a bare list, no categories on the device, texts as times, arrows."""
    story = Story()
    story.add(ph="M", name="process_name", pid=HOST, tid=0, args={"name": "Python"})
    for pid, name in (
        (100, "CANN"),
        (200, "Ascend Hardware"),
        (300, "Communication"),
        (400, "Overlap Analysis"),
    ):
        story.add(ph="M", name="process_name", pid=pid, tid=0, args={"name": name})
    for number, (called, start, length) in enumerate(plan(5), 1):
        waits = number % 10 == 0
        when = {"ts": f"{start // 1000}.{start % 1000:03}", "dur": us(length)}
        kind = "EVENT_WAIT" if waits else "AI_CORE"
        about = {"Model Id": 4294967295, "Task Type": kind, "Physic Stream Id": 47, "Task Id": number}
        story.add(ph="X", name="EVENT_WAIT" if waits else "MatMulV2", pid=200, tid=47, **when, args=about)
        story.add(ph="X", name="Computing", pid=400, tid=0, ts=when["ts"], dur=when["dur"], args={})
        if waits:
            continue
        story.run(0, start, length)
        host = {"pid": HOST, "tid": THREAD, "ts": f"{called / 1000:.3f}"}
        story.add(
            ph="X", name="aten::mm", cat="cpu_op", dur=3.5, **host, args={"Input Dims": [[8, 16], [16, 32]]}
        )
        flow = {"name": "torch_to_npu", "cat": "async_npu", "id": str(start), "bp": "e"}
        story.add(ph="s", **flow, **host)
        story.add(ph="f", **flow, pid=200, tid=47, ts=when["ts"])
    story.text = json.dumps(story.events)
    return story


def jax() -> Story:
    """XLA's profiler: no categories, devices and streams known by the names of processes and threads."""
    story = Story()
    story.add(ph="M", pid=1, name="process_name", args={"name": "/device:GPU:0 (NVIDIA H100)"})
    story.add(ph="M", pid=1, tid=20, name="thread_name", args={"name": "Stream #20(Compute)"})
    story.add(ph="M", pid=1, tid=99, name="thread_name", args={"name": "XLA Modules"})
    story.add(ph="M", pid=701, name="process_name", args={"name": "/host:CPU"})
    for number, (called, start, length) in enumerate(plan(6), 1):
        story.run(0, start, length)
        about = {"correlation_id": number, "hlo_op": "dot.1", "hlo_module": "jit_step"}
        story.add(
            ph="X", pid=1, tid=20, ts=us(start), dur=us(length), name="nvjet_hsh_128x64_TNT", args=about
        )
        calls = {"pid": 701, "tid": 5, "ts": us(called), "dur": 2.0}
        story.add(ph="X", **calls, name="cuLaunchKernel", args={"correlation_id": number})
    story.add(ph="X", pid=1, tid=99, ts=900.0, dur=99_000.0, name="jit_step", args={"run_id": 1})
    story.text = json.dumps(
        {"displayTimeUnit": "ns", "metadata": {"highres-ticks": True}, "traceEvents": story.events}
    )
    return story


def oldest() -> Story:
    """PyTorch 1.8 to 1.13: capitals, whole microseconds since 1970, ids in small letters."""
    story, zero = Story(), 1_665_000_000_000_000
    for number, piece in enumerate(plan(7), 1):
        called, start, length = (max(1000, value // 1000 * 1000) for value in piece)
        story.run(0, start, length)
        call_args = {"external id": number, "cbid": 211, "correlation": number}
        where = {"pid": HOST, "tid": str(THREAD)}
        times = {"ts": zero + called // 1000, "dur": 2}
        story.add(
            ph="X",
            cat="Operator",
            name="aten::mm",
            **where,
            ts=zero + called // 1000 - 1,
            dur=5,
            args={"External id": number, "Input Dims": [[2, 3], [3, 4]], "Input type": ["float", "float"]},
        )
        story.add(ph="X", cat="Runtime", name="cudaLaunchKernel", **where, **times, args=call_args)
        args = {
            "queued": 0,
            "device": 0,
            "context": 1,
            "stream": 7,
            "correlation": number,
            "external id": number,
            "registers per thread": 32,
        }
        story.add(
            ph="X",
            cat="Kernel",
            name="sgemm_32x32",
            pid=0,
            tid="stream 7",
            ts=zero + start // 1000,
            dur=length // 1000,
            args=args,
        )
        story.add(
            ph="s", id=number, pid=HOST, tid=THREAD, ts=zero + called // 1000, cat="async", name="launch"
        )
        story.add(
            ph="f",
            id=number,
            pid=0,
            tid="stream 7",
            ts=zero + start // 1000,
            cat="async",
            name="launch",
            bp="e",
        )
    story.add(
        ph="X",
        cat="Trace",
        ts=zero,
        dur=9_999_999,
        name="PyTorch Profiler (0)",
        pid="Spans",
        tid="PyTorch Profiler",
        args={"Op count": 9},
    )
    return kineto(story)


def several_devices() -> Story:
    """Four devices in one file, each with a stream 7, all busy at different times."""
    story = Story()
    for device in range(4):
        for number, (called, start, length) in enumerate(plan(80 + device), 1):
            story.run(device, start, length)
            correlation = device * 1000 + number
            call(story, "cuda_runtime", "cudaLaunchKernelExC", called, correlation)
            kernel(story, "gemm", start, length, device=device, stream=7, correlation=correlation)
    return kineto(story)


def two_documents() -> Story:
    """Two traces one behind the other, as a program that appends leaves them."""
    first, second = Story(), Story()
    for story, seed in ((first, 9), (second, 10)):
        for number, (called, start, length) in enumerate(plan(seed), 1):
            story.run(0, start + (seed - 9) * 10_000_000, length)
            call(
                story,
                "cuda_runtime",
                "cudaLaunchKernel",
                called + (seed - 9) * 10_000_000,
                seed * 100 + number,
            )
            kernel(
                story,
                "gemm",
                start + (seed - 9) * 10_000_000,
                length,
                device=0,
                stream=7,
                correlation=seed * 100 + number,
            )
        kineto(story, baseTimeNanoseconds=1_700_000_000_000_000_000)
    return Story(
        first.text + "\n" + second.text,
        first.ran + second.ran,
        first.linked + second.linked,
        "one behind the other",
    )


def texts_as_times() -> Story:
    """Times as texts, with a zero in nanoseconds since 1970 that belongs to nothing in the file."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(11), 1):
        story.run(0, start, length)
        call(story, "cuda_driver", "cuLaunchKernelEx", called, number)
        kernel(story, "gemm", start, length, device=0, stream=7, correlation=number)
    for event in story.events:
        event |= {"ts": str(event["ts"]), "dur": str(event["dur"]), "pid": str(event["pid"])}
    return kineto(story, baseTimeNanoseconds=1_712_345_678_000_000_000, displayTimeUnit="ns")


def absolute_times() -> Story:
    """Microseconds since 1970 with three decimals: more digits than a float keeps."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(12), 1):
        story.run(0, start, length)
        call(story, "cuda_runtime", "cudaLaunchKernel", called, number)
        kernel(story, "gemm", start, length, device=0, stream=7, correlation=number)
    story.text = json.dumps(
        {"displayTimeUnit": "ms", "traceEvents": [e | {"ts": f"#{e['ts']:.3f}#"} for e in story.events]}
    )
    zero = 1_712_345_678_000_000
    for event in story.events:
        nanoseconds = round(event["ts"] * 1000)
        story.text = story.text.replace(
            f'"#{event["ts"]:.3f}#"', f"{zero + nanoseconds // 1000}.{nanoseconds % 1000:03}"
        )
    return story


def flows_alone() -> Story:
    """No ids in the arguments: an arrow from the call to the kernel is all that links them."""
    story = Story()
    for number, (called, start, length) in enumerate(plan(13), 1):
        story.run(0, start, length)
        where = {"pid": HOST, "tid": THREAD, "ts": us(called)}
        story.add(ph="X", cat="cuda_runtime", name="cudaLaunchKernel", dur=2.0, **where, args={})
        kernel(story, "gemm", start, length, device=0, stream=7)
        story.add(ph="s", id=number, cat="ac2g", name="ac2g", **where)
        story.add(ph="f", id=number, cat="ac2g", name="ac2g", pid=0, tid=7, ts=us(start), bp="e")
    return kineto(story)


def everything_around() -> Story:
    """Annotations of host and device, a step over all, waits, memory, Triton's fields, collectives."""
    story = Story()
    story.add(
        ph="X", cat="user_annotation", name="ProfilerStep#3", pid=HOST, tid=THREAD, ts=0.0, dur=9e6, args={}
    )
    story.add(
        ph="X",
        cat="gpu_user_annotation",
        name="ProfilerStep#3",
        pid=0,
        tid=7,
        ts=0.0,
        dur=9e6,
        args={"External id": 1},
    )
    for number, (called, start, length) in enumerate(plan(14), 1):
        wire = number % 7 == 0
        story.run(0, start, length)
        triton = {
            "kernel_backend": "triton",
            "kernel_file": "/tmp/x.py",
            "kernel_hash": "c1",
            "grid": "grid(4096,)",
            "stream": 7,
            "num_warps": 4,
            "kernel_kwargs": "XBLOCK=128",
        }
        message = {
            "Collective name": "allreduce",
            "In msg nelems": 8192,
            "Out msg nelems": 8192,
            "Group size": 8,
            "dtype": "BFloat16",
            "In split size": "[]",
            "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]",
        }
        around = {"pid": HOST, "tid": THREAD, "ts": us(called - 500), "dur": 4.0}
        name = "record_param_comms" if wire else "triton_poi_fused_add_0"
        story.add(ph="X", cat="cpu_op", name=name, **around, args=message if wire else triton)
        call(story, "cuda_driver", "cuLaunchKernel", called, number)
        told = {"device": 0, "stream": 20 if wire else 7, "correlation": number, **(message if wire else {})}
        kernel(
            story,
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
            if wire
            else "triton_poi_fused_add_0",
            start,
            length,
            **told,
        )
        sync = {
            "device": 0,
            "stream": 7,
            "wait_on_stream": 20,
            "wait_on_cuda_event_record_corr_id": 3,
            "correlation": number,
            "cuda_sync_kind": "Stream Wait Event",
        }
        kernel(story, "Stream Wait Event", start, length + 50_000, cat="cuda_sync", **sync)
        kernel(story, "cudaEventRecord", start, length + 50_000, cat="cuda_event", device=0, stream=7)
        memory = {
            "Total Reserved": 4096,
            "Total Allocated": 100 * number,
            "Bytes": 100,
            "Addr": 1,
            "Device Id": 0,
            "Device Type": 1,
        }
        story.add(
            ph="i",
            cat="cpu_instant_event",
            s="t",
            name="[memory]",
            pid=HOST,
            tid=THREAD,
            ts=us(called),
            args=memory,
        )
        kernel(
            story,
            "sm__inst_executed",
            start - 100,
            length + 70_000,
            cat="cuda_profiler_range",
            device=0,
            stream=7,
        )
    story.add(ph="X", cat="overhead", name="CUPTI Buffer Request", pid=-1, tid=0, ts=0.0, dur=9e6, args={})
    story.add(
        ph="i",
        s="g",
        name="Iteration Start: PyTorch Profiler",
        pid="Traces",
        tid="Trace PyTorch Profiler",
        ts=0.5,
    )
    return kineto(story)


def streams_and_repeats() -> Story:
    """Four streams at once, some kernels recorded twice in every detail, some twice at another place."""
    story = Story()
    for stream in range(4):
        for number, (called, start, length) in enumerate(plan(20 + stream), 1):
            correlation = stream * 1000 + number
            story.run(0, start, length)
            call(story, "cuda_runtime", "cudaLaunchKernel", called, correlation)
            for _ in range(1 + (number % 5 == 0)):
                kernel(story, "gemm", start, length, device=0, stream=stream, correlation=correlation)
    random.Random(0).shuffle(story.events)
    story.loses = "recorded twice"
    return kineto(story)


MAKERS: dict[str, Callable[[], Story]] = {
    found.__name__: found
    for found in (
        hip_graph,
        xpu,
        mtia,
        gaudi,
        ascend,
        jax,
        oldest,
        several_devices,
        two_documents,
        texts_as_times,
        absolute_times,
        flows_alone,
        everything_around,
        streams_and_repeats,
    )
}
