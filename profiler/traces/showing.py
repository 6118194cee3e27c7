"""Open runs, imported or measured, and trace files, with their devices, for `show`, `export` and `diff`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwspecs import Device
from profiler.traces.tables import Trace
from roofline.ceilings import Ceilings, Fidelity, ceilings
from roofline.run import Run, open_run
from specfiles.errors import InputError
from specfiles.reading import exists

SMALL_BYTES = 4 << 20  # a file that is read whole in a second
BY = ("operator", "kernel", "layer", "phase", "stream", "kind")


def shown(
    subjects: Sequence[Path], by: str, hardware: str | None, fidelity: Fidelity | None
) -> dict[str, Any]:
    """The documented JSON of `show`, of a run or the files of a trace. Raises InputError for others."""
    from profiler.traces.summary import show

    if len(subjects) > 1:
        together = _together(subjects)
        return show(together, by, limits_of(device_of(hardware, together, None), fidelity))
    (subject,) = subjects
    whole = by not in ("kernel", "stream", "kind") or hardware is not None  # needs launches, ranges and work
    if not whole and exists(subject, Path.is_file) and subject.stat().st_size > SMALL_BYTES:
        from profiler.traces.attribution import attribute
        from profiler.traces.breakdown import LARGE, breakdown
        from profiler.traces.reading import read_brief

        brief = read_brief(subject)  # several times faster
        count = brief["activities"].num_rows
        if count >= LARGE:
            return breakdown(brief, by)
        if count:
            return show(attribute(brief), by, limits_of(device_of(None, brief, None), fidelity))
        del brief  # operators of the host need their ranges
    run, recorded = opened(subject)
    if recorded is None and run is not None:
        from profiler.traces.measured import show_measured

        return show_measured(run, by, limits_of(device_of(hardware, None, run), fidelity))
    assert recorded is not None
    return show(recorded, by, limits_of(device_of(hardware, recorded, run), fidelity))


def _together(files: Sequence[Path]) -> Trace:
    """Several files of a trace, attributed as one. Raises InputError for a run, which stands alone."""
    from profiler.traces.attribution import attribute
    from profiler.traces.reading import read_traces

    for path in files:
        if not exists(path, Path.is_file):
            raise InputError(
                f"{path}: is a run, and several files of traces are shown together; name it alone."
            )
    return attribute(read_traces(files))


def opened(subject: Path) -> tuple[Run | None, Trace | None]:
    """A run, with its trace if it was imported; or no run and the attributed trace of a file."""
    if exists(subject, Path.is_file):
        from profiler.traces.attribution import attribute
        from profiler.traces.reading import read_trace

        return None, attribute(read_trace(subject))
    from profiler.traces.runs import load

    run = open_run(subject)
    return run, load(run) if run.head.imported is not None else None


def exported(subject: Path, to: Path, hardware: str | None, fidelity: Fidelity | None) -> None:
    """Write a run or a trace for other tools. Raises InputError for other files."""
    from profiler.traces.export import export, export_measured

    run, trace = opened(subject)
    device = device_of(hardware, trace, run)
    if trace is not None:
        export(trace, to, limits_of(device, fidelity))
    elif run is not None and device is not None:
        export_measured(run, to, device, fidelity or known_of(device))
    else:
        raise InputError(f"{subject}: belongs to no known device to predict for; name one with --hw.")


def limits_of(device: Device | None, fidelity: Fidelity | None) -> Ceilings | None:
    """The ceilings of a device, by default of its data sheet if it has one; None without a device."""
    if device is None:
        return None
    return ceilings(device, fidelity or known_of(device))


def known_of(device: Device) -> Fidelity:
    """The fidelity of a device's data sheet if it has one, else of what was measured on it."""
    return Fidelity.DATASHEET if device.datasheet.dram.byte_per_s else Fidelity.MEASURED


def device_of(hardware: str | None, trace: Trace | None, run: Run | None) -> Device | None:
    """The device asked for, else the run's device file, else the shipped device of the recorded name."""
    from hwspecs import load_device

    if hardware:
        return load_device(hardware)
    if run is not None and (run.path / "device.yaml").exists():
        return load_device(str(run.path / "device.yaml"))
    names = [run.head.device] if run is not None else []
    names += list(dict.fromkeys(d.name for d in trace.devices)) if trace is not None else []
    for name in filter(None, names):
        try:
            return load_device(name)
        except InputError:  # not shipped: times without ceilings
            continue
    return None


def described_device(hardware: str | None, run: Run) -> Device:
    """The device that a run is compared with. Raises InputError where `device_of` finds none."""
    device = device_of(hardware, None, run)
    if device is None:
        raise InputError(
            f"{run.path} was measured on {run.head.device}, which no device file describes; "
            "`roofline ceilings -o this-machine.yaml` writes one on that machine: name it with --hw."
        )
    return device
