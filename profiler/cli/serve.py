"""`roofline serve`: simulated serving under load: latencies by rate, and the highest rate within limits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from profiler.cli.options import (
    FIDELITY,
    FILE,
    Number,
    emit,
    engine_option,
    format_option,
    hardware,
    known_fidelity,
    model_argument,
    output_file,
    scenario_options,
)
from specfiles.errors import InputError


@click.command(
    "serve",
    epilog="Example: roofline serve Llama-3.1-8B --hw h100 --output 256 --slo ttft=500ms,tpot=20ms",
)
@model_argument
@hardware
@click.option("--workload", type=FILE, help="Workload file with lengths and `traffic` of requests.")
@click.option("--trace", type=FILE, help="Recorded requests: CSV or Parquet of arrival_s, prompt, output.")
@click.option("--rate", help="Requests per second, one or several: 0.5,1,2.")
@click.option("--users", help="Closed loop instead of a rate: users with one request each, 4,16,64.")
@click.option("--slo", help="Latency limits: ttft=500ms,tpot=50ms. Without --rate the highest rate is found.")
@click.option("--prompt", type=int, help="Mean prompt tokens [default: 1024].")
@click.option("--output", type=int, help="Mean answer tokens [default: 128].")
@click.option(
    "--requests",
    type=int,
    help="Requests to simulate [default: 500; to find the highest rate, as many as needed].",
)
@click.option("--seed", type=int, help="Seed of arrivals and lengths [default: 0].")
@click.option(
    "--batching",
    default="continuous",
    show_default=True,
    help="static | continuous | mixed | chunked; several, separated by commas, are compared.",
)
@click.option("--max-batch", type=int, default=256, show_default=True, help="Maximum sequences per step.")
@click.option("--budget", type=int, help="Maximum new tokens per step [default: the engine's; else 8192].")
@click.option("--engines", type=int, default=1, show_default=True, help="Replicas of the model.")
@click.option(
    "--readers",
    type=int,
    default=0,
    show_default=True,
    help="Further replicas for prefill alone (disaggregated).",
)
@engine_option
@click.option(
    "--step-overhead",
    type=Number(0, 10),
    default=0.0,
    help="Further host time of the engine per step, in seconds [default: 0].",
)
@click.option(
    "--poll-steps",
    type=int,
    default=1,
    show_default=True,
    help="Decode steps between two polls for new requests.",
)
@click.option(
    "--price",
    type=Number(0, min_open=True),
    help="USD per hour of a device: adds the cost of a million output tokens.",
)
@scenario_options
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@format_option("table", "json", "csv")
@output_file
def command(
    model: str,
    hw: str,
    fidelity: str,
    format: str,
    rate: str | None,
    users: str | None,
    out: Path | None,
    **flags: Any,
) -> None:
    """Simulate serving: TTFT, TPOT and throughput by rate, and the highest rate within limits.

    MODEL may be a workload file itself. Step times are predictions: at fidelity datasheet latencies are
    lower and rates upper bounds.
    """
    from hwspecs import load_device
    from reports import serving as render
    from roofline.asked import Asked
    from roofline.serve.asked import Served, serve

    of_scenario = {field.name for field in fields(Asked)}
    asked = Asked(**{name: value for name, value in flags.items() if name in of_scenario})
    others = {name: value for name, value in flags.items() if name not in of_scenario}
    others["rates"] = _numbers(rate, float, "--rate", "requests per second, such as 0.5,1,2")
    others["users"] = _numbers(users, int, "--users", "whole numbers, such as 4,16,64")
    found = serve(Served(model, asked, **others), load_device(hw), known_fidelity(fidelity))
    emit({"json": render.as_json, "csv": render.as_csv, "table": render.as_text}[format](found), out)


def _numbers(text: str | None, kind: type, option: str, expected: str) -> tuple[Any, ...] | None:
    if text is None:
        return None
    try:
        return tuple(map(kind, text.split(",")))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected {expected}.") from None
