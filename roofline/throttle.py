"""Why a GPU held its clocks down, from the bits that NVML gives."""

from __future__ import annotations

from typing import Any

# nvml.h, nvmlClocksEventReasons: those by which a device ran slower than it could. Idle (0x1) and clocks that
# somebody set (0x2, 0x10, 0x100) are not among them.
LIMITS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


def reasons(bits: Any) -> set[str]:
    """The reasons in a sample of the table `power`; none where there is no number."""
    if bits is None or bits != bits:
        return set()
    return {name for bit, name in LIMITS.items() if int(bits) & bit}
