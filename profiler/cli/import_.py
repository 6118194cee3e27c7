"""`roofline import`: traces of other tools as a run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from profiler.cli.options import FILE, progress


@click.command("import")
@click.argument("traces", nargs=-1, required=True, type=FILE, metavar="TRACE...")
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Run folder to make.")
@click.option("--model", help="The model that ran: its name, config.json or folder.")
@click.option("--hw", help="Device that it ran on: name, alias or YAML file.")
def command(traces: tuple[Path, ...], out: Path, model: str | None, hw: str | None) -> None:
    """Read traces of Kineto, Nsight Systems or Nsight Compute (known by content) into a run folder.

    Several files (ranks, tools, the capture of a graph and its replay) make one run.
    """
    from hwspecs import load_device
    from profiler.environment import command_line
    from profiler.traces.attribution import attribute
    from profiler.traces.reading import read_traces
    from profiler.traces.runs import save
    from roofline.run import refuse_existing
    from workloads.catalogue import load_model

    refuse_existing(out)
    device = load_device(hw) if hw else None
    loaded = load_model(model) if model else None
    progress(f"reading {len(traces)} file{'s' if len(traces) > 1 else ''}")
    trace = attribute(read_traces(traces))
    fields = {"model": loaded.model.name, "model_config_fields": loaded.config} if loaded else {}
    run = save(trace, out, command=command_line(), device=device.name if device else "", **fields)
    for loss in trace.losses:
        print(f"{loss.what} {loss.count}: {loss.sentence}", file=sys.stderr)
    count = trace["activities"].num_rows
    print(
        f"{count} activities written to {run.path}; `roofline show {run.path}` prints them", file=sys.stderr
    )
