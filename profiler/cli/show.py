"""`roofline show`: tables of a run, measured or imported, or of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from profiler.cli.options import BY_SHEET, RUN, emit, format_option, known_fidelity, one_of, output_file


@click.command("show", epilog="Example: roofline show run --by kernel")
@click.argument("subjects", nargs=-1, required=True, type=RUN, metavar="RUN|TRACE...")
@click.option(
    "--by", default="operator", show_default=True, help="operator | kernel | layer | phase | stream | kind"
)
@click.option("--hw", help="Device to compare with; by default the run's own, if known.")
@click.option("--fidelity", help=BY_SHEET)
@format_option("table", "json", "csv")
@output_file
def command(
    subjects: tuple[Path, ...], by: str, hw: str | None, fidelity: str | None, format: str, out: Path | None
) -> None:
    """Where the time went: by operator, kernel, layer, phase or stream; idle time and its causes.

    Several files of traces (ranks, tools, the capture of a graph and its replay) are shown as one run.
    """
    from profiler.traces.showing import BY, shown
    from reports import show

    one_of(by, "grouping", BY)
    found: dict[str, Any] = shown(subjects, by, hw, known_fidelity(fidelity) if fidelity else None)
    emit({"table": show.as_text, "json": show.as_json, "csv": show.as_csv}[format](found), out)
