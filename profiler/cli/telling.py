"""Messages after a run was measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from roofline.run import Run
    from roofline.run_head import Overhead


def tell(run: Run, overhead: float | None) -> None:
    """Print the run's notes, and the overhead of its ranges if requested."""
    for note in run.head.notes:
        print(note, file=sys.stderr)
    if overhead is not None:
        _costs(run.head.overheads)


def finish(run: Run, overhead: float | None) -> None:
    """Print the run's path, and how the overhead of ranges compares with the limit; exit 1 where above it."""
    from profiler.noting import limit_words

    print(f"run written to {run.path}", file=sys.stderr)
    if overhead is None or not (costs := run.head.overheads):
        return
    print(limit_words(costs, overhead), file=sys.stderr)
    if any(cost.fraction > overhead for cost in costs):
        click.get_current_context().exit(1)


def _costs(costs: list[Overhead]) -> None:
    """Print the overhead of ranges per point to stdout."""
    from reports import terminal
    from reports.units import percent, text
    from specfiles.strict import plain_data

    columns: terminal.Columns = {
        **terminal.POINT,
        "fraction": ("cost of ranges", percent),
        "low": ("95 % from", percent),
        "high": ("to", percent),
        "pairs": ("pairs", text),
    }
    print(terminal.table([plain_data(cost) for cost in costs], columns))
