"""The command line. A command's module is imported when the command is used.

Every import that takes more than a millisecond is inside its command.
"""

from __future__ import annotations

import sys
from importlib import import_module
from io import TextIOWrapper

import click

from profiler.cli.options import Group
from profiler.interrupts import interrupts_kept
from specfiles.errors import InputError

# Each is `command` in the module of its name; that of `import`, a keyword, ends with an underscore.
COMMANDS = (
    "predict", "whatif", "serve", "sweep", "ops", "ceilings", "calibrate", "profile", "campaign",
    "import", "show", "diff", "export", "validate", "report", "hw", "models", "techniques",
)  # fmt: skip


class Lazy(Group):
    """A group whose commands are modules of this package, in the order of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        name = "import_" if cmd_name == "import" else cmd_name
        command: click.Command = import_module(f"profiler.cli.{name}").command
        return command


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Begin with `roofline predict Llama-3.1-8B --hw h100`; `models list` and `hw list` show names.",
)
@click.version_option(package_name="llm-roofline", prog_name="roofline")
def app() -> None:
    """Roofline profiler for LLM inference: how fast could this be, how fast is it, what closes the gap?

    MODEL is a model's name, a config.json or its folder, or a workload file (YAML, or a shipped one's name).
    """


def main() -> None:
    """Run the command line; exit code 0: done, 1: a requested check failed, 2: wrong input."""
    _print_what_the_terminal_lacks()
    try:
        code = _run()
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has closed the pipe
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    """What the command returned, or 2 when its input was wrong and a sentence said so."""
    try:
        with interrupts_kept():
            return app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), flush=True)
    except InputError as error:
        _say(str(error))
    except click.ClickException as error:
        said, nearest = error.format_message(), getattr(error, "possibilities", None)
        if isinstance(error, click.MissingParameter | click.NoSuchOption) and error.ctx and not nearest:
            said = f"{said.rstrip('.')}; `{error.ctx.command_path} --help` lists what it takes."
        _say(said)
    return 2


def _print_what_the_terminal_lacks() -> None:
    """Replace characters that the terminal's encoding lacks by question marks instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _say(sentence: str) -> None:
    print(f"roofline: {' '.join(sentence.split())}", file=sys.stderr)
