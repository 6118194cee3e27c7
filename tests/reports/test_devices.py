"""Devices as text."""

from __future__ import annotations

from collections.abc import Callable

from hwspecs import Device
from reports.devices import findings, reached


def test_what_a_machine_reached_is_told_with_units(paper_device: Callable[..., Device]) -> None:
    told = {
        "vector_flop_per_s": {"fp32": {"value": 9.4e10, "source": "sheet"}},
        "dram_byte_per_s": {"value": 3.7e10, "source": "sheet"},
        "launch_s": {"value": 2.6e-6, "source": "sheet"},
    }
    errors = {"gemm": 0.03, "rope": 0.2}
    fits = {kind: [{"dtype": "fp32", "points": 9, "median_error": e}] for kind, e in errors.items()}
    device = paper_device(measured=told, calibration={"source": "paper", "operators": fits})
    assert reached(device).splitlines() == [
        "matrix products: fp32 94.0 GFLOP/s",
        "memory: 37.0 GB/s",
        "launch: 2.60 µs",
        "classes of operators: 2 fitted, with median errors of 3.0 % to 20.0 % on the model held out",
    ]


def test_of_what_was_not_measured_nothing_is_told(paper_device: Callable[..., Device]) -> None:
    assert reached(paper_device()) == ""


def test_without_findings_there_is_no_empty_table() -> None:
    assert findings([]) == "0 checks, 0 errors.\n"
