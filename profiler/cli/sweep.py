"""`roofline sweep`: every combination of models, devices, sizes, formats and techniques."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiler.cli.options import FILE, INPUT, PRICES, emit, format_option, one_of, positive, progress
from specfiles.errors import InputError

if TYPE_CHECKING:
    from roofline.sweep.spec import Spec


@click.command(
    "sweep",
    epilog="Example: roofline sweep grid.yaml -o results --within tpot=50ms",
)
@click.argument("spec", type=INPUT, metavar="SPEC.yaml")
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Results folder.")
@click.option("--engine", default="local", show_default=True, help="local | dask")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes of this machine.")
@click.option("--scheduler", help="Address of a dask scheduler; by default dask starts one here.")
@click.option("--best", type=int, default=10, show_default=True, help="Points to print.")
@click.option(
    "--by",
    help="tokens_per_s | ttft_s | tpot_s | energy_j | usd_per_million_tokens [default: the first; with "
    "--prices the last].",
)
@click.option("--within", help="Print only points within these limits: tpot=50ms,ttft=2s,throughput=1000.")
@click.option("--prices", type=FILE, help=f"{PRICES}: adds the cost of a million tokens.")
@format_option("table", "json", "csv", file=False)
def command(
    spec: Path,
    out: Path,
    engine: str,
    workers: int,
    scheduler: str | None,
    best: int,
    by: str | None,
    within: str | None,
    prices: Path | None,
    format: str,
) -> None:
    """Predict a whole grid into a folder; rerun to continue after an interrupt.

    SPEC.yaml lists models, hardware, batch, prompt, dtypes, techniques and more (docs/formats.md); every
    combination is a point.
    Writes points.parquet, a row per point, and prints the best points that fit in memory.
    """
    from contextlib import nullcontext

    from reports import sweep as render
    from roofline.cost import read_prices
    from roofline.sweep import choose, run
    from roofline.target import Goal

    one_of(engine, "engine", ("local", "dask"))
    by = one_of(by or (choose.COST if prices else "tokens_per_s"), "quantity", tuple(render.BETTER))
    if by == choose.COST and prices is None:
        raise InputError(f"--by {by} needs the prices of devices; give --prices, a {PRICES}.")
    given, goal = read_prices(prices) if prices else None, Goal.parse(within) if within else None
    positive(workers=workers, best=best)
    described = run.load_spec(spec)
    if [] in described.techniques:  # who names techniques for every point has chosen
        _tell_published_formats(described)
    local = run.one_by_one if workers == 1 else run.in_processes(workers)
    with run.on_dask(scheduler) if engine == "dask" else nullcontext(local) as mapper:
        try:
            table = run.run_sweep(described, out, mapper, progress)
        except KeyboardInterrupt:
            progress(f"interrupted; the same command goes on with what {out} has")
            raise
    progress(f"{len(table)} points written to {out / 'points.parquet'}")
    if given is not None:
        table = choose.priced(table, described.hardware, given)
    met = choose.within(table, goal) if goal else table
    write = {"json": render.as_json, "csv": render.as_csv, "table": render.as_text}[format]
    emit(write(table, met, best, by), None)


def _tell_published_formats(spec: Spec) -> None:
    """Note each model whose published weights are narrower than all formats that the file compares."""
    from roofline.asked import formats
    from workloads.catalogue import load_model
    from workloads.checkpoint import AS_ENTRY, stored_note

    for loaded in map(load_model, spec.models):
        asked = [formats(loaded, dtypes) for dtypes in spec.dtypes]
        notes = [stored_note(loaded, model, precision, AS_ENTRY) for model, precision in asked]
        if all(notes):
            print(f"note: {notes[0]}", file=sys.stderr)
