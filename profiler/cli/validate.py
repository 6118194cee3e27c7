"""`roofline validate`: predicted against measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from profiler.cli.options import FIDELITY, RUN, Number, emit, format_option, known_fidelity, output_file
from specfiles.errors import InputError


@click.command("validate", epilog="Example: roofline validate run --max-error 0.1")
@click.argument("run", type=RUN, metavar="RUN|TABLE")
@click.option(
    "--hw",
    help="Device name, alias or YAML file; by default the file kept with the run; a table of TTFT and TPOT "
    "names its own.",
)
@click.option("--fidelity", multiple=True, help=f"{FIDELITY}, repeatable; by default all of the device.")
@click.option(
    "--details/--no-details", default=True, show_default=True, help="Operators of the last fidelity."
)
@click.option(
    "--max-error", type=Number(0), help="Exit 1 where a phase's median |error| is above this fraction."
)
@format_option("table", "json", "csv")
@output_file
def command(
    run: Path,
    hw: str | None,
    fidelity: tuple[str, ...],
    details: bool,
    max_error: float | None,
    format: str,
    out: Path | None,
) -> None:
    """Compare measured with predicted times per operator; lists unmatched ones.

    A TABLE (CSV or Parquet, the columns of `roofline ops` and latency_us) is scored per op, dtype, backend,
    kernel and regime; one with TTFT and TPOT per model, device, engine, format and tp.
    """
    from hwspecs import load_device
    from profiler.traces.showing import described_device
    from reports import gains as measured_gains
    from reports import validation
    from roofline.ceilings import available
    from roofline.gains import gains
    from roofline.run import open_run
    from roofline.tablefiles import TABLES
    from roofline.validate import validate

    if run.suffix in TABLES and run.is_file():
        _stop_above(max_error, _table(run, load_device(hw) if hw else None, fidelity, format, out))
        return
    opened = open_run(run)
    if opened.head.imported is None and all(opened.table(name).empty for name in ("operators", "steps")):
        raise InputError(f"{run}: nothing was measured in it (status: {opened.head.status}).")
    device = described_device(hw, opened)
    if device.name != opened.head.device:
        on = opened.head.device or "a device that the run does not name"
        print(f"note: measured on {on}, predicted for {device.name}", file=sys.stderr)
    chosen = [known_fidelity(name) for name in fidelity] if fidelity else available(device)
    results = [validate(opened, device, entry) for entry in chosen]
    techniques = [gains(opened, device, entry) for entry in chosen]
    if format == "csv":
        said = validation.as_csv(results)
    elif format == "json":
        said = validation.as_json(results, techniques)
    else:
        said = validation.as_text(results, details) + measured_gains.as_text(techniques[-1])
    emit(said, out)
    summary = results[-1].summary()
    _stop_above(max_error, summary.loc[summary["bound"] == "all", "median_ape"].max())


def _table(path: Path, device: Any, fidelity: tuple[str, ...], format: str, out: Path | None) -> float:
    """Score a table of measured kernels; the worst cell's median |error|."""
    from reports import scores
    from roofline.ceilings import available
    from roofline.endtoend import is_end_to_end
    from roofline.scores import score_table
    from roofline.tablefiles import read_table
    from roofline.tablenames import tidied

    table = read_table(path)
    if is_end_to_end(table):
        return _end_to_end(table, device, fidelity, format, out)
    if device is None:
        raise InputError("a table of kernels is compared with one device; give it with --hw.")
    chosen = [known_fidelity(name) for name in fidelity] if fidelity else available(device)
    results = [score_table(tidied(table), device, entry) for entry in chosen]
    write = {"json": scores.as_json, "csv": scores.as_csv, "table": scores.as_text}[format]
    emit(write(results), out)
    summary = results[-1].summary()
    return float(summary.loc[summary["regime"] == "all", "median_ape"].max())


def _end_to_end(table: Any, device: Any, fidelity: tuple[str, ...], format: str, out: Path | None) -> float:
    """Score a table of TTFT and TPOT; the worst cell's median |error|."""
    from reports import end_to_end
    from roofline.endtoend import score_end_to_end

    chosen = [known_fidelity(name) for name in fidelity or ("datasheet", "calibrated")]
    results = [score_end_to_end(table, entry, device) for entry in chosen]
    write = {"json": end_to_end.as_json, "csv": end_to_end.as_csv, "table": end_to_end.as_text}[format]
    emit(write(results), out)
    return float(results[-1].summary()["median_ape"].max())


def _stop_above(most: float | None, worst: float) -> None:
    """Exit 1 where the error is above the limit or nothing matched (NaN)."""
    from reports.units import percent

    if most is not None and not worst <= most:
        print(f"median |error| {percent(worst)} is above {percent(most)}", file=sys.stderr)
        click.get_current_context().exit(1)
