"""`roofline sweep`: every combination of models, devices, sizes, formats and techniques."""

from __future__ import annotations

from pathlib import Path

import click

from profiler.cli.options import FILE, INPUT, emit, format_option, one_of, positive, progress


@click.command("sweep")
@click.argument("spec", type=INPUT, metavar="SPEC.yaml")
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Folder of the results.")
@click.option("--engine", default="local", show_default=True, help="local | dask")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes of this machine.")
@click.option("--scheduler", help="Address of a dask scheduler; by default dask starts one here.")
@click.option("--best", type=int, default=10, show_default=True, help="Points to print.")
@click.option(
    "--by", default="tokens_per_s", show_default=True, help="tokens_per_s | ttft_s | tpot_s | energy_j"
)
@format_option("table", "json")
def command(
    spec: Path,
    out: Path,
    engine: str,
    workers: int,
    scheduler: str | None,
    best: int,
    by: str,
    format: str,
) -> None:
    """Predict a whole grid into a folder; run again, it goes on where it was interrupted.

    The folder gets points.parquet, a row per point. What is printed are the best points that fit.
    """
    from contextlib import nullcontext

    from reports import sweep as render
    from roofline.sweep import run

    one_of(engine, "engine", ("local", "dask"))
    one_of(format, "format", ("table", "json"))
    one_of(by, "quantity", tuple(render.BETTER))
    positive(workers=workers, best=best)
    described = run.load_spec(spec)
    local = run.one_by_one if workers == 1 else run.in_processes(workers)
    with run.on_dask(scheduler) if engine == "dask" else nullcontext(local) as mapper:
        table = run.run_sweep(described, out, mapper, progress)
    progress(f"{len(table)} points written to {out / 'points.parquet'}")
    emit({"json": render.as_json, "table": render.as_text}[format](table, best, by), None)
