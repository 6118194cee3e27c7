"""A device as the text of a device file."""

from __future__ import annotations

from typing import Any

from hwspecs import Device
from specfiles.strict import plain_data


def as_yaml(device: Device) -> str:
    """A device file that the loader reads back."""
    import yaml

    data = {key: value for key, value in plain_data(device).items() if value not in ([], {})}
    return str(yaml.dump(data, Dumper=_dumper(), sort_keys=False, width=110, allow_unicode=True))


def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # the loader rejects aliases

    def number(dumper: Any, value: float) -> Any:
        mantissa, _, exponent = repr(value).partition("e")
        text = mantissa if "." in mantissa else f"{mantissa}.0"
        return dumper.represent_scalar(
            "tag:yaml.org,2002:float", text + (f"e{int(exponent):+d}" if exponent else "")
        )

    Dumper.add_representer(float, number)
    return Dumper
