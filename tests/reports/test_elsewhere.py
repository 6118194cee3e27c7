"""A workload on other devices: in the formats asked for, as far as a device multiplies in them."""

from __future__ import annotations

from typing import Any

import pytest

from hwspecs import load_device
from reports.elsewhere import floors
from roofline import api

STEP: dict[str, Any] = {"phase": "decode", "batch": 4, "context": 512}


@pytest.mark.parametrize(
    ("asked", "device", "there", "said"),
    [
        ({"weights": "fp8", "activations": "fp8"}, "h100", {}, "fp8"),
        ({"weights": "fp8", "activations": "fp8"}, "a100", {"activations": "bf16"}, "fp8 in bf16"),
        (
            {"weights": "fp8", "activations": "fp8"},
            "t4",
            {"activations": "fp16", "kv": "fp16"},
            "fp8 in fp16",
        ),
        ({"weights": "int4_g128", "kv": "fp8"}, "l40s", {}, "int4_g128 in bf16"),
        ({"weights": "fp32"}, "h100", {"weights": "bf16"}, "bf16"),
    ],
)
def test_formats_are_those_asked_for(
    asked: dict[str, Any], device: str, there: dict[str, Any], said: str
) -> None:
    (found,) = floors(api.scenario("Llama-3.1-8B", **STEP, **asked), [load_device(device)])
    alone = api.predict("Llama-3.1-8B", device, **STEP, **{**asked, **there}).totals()
    assert found.dtype == said
    assert found.tpot_s == pytest.approx(alone["tpot_s"], rel=1e-12)
    assert found.memory_bytes == alone["memory_bytes"]
