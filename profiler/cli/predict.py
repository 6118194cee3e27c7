"""`roofline predict`: a model on a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiler.cli import completion
from profiler.cli.options import (
    FIDELITY,
    Number,
    emit,
    engine_option,
    format_option,
    hardware,
    keep_inputs,
    known_fidelity,
    one_of,
    output_file,
    progress,
    scenario_options,
    size_options,
    tell_of_checkpoint,
)
from specfiles.errors import InputError

if TYPE_CHECKING:
    from roofline.engines import Engine
    from roofline.predict import Prediction


@click.command("predict", epilog="Example: roofline predict Llama-3.1-8B --hw h100 --batch 16 --tp 2")
@click.argument("model", metavar="MODEL", required=False, shell_complete=completion.models)
@click.option(
    "--from-module",
    metavar="MODULE:FUNCTION",
    help="Trace a torch.nn.Module instead: imports MODULE from here; FUNCTION returns (module, inputs).",
)
@hardware
@size_options
@scenario_options
@click.option("--fidelity", help=f"{FIDELITY} [default: datasheet; with --explain and --backend calibrated]")
@click.option("--backend", help="Library whose kernels are modelled: trtllm, vllm, sglang.")
@engine_option
@click.option(
    "--price",
    type=Number(0, min_open=True),
    help="USD per hour of a device: adds the cost of a million tokens.",
)
@click.option(
    "--ledger", is_flag=True, help="Print the bytes of every tensor and the assumption behind them."
)
@click.option("--explain", metavar="OPERATOR", help="Print the terms of an operator's time.")
@format_option("table", "json", "csv", "html")
@output_file
def command(
    model: str | None,
    from_module: str | None,
    hw: str,
    fidelity: str | None,
    backend: str | None,
    engine: str,
    price: float | None,
    ledger: bool,
    explain: str | None,
    format: str,
    out: Path | None,
    **flags: Any,
) -> None:
    """Predict a model on a device: a row per operator, TTFT, TPOT, MFU, MBU, memory.

    Fidelity datasheet divides work by the vendor's figures, a lower bound on time; measured by ceilings that
    were reached; calibrated uses models of kernels, fitted to measurements; corrected adds a learned term.
    """
    from hwspecs import load_device
    from roofline.asked import Asked, listed_operators, scenarios
    from roofline.ceilings import known_backend
    from roofline.predict import predict as run

    if (model is None) == (from_module is None):
        raise click.UsageError("give either MODEL or --from-module.")
    _check_together(from_module, backend, engine, ledger, explain, format)
    if price is not None and (ledger or explain or from_module or format not in ("table", "json")):
        raise InputError("--price is among the totals of --format table and json; leave it out here.")
    keep_inputs(out, model, hw)
    asked, device = Asked(**flags), load_device(hw)
    limits = known_fidelity(fidelity, kernels=backend is not None or explain is not None)
    whose = known_backend(backend, limits)
    if from_module is not None:
        from profiler.module_predict import predict_module

        traced = predict_module(from_module, asked, device, limits)
        if ledger:
            emit(_ledger(traced, format), out)
        else:
            _emit_points({}, [traced], format, out, None)
        return
    assert model is not None
    if listed := listed_operators(model):
        if format == "html" or engine != "none":
            raise InputError(
                "the file lists operators, and --format html and --engine are for models; leave them out."
            )
        from profiler.tables import predict_listed

        emit(predict_listed(listed, device, limits, format, whose), out)
        return
    loaded, found = scenarios(model, asked)
    tell_of_checkpoint(loaded, found[0])
    # A user's config is included, so that a report can be made from the prediction alone.
    own = {} if loaded.file else {"config": loaded.fields()}
    around = _engine(engine)
    if around is not None:
        from roofline.engines import kernels_of, run_by

        found = [run_by(one, around) for one in found]
        whose = whose or kernels_of(around, limits)
    if ledger:
        emit(_ledger(run(_only(found), device, limits), format), out)
    elif explain is not None:
        from reports.waterfall import as_text as waterfall
        from roofline.explain import explained

        one_of(format, "format", ("table",))
        emit("\n".join(waterfall(explained(one, device, limits, explain, whose)) for one in found), out)
    elif around or whose or not _as_grid(found, device, limits, format, out, price):
        made = (run(scenario, device, limits, whose, engine=around) for scenario in found)
        _emit_points(own, made, format, out, price)


def _engine(name: str) -> Engine | None:
    """The engine of that name; without one its module, which takes time to import, is not needed."""
    if name == "none":
        return None
    from roofline.engines import find_engine

    return find_engine(name)


def _check_together(
    module: str | None, backend: str | None, engine: str, ledger: bool, explain: str | None, format: str
) -> None:
    """InputError for options that exclude each other."""
    if ledger and explain is not None:
        raise InputError("--ledger and --explain are two tables; choose one of them.")
    if ledger and format == "html":
        raise InputError("--ledger is a table of bytes; choose --format table, json or csv.")
    for option, given in (
        ("--explain", explain is not None),
        ("--backend", backend is not None),
        ("--engine", engine != "none"),
    ):
        if given and module is not None:
            raise InputError(f"{option} is for described models; leave it out with --from-module.")


def _emit_points(
    own: dict[str, Any], made: Iterable[Any], format: str, out: Path | None, price: float | None
) -> None:
    from roofline.cost import with_cost
    from roofline.tables import as_json

    if format == "html":
        from profiler.report import page

        emit(page(list(made)), out)
        return
    if _is_table(out):
        raise InputError(
            "a Parquet file holds predictions without --backend and --engine; choose --format csv."
        )
    emit(_render(with_cost([{**as_json(one), **own} for one in made], price), format), out)


def _ledger(prediction: Prediction, format: str) -> str:
    """Every tensor with its bytes and the assumption behind them, and the sums by role."""
    from roofline.ledger import COLUMNS, formulas, ledger, totals
    from roofline.tables import asked, csv_text

    rows = ledger(prediction)
    if format == "csv":
        return csv_text(rows, COLUMNS)
    head = asked(prediction.scenario, prediction.device, prediction.ceilings)
    data = {**head, "ledger": rows, "totals": totals(rows), "formulas": formulas(prediction)}
    if format == "json":
        import json

        return json.dumps(data, indent=1) + "\n"
    from reports import terminal

    return terminal.ledger(data)


def _only(found: list[Any]) -> Any:
    if len(found) > 1:
        raise InputError(
            f"--ledger explains one point, and the workload file has {len(found)}; choose one with --batch, "
            "--prompt, --context and --output."
        )
    return found[0]


def _is_table(out: Path | None) -> bool:
    return out is not None and out.suffix == ".parquet"


def _as_grid(
    found: list[Any], device: Any, limits: Any, format: str, out: Path | None, price: float | None
) -> bool:
    """Many points at once, for a line per point or a Parquet file of all rows."""
    rows = _is_table(out)
    if format == "html" or not (rows or len(found) > 1):
        return False
    from roofline.grid import Grid
    from roofline.predict_grid import grid_limits, predict_grid

    if rows and not Grid.fits(found):
        raise InputError(
            "a Parquet file holds no techniques that do otherwise by size, as drafts and offloading do; "
            "choose --format csv."
        )
    if not (rows or format == "table") or not Grid.fits(found):
        return False
    from reports import terminal
    from roofline.ceilings import ceilings
    from roofline.cost import with_cost
    from roofline.tables import of_points

    model, grid = found[0].model, Grid.of(found, [device])
    if rows and out is not None:
        from roofline.gridfile import write_rows

        written = write_rows(model, grid, out, limits)
        progress(f"{written} rows of {len(found)} points written to {out}")
    else:
        totals = predict_grid(model, grid, limits)
        points = of_points(found, device, ceilings(device, limits), totals, *grid_limits(model, grid, limits))
        emit(terminal.sweep(with_cost(points, price)), out)
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
