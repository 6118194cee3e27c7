"""The command line. Every import that costs more than a millisecond stands inside its command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from specfiles.errors import InputError

FIDELITY = "datasheet | measured | calibrated"
FILE = click.Path(path_type=Path)
Command = Callable[..., Any]

model_argument = click.argument("model", metavar="MODEL")
hardware = click.option("--hw", required=True, help="Device name, alias or YAML file.")
output_file = click.option("-o", "--output-file", "out", type=FILE, help="Write here instead of stdout.")
device_option = click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
threads_option = click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="CPU threads; more than one measures the machine's other load too.",
)


def format_option(*formats: str) -> Callable[[Command], Command]:
    """`--format`, the first being the default."""
    return click.option("--format", "format", default=formats[0], show_default=True, help=" | ".join(formats))


def size_options(command: Command) -> Command:
    """The sizes of a scenario; what is not given comes from the workload file or the defaults."""
    for name, text in (
        ("output", "Tokens to generate per sequence."),
        ("context", "Tokens a decode step attends to."),
        ("prompt", "Prompt tokens per sequence."),
        ("batch", "Sequences at once."),
    ):
        command = click.option(f"--{name}", type=int, help=text)(command)
    return click.option("--phase", help="prefill | decode | generate (both)")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="llm-roofline", prog_name="roofline")
def app() -> None:
    """Roofline profiler for LLM inference: how fast could this be, how fast is it, what closes the gap?

    MODEL is a model's name, a config.json or its folder, or a workload file (YAML, or a shipped one's name).
    """


@app.group()
def hw() -> None:
    """Devices: list, show, check."""


@app.group()
def models() -> None:
    """Models: list, show, check."""


def main() -> None:
    """Run the command line: exit 0 done, 1 a stated check failed, 2 wrong input."""
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str) -> None:
    print(f"roofline: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)


@app.command()
@model_argument
@hardware
@size_options
@click.option("--weights", help="Format of the weights.")
@click.option("--activations", help="Format that matrix units multiply in.")
@click.option("--kv", help="Format of the KV cache.")
@click.option("--tp", type=int, help="Devices that share each layer.")
@click.option("--convention", help="fused | eager | flop-counter | llm-viewer")
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
@format_option("table", "json", "csv")
@output_file
def predict(model: str, hw: str, fidelity: str, format: str, out: Path | None, **flags: Any) -> None:
    """Predict a model on a device: a row per operator, TTFT, TPOT, MFU, MBU, memory."""
    from hwspecs import load_device
    from profiler.scenarios import Asked, listed_operators, scenarios
    from roofline.predict import predict as run
    from roofline.tables import as_json

    _one_of(format, "format", ("table", "json", "csv"))
    asked = Asked(**flags)
    device = load_device(hw)
    limits = _fidelity(fidelity)
    if listed := listed_operators(model):
        from profiler.tables import predict_listed

        _emit(predict_listed(listed, device, limits, format), out)
        return
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
@click.argument("table", type=FILE)
@hardware
@click.option("-o", "--output-file", "out", type=FILE, required=True, help="CSV or Parquet to write.")
@click.option("--fidelity", default="datasheet", show_default=True, help=FIDELITY)
def ops(table: Path, hw: str, out: Path, fidelity: str) -> None:
    """Predict operators listed in a table; appends flops, bytes_moved, predicted_us, bound and more."""
    from hwspecs import load_device
    from profiler.tables import read_table, write_table
    from roofline.ceilings import ceilings
    from roofline.optable import predict_table

    result = predict_table(read_table(table), ceilings(load_device(hw), _fidelity(fidelity)))
    write_table(result, out)
    print(f"{len(result)} rows written to {out}", file=sys.stderr)


@app.command("ceilings")
@click.option("-o", "--output-file", "out", type=FILE, required=True, help="Device file (YAML) to write.")
@device_option
@click.option(
    "--dtype", multiple=True, help="Format to measure, repeatable; fp32 on a CPU, also bf16 on CUDA."
)
@threads_option
@click.option(
    "--passes", type=int, default=5, show_default=True, help="Repeats of everything; medians count."
)
@click.option("--name", help="Name of the device in the file.")
def ceilings_command(
    out: Path, device: str, dtype: tuple[str, ...], threads: int, passes: int, name: str | None
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
    dtypes = dtype or (("fp32",) if chosen == "cpu" else ("bf16", "fp32"))
    for entry in dtypes:
        known_kernel_dtype(entry)
    measured = measure_ceilings(Plan(chosen, dtypes, passes, name, _progress))
    write_text(out, as_yaml(measured))
    print(f"ceilings of {measured.name} written to {out}", file=sys.stderr)


@app.command("profile")
@model_argument
@click.option("-o", "--output-folder", "out", type=FILE, required=True, help="Run folder to make.")
@click.option("--hw", help="Device file that the run belongs to; kept with it.")
@device_option
@size_options
@click.option("--dtype", help="Format of the model; fp32 on a CPU, bf16 on CUDA.")
@threads_option
@click.option("--repeats", type=int, default=16, show_default=True, help="Measured steps of each point.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights and tokens.")
@click.option("--alone/--no-alone", default=True, show_default=True, help="Each operator by itself, too.")
def profile_command(
    model: str,
    out: Path,
    hw: str | None,
    device: str,
    dtype: str | None,
    threads: int,
    repeats: int,
    seed: int,
    alone: bool,
    **sizes: Any,
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
    asked = Asked(**sizes, weights=wanted, activations=wanted, kv=wanted)
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
@click.argument("run", type=FILE, metavar="RUN")
@hardware
@click.option(
    "--fidelity", multiple=True, help=f"{FIDELITY}, repeatable; by default all that the device has."
)
@click.option(
    "--details/--no-details", default=True, show_default=True, help="Operators of the last fidelity."
)
@click.option("--max-error", type=float, help="Exit 1 where a phase's median |error| is above this fraction.")
@format_option("table", "json")
@output_file
def validate_command(
    run: Path,
    hw: str,
    fidelity: tuple[str, ...],
    details: bool,
    max_error: float | None,
    format: str,
    out: Path | None,
) -> None:
    """Compare measured with predicted times, operator by operator; lists what did not match."""
    from hwspecs import load_device
    from reports import validation
    from roofline.ceilings import available
    from roofline.run import open_run
    from roofline.validate import validate

    _one_of(format, "format", ("table", "json"))
    device, opened = load_device(hw), open_run(run)
    if device.name != opened.head.device:
        print(f"note: measured on {opened.head.device}, predicted for {device.name}", file=sys.stderr)
    chosen = [_fidelity(name) for name in fidelity] if fidelity else available(device)
    results = [validate(opened, device, entry) for entry in chosen]
    _emit(validation.as_json(results) if format == "json" else validation.as_text(results, details), out)
    if max_error is not None:
        summary = results[-1].summary()
        worst = summary.loc[summary["bound"] == "all", "median_ape"].max()
        if not worst <= max_error:  # nothing matched (NaN) fails too
            print(f"median |error| {worst:.1%} is above {max_error:.1%}", file=sys.stderr)
            click.get_current_context().exit(1)


@app.command("report")
@click.argument("subjects", nargs=-1, required=True, type=FILE, metavar="RUN|PREDICTION...")
@click.option(
    "-o", "--output-file", "out", type=FILE, default=Path("report.html"), show_default=True, help="HTML."
)
@click.option("--hw", help="Device file of the runs; by default the one kept with them.")
@click.option(
    "--others", help="Devices to bound the same workload on, comma-separated; by default ten usual ones."
)
def report_command(subjects: tuple[Path, ...], out: Path, hw: str | None, others: str | None) -> None:
    """One self-contained HTML file: what bounds the run, how far it is from its roofline, what to do."""
    from profiler.report import report
    from specfiles.writing import write_text

    write_text(out, report(subjects, hw, _split(others)))
    print(f"report written to {out}", file=sys.stderr)


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name for name in names.split(",") if name]


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
@format_option("table", "json")
def hw_list(format: str) -> None:
    """Every shipped device."""
    from hwspecs import load_device
    from hwspecs.loader import DEVICES
    from reports import devices

    _one_of(format, "format", ("table", "json"))
    _emit(devices.listing([load_device(path) for path in DEVICES], format), None)


@hw.command("show")
@click.argument("name")
def hw_show(name: str) -> None:
    """One device file, with every source."""
    from hwspecs.loader import DEVICES, load_device
    from specfiles.reading import read_text

    path = DEVICES.find(name)
    load_device(path)
    _emit(read_text(path), None)


@hw.command("check")
@click.argument("names", nargs=-1)
def hw_check(names: tuple[str, ...]) -> None:
    """Test device files against arithmetic: ratios, SM x FLOP/clock x clock, measured against stated."""
    from hwspecs import load_device
    from hwspecs.check import check_device
    from hwspecs.loader import DEVICES
    from reports import devices

    findings = [f for name in names or DEVICES for f in check_device(load_device(name))]
    _emit(devices.findings(findings), None)
    if any(f.severity == "error" for f in findings):
        click.get_current_context().exit(1)


@models.command("list")
@format_option("table", "json")
def models_list(format: str) -> None:
    """Every shipped model with its counted parameters."""
    from profiler.model_table import model_records
    from reports import models as render

    _one_of(format, "format", ("table", "json"))
    _emit(render.listing(model_records(), format), None)


@models.command("show")
@click.argument("name")
def models_show(name: str) -> None:
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
        click.get_current_context().exit(1)


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
