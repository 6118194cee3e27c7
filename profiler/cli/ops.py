"""`roofline ops`: operators of a table on a device."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import FIDELITY, FILE, TABLE, hardware, keep_inputs, known_fidelity


@click.command("ops")
@click.argument("table", type=TABLE)
@hardware
@click.option("-o", "--output-file", "out", type=FILE, required=True, help="CSV or Parquet to write.")
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@click.option("--backend", help="Whose kernels, for rows that name none: trtllm, vllm, sglang (calibrated).")
def command(table: Path, hw: str, out: Path, fidelity: str, backend: str | None) -> None:
    """Predict operators listed in a table; appends flops, bytes_moved, predicted_us, bound and more."""
    from hwspecs import load_device
    from profiler.tables import with_backend
    from roofline.ceilings import ceilings
    from roofline.tablefiles import read_table, write_table
    from roofline.tablenames import predict_named

    keep_inputs(out, table, hw)
    rows = read_table(table)
    if backend is not None:
        rows = with_backend(rows, backend)
    result = predict_named(rows, ceilings(load_device(hw), known_fidelity(fidelity)))
    write_table(result, out)
    print(f"{len(result)} rows written to {out}", file=sys.stderr)
