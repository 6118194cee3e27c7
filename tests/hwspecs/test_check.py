"""The consistency check finds the mistakes that device files are known for, and keeps quiet on good ones."""

from typing import Any

import pytest

from hwspecs.check import check_device
from hwspecs.loader import DEVICES, load_device
from hwspecs.schema import Device
from specfiles.reading import read_yaml
from specfiles.strict import validated


def changed(stem: str, key: str, value: Any, note: str | None = None) -> Device:
    """A shipped device with another value at one dotted key."""
    raw = read_yaml(DEVICES.find(stem))
    *parents, last = key.split(".")
    place: Any = raw
    for parent in parents:
        place = place[parent]
    place[last] = value
    if last == "value":
        place.pop("note", None)
        if note:
            place["note"] = note
    return validated(Device, raw, "test")


def severities(device: Device, rule: str) -> set[str]:
    return {finding.severity for finding in check_device(device) if finding.rule == rule}


BROKEN = [  # what went wrong, the rule that must say so
    ("h100_sxm", "datasheet.tensor_flop_per_s.bf16.value", 1900e12, "peaks"),
    (
        "h100_sxm",
        "datasheet.tensor_flop_per_s.fp8.value",
        3800e12,
        "dtype_ratios",
    ),  # sparse, just under 4 times
    ("h100_sxm", "datasheet.tensor_flop_per_s.tf32.value", 378e12, "peaks"),  # the PCIe card
    ("h100_sxm", "datasheet.vector_flop_per_s.fp32.value", 133.8e12, "peaks"),  # packed 16 bit
    ("h100_sxm", "datasheet.processors.value", 144, "peaks"),  # the full die
    ("h100_sxm", "datasheet.clock_hz.value", 1.98e9, "peaks"),  # the clock of the vector units
    ("mi300x", "datasheet.tensor_flop_per_s.bf16.value", 2500e12, "peaks"),  # sparse, rounded down
    ("rtx4090", "datasheet.tensor_flop_per_s.fp16.value", 330.3e12, "peaks"),  # FP16 accumulation
    ("xeon_8480", "datasheet.tensor_flop_per_s.bf16.value", 229.4e12, "peaks"),  # the INT8 rate
    ("a100_sxm", "datasheet.dram.byte_per_s.value", 1555e9, "bandwidth"),  # the 40 GB part
    ("l4", "datasheet.dram.pin_bit_per_s.value", 12.5e6, "bandwidth"),  # Mbit/s
    ("h100_sxm", "measured.dram_byte_per_s.value", 3.5e12, "measured"),
    ("h100_sxm", "measured.tensor_flop_per_s.bf16.value", 1100e12, "measured"),
    ("h200_sxm", "measured.links.nvlink.value", 473e9, "measured"),  # reduced in the switch
    ("h100_sxm", "datasheet.l2.capacity_bytes.value", 50e12, "memory_sizes"),
    ("epyc_9654", "datasheet.last_level_cache.capacity_bytes.value", 384e12, "memory_sizes"),
    ("h100_sxm", "measured.dram_capacity_bytes.value", 89e9, "memory_sizes"),  # 83 GiB
    ("h100_sxm", "measured.dram_capacity_bytes.value", 42.95e9, "memory_sizes"),  # half a device
    ("h100_sxm", "datasheet.links.nvlink.byte_per_s.value", 900e9, "links"),  # both directions
    ("l40s", "datasheet.links.pcie.byte_per_s.value", 64e9, "links"),  # both directions
]


@pytest.mark.parametrize(("stem", "key", "value", "rule"), BROKEN)
def test_a_broken_device_is_an_error_of_its_rule(stem: str, key: str, value: float, rule: str) -> None:
    assert "error" not in severities(load_device(stem), rule)
    device = changed(stem, key, value)
    errors = [
        finding for finding in check_device(device) if (finding.severity, finding.rule) == ("error", rule)
    ]
    assert errors
    assert {finding.device for finding in errors} == {device.name}
    leaf = key.removeprefix("datasheet.").removesuffix(".value")
    if "." in leaf and "pin" not in leaf:  # a wrong clock or count shows in every peak, not under its own key
        assert [finding.message for finding in errors if finding.message.startswith(leaf)]


@pytest.mark.parametrize(
    ("stem", "key", "value", "rule"),
    [case for case in BROKEN if case[3] in ("peaks", "bandwidth", "measured") and "_flop_per_s." in case[1]],
)
def test_a_note_beside_the_value_turns_the_error_into_a_note(
    stem: str, key: str, value: float, rule: str
) -> None:
    found = severities(changed(stem, key, value, note="why it differs"), rule)
    assert "note" in found
    assert "error" not in found


def test_the_deviation_is_reported_in_percent() -> None:
    device = changed("h100_sxm", "datasheet.dram.byte_per_s.value", 6.7e12)
    (finding,) = [f for f in check_device(device) if f.rule == "bandwidth"]
    assert finding.severity == "error"
    assert "+99.9 %" in finding.message  # 6.7e12 against 5120 bits x 5.238e9 bit/s / 8 = 3.352e12


@pytest.mark.parametrize(
    ("off", "severity"), [(0.97, "error"), (0.98, "ok"), (1.0, "ok"), (1.02, "ok"), (1.04, "error")]
)
def test_rounding_is_tolerated_and_nothing_more(off: float, severity: str) -> None:
    exact = 5120 * 5.238e9 / 8
    device = changed(
        "h100_sxm", "datasheet.dram.byte_per_s.value", exact * off * (1 - 1e-6 if off < 1 else 1)
    )
    assert severities(device, "bandwidth") == {severity}


def test_a_rate_that_no_document_states_is_not_judged() -> None:
    """The table of rates has none of FP16 on vector units."""
    before = severities(load_device("h100_sxm"), "peaks")
    fp16 = {"value": 267.6e12, "source": "whitepaper"}
    raw = read_yaml(DEVICES.find("h100_sxm"))
    raw["sources"]["whitepaper"] = "H100 whitepaper"
    raw["datasheet"]["vector_flop_per_s"]["fp16"] = fp16
    device = validated(Device, raw, "test")
    told = [found.message for found in check_device(device) if "vector_flop_per_s.fp16" in found.message]
    assert severities(device, "peaks") == before
    assert told == []


def test_an_unknown_architecture_is_judged_by_what_does_not_depend_on_it() -> None:
    device = changed("h100_sxm", "architecture", "Tomorrow (sm200)")
    assert severities(device, "peaks") == set()
    assert severities(device, "bandwidth") == {"ok"}
    assert severities(device, "dtype_ratios") == {"ok"}
