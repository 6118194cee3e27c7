"""Hardware counters joined with the timeline: times from Kineto or Nsight Systems, work from Nsight Compute.

Nsight Compute serialises kernels and flushes caches, so that its times differ from the program's; its counts
do not. Kernels are matched by name and by position among those of the same name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from profiler.traces.tables import ATTRIBUTION, SCHEMAS, Trace, make_table, unified

CASTS = re.compile(r"\((?:unsigned )?(?:int|long|bool|short|char)\)")
ANONYMOUS = re.compile(r"\(anonymous namespace\)|<?unnamed>|\{anonymous\}")
FORMATS = {"fp4": "fp4", "fp8": "fp8", "int8": "int8", "fp16": "fp16", "bf16": "bf16", "tf32": "tf32"}
FORMATS |= {"fp64": "fp64", "fp4_fp6": "fp8", "fp4_fp6_fp8": "fp8"}  # as their units multiply them
Kernel = dict[str, Any]  # name, source, process, device, and the metrics


def kernels_of(trace: Trace) -> list[Kernel]:
    """One record per profiled kernel, in order of launch."""
    found: dict[tuple[int, int], Kernel] = {}
    for row in trace["counters"].to_pylist():
        kernel = found.setdefault((row["source"], row["order"]), dict(row, metrics={}))
        kernel["metrics"][row["metric"]] = row["value"]
    return list(found.values())


def gathered(trace: Trace) -> Trace:
    """Pages of one report merged, and the number of incompletely counted kernels.

    Pages belong to one report if they have the same kernels of the same process and no metric differs.
    """
    if not trace["counters"].num_rows:
        return trace
    kernels = kernels_of(trace)
    first = _first_pages(kernels)
    if any(source != one for source, one in first.items()):
        table = trace["counters"].to_pandas()
        table["source"] = table["source"].map(first)
        table = table.drop_duplicates(["source", "order", "metric"])
        columns = {name: table[name].tolist() for name in SCHEMAS["counters"].names}
        trace = trace.with_table("counters", make_table("counters", columns))
        kernels = kernels_of(trace)
    said = {
        "kernels whose FLOP were not all counted": "flops",
        "kernels whose DRAM bytes were not counted": "dram_bytes",
    }
    return trace.with_notes({note: sum(m not in k["metrics"] for k in kernels) for note, m in said.items()})


def _first_pages(kernels: list[Kernel]) -> dict[int, int]:
    """The first page of the report of each page, by source."""
    pages: dict[int, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        pages[kernel["source"]].append(kernel)
    reports: dict[Any, list[int]] = defaultdict(list)
    for source, shown in pages.items():
        reports[tuple((k["process"], k["device"], k["name"]) for k in shown)].append(source)
    first = {source: source for source in pages}
    for shown, (one, *others) in reports.items():
        if all(process >= 0 for process, _, _ in shown):
            first |= {other: one for other in others if _agree(pages[one], pages[other])}
    return first


def _agree(one: list[Kernel], other: list[Kernel]) -> bool:
    """Whether the pages agree on all metrics, within rounding and clock variation."""
    return all(
        np.isclose(a["metrics"][metric], b["metrics"][metric], rtol=0.02, atol=0, equal_nan=True)
        for a, b in zip(one, other, strict=True)
        for metric in (a["metrics"].keys() & b["metrics"].keys()) - {"sm_clock_hz"}
    )


def timed(trace: Trace) -> Trace:
    """Make a counters-only trace's kernels its activities, consecutively as ncu ran them."""
    if trace["activities"].num_rows or not trace["counters"].num_rows:
        return trace
    kernels = [kernel for kernel in kernels_of(trace) if "time_s" in kernel["metrics"]]
    if not kernels:
        return trace
    sources: dict[int, int] = {}  # by device: several reports of one are of the same device
    for kernel in kernels:
        kernel["source"] = sources.setdefault(kernel["device"], kernel["source"])
    length = np.rint([kernel["metrics"]["time_s"] * 1e9 for kernel in kernels]).astype(np.int64)
    end = np.cumsum(length)
    table = make_table(
        "activities",
        {
            **{
                name: [kernel[name] for kernel in kernels] for name in ("source", "process", "device", "name")
            },
            "kind": ["kernel"] * len(kernels),
            "start_ns": end - length,
            "end_ns": end,
        },
    )
    alone = {"kernels timed alone by ncu: no timeline, no idle time": len(kernels)}
    return trace.with_table("activities", table).with_notes(alone)


def counted(trace: Trace) -> Trace:
    """Attribution with counted work for kernels with FLOP and DRAM bytes; others keep theirs."""
    if not trace["counters"].num_rows:
        return trace
    kernels = kernels_of(trace)
    rows = matched(trace, kernels)
    whole = [(row, k["metrics"]) for row, k in zip(rows, kernels, strict=True) if row >= 0 and _complete(k)]
    said = {
        "counted kernels that are not in the timeline": sum(row < 0 for row in rows),
        "counted kernels in the timeline": len(whole),
    }
    return trace.with_notes(said).with_table("attribution", _filled(trace["attribution"], whole))


def matched(trace: Trace, kernels: list[Kernel]) -> list[int]:
    """The activity of each profiled kernel, matched as the k-th of its name; -1 for none."""
    rows = np.flatnonzero(trace.of_kind("activities", "kernel"))
    rows = rows[np.argsort(trace.column("activities", "start_ns")[rows], kind="stable")]
    words, codes = trace.words("activities", "name"), trace.column("activities", "name")
    device = trace.column("activities", "device")
    several = len({(kernel["source"], kernel["device"]) for kernel in kernels}) > 1
    full = {plain_name(word) for word in words}
    waiting: dict[Any, list[int]] = defaultdict(list)
    keys = [(plain_name(word), base_name(word)) for word in words]
    for row in rows[::-1].tolist():
        for key in keys[codes[row]]:
            waiting[key, device[row] if several else 0].append(row)
    taken: set[int] = set()
    found = []
    for kernel in kernels:
        plain, base = plain_name(kernel["name"]), base_name(kernel["name"])
        queue = waiting[plain if plain in full else base, kernel["device"] if several else 0]
        while queue and queue[-1] in taken:
            queue.pop()
        found.append(queue.pop() if queue else -1)
        taken.add(found[-1])
    return found


def plain_name(name: str) -> str:
    """A kernel's name, normalised across tools: without casts, spaces and unnamed namespaces."""
    return ANONYMOUS.sub("", CASTS.sub("", name)).replace(" ", "")


def base_name(name: str) -> str:
    """The function's own name, without its namespace, template arguments, result and parameters.

    >>> base_name("void at::native::vectorized_kernel<4, F<int>>(int, T2)")
    'vectorized_kernel'
    """
    kept, depth = [], 0
    for character in ANONYMOUS.sub("", name).replace("operator()", ""):
        if character == "(" and depth == 0:
            break
        depth += (character == "<") - (character == ">")
        if depth == 0 and character != ">":
            kept.append(character)
    words = "".join(kept).split()
    return words[-1].rsplit("::", 1)[-1] if words else name


def _complete(kernel: Kernel) -> bool:
    return "flops" in kernel["metrics"] and "dram_bytes" in kernel["metrics"]


def _filled(table: pa.Table, counted_rows: list[tuple[int, dict[str, float]]]) -> pa.Table:
    """The attribution with counted work: each counted kernel is an instance of its own."""
    columns = {name: table[name].to_numpy().copy() for name in _NUMBERS}
    words = {name: unified(table[name]).to_pylist() for name in ("how", "dtype")}
    own = int(columns["instance"].max(initial=0)) + 1
    for number, (row, metrics) in enumerate(counted_rows):
        matrix = metrics["tensor_flops"]
        columns["matrix_flops"][row] = matrix
        columns["vector_flops"][row] = metrics["flops"] - matrix
        columns["special_ops"][row] = 0.0
        columns["work_bytes"][row] = metrics["dram_bytes"]
        columns["instance"][row] = own + number
        words["how"][row] = "counters"
        words["dtype"][row] = _format(metrics) or words["dtype"][row] or "fp32"
    for name, values in {**columns, **words}.items():
        field = ATTRIBUTION.field(name)
        filled = (
            pa.array(values, pa.string()).dictionary_encode()
            if name in words
            else pa.array(values, field.type)
        )
        table = table.set_column(ATTRIBUTION.get_field_index(name), field, filled)
    return table


_NUMBERS = ("matrix_flops", "vector_flops", "special_ops", "work_bytes", "instance")


def _format(metrics: dict[str, float]) -> str | None:
    """The format of most tensor-unit FLOP."""
    by_format = {
        name.removeprefix("tensor_").removesuffix("_flops"): value
        for name, value in metrics.items()
        if name.startswith("tensor_") and name != "tensor_flops" and value > 0
    }
    return FORMATS.get(max(by_format, key=lambda name: by_format[name])) if by_format else None
