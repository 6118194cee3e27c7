"""`roofline whatif`: every applicable technique, ranked by gain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiler.cli.options import (
    FIDELITY,
    FILE,
    PRICES,
    emit,
    engine_option,
    format_option,
    known_fidelity,
    model_argument,
    one_of,
    output_file,
    positive,
    scenario_options,
    size_options,
    tell_of_checkpoint,
)

if TYPE_CHECKING:
    from hwspecs import Device


@click.command(
    "whatif", epilog="Example: roofline whatif Llama-3.1-70B --target tpot=20ms,ttft=500ms --quality exact"
)
@model_argument
@click.option("--hw", help="Device name, alias or YAML file; with --target several, by commas; default all.")
@click.option(
    "--target",
    help="Find devices (1, 2, 4 or 8 for each layer, or --tp) and techniques that meet it: "
    "tpot=20ms,ttft=500ms,throughput=1000.",
)
@click.option(
    "--quality",
    help="Lowest output quality: exact | lossy | retrained [default: lossy; with --only retrained].",
)
@click.option(
    "--only",
    multiple=True,
    metavar="TECHNIQUE[:k=v,..]",
    help="Try these alone and in pairs, repeatable: awq, fp8, kv8, eagle, .. [default: every one].",
)
@click.option("--top", type=int, default=5, show_default=True, help="Techniques of each quality to print.")
@click.option("--prices", type=FILE, help=f"{PRICES}: rank what meets a target by the price of a token.")
@size_options
@scenario_options
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@engine_option
@format_option("table", "json", "csv")
@output_file
def command(
    model: str,
    hw: str | None,
    target: str | None,
    quality: str | None,
    only: tuple[str, ...],
    top: int,
    prices: Path | None,
    fidelity: str,
    engine: str,
    format: str,
    out: Path | None,
    **flags: Any,
) -> None:
    """Try every technique, and the best of them in pairs: gain, memory, energy, what binds, and why."""
    from hwspecs import load_device
    from reports import whatif as render
    from roofline.asked import Asked, scenarios, techniques
    from roofline.engines import find_engine
    from roofline.whatif import whatif
    from specfiles.errors import InputError
    from workloads.techniques.base import QUALITIES

    quality = quality or ("retrained" if only else "lossy")
    one_of(quality, "quality", QUALITIES)
    positive(top=top)
    loaded, found = scenarios(model, Asked(**flags))
    tell_of_checkpoint(loaded, found[0])
    if len(found) != 1:
        raise InputError(
            f"{model} asks for {len(found)} points; whatif compares at one: choose it with --batch, --prompt "
            "and --output."
        )
    limits, around = known_fidelity(fidelity), find_engine(engine)
    offered = techniques(only) or None
    if target is not None:
        from roofline.cost import read_prices
        from roofline.target import SHARED_BY, Goal, answers

        goal, tp = Goal.parse(target), found[0].setting.tensor_parallel
        shared_by = SHARED_BY if flags["tp"] is None and tp == 1 else (tp,)  # as asked, if it was
        given = read_prices(prices) if prices else {}
        asked = found[0], _devices(hw), goal, limits, quality, given, around, offered, shared_by
        met = answers(*asked), found[0], goal, target
        if format == "json":
            said = json.dumps(render.answers_json(*met), indent=1)
        else:
            said = (render.answers_csv if format == "csv" else render.answers_text)(*met)
    elif prices is not None:
        raise InputError("prices rank what meets a target; give --target, too.")
    elif hw is None:
        raise InputError("whatif needs a device: give --hw, or --target to look for one.")
    else:
        result = whatif(found[0], load_device(hw), limits, offered, around)
        if format == "json":
            said = json.dumps(render.as_json(result), indent=1)
        elif format == "csv":
            said = render.as_csv(result)
        else:
            said = render.as_text(result, quality, top, every=bool(only))
    emit(said, out)


def _devices(hw: str | None) -> Iterator[Device]:
    """The devices that were named, separated by commas, or every shipped one."""
    from hwspecs import load_device
    from hwspecs.loader import DEVICES

    if hw is not None:
        yield from {device.name: device for device in map(load_device, hw.split(","))}.values()
        return
    for path in DEVICES:
        device = load_device(path)
        if device.node is None:
            yield device
