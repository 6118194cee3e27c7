"""Options and helpers that commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiler.cli import completion
from profiler.interrupts import raise_swallowed
from specfiles.errors import InputError, choose
from specfiles.reading import exists

if TYPE_CHECKING:
    from roofline.scenario import Scenario
    from workloads.catalogue import Loaded

FIDELITY = "datasheet | measured | calibrated | corrected"
BY_SHEET = f"{FIDELITY} [default: datasheet; measured for a device without a data sheet]"
PRICES = "YAML of USD per hour by device, as `h100: 2.5`"
PICTURES = ("svg", "png", "pdf")
FILE = click.Path(path_type=Path)
Command = Callable[..., Any]


class Group(click.Group):
    """Commands with their whole first sentences; for an unknown one the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names, and the words behind it."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise choose(args[0], self.list_commands(ctx), "command")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command's first sentence on several lines where click would truncate it."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(200)) for name, found in commands if found])


class Present(click.ParamType[Path]):
    """A file or folder to read; its existence is checked before its readers are imported."""

    name = "path"

    def __init__(self, missing: str) -> None:
        self.missing = missing  # message after the path; {} is the path

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; InputError where nothing exists there."""
        path = Path(value)
        if not exists(path, Path.exists):
            raise InputError(f"{path}: {self.missing.replace('{}', str(path))}")
        return path


class Number(click.FloatRange):
    """A float within bounds; rejects nan, which passes click's bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or click's usage error."""
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Sizes(click.ParamType[Any]):
    """A whole number, or several separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """One number as such, several as a tuple; or click's usage error."""
        try:
            found = tuple(map(int, str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is no whole number, and no list of them as 8,16,32.", param, ctx)
        return found[0] if len(found) == 1 else found


INPUT = Present("no such file.")
RUN = Present(
    "no such run folder or file; `roofline profile MODEL -o {}` makes a run, "
    "`roofline import TRACE... -o {}` one of traces."
)
TABLE = Present("no such file; give a table of operators, or one as gemm:m=16,n=4096,k=4096,dtype=bf16.")
MEASUREMENTS = Present("no such file or folder; give a table or the folder of a campaign.")

model_argument = click.argument("model", metavar="MODEL", shell_complete=completion.models)
hardware = click.option(
    "--hw", required=True, shell_complete=completion.devices, help="Device name, alias or YAML file."
)
output_file = click.option(  # eager, as the default of --format depends on it
    "-o", "--output-file", "out", type=FILE, is_eager=True, help="Write here instead of stdout."
)
engine_option = click.option(
    "--engine",
    default="none",
    show_default=True,
    help="Add an engine's overheads beside kernels: vllm, sglang, trtllm, other, eager (no CUDA graphs).",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
threads_option = click.option(
    "--threads",
    type=int,
    default=1,
    show_default=True,
    help="CPU threads; with more than one, times include other load of the machine.",
)


def format_option(*formats: str, file: bool = True) -> Callable[[Command], Command]:
    """`--format`, one of these; by default the first, or with `file` the ending of -o."""

    def chosen(ctx: click.Context, _: click.Parameter, asked: str | None) -> str:
        out = ctx.params.get("out") if file else None
        ending = out.suffix.removeprefix(".") if out is not None else ""
        if not asked and ending in PICTURES:
            raise InputError(f"{out}: is no file of this command; `roofline report` draws .{ending} files.")
        if not asked and ending == "html" and ending not in formats:
            raise InputError(
                f"{out}: this command writes {', '.join(formats)}; `roofline report` writes pages."
            )
        return one_of(asked or (ending if ending in formats else formats[0]), "format", formats)

    said = f"{' | '.join(formats)}  [default: {'by the ending of -o, else ' if file else ''}{formats[0]}]"
    return click.option("--format", "format", callback=chosen, help=said)


def size_options(command: Command) -> Command:
    """The sizes of a scenario; others come from the workload file or the defaults."""
    for name, text in (
        ("images", "Images per sequence of a multimodal model, among its prompt tokens."),
        ("steps", "Denoising steps of a diffusion model [default: one per output token]."),
    ):
        command = click.option(f"--{name}", type=int, help=text)(command)
    for name, text in (
        ("output", "Tokens to generate per sequence [default: 128]."),
        ("context", "Tokens a decode step attends to [default: prompt + 1]."),
        ("prompt", "Prompt tokens per sequence [default: 1024]."),
        ("batch", "Sequences at once; as of the next three, several by commas span a grid [default: 1]."),
    ):
        command = click.option(f"--{name}", type=Sizes(), metavar="N[,N..]", help=text)(command)
    return click.option(
        "--phase",
        help="prefill | decode | generate (both) | denoise (one step of a diffusion model)  [default: "
        "generate, or what the model has]",
    )(command)


def scenario_options(command: Command) -> Command:
    """How a scenario is run: formats, devices, techniques and the counting convention."""
    for option in (
        click.option(
            "--convention", help="fused | eager | unfused | flop-counter | llm-viewer  [default: fused]"
        ),
        click.option(
            "--with",
            "techniques",
            multiple=True,
            metavar="TECHNIQUE[:k=v,..]",
            shell_complete=completion.techniques,
            help="Optimisation method, repeatable; `roofline techniques list` shows all.",
        ),
        click.option(
            "--without",
            multiple=True,
            metavar="TECHNIQUE",
            help="Predict without a technique that is assumed by default, repeatable: flash-decoding, ..",
        ),
        click.option(
            "--expert-skew",
            type=Number(0, 10),
            help="Popularity of experts falls as rank^-skew [default: 0].",
        ),
        click.option(
            "--pp", type=int, help="Pipeline parallelism: stages that each step passes in turn [default: 1]."
        ),
        click.option(
            "--ep",
            type=int,
            help="Expert parallelism: devices among which whole experts are distributed [default: 1].",
        ),
        click.option(
            "--tp", type=int, help="Tensor parallelism: devices that share each layer [default: 1]."
        ),
        click.option(
            "--kv",
            metavar="FORMAT",
            help="Format of the KV cache [default: the activations', 16 bits or more].",
        ),
        click.option(
            "--activations",
            metavar="FORMAT",
            help="Compute format of the matrix units [default: 16 bits; --weights fp8 alone is W8A16].",
        ),
        click.option(
            "--expert-activations",
            metavar="FORMAT",
            help="Compute format of the experts, if different: nvfp4 beside attention in bf16.",
        ),
        click.option(
            "--expert-weights", metavar="FORMAT", help="Format of the experts' weights, if different."
        ),
        click.option(
            "--weights",
            metavar="FORMAT",
            help="Format of linear layers' weights [default: bf16]: fp8, fp8_block, int4_g128, nvfp4, ..; "
            "checkpoint: all formats as published, but for those given.",
        ),
    ):
        command = option(command)
    return command


def progress(line: str) -> None:
    """Print a line to stderr, unbuffered."""
    print(line, file=sys.stderr, flush=True)


def tell_of_checkpoint(loaded: Loaded, scenario: Scenario) -> None:
    """Notes on stderr where a checkpoint is published in a narrower format, or has more than is predicted."""
    from workloads.catalogue import quantisation, unread_towers

    if (towers := unread_towers(loaded)) is not None:
        print(f"note: {towers}", file=sys.stderr)
    if not quantisation(loaded.config):
        return
    from workloads.checkpoint import AS_OPTION, stored_note

    note = stored_note(loaded, scenario.model, scenario.setting.precision, AS_OPTION)
    if note is not None and not scenario.techniques:
        print(f"note: {note}", file=sys.stderr)


# The oldest versions that have the functions called here, as in pyproject.toml.
OLDEST = {"torch": (2, 6), "transformers": (4, 57)}


def needs_torch() -> None:
    """InputError where torch or transformers is not installed or too old; silences their logs.

    Call before torch is first imported: its libraries read both settings when they load.
    """
    import importlib.util
    import os
    from importlib import metadata

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler logs each start and stop
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars only on a terminal
    for package, least in OLDEST.items():
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"measuring needs {package}, which is not installed; "
                "pip install '.[profile]' in llm-roofline's folder."
            )
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:  # a source tree on PYTHONPATH
            continue
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < least:
            raise InputError(
                f"measuring needs {package} {'.'.join(map(str, least))} or later, and {found} is installed; "
                f"pip install -U {package}."
            )


def positive(**values: int) -> None:
    """InputError for a number below 1, naming its option."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} is {value}; expected a positive whole number.")


def known_precision(ci: float) -> float:
    """The target precision of a median as a fraction; InputError where it is not one."""
    if not 0 <= ci < 1:
        raise InputError(f"ci is {ci}; expected a fraction of the median, as 0.005, or 0 for all repeats.")
    return ci


UNITS = {"s": 1, "m": 60, "h": 3600}


def duration(words: str) -> float:
    """Seconds of a time such as 90s, 8m or 1h; InputError shows the notation."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", words)
    if not found or not float(found[1]):
        raise InputError(f"the budget is {words!r}; expected a time such as 90s, 8m or 1h.")
    return float(found[1]) * UNITS[found[2]]


def known_fidelity(name: str | None, kernels: bool = False) -> Any:
    """The fidelity of a name; InputError lists the known ones.

    Without a name calibrated where the kernels are what is asked for, else datasheet.
    """
    from roofline.ceilings import Fidelity

    return Fidelity(name or ("calibrated" if kernels else "datasheet"))


def one_of(value: str, what: str, known: tuple[str, ...]) -> str:
    """The value, if known; InputError lists the known ones."""
    if value not in known:
        from specfiles.errors import choose

        raise choose(value, list(known), what)
    return value


def keep_inputs(out: Path | None, *inputs: str | Path | None) -> None:
    """InputError where a command would overwrite a file that it reads."""
    if out is None or not exists(out, Path.exists):
        return
    for given in (Path(each) for each in inputs if each is not None):
        if exists(given, Path.exists) and out.samefile(given):
            raise InputError(f"{out}: is read by this command; give another file to -o.")


def emit(text: str, path: Path | None) -> None:
    """Write a result to stdout, or to a file with a message on stderr; nothing after an interrupt."""
    raise_swallowed()  # by a library that read or drew
    if path is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    from specfiles.writing import write_text

    write_text(path, text if text.endswith("\n") else text + "\n")
    print(f"written to {path}", file=sys.stderr)
