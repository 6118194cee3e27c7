"""`roofline models`: the catalogue of models."""

from __future__ import annotations

import click

from profiler.cli.options import Group, emit, format_option


@click.group("models", cls=Group)
def command() -> None:
    """Models: list, show, check, families."""


@command.command("list")
@format_option("table", "json", "csv", file=False)
def models_list(format: str) -> None:
    """Every shipped model with its counted parameters."""
    from profiler.model_table import model_records
    from reports import models as render

    emit(render.listing(model_records(), format), None)


@command.command("show")
@click.argument("name")
def models_show(name: str) -> None:
    """One model, by its name or config.json: the counts derived from it."""
    import json

    from profiler.model_table import describe

    emit(json.dumps(describe(name), indent=2) + "\n", None)


@command.command("check")
def models_check() -> None:
    """Counted against published parameters, a line per shipped model."""
    from profiler.model_table import model_records
    from reports import models as render

    records = model_records()
    emit(render.check(records), None)
    if any(record["difference"] or record["active_agrees"] is False for record in records):
        click.get_current_context().exit(1)


@command.command("families")
@format_option("table", "json", "csv", file=False)
def models_families(format: str) -> None:
    """Families of configs: which can be predicted and profiled, and further ones in transformers.

    Unsupported families can still be traced and measured as MODULE:FUNCTION.
    """
    from profiler.model_table import family_records
    from reports import models as render

    emit(render.families(family_records(), format), None)
