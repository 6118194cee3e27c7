"""`roofline ceilings`: the measured ceilings of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import (
    FILE,
    device_option,
    duration,
    known_precision,
    needs_torch,
    positive,
    progress,
    threads_option,
)


@click.command("ceilings", epilog="Example: roofline ceilings -o this-machine.yaml --budget 8m")
@click.option("-o", "--output-file", "out", type=FILE, required=True, help="Device file (YAML) to write.")
@device_option
@click.option(
    "--dtype",
    multiple=True,
    help="Format to measure, repeatable; fp32 on a CPU, also bf16 (and fp8, nvfp4) on CUDA.",
)
@threads_option
@click.option(
    "--passes",
    type=int,
    default=6,
    show_default=True,
    help="Maximum passes over all measurements; medians are used.",
)
@click.option(
    "--ci",
    type=float,
    default=0.0,
    show_default=True,
    help="Stop when every ceiling is known to this fraction, as 0.02, at 95 %; 0: run all passes.",
)
@click.option("--budget", help="Time after which no further pass begins: 90s, 8m, 1h.")
@click.option("--name", help="Name of the device in the file.")
@click.option("--hw", help="Device whose data sheet is kept (name or file); the measured part is replaced.")
def command(
    out: Path,
    device: str,
    dtype: tuple[str, ...],
    threads: int,
    passes: int,
    ci: float,
    budget: str | None,
    name: str | None,
    hw: str | None,
) -> None:
    """Measure this machine's ceilings and the constants of its operators; writes a device file.

    Every measurement is saved at once: after an interrupt, error or kill the same command continues.
    """
    from hwspecs import load_device

    sheet = load_device(hw) if hw else None
    left = duration(budget) if budget else float("inf")
    needs_torch()
    from profiler.ceilings.measure import measure_ceilings
    from profiler.ceilings.plan import Plan
    from profiler.environment import pick_device, use_threads
    from profiler.kernels import product_dtypes
    from reports.devices import reached
    from specfiles.writing import check_writable

    positive(passes=passes, threads=threads)
    precision = known_precision(ci)
    check_writable(out)
    chosen = pick_device(device)
    use_threads(threads)
    dtypes = product_dtypes(dtype, chosen, ("bf16", "fp32"))
    plan = Plan(chosen, dtypes, passes, name, progress, left, precision, sheet=sheet)
    measured = measure_ceilings(plan, out)
    print(reached(measured), end="")
    print(f"ceilings of {measured.name} written to {out}", file=sys.stderr)
