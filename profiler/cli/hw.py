"""`roofline hw`: the catalogue of devices."""

from __future__ import annotations

from pathlib import Path

import click

from profiler.cli.options import FILE, Group, emit, format_option


@click.group("hw", cls=Group)
def command() -> None:
    """Devices and nodes: list, show, check, new."""


@command.command("list")
@format_option("table", "json", "csv", file=False)
def hw_list(format: str) -> None:
    """Every shipped device and node."""
    from hwspecs import load_device
    from hwspecs.loader import HARDWARE
    from reports import devices

    emit(devices.listing([load_device(path) for path in HARDWARE], format), None)


@command.command("show")
@click.argument("name")
def hw_show(name: str) -> None:
    """One device or node by its name, alias or file, with every source."""
    from hwspecs.loader import HARDWARE, load_device
    from specfiles.reading import read_text

    path = HARDWARE.find(name)
    load_device(path)
    emit(read_text(path), None)


@command.command("check")
@click.argument("names", nargs=-1)
def hw_check(names: tuple[str, ...]) -> None:
    """Test device files against arithmetic: ratios, SM x FLOP/clock x clock, measured against stated.

    Without NAMES all shipped files.
    """
    from hwspecs import load_device
    from hwspecs.check import check_device
    from hwspecs.loader import HARDWARE
    from hwspecs.node_check import check_node
    from reports import devices

    loaded = [load_device(name) for name in names or HARDWARE]
    findings = [f for d in loaded for f in (check_node(d.node, d) if d.node else check_device(d))]
    emit(devices.findings(findings), None)
    if any(f.severity == "error" for f in findings):
        click.get_current_context().exit(1)


@command.command("new")
@click.argument("name")
@click.option("-o", "--output-file", "out", type=FILE, help="Write here; stdout by default.")
def hw_new(name: str, out: Path | None) -> None:
    """A commented device file to fill in; `roofline ceilings --hw FILE` adds what the machine reaches."""
    from hwspecs.loader import new_device
    from specfiles.errors import InputError
    from specfiles.reading import exists

    if not name.strip():
        raise InputError("the device needs a name, for example: roofline hw new 'My GPU' -o my-gpu.yaml")
    if out is not None and exists(out, Path.exists):
        raise InputError(f"{out}: exists already; name another file.")
    emit(new_device(name.strip()), out)
