"""The energy of a device: idle power, and what each byte and each FLOP adds to it.

Power = TDP x min(1, idle + memory x MBU + compute x MFU), so the energy is a sum of terms per second, per
byte and per FLOP, at most TDP x time. The shares of the TDP are assumed to be the same on other devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwspecs.serving import Power

# Of each constant of a fit: lowest, highest, start.
BOUNDS = {"idle": (0.05, 0.6, 0.3), "memory": (0.05, 2.0, 0.7), "compute": (0.05, 3.0, 1.0)}


def drawn(power: Power, mbu: Any, mfu: Any) -> Any:
    """The share of the TDP that is drawn at some utilisations, which are numbers or arrays."""
    share = power.idle + power.memory * mbu + power.compute * mfu
    if isinstance(share, int | float):
        return min(1.0, share)
    import numpy as np

    return np.minimum(1.0, share)


def told(power: Power | None) -> str:
    """How energy is computed, in words, with the source of the constants."""
    if power is None:
        return "TDP x time, as if all power were drawn"
    share = f"{power.idle:g} + {power.memory:g} x MBU + {power.compute:g} x MFU"
    return f"TDP x time x min(1, {share}) ({power.source})"


def fit_power(mbu: Any, mfu: Any, share: Any) -> dict[str, float]:
    """A robust fit of the constants to log(predicted / measured share of the TDP)."""
    import numpy as np
    from scipy.optimize import least_squares

    from hwspecs.serving import Power

    def constants(x: Any) -> dict[str, float]:
        return {name: float(f"{value:.4g}") for name, value in zip(BOUNDS, x, strict=True)}

    def errors(x: Any) -> Any:
        found = Power(**dict(zip(BOUNDS, map(float, x), strict=True)), source="fit")
        return np.log(drawn(found, mbu, mfu) / share)

    low, high, start = zip(*BOUNDS.values(), strict=True)
    return constants(least_squares(errors, start, bounds=(low, high), loss="soft_l1", f_scale=0.05).x)
