"""`roofline ops`: operators of a table, or of the command line, on a device."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiler.cli.options import (
    FIDELITY,
    FILE,
    TABLE,
    emit,
    hardware,
    keep_inputs,
    known_fidelity,
)
from specfiles.errors import InputError
from specfiles.reading import exists

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs import Device
    from roofline.ceilings import Ceilings

MOST_SHOWN = 50  # rows printed to a terminal
MOST_EXPLAINED = 20


@click.command("ops")
@click.argument("operators", metavar="TABLE|OP:k=v,..", nargs=-1, required=True)
@hardware
@click.option("-o", "--output-file", "out", type=FILE, help="CSV, Parquet or JSON, instead of stdout.")
@click.option("--fidelity", help=f"{FIDELITY} [default: datasheet; with --explain and --backend calibrated]")
@click.option("--backend", help="Library for rows that name none: trtllm, vllm, sglang.")
@click.option("--explain", is_flag=True, help="Print the terms of each time, with their reasons.")
def command(
    operators: tuple[str, ...],
    hw: str,
    out: Path | None,
    fidelity: str | None,
    backend: str | None,
    explain: bool,
) -> None:
    """Predict operators listed in a table; appends flops, bytes_moved, predicted_us, bound and more.

    Instead of a TABLE, operators themselves: gemm:m=4096,n=14336,k=4096,dtype=bf16,latency_us=620. With
    a measured latency_us, the output includes the attained share of the data sheet's roofline.
    """
    keep_inputs(out, *operators, hw)
    rows = _rows(operators)  # a missing file is reported before NumPy and pandas are imported

    from hwspecs import load_device
    from profiler.tables import with_backend
    from roofline.ceilings import ceilings, known_backend
    from roofline.tablefiles import write_table
    from roofline.tablenames import predict_named

    asked = known_fidelity(fidelity, kernels=explain or backend is not None)
    if whose := known_backend(backend, asked):
        rows = with_backend(rows, whose)
    device = load_device(hw)
    limits = ceilings(device, asked)
    result = predict_named(rows, limits)
    if out is not None:
        if explain:
            raise InputError("--explain prints the terms of a few rows; leave -o out.")
        shares = _reached(rows, result, device, limits)
        shares.pop("latency_us", None)  # is in the table, under its own name
        write_table(result.assign(**shares), out)
        print(f"{len(result)} rows written to {out}", file=sys.stderr)
        return
    shares = _reached(rows.head(MOST_SHOWN), result.head(MOST_SHOWN), device, limits)
    text = _told(result, shares)
    emit(text + (_explained(rows, limits, shares.get("latency_us", ())) if explain else ""), None)


def _reached(
    rows: pd.DataFrame, result: pd.DataFrame, device: Device, limits: Ceilings
) -> dict[str, pd.Series]:
    """The attained share of measured rows; nothing where none was measured."""
    from roofline.scores import reached
    from roofline.tablenames import tidied

    return reached(tidied(rows), result["predicted_us"], device, limits)


def _rows(operators: tuple[str, ...]) -> pd.DataFrame:
    """The rows of the given table, or of the operators given as words."""
    from roofline.tablefiles import INLINE, inline_table, read_table

    if len(operators) == 1 and (
        exists(Path(operators[0]), Path.exists) or not INLINE.fullmatch(operators[0])
    ):
        return read_table(TABLE.convert(operators[0], None, None))
    return inline_table(operators)


def _told(result: pd.DataFrame, shares: dict[str, pd.Series]) -> str:
    """A line per operator, with the attained share of measured ones."""
    from reports import operators
    from roofline.tables import plain_records

    shown = result.head(MOST_SHOWN)
    return operators.as_text(plain_records(shown.assign(**shares)), len(result) - len(shown))


def _explained(rows: pd.DataFrame, limits: Ceilings, measured_us: Iterable[float]) -> str:
    import pandas as pd

    from reports.waterfall import as_text
    from roofline.explain import explained_rows

    if len(rows) > MOST_EXPLAINED:
        raise InputError(f"--explain is for at most {MOST_EXPLAINED} operators; the table has {len(rows)}.")
    measured = [None if pd.isna(time) else time * 1e-6 for time in measured_us]
    return "\n" + as_text(explained_rows(rows, limits), measured)
