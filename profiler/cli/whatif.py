"""`roofline whatif`: every applicable technique, ranked by what it would gain."""

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
    scenario_options,
    size_options,
)


@click.command("whatif")
@model_argument
@hardware
@size_options
@scenario_options
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@format_option("table", "json")
@output_file
def command(model: str, hw: str, fidelity: str, format: str, out: Path | None, **flags: Any) -> None:
    """Try every technique, and the best of them in pairs: gain, memory, energy, what binds, and why."""
    from hwspecs import load_device
    from profiler.scenarios import Asked, scenarios
    from reports import whatif as render
    from roofline.whatif import whatif
    from specfiles.errors import InputError

    one_of(format, "format", ("table", "json"))
    _, found = scenarios(model, Asked(**flags))
    if len(found) != 1:
        raise InputError(
            f"{model} asks for {len(found)} points; whatif compares at one: give --batch, --prompt, --output."
        )
    result = whatif(found[0], load_device(hw), known_fidelity(fidelity))
    if format == "json":
        import json

        emit(json.dumps(render.as_json(result), indent=1), out)
    else:
        emit(render.as_text(result), out)
