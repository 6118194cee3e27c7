"""What a device can do: one YAML file per device, each value with its source. Imports nothing above."""

from hwspecs.calibrations import kernels_of
from hwspecs.loader import device_names, load_device
from hwspecs.schema import Calibration, Constants, Datasheet, Device, Kernel, Measured, Sourced

__all__ = [
    "Calibration",
    "Constants",
    "Datasheet",
    "Device",
    "Kernel",
    "Measured",
    "Sourced",
    "device_names",
    "kernels_of",
    "load_device",
]
