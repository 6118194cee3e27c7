"""Energy of the CPU packages, from Linux powercap counters (RAPL)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

ZONES = Path("/sys/class/powercap")  # docs.kernel.org/power/powercap/powercap.html
NO_POWER = "the processor's power is not recorded"


@dataclass
class Package:
    """The counter of one package: microjoules, wrapping at `wraps_at`."""

    counter: Path
    wraps_at: int
    last: int

    def spent_j(self) -> float:
        """Joules since the last call."""
        now = int(self.counter.read_text())
        spent = now - self.last if now >= self.last else now + self.wraps_at - self.last
        self.last = now
        return spent * 1e-6


class Rapl:
    """The mean power of all packages between two readings, or their energy since the first."""

    def __init__(self, packages: list[Package]) -> None:
        self.packages = packages
        self.spent_j = 0.0
        self.read_at = time.perf_counter()

    def total_j(self) -> float:
        """Joules of all packages since the counters were opened; call at least once per wrap."""
        self.spent_j += sum(package.spent_j() for package in self.packages)
        return self.spent_j

    def power_w(self) -> float:
        """Mean watts since the last reading. Raises OSError where a counter is no longer readable."""
        joules = sum(package.spent_j() for package in self.packages)
        now = time.perf_counter()
        seconds, self.read_at = now - self.read_at, now
        return joules / seconds


def open_rapl() -> tuple[Rapl | None, str]:
    """The counters of this machine; or None and the reason."""
    zones = sorted(zone for zone in ZONES.glob("*-rapl:*") if zone.name.count(":") == 1)  # no subzones
    packages = []
    for zone in zones:
        try:
            counter, most = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())
            packages.append(Package(counter, most, int(counter.read_text())))
        except PermissionError:
            return (None, f"{zone / 'energy_uj'} may be read by root only: {NO_POWER}")
        except (OSError, ValueError):
            continue
    if not packages:
        return None, f"no energy counters (RAPL) on this machine: {NO_POWER}"
    return Rapl(packages), ""
