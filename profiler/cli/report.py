"""`roofline report`: one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import FILE, PICTURES, RUN, keep_inputs
from specfiles.errors import InputError


@click.command("report", epilog="Example: roofline report run -o report.html")
@click.argument("subjects", nargs=-1, required=True, type=RUN, metavar="RUN|PREDICTION...")
@click.option(
    "-o",
    "--output-file",
    "out",
    type=FILE,
    default=Path("report.html"),
    show_default=True,
    help="HTML, or .svg, .png, .pdf.",
)
@click.option(
    "--hw",
    help="Device file of the runs; by default the one stored with them; without any, measured times alone.",
)
@click.option(
    "--others", help="Devices to bound the same workload on, comma-separated; by default ten common ones."
)
def command(subjects: tuple[Path, ...], out: Path, hw: str | None, others: str | None) -> None:
    """One self-contained HTML file: what bounds the run, how far it is from its roofline, what to do.

    Several predictions are compared. `-o FILE.svg`, .png or .pdf draws one run or prediction instead: the
    roofline and where the time goes.
    """
    from profiler.interrupts import raise_swallowed
    from profiler.report import drawn, report
    from specfiles.writing import write_bytes, write_text

    keep_inputs(out, *subjects, hw)
    if out.suffix.removeprefix(".") in PICTURES:
        if len(subjects) > 1:
            raise InputError(f"{out}: a picture shows one run or prediction; name one, or an .html file.")
        picture = drawn(subjects[0], hw, out.suffix)
        raise_swallowed()  # by a library that read or drew
        write_bytes(out, picture)
    else:
        named = None if others is None else [name for name in others.split(",") if name]
        page = report(subjects, hw, named)
        raise_swallowed()
        write_text(out, page)
    print(f"report written to {out}", file=sys.stderr)
