"""The energy of a device: what it draws while it waits, and what each byte and each FLOP adds to that.

Power = TDP x min(1, idle + memory x MBU + compute x MFU), so that over a time the energy is a sum of a part
per second, one per byte and one per FLOP, and no more than TDP x time. Shares of the TDP carry to other
devices as far as these spend their power alike: a full memory or full units draw all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwspecs.serving import Power

BOUNDS = {
    "idle": (0.05, 0.6, 0.3),
    "memory": (0.05, 2.0, 0.7),
    "compute": (0.05, 3.0, 1.0),
}  # low, high, start


def drawn(power: Power, mbu: Any, mfu: Any) -> Any:
    """The share of the TDP that is drawn; utilisations are numbers or arrays."""
    share = power.idle + power.memory * mbu + power.compute * mfu
    if isinstance(share, int | float):
        return min(1.0, share)
    import numpy as np

    return np.minimum(1.0, share)


def told(power: Power | None) -> str:
    """How an energy is computed, with the source of its constants."""
    if power is None:
        return "TDP x time, as if all power were drawn"
    return (
        f"TDP x time x what is drawn: {power.idle:.0%}, {power.memory:.0%} of MBU and "
        f"{power.compute:.0%} of MFU, at most all ({power.source})"
    )


def fit_power(mbu: Any, mfu: Any, share: Any) -> dict[str, float]:
    """The constants that make log(predicted / measured share of the TDP) small, robustly."""
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
