"""`roofline predict`: a model on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from profiler.cli.options import (
    FIDELITY,
    emit,
    format_option,
    hardware,
    known_fidelity,
    model_argument,
    one_of,
    output_file,
    progress,
    scenario_options,
    size_options,
)


@click.command("predict")
@model_argument
@hardware
@size_options
@scenario_options
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@format_option("table", "json", "csv")
@output_file
def command(model: str, hw: str, fidelity: str, format: str, out: Path | None, **flags: Any) -> None:
    """Predict a model on a device: a row per operator, TTFT, TPOT, MFU, MBU, memory."""
    from hwspecs import load_device
    from profiler.scenarios import Asked, listed_operators, scenarios
    from roofline.predict import predict as run
    from roofline.tables import as_json

    one_of(format, "format", ("table", "json", "csv"))
    asked = Asked(**flags)
    device = load_device(hw)
    limits = known_fidelity(fidelity)
    if listed := listed_operators(model):
        from profiler.tables import predict_listed

        emit(predict_listed(listed, device, limits, format), out)
        return
    _, found = scenarios(model, asked)
    if len(found) > 1 and _as_grid(found, device, limits, format, out):
        return
    points = [as_json(run(scenario, device, limits)) for scenario in found]
    emit(_render(points, format), out)


def _as_grid(found: list[Any], device: Any, limits: Any, format: str, out: Path | None) -> bool:
    """Many points at once, where what is asked for is a line for each, or a Parquet file of all rows."""
    from roofline.grid import Grid, predict_grid

    rows = out is not None and out.suffix == ".parquet"
    if not (rows or format == "table") or not Grid.fits(found):
        return False
    from reports import terminal
    from roofline.ceilings import ceilings
    from roofline.tables import of_points

    model, grid = found[0].model, Grid.of(found, [device])
    if rows and out is not None:
        from roofline.gridfile import write_rows

        written = write_rows(model, grid, out, limits)
        progress(f"{written} rows of {len(found)} points written to {out}")
    else:
        totals = predict_grid(model, grid, limits)
        emit(terminal.sweep(of_points(found, device, ceilings(device, limits), totals)), out)
    return True


def _render(points: list[dict[str, Any]], format: str) -> str:
    if format == "json":
        import json

        return json.dumps(points[0] if len(points) == 1 else {"schema": 1, "points": points}, indent=1) + "\n"
    if format == "csv":
        from roofline.tables import as_csv

        return as_csv(points)
    from reports import terminal

    return terminal.prediction(points[0]) if len(points) == 1 else terminal.sweep(points)
