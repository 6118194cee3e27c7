"""`roofline import`: traces of other tools as a run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from profiler.cli.options import FILE, INPUT, progress, tell_of_checkpoint


@click.command(
    "import",
    epilog="Example: roofline import rank0.json.gz rank1.json.gz --model Llama-3.1-8B --hw h100 -o run",
)
@click.argument("traces", nargs=-1, required=True, type=INPUT, metavar="TRACE...")
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Run folder to make.")
@click.option("--model", help="The model that ran: its name, config.json or folder.")
@click.option("--hw", help="Device that it ran on: name, alias or YAML file.")
@click.option("--weights", help="Format of the model's weights; checkpoint: all formats as published.")
@click.option(
    "--expert-weights", help="Format of the experts' weights if different; kernel names may give it."
)
@click.option("--activations", help="Compute format of the matrix units.")
@click.option("--expert-activations", help="Compute format of the experts if different.")
@click.option("--kv", help="Format of the KV cache.")
@click.option("--tp", type=int, help="Tensor parallelism: devices that share each layer.")
@click.option("--batch", type=int, default=0, help="Sequences of a step, if not in the trace.")
@click.option("--prompt", type=int, default=0, help="Tokens of a prompt, if not in the trace.")
@click.option(
    "--context", type=int, default=0, help="Context of decode steps in tokens, if not in the trace."
)
def command(
    traces: tuple[Path, ...],
    out: Path,
    model: str | None,
    hw: str | None,
    batch: int,
    prompt: int,
    context: int,
    **formats: Any,
) -> None:
    """Read traces of Kineto, Nsight Systems or Nsight Compute (detected by content) into a run folder.

    Several files (ranks, tools, the capture of a graph and its replay) make one run.
    """
    from hwspecs import load_device
    from profiler.environment import command_line
    from profiler.interrupts import raise_swallowed
    from profiler.traces.attribution import Question, attribute
    from profiler.traces.model_match import Lengths, as_named
    from profiler.traces.reading import read_traces
    from profiler.traces.runs import recorded, save
    from roofline.asked import Asked, scenarios
    from roofline.run import refuse_existing
    from specfiles.errors import InputError

    refuse_existing(out)
    device = load_device(hw) if hw else None
    question: Question | None = None
    fields: dict[str, Any] = {}
    loaded, found = scenarios(model, Asked(**formats), default_convention="eager") if model else (None, [])
    progress(f"reading {len(traces)} file{'s' if len(traces) > 1 else ''}")
    trace = read_traces(traces)
    if not trace["activities"].num_rows:
        dropped = [f"{x.count} dropped: {x.sentence}" for x in trace.losses if x.what == "dropped"]
        files = traces[0] if len(traces) == 1 else f"{len(traces)} files"
        why = "; ".join(dropped) or "none was recorded"
        raise InputError(f"{files}: no kernel, copy or operator to import ({why}).")
    if loaded is not None:
        setting = as_named(found[0].setting, trace)
        tell_of_checkpoint(loaded, replace(found[0], setting=setting))
        described = found[0].model
        question = Question(described, setting, Lengths(batch, prompt, context))
        fields = {"model": described.name, "model_config_fields": loaded.config, **recorded(setting)}
        fields["checkpoint"] = described.mixed
    trace = attribute(trace, question)
    raise_swallowed()  # by a library that reads; nothing is written yet
    run = save(trace, out, command=command_line(), device=device.name if device else "", **fields)
    for loss in trace.losses:
        print(f"{loss.what} {loss.count}: {loss.sentence}", file=sys.stderr)
    count = trace["activities"].num_rows
    print(
        f"{count} activities written to {run.path}; `roofline show {run.path}` prints them", file=sys.stderr
    )
