"""`roofline techniques`: the methods of efficient inference that `--with` takes."""

from __future__ import annotations

import click

from profiler.cli.options import Group, emit, format_option


@click.group("techniques", cls=Group)
def command() -> None:
    """Techniques: list, show."""


@command.command("list")
@format_option("table", "json", "csv", "markdown", file=False)
def techniques_list(format: str) -> None:
    """Every technique with its level, category and paper."""
    from reports import techniques as render
    from workloads.techniques.registry import known

    every = list(known().values())
    emit(render.book(every) if format == "markdown" else render.listing(every, format), None)


@command.command("show")
@click.argument("name")
def techniques_show(name: str) -> None:
    """One technique: what it removes, what it adds, what it needs, its parameters."""
    from reports import techniques as render
    from workloads.techniques.registry import find, serving_method

    method = serving_method(name)
    emit(render.serving_page(method) if method else render.page(find(name)), None)
