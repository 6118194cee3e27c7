"""One model on one device, and predictions of it with techniques: what the tests of techniques ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from hwspecs import Device, Sourced, load_device
from hwspecs.schema import Link
from roofline.predict import Prediction, predict
from roofline.scenario import Scenario
from workloads.catalogue import load_model
from workloads.convention import CONVENTIONS
from workloads.step import Setting
from workloads.techniques.registry import parse

MODEL = load_model("Llama-3.1-8B").model
DEVICE = load_device("h100_sxm")
SCENARIO = Scenario(MODEL, batch=4, prompt=3000, output=100)
# The same with a layer of multi-token prediction, which its publisher does not have.
DRAFTING = replace(SCENARIO, model=replace(MODEL, stack=replace(MODEL.stack, drafts=1)))
EAGER = replace(SCENARIO, setting=Setting(convention=CONVENTIONS["llm-viewer"]))


def predicted(*words: str, scenario: Scenario = SCENARIO, device: Device = DEVICE) -> Prediction:
    return predict(replace(scenario, techniques=tuple(map(parse, words))), device)


def with_links(device: Device, **byte_per_s: float) -> Device:
    """The device with links of these kinds, as its file would state them."""
    sheet = device.datasheet
    more = {n: Link(type=n, byte_per_s=Sourced(value=rate, source="pcie")) for n, rate in byte_per_s.items()}
    return msgspec.structs.replace(
        device, datasheet=msgspec.structs.replace(sheet, links={**sheet.links, **more})
    )


BASE = predicted()


def numbers(prediction: Prediction) -> dict[str, Any]:
    return prediction.totals()
