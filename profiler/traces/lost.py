"""Lost time of a recording: an upper limit per cause, and remedies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from profiler.traces.idle import CAUSES
from profiler.traces.rules import COMMUNICATION, MOVES
from reports.wording import counted

Loss = tuple[str, float, str, str]  # what, seconds, why, what would help

# Absent from a step at its bound (convention `fused`): all of their time counts as lost.
RIDING = ("elementwise", "residual", "act_mul", "rmsnorm", "rope", "kv_append", "reduce", "quantise")

# cause -> remedy; kinds of operators not listed get BELOW
HELP = {
    "attention": "another attention kernel; in decode one that splits the keys, more sequences",
    "gemm": "wider batches, sizes that fill whole tiles and waves, a tuned kernel, fused projections",
    "grouped_gemm": "more tokens per expert, a tuned grouped kernel, experts spread otherwise",
    "host": "CUDA graphs, torch.compile, larger steps: the host cannot launch fast enough",
    "synchronisation": "no .item(), .cpu() or synchronize() between launches",
    "copy": "page-locked memory and copies that do not block, on a stream of their own",
    "launch latency": "CUDA graphs: launches that are one call",
    "between kernels": "fewer and larger kernels; CUDA graphs, programmatic dependent launch",
    "data wait": "work of this stream that does not need the other's result, started before it",
    "copy wait": "copies begun earlier, while something else computes",
    "queued": "fewer and larger kernels",
    "unknown": "a recording with its launches: they tell why the device waited",
}
BELOW = "a tuned or fused kernel"


def lost(
    rows: pd.DataFrame, idle: Mapping[str, float], exposed_s: float, span_s: float
) -> list[dict[str, Any]]:
    """A record per loss: `what time_s share why help`; `share` is of the devices' time `span_s`.

    `rows` are those of `alike.alike`, `idle` seconds by cause, `exposed_s` communication not overlapped by
    computation. Losses of concurrent kernels overlap: they are limits and do not add up.
    """
    found = [*_riding(rows), *_above(rows), *_waiting(idle, exposed_s)]
    whole = span_s or float(rows["time_s"].sum())
    ranked = sorted((loss for loss in found if loss[1] > 0), key=lambda loss: -loss[1])
    return [
        {"what": what, "time_s": seconds, "share": seconds / whole, "why": why, "help": helps}
        for what, seconds, why, helps in ranked
    ]


def _riding(rows: pd.DataFrame) -> Iterator[Loss]:
    """Losses of data movement without matrix products."""
    for what, kinds, helps in (
        ("elementwise operations", RIDING, "fusing them with their neighbours: torch.compile, fused kernels"),
        ("copies", MOVES, "one format and layout throughout, results written where they are needed"),
    ):
        here = rows[rows["kind"].isin(kinds)]
        spent = here.groupby("kind")["time_s"].sum().sort_values(ascending=False)
        kinds_here = ", ".join(map(str, spent.index))
        executions = counted(int(here["count"].sum()), "execution")
        why = f"{executions} ({kinds_here}) that a fused step avoids"
        yield what, float(spent.sum()), why, helps


def _above(rows: pd.DataFrame) -> Iterator[Loss]:
    """Time above the ceilings by kind, for other operators with known work."""
    apart: Sequence[str] = (*RIDING, *MOVES, *COMMUNICATION)
    known = rows[rows["bound_s"].notna() & rows["how"].notna() & ~rows["kind"].isin(apart)]
    for kind, group in known.groupby("kind"):
        spent, at_ceiling = float(group["time_s"].sum()), float(group["bound_s"].sum())
        if spent > at_ceiling:
            kernels = counted(int(group["count"].sum()), "kernel")
            why = f"{kernels} attaining {100 * at_ceiling / spent:.0f} % of the ceilings"
            yield f"{kind} slower than its ceilings", spent - at_ceiling, why, HELP.get(str(kind), BELOW)


def _waiting(idle: Mapping[str, float], exposed_s: float) -> Iterator[Loss]:
    """Idle time, and exposed communication."""
    for cause, seconds in idle.items():
        yield f"idle ({cause})", seconds, CAUSES[cause], HELP[cause]
    why = "collectives and transfers beside which nothing was computed"
    yield "communication", exposed_s, why, "overlapping it with computation, fewer or narrower messages"
