"""The tables of a run and their columns: the schema of its Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.step import Step

ENCODER = "encoder_len"  # of the visible positions of a point, those of an encoder; 0 where a model has none
POINT = ["phase", "batch", "q_len", "kv_len", ENCODER]  # what tells the measured points of a run apart


def step_of(point: Sequence[Any]) -> Step:
    """The step of a row's values of POINT; several positions that decode are drafts, each of them scored."""
    batch, q_len, kv_len, memory = map(int, point[1:])
    return Step(batch, q_len, kv_len, q_len if point[0] == "decode" else 1, memory)


TABLES = {
    # One row per phase point and operator: times of one execution.
    "operators": (
        *POINT,
        "name",
        "kind",
        "where",  # model: inside the whole model; alone: as a kernel by itself; framework: beside operators
        "count",  # executions per step
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "low_s",  # from here to high_s lies the median of the distribution, at 95 % confidence
        "high_s",
        "outliers",  # repeats far outside the others; none is dropped
        "kernel",  # what computed it, where alone: library and kernel
    ),
    # One row per phase point and way of running the whole step.
    # Times are of work; waited_s is how much longer the median step took while it waited for a processor.
    "steps": (
        *POINT,
        "instrumented",
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "low_s",
        "high_s",
        "outliers",
        "waited_s",
        "warm_ups",  # steps before the first repeat
        "ended",  # why no more were made: all repeats, narrow interval, budget spent; or not over
    ),
    # One row per repeat of a whole step far outside the others.
    "outliers": (
        *POINT,
        "instrumented",
        "repeat",
        "step_s",
        "time_s",  # when it ended, by the clock of the samples of power
    ),
    # One row per phase point: reference steps (profiler/references.py) repeated beside it.
    # layers_s is the median time of the operators in their layers alone.
    "references": (
        *POINT,
        "model",
        "dtype",
        "flops",
        "bytes",
        "repeats",
        "median_s",
        "q25_s",
        "q75_s",
        "layers_s",
    ),
    # One row per operator of a traced module: what a pass does where no described model says it.
    "traced": ("name", "kind", "count", "flops", "bytes", "fields"),  # fields: the operator's, as JSON
    # One row per device kernel or host operation of a traced step.
    "kernels": (*POINT, "operator", "name", "count", "time_s"),
    # One row per phase point and technique: the step without and with it, measured in turn.
    "techniques": (
        *POINT,
        "technique",  # as the command line takes it, with what was measured of its parameters
        "convention",  # by which the step without it is counted
        "repeats",
        "base_s",
        "treated_s",
        "gain",  # median of base / treated of neighbours
        "gain_q25",
        "gain_q75",
        "gain_low",  # from here to gain_high lies its median; of less than six repeats, all lie
        "gain_high",
        "outliers",
        "warm_ups",  # of the step without or with it, whichever took more
        "ended",  # as of steps
        "deviation",  # of results: largest difference over largest value
        "remark",  # what of it was measured and what assumed
        "ran",  # the technique that the kernels make of it, where it is another one: that is predicted
    ),
    # One row per collective that a process saw: when it came and left, on the clock of the first process.
    "arrivals": (
        *POINT,
        "name",
        "repeat",
        "index",  # among the collectives of the step
        "begin_s",
        "end_s",
        "uncertainty_s",  # of the clock
    ),
    # One row per phase point and collective of a merged run: medians over occurrences that all ranks have.
    "collectives": (
        *POINT,
        "name",
        "ranks",
        "count",  # per step
        "repeats",
        "wait_s",  # from the first rank's arrival to the last's
        "mean_wait_s",  # of a rank for the last
        "median_s",  # from the last arrival to the last end, as are the quartiles
        "q25_s",
        "q75_s",
        "last_rank",  # that came last most often
        "last_share",  # of the occurrences
        "uncertainty_s",
    ),
    # One row per phase point and operator, its executions in a step together: work counted by Nsight Compute.
    "counted": (
        *POINT,
        "name",  # empty: kernels in no operator's range
        "kind",
        "kernels",
        "flops",  # by the descriptor
        "tiled_flops",  # with the rest of attention's tiles, where the kernel's name tells their size
        "counted_flops",
        "bytes",
        "counted_bytes",  # of DRAM; caches are flushed before each kernel
    ),
    # Samples of the power monitor.
    "power": (
        "time_s",
        "power_w",
        "sm_clock_hz",
        "memory_clock_hz",
        "temperature_c",
        "throttle",  # bits of nvmlClocksEventReasons
        "energy_j",  # a counter since the driver was loaded
        "memory_used_bytes",  # of the device, by all processes
    ),
    # One row per phase point: the mean energy of a step, from the device's counter.
    "energy": (
        *POINT,
        "energy_j",
        "power_w",
        "steps",
        "window_s",
        "uncertainty",  # relative: the steps in which the counter jumped
    ),
}


# Columns that older runs and imported ones do not have.
LATER = {
    "operators": ("low_s", "high_s", "outliers", "kernel"),
    "steps": ("low_s", "high_s", "outliers", "waited_s", "warm_ups", "ended"),
    "references": ("layers_s",),
    "power": ("energy_j", "memory_used_bytes"),
    "techniques": ("gain_low", "gain_high", "outliers", "warm_ups", "ended", "remark", "ran"),
}
