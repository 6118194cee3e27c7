"""`roofline validate`: predicted against measured."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import (
    FIDELITY,
    FILE,
    emit,
    format_option,
    hardware,
    known_fidelity,
    one_of,
    output_file,
)


@click.command("validate")
@click.argument("run", type=FILE, metavar="RUN")
@hardware
@click.option(
    "--fidelity", multiple=True, help=f"{FIDELITY}, repeatable; by default all that the device has."
)
@click.option(
    "--details/--no-details", default=True, show_default=True, help="Operators of the last fidelity."
)
@click.option("--max-error", type=float, help="Exit 1 where a phase's median |error| is above this fraction.")
@format_option("table", "json")
@output_file
def command(
    run: Path,
    hw: str,
    fidelity: tuple[str, ...],
    details: bool,
    max_error: float | None,
    format: str,
    out: Path | None,
) -> None:
    """Compare measured with predicted times, operator by operator; lists what did not match."""
    from hwspecs import load_device
    from reports import validation
    from roofline.ceilings import available
    from roofline.run import open_run
    from roofline.validate import validate

    one_of(format, "format", ("table", "json"))
    device, opened = load_device(hw), open_run(run)
    if device.name != opened.head.device:
        print(f"note: measured on {opened.head.device}, predicted for {device.name}", file=sys.stderr)
    chosen = [known_fidelity(name) for name in fidelity] if fidelity else available(device)
    results = [validate(opened, device, entry) for entry in chosen]
    emit(validation.as_json(results) if format == "json" else validation.as_text(results, details), out)
    if max_error is not None:
        summary = results[-1].summary()
        worst = summary.loc[summary["bound"] == "all", "median_ape"].max()
        if not worst <= max_error:  # nothing matched (NaN) fails too
            print(f"median |error| {worst:.1%} is above {max_error:.1%}", file=sys.stderr)
            click.get_current_context().exit(1)
