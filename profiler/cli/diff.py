"""`roofline diff`: regressions between two runs and their causes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import RUN, emit, format_option, one_of, output_file
from specfiles.errors import InputError


@click.command("diff", epilog="Example: roofline diff before after --fail-above 5%")
@click.argument("before", type=RUN, metavar="RUN_A")
@click.argument("after", type=RUN, metavar="RUN_B")
@click.option(
    "--by", default="operator", show_default=True, help="operator | layer (operators of each) | kernel"
)
@click.option("--fail-above", help="Exit 1 where RUN_B is slower by more than this: 5% or 0.05.")
@click.option(
    "--each/--no-each", default=False, help="Check single operators as well as the total and phases."
)
@format_option("table", "json", "csv")
@output_file
def command(
    before: Path, after: Path, by: str, fail_above: str | None, each: bool, format: str, out: Path | None
) -> None:
    """Compare two runs (measured or imported) or traces: time, counts, kernels and shapes by operator."""
    from profiler.comparing import BY, sides
    from reports import diff as render
    from roofline.diff import diff, per_execution, same_scale

    one_of(by, "grouping", BY)
    above = None if fail_above is None else fraction(fail_above)
    first, second, notes = sides(before, after, by)
    found = diff(first, second)
    if factor := same_scale(found):
        found = diff(first, per_execution(second, factor))
        notes.append(
            f"{after} runs everything {factor:g} times as often: its times are divided by this factor."
        )
    regressions = found.regressions(above, each=each) if above is not None else []
    if format == "csv":
        emit(render.as_csv(found), out)
    else:
        write = render.as_json if format == "json" else render.as_text
        emit(write(found, regressions, above, notes), out)
    if regressions:
        print(f"slower than allowed: {'; '.join(regressions)}", file=sys.stderr)
        click.get_current_context().exit(1)


def fraction(text: str) -> float:
    """A share from `5%` or `0.05`; InputError for anything else.

    >>> fraction("5%"), fraction("0.05")
    (0.05, 0.05)
    """
    digits = text.strip().removesuffix("%")
    try:
        value = float(digits) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e3:
        raise InputError(f"--fail-above is {text!r}; expected a share such as 5% or 0.05.")
    return value
