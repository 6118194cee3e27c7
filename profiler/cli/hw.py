"""`roofline hw`: the catalogue of devices."""

from __future__ import annotations

import click

from profiler.cli.options import emit, format_option, one_of


@click.group("hw")
def command() -> None:
    """Devices: list, show, check."""


@command.command("list")
@format_option("table", "json")
def hw_list(format: str) -> None:
    """Every shipped device."""
    from hwspecs import load_device
    from hwspecs.loader import DEVICES
    from reports import devices

    one_of(format, "format", ("table", "json"))
    emit(devices.listing([load_device(path) for path in DEVICES], format), None)


@command.command("show")
@click.argument("name")
def hw_show(name: str) -> None:
    """One device file, with every source."""
    from hwspecs.loader import DEVICES, load_device
    from specfiles.reading import read_text

    path = DEVICES.find(name)
    load_device(path)
    emit(read_text(path), None)


@command.command("check")
@click.argument("names", nargs=-1)
def hw_check(names: tuple[str, ...]) -> None:
    """Test device files against arithmetic: ratios, SM x FLOP/clock x clock, measured against stated."""
    from hwspecs import load_device
    from hwspecs.check import check_device
    from hwspecs.loader import DEVICES
    from reports import devices

    findings = [f for name in names or DEVICES for f in check_device(load_device(name))]
    emit(devices.findings(findings), None)
    if any(f.severity == "error" for f in findings):
        click.get_current_context().exit(1)
