"""`roofline profile MODULE:FUNCTION`: one pass of any module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from profiler.cli.options import progress
from profiler.cli.telling import finish, tell
from specfiles.errors import InputError

if TYPE_CHECKING:
    from profiler.repeats import Effort


def refuse_flags(target: str, flags: list[str]) -> None:
    """InputError for flags that a module's function decides."""
    if flags:
        raise InputError(
            f"--{flags[0]} does not go with {target}: it returns the sizes and formats; leave it out."
        )


def measure_module(
    target: str,
    device: str,
    out: Path,
    hw: str | None,
    effort: Effort,
    seed: int,
    alone: bool,
    overhead: float | None,
) -> None:
    """Measure one pass into a new run folder and print its notes."""
    from hwspecs import load_device
    from profiler.environment import device_name
    from profiler.module_record import ModuleRequest, profile_module

    hardware = load_device(hw) if hw else device_name(device)
    run = profile_module(ModuleRequest(target, device, out, hardware, effort, seed, alone, progress))
    tell(run, overhead)
    finish(run, overhead)
