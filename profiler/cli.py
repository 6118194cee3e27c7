"""The command line. Every import that costs more than a millisecond stands inside its command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from specfiles.errors import InputError

app = typer.Typer(
    name="roofline",
    help="Roofline profiler for LLM inference: how fast could this be, how fast is it, what closes the gap?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
hw = typer.Typer(help="Devices: list, show, check.", no_args_is_help=True)
models = typer.Typer(help="Models: list, show, check.", no_args_is_help=True)
app.add_typer(hw, name="hw")
app.add_typer(models, name="models")

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model name, config.json, its folder, or a workload YAML.")
]
Hardware = Annotated[str, typer.Option("--hw", help="Device name, alias or YAML file.")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")]
Threads = Annotated[
    int, typer.Option(help="CPU threads; more than one measures the machine's other load too.")
]
Format = Annotated[str, typer.Option("--format", help="table | json | csv")]
Output = Annotated[Path | None, typer.Option("-o", "--output-file", help="Write here instead of stdout.")]
# What Typer raises for wrong usage; newer releases carry their own copy of click.
USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
FIDELITY = "datasheet | measured | calibrated"


def main() -> None:
    """Run the command line: exit 0 done, 1 a stated check failed, 2 wrong input."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except typer.Abort:
        sys.exit(130)
    except USAGE as error:
        _fail(error.format_message())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str) -> None:
    print(f"roofline: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


@app.command()
def predict(
    model: Model,
    hw: Hardware,
    phase: Annotated[str | None, typer.Option(help="prefill | decode | generate")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Prompt tokens per sequence.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens a decode step attends to.")] = None,
    output: Annotated[int | None, typer.Option(help="Tokens to generate per sequence.")] = None,
    weights: Annotated[str | None, typer.Option(help="Format of the weights.")] = None,
    activations: Annotated[str | None, typer.Option(help="Format that matrix units multiply in.")] = None,
    kv: Annotated[str | None, typer.Option(help="Format of the KV cache.")] = None,
    tp: Annotated[int | None, typer.Option(help="Devices that share each layer.")] = None,
    convention: Annotated[str | None, typer.Option(help="fused | eager | flop-counter | llm-viewer")] = None,
    fidelity: Annotated[str, typer.Option(help=FIDELITY)] = "datasheet",
    format: Format = "table",
    out: Output = None,
) -> None:
    """Predict a model on a device: a row per operator, TTFT, TPOT, MFU, MBU, memory."""
    from hwspecs import load_device
    from profiler.scenarios import Asked, scenarios
    from roofline.predict import predict as run
    from roofline.tables import as_json

    _one_of(format, "format", ("table", "json", "csv"))
    asked = Asked(phase, batch, prompt, context, output, weights, activations, kv, tp, convention)
    device = load_device(hw)
    limits = _fidelity(fidelity)
    _, found = scenarios(model, asked)
    points = [as_json(run(scenario, device, limits)) for scenario in found]
    _emit(_render(points, format), out)


def _render(points: list[dict[str, Any]], format: str) -> str:
    if format == "json":
        import json

        return json.dumps(points[0] if len(points) == 1 else {"schema": 1, "points": points}, indent=1) + "\n"
    if format == "csv":
        from roofline.tables import as_csv

        return as_csv(points)
    from reports import terminal

    return terminal.prediction(points[0]) if len(points) == 1 else terminal.sweep(points)


@app.command()
def ops(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet of operators, or a workload YAML that lists them.")
    ],
    hw: Hardware,
    out: Annotated[Path, typer.Option("-o", "--output-file", help="CSV or Parquet to write.")],
    fidelity: Annotated[str, typer.Option(help=FIDELITY)] = "datasheet",
) -> None:
    """Predict operators listed in a table; appends flops, bytes_moved, predicted_us, bound and more."""
    from hwspecs import load_device
    from profiler.tables import read_table, write_table
    from roofline.ceilings import ceilings
    from roofline.optable import predict_table

    result = predict_table(read_table(table), ceilings(load_device(hw), _fidelity(fidelity)))
    write_table(result, out)
    print(f"{len(result)} rows written to {out}", file=sys.stderr)


@app.command("ceilings")
def ceilings_command(
    out: Annotated[Path, typer.Option("-o", "--output-file", help="Device file (YAML) to write.")],
    device: Device = "auto",
    dtype: Annotated[
        list[str] | None, typer.Option(help="Formats to measure; fp32 on a CPU, also bf16 on CUDA.")
    ] = None,
    threads: Threads = 1,
    passes: Annotated[int, typer.Option(help="Repeats of everything; the median counts.")] = 5,
    name: Annotated[str | None, typer.Option(help="Name of the device in the file.")] = None,
) -> None:
    """Measure this machine's ceilings and the constants of its operators; writes a device file."""
    _needs_torch()
    from profiler.ceilings import Plan, as_yaml, measure_ceilings
    from profiler.environment import pick_device, use_threads
    from profiler.kernels import known_kernel_dtype
    from specfiles.writing import check_writable, write_text

    _positive(passes=passes, threads=threads)
    check_writable(out)
    chosen = pick_device(device)
    use_threads(threads)
    dtypes = tuple(dtype or (["fp32"] if chosen == "cpu" else ["bf16", "fp32"]))
    for entry in dtypes:
        known_kernel_dtype(entry)
    measured = measure_ceilings(Plan(chosen, dtypes, passes, name, _progress))
    write_text(out, as_yaml(measured))
    print(f"ceilings of {measured.name} written to {out}", file=sys.stderr)


@app.command("profile")
def profile_command(
    model: Model,
    out: Annotated[
        Path, typer.Option("-o", "--output-folder", help="Run folder to write; must not hold a run.")
    ],
    hw: Annotated[str | None, typer.Option("--hw", help="Device file that the run belongs to.")] = None,
    device: Device = "auto",
    phase: Annotated[str | None, typer.Option(help="prefill | decode | generate (both)")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once.")] = None,
    prompt: Annotated[int | None, typer.Option(help="Prompt tokens per sequence.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens a decode step attends to.")] = None,
    output: Annotated[int | None, typer.Option(help="Tokens to generate per sequence.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Format of the model; fp32 on a CPU, bf16 on CUDA.")
    ] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(help="Measured steps of each point.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of random weights and tokens.")] = 0,
    alone: Annotated[bool, typer.Option(help="Measure every operator alone, too.")] = True,
) -> None:
    """Run a model under ranges and write a run folder: steps, operators, kernels, traces."""
    _needs_torch()
    from hwspecs import load_device
    from profiler.environment import device_name, pick_device, use_threads
    from profiler.kernels import known_kernel_dtype
    from profiler.points import points
    from profiler.record import Request, profile
    from profiler.scenarios import Asked, scenarios
    from roofline.run import refuse_existing

    _positive(repeats=repeats, threads=threads)
    refuse_existing(out)
    chosen = pick_device(device)
    wanted = known_kernel_dtype(dtype or ("fp32" if chosen == "cpu" else "bf16"))
    asked = Asked(phase, batch, prompt, context, output, weights=wanted, activations=wanted, kv=wanted)
    loaded, found = scenarios(model, asked, default_convention="eager")
    hardware = load_device(hw) if hw else device_name(chosen)
    use_threads(threads)
    run = profile(
        Request(loaded, chosen, wanted, points(found), out, hardware, repeats, seed, alone, _progress)
    )
    for note in run.head.notes:
        print(note, file=sys.stderr)
    print(f"run written to {out}", file=sys.stderr)


@app.command("validate")
def validate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `roofline profile`.")],
    hw: Hardware,
    fidelity: Annotated[
        list[str] | None, typer.Option(help=f"{FIDELITY}; by default all that the device has")
    ] = None,
    details: Annotated[bool, typer.Option(help="Every operator of the last fidelity.")] = True,
    max_error: Annotated[
        float | None, typer.Option(help="Exit 1 where a phase's median |error| is above.")
    ] = None,
    format: Format = "table",
    out: Output = None,
) -> None:
    """Compare measured with predicted times, operator by operator; lists what did not match."""
    from hwspecs import load_device
    from reports import validation
    from roofline.ceilings import available
    from roofline.run import open_run
    from roofline.validate import validate

    _one_of(format, "format", ("table", "json"))
    device, opened = load_device(hw), open_run(run)
    chosen = [_fidelity(name) for name in fidelity] if fidelity else available(device)
    results = [validate(opened, device, entry) for entry in chosen]
    _emit(validation.as_json(results) if format == "json" else validation.as_text(results, details), out)
    if max_error is not None:
        summary = results[-1].summary()
        worst = summary.loc[summary["bound"] == "all", "median_ape"].max()
        if not worst <= max_error:  # nothing matched (NaN) fails too
            print(f"median |error| {worst:.1%} is above {max_error:.1%}", file=sys.stderr)
            raise typer.Exit(1)


OTHER_DEVICES = "a100_sxm,h100_sxm,h200_sxm,b200_sxm,l4,l40s,rtx_a6000,rtx4090,mi300x,jetson_agx_orin_64gb"


@app.command("report")
def report_command(
    subjects: Annotated[
        list[Path], typer.Argument(metavar="RUN|PREDICTION...", help="Run folders, or JSON of predict.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output-file", help="HTML file to write.")] = Path(
        "report.html"
    ),
    hw: Annotated[
        str | None, typer.Option("--hw", help="Device file of the runs; by default found by name.")
    ] = None,
    others: Annotated[
        str, typer.Option(help="Devices to bound the same workload on, separated by commas.")
    ] = OTHER_DEVICES,
) -> None:
    """One self-contained HTML file: what bounds the run, how far it is from its roofline, what to do."""
    from profiler.report import report
    from specfiles.writing import write_text

    write_text(out, report(subjects, hw, [name for name in others.split(",") if name]))
    print(f"report written to {out}", file=sys.stderr)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _needs_torch() -> None:
    import importlib.util

    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"measuring needs {package}, which is not installed; pip install 'llm-roofline[profile]'."
            )


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} is {value}; expected a positive whole number.")


@hw.command("list")
def hw_list(format: Format = "table") -> None:
    """Every shipped device."""
    from hwspecs import load_device
    from hwspecs.loader import DEVICES
    from reports import devices

    _one_of(format, "format", ("table", "json"))
    _emit(devices.listing([load_device(path) for path in DEVICES], format), None)


@hw.command("show")
def hw_show(name: Annotated[str, typer.Argument(help="Device name, alias or YAML file.")]) -> None:
    """One device file, with every source."""
    from hwspecs.loader import DEVICES, load_device
    from specfiles.reading import read_text

    path = DEVICES.find(name)
    load_device(path)
    _emit(read_text(path), None)


@hw.command("check")
def hw_check(
    names: Annotated[list[str] | None, typer.Argument(help="Devices; all shipped ones by default.")] = None,
) -> None:
    """Test device files against arithmetic: ratios, SM x FLOP/clock x clock, measured against stated."""
    from hwspecs import load_device
    from hwspecs.check import check_device
    from hwspecs.loader import DEVICES
    from reports import devices

    findings = [f for name in names or DEVICES for f in check_device(load_device(name))]
    _emit(devices.findings(findings), None)
    if any(f.severity == "error" for f in findings):
        raise typer.Exit(1)


@models.command("list")
def models_list(format: Format = "table") -> None:
    """Every shipped model with its counted parameters."""
    from profiler.model_table import model_records
    from reports import models as render

    _one_of(format, "format", ("table", "json"))
    _emit(render.listing(model_records(), format), None)


@models.command("show")
def models_show(name: Model) -> None:
    """One model: its config and what is counted from it."""
    import json

    from profiler.model_table import describe

    _emit(json.dumps(describe(name), indent=2) + "\n", None)


@models.command("check")
def models_check() -> None:
    """Counted against published parameters, a line per shipped model."""
    from profiler.model_table import model_records
    from reports import models as render

    records = model_records()
    _emit(render.check(records), None)
    if any(record["difference"] for record in records):
        raise typer.Exit(1)


def _fidelity(name: str) -> Any:
    from roofline.ceilings import Fidelity

    return Fidelity(_one_of(name, "fidelity", tuple(Fidelity)))


def _one_of(value: str, what: str, known: tuple[str, ...]) -> str:
    if value not in known:
        from specfiles.errors import choose

        raise choose(value, list(known), what)
    return value


def _emit(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    from specfiles.writing import write_text

    write_text(path, text if text.endswith("\n") else text + "\n")
    print(f"written to {path}", file=sys.stderr)
