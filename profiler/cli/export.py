"""`roofline export`: a run for Perfetto, Chrome, pandas."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import BY_SHEET, FILE, RUN, keep_inputs, known_fidelity


@click.command("export", epilog="Example: roofline export run -o timeline.json.gz")
@click.argument("subject", type=RUN, metavar="RUN|TRACE")
@click.option("-o", "--output-file", "out", type=FILE, required=True, help=".json, .json.gz or .parquet")
@click.option("--hw", help="Device to predict for; by default the run's own, if known.")
@click.option("--fidelity", help=BY_SHEET)
def command(subject: Path, out: Path, hw: str | None, fidelity: str | None) -> None:
    """Write a timeline (for ui.perfetto.dev) with predicted above measured tracks, or a flat table."""
    from profiler.traces.showing import exported
    from profiler.traces.tables import SCHEMAS
    from roofline.run_tables import TABLES

    own = (f"{name}.parquet" for name in (*TABLES, *SCHEMAS))
    keep_inputs(out, subject, *(subject / name for name in own), *subject.glob("trace-*.json.gz"))
    exported(subject, out, hw, known_fidelity(fidelity) if fidelity else None)
    print(f"written to {out}", file=sys.stderr)
