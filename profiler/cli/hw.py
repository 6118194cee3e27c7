"""`roofline hw`: the catalogue of devices."""

from __future__ import annotations

import click

from profiler.cli.options import emit, format_option, one_of


@click.group("hw")
def command() -> None:
    """Devices and nodes: list, show, check."""


@command.command("list")
@format_option("table", "json")
def hw_list(format: str) -> None:
    """Every shipped device and node."""
    from hwspecs import load_device
    from hwspecs.loader import HARDWARE
    from reports import devices

    one_of(format, "format", ("table", "json"))
    emit(devices.listing([load_device(path) for path in HARDWARE], format), None)


@command.command("show")
@click.argument("name")
def hw_show(name: str) -> None:
    """One device or node file, with every source."""
    from hwspecs.loader import HARDWARE, load_device
    from specfiles.reading import read_text

    path = HARDWARE.find(name)
    load_device(path)
    emit(read_text(path), None)


@command.command("check")
@click.argument("names", nargs=-1)
def hw_check(names: tuple[str, ...]) -> None:
    """Test device files against arithmetic: ratios, SM x FLOP/clock x clock, measured against stated."""
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
