"""How long does a large Kineto trace take: kernels alone, and with every launch and range linked?

The trace is made here, as torch.profiler writes one of an eager decoder with stacks and shapes (500 MB and
1.6 million events by default). Beside it, in the same run and on the same bytes, stand the floors: to
unpack them, and to decode them into typed records without keeping any.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EVENTS_PER_STEP = 24 * 11 * 12
SHAPES = (
    '"Concrete Inputs": ["", "", ""], "Input type": ["c10::BFloat16", "c10::BFloat16", ""], '
    '"Input Strides": [[1, 8192], [8192, 1], []], "Input Dims": [[16, 4096], [4096, 4096], []], '
)
OPS = ("linear", "addmm", "rms_norm", "silu_and_mul", "copy_", "mul", "add", "scaled_dot_product_attention")


def events(steps: int) -> Iterator[str]:
    """One event after another, as Kineto prints them."""
    clock = 1428625731622.0
    number = 0
    for step in range(steps):
        begin = clock
        for layer in range(24):
            module = f"nn.Module: DecoderLayer_{layer}"
            yield _event(
                "python_function", module, 7, clock, 760, f'"Python id": {number}, "Ev Idx": {number}'
            )
            for at in range(11):
                number += 1
                op = OPS[at % len(OPS)]
                clock += 70.125
                for depth in range(5):
                    frame = f"torch/nn/modules/module.py({1500 + depth}): _call_impl"
                    where = f'"Python parent id": {number - 1}, "Python id": {number}, "Ev Idx": {number}'
                    yield _event("python_function", frame, 7, clock + depth, 60 - depth, where)
                yield _event(
                    "cpu_op",
                    f"aten::{op}",
                    7,
                    clock + 10,
                    40,
                    f'"External id": {number}, {SHAPES}"Ev Idx": 1',
                )
                yield _event(
                    "cpu_op",
                    f"aten::_{op}",
                    7,
                    clock + 12,
                    30,
                    f'"External id": {number}, {SHAPES}"Ev Idx": 2',
                )
                ids = f'"External id": {number}, "correlation": {number}'
                yield _event("cuda_runtime", "cudaLaunchKernel", 7, clock + 15, 6.25, f'"cbid": 211, {ids}')
                flow = f'"id": {number}, "cat": "ac2g", "name": "ac2g"'
                yield f'{{\n    "ph": "s", "pid": 7, "tid": 7, "ts": {clock + 15:.3f},\n    {flow}\n  }}'
                name = f"void at::native::{op}_kernel<c10::BFloat16, {at}>(int, c10::BFloat16*, float)"
                yield _event(
                    "kernel",
                    name,
                    0,
                    clock + 30,
                    42.375,
                    f'"queued": 0, "device": 0, "context": 1, "stream": 7, {ids}, '
                    '"registers per thread": 32, '
                    '"shared memory": 0, "blocks per SM": 1.2, "warps per SM": 4.8, "grid": [160, 1, 1], '
                    '"block": [128, 1, 1], "est. achieved occupancy %": 0',
                )
                ends = f'"ph": "f", "pid": 0, "tid": 7, "ts": {clock + 30:.3f},\n    {flow}, "bp": "e"'
                yield f"{{\n    {ends}\n  }}"
        yield _event(
            "user_annotation", f"ProfilerStep#{step}", 7, begin, clock - begin, f'"External id": {step}'
        )


def _event(category: str, name: str, place: int, ts: float, dur: float, args: str) -> str:
    return (
        f'{{\n    "ph": "X", "cat": "{category}", "name": "{name}", "pid": {place}, "tid": 7,\n'
        f'    "ts": {ts:.3f}, "dur": {dur:.3f},\n    "args": {{\n      {args}\n    }}\n  }}'
    )


def write(path: Path, megabytes: float) -> int:
    """A trace of about this size, packed; returns its events."""
    packer = zlib.compressobj(1, wbits=31)
    count = size = 0
    with path.open("wb") as file:
        opening = '{\n"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "A GPU", "numSms": 132}],\n'
        file.write(packer.compress(f'{opening}"traceEvents": [\n  '.encode()))
        step = 0
        waiting: list[str] = []
        for event in events(10**9):
            waiting.append(event)
            size += len(event) + 4
            count += 1
            step += 1
            if step == EVENTS_PER_STEP or size >= megabytes * 1e6:
                file.write(packer.compress((",\n  ".join(waiting)).encode()))
                waiting.clear()
                step = 0
                if size >= megabytes * 1e6:
                    break
                file.write(packer.compress(b",\n  "))
        file.write(packer.compress(b'],\n"traceName": "made"}\n') + packer.flush())
    return count


def unpack(path: Path) -> None:
    """The floor of reading: the bytes, unpacked and forgotten."""
    from isal import igzip

    with igzip.open(path) as file:
        while file.read(4 << 20):
            pass


def decode(path: Path) -> None:
    """The floor of decoding: typed records of every event, each chunk forgotten."""
    from profiler.traces.bytestream import ByteStream
    from profiler.traces.events import Events
    from profiler.traces.kineto import Event

    for _ in Events(ByteStream(path), Event):
        pass


def kernels(path: Path) -> None:
    """Time by kernel and the totals."""
    from profiler.traces import kineto
    from profiler.traces.totals import totals

    totals(kineto.read(path, brief=True))


def everything(path: Path) -> None:
    """Every table, every launch and range linked, every kernel given its operator, layer and work."""
    from profiler.traces.attribution import attribute
    from profiler.traces.reading import read_traces
    from profiler.traces.totals import totals

    totals(attribute(read_traces([path])))


STAGES: dict[str, Callable[[Path], None]] = {
    "unpack": unpack,
    "decode": decode,
    "kernels": kernels,
    "import": everything,
}


def measured(stage: str, path: Path) -> dict[str, Any]:
    """A stage in a process of its own: wall and CPU seconds, and the most memory it held."""
    command = [sys.executable, __file__, "--stage", stage, "--trace", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_stage(stage: str, path: Path) -> None:
    """Inside that process."""
    import numpy  # noqa: F401  (what every stage needs is not its cost)
    import pyarrow  # noqa: F401

    before, began = time.process_time(), time.perf_counter()
    STAGES[stage](path)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - before,
        "memory_bytes": usage.ru_maxrss * 1024,
    }
    print(json.dumps(found))


def main() -> None:
    """Make a trace, measure every stage, print them beside the floors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--runs", type=int, default=3, help="runs of each stage; the median counts")
    parser.add_argument("--megabytes", type=float, default=500, help="of JSON")
    parser.add_argument("--trace", type=Path, help="a trace to read instead of a made one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.trace)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace or Path(folder) / "made.json.gz"
        count = None if options.trace else write(path, options.megabytes)
        found = {stage: _median([measured(stage, path) for _ in range(options.runs)]) for stage in STAGES}
        packed = path.stat().st_size
    floor = found["decode"]["cpu_s"]
    for values in found.values():
        values["over_decode"] = values["cpu_s"] / floor
    if options.json:
        print(json.dumps({"events": count, "packed_bytes": packed, "stages": found}, indent=1))
        return
    print(f"{count or 'given'} events, {packed / 1e6:.1f} MB packed; median of {options.runs}")
    for stage, values in found.items():
        print(
            f"  {stage:8} {values['wall_s']:7.2f} s wall {values['cpu_s']:7.2f} s CPU "
            f"{values['memory_bytes'] / 1e6:7.0f} MB   {values['over_decode']:.2f} of decoding (CPU)"
        )


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: run["wall_s"])[len(runs) // 2]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
