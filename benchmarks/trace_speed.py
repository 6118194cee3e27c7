"""How long does a large Kineto trace take: kernels alone, and with every launch and range linked?

The trace is made here, as torch.profiler writes one of an eager decoder with stacks and shapes (500 MB and
1.6 million events by default). Beside it, in the same run and on the same bytes, stand the floors: to
unpack them, and to decode them into typed records without keeping any.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from stages import Stages, line, measured, parser_of, run

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


STAGES: Stages = {"unpack": unpack, "decode": decode, "kernels": kernels, "import": everything}


def main() -> None:
    """Make a trace, measure every stage, print them beside the floors."""
    parser = parser_of(__doc__, STAGES)
    parser.add_argument("--megabytes", type=float, default=500, help="of JSON")
    options = parser.parse_args()
    if options.stage:
        run(STAGES[options.stage], options.trace)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace or Path(folder) / "made.json.gz"
        count = None if options.trace else write(path, options.megabytes)
        stages = measured(__file__, STAGES, path, options.runs)
        packed = path.stat().st_size
    for values in stages.values():
        values["over_decode"] = values["cpu_s"] / stages["decode"]["cpu_s"]
    if options.json:
        print(json.dumps({"events": count, "packed_bytes": packed, "stages": stages}, indent=1))
        return
    print(f"{count or 'given'} events, {packed / 1e6:.1f} MB packed; median of {options.runs}")
    for stage, values in stages.items():
        print(line(stage, values, values["over_decode"]), "of decoding (CPU)")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
