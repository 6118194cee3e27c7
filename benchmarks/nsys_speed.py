"""How long does a large Nsight Systems export take: kernels alone, and with every call and range linked?

The file is made here by SQLite itself, in the schema of 2026: kernels of two processes whose correlation ids
are the same, the call that launched each, and a range around every five calls (5 million kernels and about
1 GB by default). Beside it, in the same run, stands the floor: SQLite summing times by kernel.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from stages import Stages, line, measured, parser_of, run

KERNEL_COLUMNS = (
    "start end deviceId contextId greenContextId streamId correlationId globalPid demangledName shortName "
    "mangledName launchType cacheConfig registersPerThread gridX gridY gridZ blockX blockY blockZ "
    "staticSharedMemory dynamicSharedMemory localMemoryPerThread localMemoryTotal gridId "
    "sharedMemoryExecuted graphNodeId sharedMemoryLimitConfig qmdBulkReleaseDone qmdPreexitDone "
    "qmdLastCtaDone graphId clusterX clusterY clusterZ clusterSchedulingPolicy "
    "maxPotentialClusterSize maxActiveClusters"
)
PROCESS = "(16777216 + 144 + i % 2) * 16777216"  # a global id: machine, process, thread
COUNT = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {} - 1) "
COUNT += "INSERT INTO {} SELECT {} FROM n"
KERNEL = f"""60111513113 + i * 5000, 60111516113 + i * 5000 + i * 7919 % 1500, i % 2, 1, 0, 7,
    2600000 + i / 2, {PROCESS}, 1 + i % 60, 1 + i % 60, 1 + i % 60, 1, 1, 32, 93600, 1, 1, 128, 1, 1, 0, 0, 0,
    250871808, 161656 + i, 32768, NULL, 0, NULL, NULL, NULL, NULL, 0, 0, 0, 1, 0, 0"""
CALL = f"60111413113 + i * 5000, 60111417113 + i * 5000, 0, {PROCESS} + 17, 2600000 + i / 2, 100, 0"
RANGE = (
    f"60111412113 + i * 25000, 60111436113 + i * 25000, 59, 'layers.operator_' || i % 11, {PROCESS} + 17, 0"
)


def write(path: Path, kernels: int) -> None:
    """An export with this many kernels and calls, and a fifth as many ranges."""
    with sqlite3.connect(path, isolation_level=None) as file:
        file.execute("PRAGMA journal_mode = OFF")
        file.execute("PRAGMA synchronous = OFF")
        columns = ", ".join(f'"{name}" INTEGER' for name in KERNEL_COLUMNS.split())
        file.execute(f"CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL ({columns})")
        calls = "start INTEGER, end INTEGER, eventClass INTEGER, globalTid INTEGER, correlationId INTEGER"
        file.execute(
            f"CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME ({calls}, nameId INTEGER, returnValue INTEGER)"
        )
        file.execute(
            "CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT, "
            "globalTid INTEGER, domainId INTEGER)"
        )
        file.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
        names = [(i, f"void cutlass_{i}::gemm<128, {i}>(Params)") for i in range(1, 61)]
        file.executemany("INSERT INTO StringIds VALUES (?, ?)", [*names, (100, "cudaLaunchKernel_v7000")])
        file.execute("BEGIN")
        file.execute(COUNT.format(kernels, "CUPTI_ACTIVITY_KIND_KERNEL", KERNEL))
        file.execute(COUNT.format(kernels, "CUPTI_ACTIVITY_KIND_RUNTIME", CALL))
        file.execute(COUNT.format(max(1, kernels // 5), "NVTX_EVENTS", RANGE))
        file.execute("COMMIT")
    file.close()


def grouped(path: Path) -> None:
    """The floor: SQLite sums times by kernel."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
        file.execute(
            "SELECT demangledName, count(*), sum(end - start) FROM CUPTI_ACTIVITY_KIND_KERNEL GROUP BY 1"
        ).fetchall()
    file.close()


def kernels(path: Path) -> None:
    """Time by kernel, busy and idle time of each device: what `show --by kernel` prints."""
    from profiler.traces import nsys
    from profiler.traces.breakdown import breakdown

    breakdown(nsys.read(path, brief=True), "kernel")


def everything(path: Path) -> None:
    """Every kernel with its call and its range."""
    from profiler.traces import nsys

    nsys.read(path)


STAGES: Stages = {"floor": grouped, "kernels": kernels, "linked": everything}


def main() -> None:
    """Make an export, measure every stage, print them beside the floor."""
    parser = parser_of(__doc__, STAGES)
    parser.add_argument("--kernels", type=int, default=5_000_000)
    options = parser.parse_args()
    if options.stage:
        run(STAGES[options.stage], options.trace)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace or Path(folder) / "made.sqlite"
        if not options.trace:
            write(path, options.kernels)
        stages = measured(__file__, STAGES, path, options.runs)
        size = path.stat().st_size
    for values in stages.values():
        values["over_floor"] = values["wall_s"] / stages["floor"]["wall_s"]
    if options.json:
        print(json.dumps({"bytes": size, "stages": stages}, indent=1))
        return
    print(f"{size / 1e6:.0f} MB; median of {options.runs}")
    for stage, values in stages.items():
        print(line(stage, values, values["over_floor"]), "of SQLite's own sums")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
