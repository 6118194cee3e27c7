"""`roofline profile`: measure a model, with ranges around its operators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiler.cli.options import (
    FILE,
    device_option,
    duration,
    known_precision,
    needs_torch,
    positive,
    progress,
    size_options,
    threads_option,
)
from profiler.cli.telling import finish, tell
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.request import Request
    from roofline.run import Run


@click.command(
    "profile",
    epilog="Example: roofline profile SmolLM2-135M --hw this-machine.yaml --prompt 512 --output 16 -o run",
)
@click.argument("model", metavar="MODEL|MODULE:FUNCTION")
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Run folder to make.")
@click.option("--hw", help="The machine's device file; stored with the run.")
@device_option
@size_options
@click.option("--dtype", help="Format of the model, or checkpoint: its own; fp32 on a CPU, bf16 on CUDA.")
@click.option(
    "--mode", default="eager", show_default=True, help="eager | compile (torch.compile) | graph (CUDA graph)."
)
@click.option(
    "--attention",
    default="auto",
    show_default=True,
    help="auto | flash | efficient | cudnn | math | flash-attention-2 | flash-attention-3 | eager.",
)
@click.option(
    "--experts",
    default="auto",
    show_default=True,
    help="auto (as transformers' generate) | grouped_mm | batched_mm | eager: how routed experts run.",
)
@threads_option
@click.option(
    "--tp",
    type=int,
    default=1,
    show_default=True,
    help="Tensor parallelism: processes of torchrun that share the model.",
)
@click.option(
    "--repeats",
    type=int,
    default=16,
    show_default=True,
    help="Maximum rounds over the steps; a round has one prefill and four decode steps.",
)
@click.option(
    "--budget",
    help="Time after which no round begins, as 90s, 8m, 1h; three are run. A tool gets as much.",
)
@click.option(
    "--ci",
    type=float,
    default=0.005,
    show_default=True,
    help="Stop when the median is known to this fraction, at 95 %; 0: run all rounds.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random weights and tokens.")
@click.option("--alone/--no-alone", default=True, show_default=True, help="Also measure each operator alone.")
@click.option(
    "--with",
    "words",
    multiple=True,
    metavar="TECHNIQUE[:k=v,..]",
    help="Also measure with and without this technique.",
)
@click.option(
    "--overhead",
    type=float,
    metavar="FRACTION",
    help="Print the overhead of ranges per step; exit 1 where the median is above this, as 0.03.",
)
@click.option("--nsys", is_flag=True, help="Also record the steps under Nsight Systems: RUN/nsight.")
@click.option("--ncu", is_flag=True, help="Also count FLOP and bytes of each kernel under Nsight Compute.")
@click.option("--replay", is_flag=True, hidden=True)  # only the steps, for an external profiler
def command(
    model: str,
    out: Path,
    hw: str | None,
    device: str,
    dtype: str | None,
    mode: str,
    attention: str,
    experts: str,
    threads: int,
    tp: int,
    repeats: int,
    budget: str | None,
    ci: float,
    seed: int,
    alone: bool,
    words: tuple[str, ...],
    overhead: float | None,
    nsys: bool,
    ncu: bool,
    replay: bool,
    **sizes: Any,
) -> None:
    """Run a model under ranges and write a run folder: steps, operators, kernels, traces.

    Under `torchrun --nproc-per-node N -m profiler profile MODEL` each process measures its part, with --tp N
    its share of the model, and the first merges them.

    MODULE:FUNCTION is any torch.nn.Module: MODULE is imported from here, FUNCTION returns (module, inputs),
    and one pass is measured, each operation by itself.
    """
    needs_torch()
    from hwspecs import load_device
    from profiler.environment import device_name, pick_device, use_threads
    from profiler.module_source import names_module
    from profiler.ranks.group import check_asked, started
    from profiler.repeats import Effort
    from profiler.request import check_request
    from profiler.ways import check_mode
    from roofline.run import refuse_existing

    positive(repeats=repeats, threads=threads, tp=tp)
    ranks, is_module = started(), names_module(model)
    one_process = {"--nsys": nsys, "--ncu": ncu, model: is_module}
    check_asked(ranks, tp, alone=one_process, whole={"--mode graph": mode == "graph"})
    if overhead is not None and not 0 <= overhead < float("inf"):
        raise InputError(f"overhead is {overhead}; expected a fraction of a step, as 0.03.")
    effort = Effort(repeats, float("inf") if budget is None else duration(budget), known_precision(ci))
    chosen = pick_device(ranks.device(device) if ranks else device)
    check_mode(mode, chosen)
    if not replay and ranks is None:  # of several processes the first creates the folder and tells the others
        refuse_existing(out)
    hardware = load_device(hw) if hw else device_name(chosen)
    common = {"out": out, "hardware": hardware, "effort": effort, "seed": seed, "alone": alone}
    given: dict[str, Any] = {**common, "most_overhead": overhead}
    use_threads(threads)
    if is_module:
        chosen_ways = {
            "mode": mode != "eager",
            "attention": attention != "auto",
            "experts": experts != "auto",
        }
        others = {"dtype": dtype, "with": words, "nsys": nsys, "ncu": ncu, "tp": tp > 1}
        _refuse(model, {**sizes, **chosen_ways, **others})
        _measure_module(overhead, target=model, device=chosen, **given)
        return
    how = {"mode": mode, "attention": attention, "experts": experts}
    request = _request(model, sizes, dtype, words, device=chosen, tensor_parallel=tp, **how, **given)
    if replay:
        from profiler.replay import replay as play

        play(request)
        return
    check_request(request)
    from profiler.ranks.run import profile_ranks
    from profiler.record import profile

    tools = [tool for tool, wanted in (("nsys", nsys), ("ncu", ncu)) if wanted]
    if tools:
        from profiler.nsight import installed

        installed(tools, chosen)
    run = profile(request) if ranks is None else profile_ranks(request, ranks)
    if run is None:
        return
    tell(run, overhead)
    if tools:
        _record(tools, model, run, request, {"threads": threads, **how, **sizes})
    finish(run, overhead)


def _request(
    model: str, sizes: Mapping[str, Any], dtype: str | None, words: tuple[str, ...], **given: Any
) -> Request:
    """The request for a model of these sizes; by default in fp32 on a CPU, in bf16 on CUDA."""
    from profiler.kernels import known_kernel_dtype
    from profiler.points import points
    from profiler.request import Request
    from roofline.asked import Asked, scenarios
    from workloads.descriptor import CHECKPOINT
    from workloads.techniques.registry import parse

    usual = "fp32" if given["device"] == "cpu" else "bf16"
    wanted = _published(model, sizes) if dtype == CHECKPOINT else known_kernel_dtype(dtype or usual)
    asked = Asked(**sizes, weights=wanted, activations=wanted, kv=wanted)
    loaded, found = scenarios(model, asked, default_convention="eager")
    return Request(
        loaded,
        dtype=wanted,
        points=points(found),
        techniques=tuple(map(parse, words)),
        progress=progress,
        **given,
    )


def _published(model: str, sizes: Mapping[str, Any]) -> str:
    """The format in which a model is published. Raises InputError where it is quantised."""
    from profiler.kernels import TORCH_DTYPES
    from roofline.asked import Asked, scenarios
    from workloads.descriptor import CHECKPOINT

    _, (one, *_) = scenarios(model, Asked(**sizes, weights=CHECKPOINT), default_convention="eager")
    stored = one.setting.precision.stored
    if stored in TORCH_DTYPES and not one.model.mixed:
        return stored
    raise InputError(
        f"{one.model.name} is published quantised (weights {stored}), and models are measured in "
        f"{', '.join(TORCH_DTYPES)}; choose one of these, and --with for quantised products beside it."
    )


def _measure_module(overhead: float | None, **request: Any) -> None:
    """Measure one pass of a module, and print the run's notes."""
    from profiler.module_record import ModuleRequest, profile_module

    run = profile_module(ModuleRequest(**request, progress=progress))
    tell(run, overhead)
    finish(run, overhead)


def _refuse(target: str, flags: Mapping[str, object]) -> None:
    """InputError for given flags, which a module's function decides."""
    for name, value in flags.items():
        if value:
            raise InputError(
                f"--{name} does not go with {target}: it returns the sizes and formats; leave it out."
            )


def _record(tools: list[str], model: str, run: Run, request: Request, flags: dict[str, Any]) -> None:
    """Repeat the steps under each tool."""
    from profiler.nsight import record

    asked = {"device": request.device, "dtype": request.dtype, "seed": request.seed}
    given = {**asked, **flags}
    options = [word for k, v in given.items() if v is not None for word in (f"--{k}", str(v))]
    words = [model, "-o", str(run.path), *options]
    budget_s = request.effort.budget_s
    record(tools, words, run, request.loaded, request.device, request.points, progress, budget_s)
