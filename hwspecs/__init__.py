"""What a device can do: a YAML file per device or node, each value with its source. Imports nothing above."""

from hwspecs.calibrations import kernels_of
from hwspecs.loader import device_names, load_device
from hwspecs.node import Node
from hwspecs.schema import Calibration, Constants, Datasheet, Device, Kernel, Measured, Reference
from hwspecs.values import Sourced

__all__ = [
    "Calibration",
    "Constants",
    "Datasheet",
    "Device",
    "Kernel",
    "Measured",
    "Node",
    "Reference",
    "Sourced",
    "device_names",
    "kernels_of",
    "load_device",
]
