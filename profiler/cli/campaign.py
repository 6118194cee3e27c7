"""`roofline campaign`: all measurements of a device, within a budget."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import (
    FILE,
    device_option,
    duration,
    needs_torch,
    positive,
    progress,
    threads_option,
)


@click.command("campaign", epilog="Example: roofline campaign -o campaign --budget 30m")
@click.option(
    "-o", "--output-folder", "out", type=FILE, required=True, help="Folder; an existing one is continued."
)
@click.option(
    "--budget",
    default="8m",
    show_default=True,
    help="Time after which no further measurement begins: 90s, 8m, 1h.",
)
@device_option
@click.option(
    "--dtype",
    multiple=True,
    help="Format to measure, repeatable; fp32 on a CPU, on CUDA bf16 and all formats of products.",
)
@threads_option
@click.option("--models/--no-models", default=True, show_default=True, help="Also measure whole models.")
def command(out: Path, budget: str, device: str, dtype: tuple[str, ...], threads: int, models: bool) -> None:
    """Measure ceilings, operators of many shapes and three models, most valuable first; resumable.

    Its operators.parquet is a table for `roofline validate` and `roofline ops`.
    """
    needs_torch()
    from profiler.campaign.run import Campaign, run_campaign
    from profiler.environment import pick_device, use_threads
    from profiler.kernels import PRODUCTS, product_dtypes

    seconds = duration(budget)
    positive(threads=threads)
    chosen = pick_device(device)
    use_threads(threads)
    dtypes = product_dtypes(dtype, chosen, ("bf16",), PRODUCTS)
    head = run_campaign(Campaign(chosen, dtypes, out, seconds, None if models else (), progress))
    for note in head.notes:
        print(note, file=sys.stderr)
