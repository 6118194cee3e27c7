"""`roofline profile`: a model run under ranges."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from profiler.cli.options import (
    FILE,
    device_option,
    model_argument,
    needs_torch,
    positive,
    progress,
    size_options,
    threads_option,
)


@click.command("profile")
@model_argument
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Run folder to make.")
@click.option("--hw", help="Device file that the run belongs to; kept with it.")
@device_option
@size_options
@click.option("--dtype", help="Format of the model; fp32 on a CPU, bf16 on CUDA.")
@threads_option
@click.option("--repeats", type=int, default=16, show_default=True, help="Measured steps of each point.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights and tokens.")
@click.option("--alone/--no-alone", default=True, show_default=True, help="Each operator by itself, too.")
def command(
    model: str,
    out: Path,
    hw: str | None,
    device: str,
    dtype: str | None,
    threads: int,
    repeats: int,
    seed: int,
    alone: bool,
    **sizes: Any,
) -> None:
    """Run a model under ranges and write a run folder: steps, operators, kernels, traces."""
    needs_torch()
    from hwspecs import load_device
    from profiler.environment import device_name, pick_device, use_threads
    from profiler.kernels import known_kernel_dtype
    from profiler.points import points
    from profiler.record import Request, profile
    from profiler.scenarios import Asked, scenarios
    from roofline.run import refuse_existing

    positive(repeats=repeats, threads=threads)
    refuse_existing(out)
    chosen = pick_device(device)
    wanted = known_kernel_dtype(dtype or ("fp32" if chosen == "cpu" else "bf16"))
    asked = Asked(**sizes, weights=wanted, activations=wanted, kv=wanted)
    loaded, found = scenarios(model, asked, default_convention="eager")
    hardware = load_device(hw) if hw else device_name(chosen)
    use_threads(threads)
    run = profile(
        Request(loaded, chosen, wanted, points(found), out, hardware, repeats, seed, alone, progress)
    )
    for note in run.head.notes:
        print(note, file=sys.stderr)
    print(f"run written to {out}", file=sys.stderr)
