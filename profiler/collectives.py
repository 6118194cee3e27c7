"""Collectives between processes: NCCL between GPUs, gloo between two processes of a CPU.

The processes are started here and rendezvous through a file. Each result is checked against fp64 before it
is timed; a repeat's time is that of its slowest process.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.kernels import TOLERANCE, TORCH_DTYPES
from profiler.repeats import Effort, sample, warm_up
from profiler.timing import SHORTEST_S, laps
from specfiles.errors import InputError, choose, reason
from workloads.operators.collective import PATTERNS

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]
EFFORT = Effort(repeats=15, precision=0.02)
SIZES = tuple(2**i for i in range(9, 29, 2))  # bytes of the message
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
NAMES = {"gloo": "gloo", "nccl": "NCCL"}  # kernel names in the measured tables


def collective_rows(dtype: str, processes: int, most_bytes: float) -> list[Row]:
    """Every pattern at sizes from small to large, for a number of devices."""
    fitting = [size for size in SIZES if size <= most_bytes]
    order = [*fitting[1::3], *fitting[2::3], *fitting[::3]]
    shared = {"dtype": dtype, "n_gpus": processes, "tag": "warm, by call"}
    return [{"op": pattern, **shared, "bytes": size} for size in order for pattern in PATTERNS]


def measure_collectives(
    rows: Sequence[Row], kind: str, processes: int, budget_s: float
) -> tuple[list[Row], list[str]]:
    """The rows with their times, as many as the budget allows, and notes of what failed.

    `kind` is cpu or cuda. After a failure the group cannot be used, and new processes go on with other
    rows; a pattern that fails is not tried with larger messages. Raises InputError for an unknown pattern.
    """
    for row in rows:
        if row["op"] not in PATTERNS:
            raise choose(row["op"], list(PATTERNS), "collective")
    begin, left = time.monotonic(), list(rows)
    found: list[Row] = []
    notes: list[str] = []
    while left and (left_s := begin + budget_s - time.monotonic()) > 0:
        with tempfile.TemporaryDirectory() as folder:
            job = _Job(tuple(left), kind, processes, left_s, folder)
            why, failed = _ended(job)
            found += (measured := job.measured())
        if why is None:
            break
        if failed is None or failed < len(measured):  # between rows: none is to blame
            notes.append(f"collectives between {processes} processes {why}")
            break
        row = left[failed]
        words = f"{row['op']} of {row['bytes']} bytes in {row['dtype']}"
        notes.append(f"{words} between {processes} processes {why}")
        left = [
            other
            for other in left[len(measured) :]
            if other is not row and not (other["op"] == row["op"] and other["bytes"] >= row["bytes"])
        ]
    return found, notes


def _ended(job: _Job) -> tuple[str | None, int | None]:
    """Run the processes of a job; why they ended early, if they did, and the index of the row that failed."""
    import torch.multiprocessing as spawning

    try:
        # Daemons end with this process: left alone, they wait half an hour for each other to join.
        spawning.spawn(_process, args=(job,), nprocs=job.processes, daemon=True)
    except (spawning.ProcessRaisedException, spawning.ProcessExitedException) as error:
        said_why = [rank for rank in range(job.processes) if job.why(rank).exists()]
        # The first to fail is to blame: the others fail for want of it.
        first = min(said_why, key=lambda rank: job.why(rank).stat().st_mtime_ns, default=error.error_index)
        blamed = first if isinstance(error, spawning.ProcessRaisedException) else error.error_index
        at, why = job.at(blamed), job.why(blamed)
        said = why.read_text() if why.exists() else str(error).strip().splitlines()[-1]
        return f"failed: {said}", int(at.read_text()) if at.exists() else None
    if not job.over.exists():  # an interrupted process ends as if it had succeeded
        return "were interrupted.", None
    return None, None


@dataclass(frozen=True)
class _Job:
    """The arguments of every process."""

    rows: tuple[Row, ...]
    kind: str
    processes: int
    budget_s: float
    folder: str

    @property
    def results(self) -> Path:
        """The file to which the first process adds each row that was measured, a line each."""
        return Path(self.folder) / "rows.jsonl"

    @property
    def over(self) -> Path:
        """The file that the first process makes when nothing is left or the budget is spent."""
        return Path(self.folder) / "over"

    def at(self, rank: int) -> Path:
        """The file with the index of the row that a process has begun; none before the first."""
        return Path(self.folder) / f"at{rank}"

    def why(self, rank: int) -> Path:
        """The file in which a process that fails says why."""
        return Path(self.folder) / f"why{rank}"

    def measured(self) -> list[Row]:
        """The rows whose lines are whole."""
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text().split("\n")[:-1]]


def _process(rank: int, job: _Job) -> None:
    """One process, which says why it fails before others notice that it is gone."""
    import torch.distributed as dist

    try:
        _take_part(rank, job)
    except Exception as error:
        job.why(rank).write_text(reason(error))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _take_part(rank: int, job: _Job) -> None:
    """Join the group and measure every row."""
    import torch
    import torch.distributed as dist

    backend = BACKENDS[job.kind]
    device = job.kind if job.kind == "cpu" else f"cuda:{rank}"
    if job.kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    meeting = f"file://{job.folder}/meeting"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=job.processes)
    same = {"backend": backend, "kernel": NAMES[backend], "tag": "warm, by call"}
    begin = time.monotonic()
    for index, row in enumerate(job.rows):
        if _slowest(time.monotonic() - begin, device) > job.budget_s:
            break
        job.at(rank).write_text(str(index))
        timed = _measured(row, rank, job.processes, device)
        if rank == 0:
            with job.results.open("a") as results:
                results.write(json.dumps({**row, **timed, **same}) + "\n")
    if rank == 0:
        job.over.touch()


def _measured(row: Row, rank: int, processes: int, device: str) -> Row:
    """Check and time one collective; all processes take part and return the same times."""
    import torch.distributed as dist

    call = Exchange(row["op"], row["bytes"], row["dtype"], rank, processes, device)
    most = most_calls(row["op"], row["dtype"], processes)
    error = _slowest(call.error(), device)
    if not error <= TOLERANCE[row["dtype"]]:
        raise InputError(f"its result deviates by {error:.2g} from fp64")
    lap = laps(device)  # waiting for other processes is part of a collective: elapsed time counts
    first_s = _slowest(lap(call.run).passed_s, device)
    size = max(1, min(most, round(SHORTEST_S / max(first_s, 1e-7))))

    def once() -> float:
        call.refresh()
        dist.barrier()
        return _slowest(lap(partial(_repeat, call.run, size)).passed_s / size, device)

    warm_ups = len(warm_up(once))  # all processes have the same times, and end together
    times: list[float] = []
    while not (ended := EFFORT.ended(times, sum(times) * size)):
        times.append(once())
    return {**sample(times, warm_ups, ended).micros(), "max_error": error}


# First values of an all-reduce, and their limit: each call multiplies them by the number of processes, and
# they must stay finite. fp16 ends at 2^16, the others at 2^128.
SMALLEST = {"fp64": 2.0**-60, "fp32": 2.0**-60, "bf16": 2.0**-60, "fp16": 2.0**-8}
LARGEST = {"fp64": 2.0**120, "fp32": 2.0**120, "bf16": 2.0**120, "fp16": 2.0**12}
MOST_CALLS = 1000


def most_calls(pattern: str, dtype: str, processes: int) -> int:
    """How often a collective may run on its own results."""
    if pattern != "allreduce":
        return MOST_CALLS
    doublings = math.log2(LARGEST[dtype] / SMALLEST[dtype])
    return max(1, min(MOST_CALLS, int(doublings / math.log2(processes)) - 1))


def _repeat(run: Callable[[], Any], size: int) -> None:
    for _ in range(size):
        run()


def _slowest(value: float, device: str) -> float:
    """The largest of the processes' values."""
    import torch
    import torch.distributed as dist

    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared)


class Exchange:
    """One collective of a message of `size_bytes`: the whole tensor, as nccl-tests counts it."""

    def __init__(
        self, pattern: str, size_bytes: int, dtype: str, rank: int, processes: int, device: str
    ) -> None:
        import torch

        self.pattern, self.rank, self.processes = pattern, rank, processes
        wanted: torch.dtype = getattr(torch, TORCH_DTYPES[dtype])
        self.part = max(1, size_bytes // wanted.itemsize // processes)
        scale = SMALLEST[dtype] if pattern == "allreduce" else 1.0
        self.of_ranks = [(scale * _numbers(r, self.part * processes)).to(wanted) for r in range(processes)]
        mine = self.of_ranks[rank]
        self.original = (mine[: self.part] if pattern == "allgather" else mine).to(device)
        self.source = self.original.clone()
        length = self.part if pattern == "reduce_scatter" else self.part * processes
        self.target = torch.empty(length, dtype=wanted, device=device)
        self.run = self._calls()[pattern]

    def _calls(self) -> dict[str, Callable[[], Any]]:
        import torch.distributed as dist

        source, target = self.source, self.target
        # Newer PyTorch renamed the two and warns about the old names.
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
        scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
        return {
            "allreduce": lambda: dist.all_reduce(source),
            "allgather": lambda: gather(target, source),
            "reduce_scatter": lambda: scatter(target, source),
            "alltoall": lambda: dist.all_to_all_single(target, source),
            "sendrecv": self._send_around,
        }

    def _send_around(self) -> None:
        """Each process sends to the next one and receives from the one before."""
        import torch.distributed as dist

        to, of = (self.rank + 1) % self.processes, (self.rank - 1) % self.processes
        sent = dist.P2POp(dist.isend, self.source, to)
        received = dist.P2POp(dist.irecv, self.target, of)
        for request in dist.batch_isend_irecv([sent, received]):
            request.wait()

    def refresh(self) -> None:
        """Restore the initial values: an all-reduce overwrites its input with its growing sums."""
        self.source.copy_(self.original)

    def error(self) -> float:
        """Largest deviation from fp64 of one call, relative to the largest element."""
        self.run()
        exact = self.exact()
        found = self.source if self.pattern == "allreduce" else self.target
        return float((found.cpu().double() - exact).abs().max() / exact.abs().max())

    def exact(self) -> torch.Tensor:
        """This process's result of the first call, in fp64."""
        import torch

        mine = slice(self.rank * self.part, (self.rank + 1) * self.part)
        whole = [numbers.double() for numbers in self.of_ranks]
        total = torch.stack(whole).sum(0)
        if self.pattern == "allreduce":
            return total
        if self.pattern == "allgather":
            return torch.cat([numbers[: self.part] for numbers in whole])
        if self.pattern == "reduce_scatter":
            return total[mine]
        if self.pattern == "alltoall":
            return torch.cat([numbers[mine] for numbers in whole])
        return whole[(self.rank - 1) % self.processes]


def _numbers(rank: int, count: int) -> torch.Tensor:
    """The values of a process, which every process can compute."""
    import torch

    return torch.randn(count, generator=torch.Generator().manual_seed(rank))
