"""The file that a user fills in: refused while blanks remain, accepted after, every optional line too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwspecs.check import check_device
from hwspecs.loader import BLANK, load_device, new_device
from specfiles.errors import InputError

FILLED = {
    "vendor": "Nobody",
    "architecture": "Tomorrow (sm200)",
    "sheet": "the only data sheet",
    "bf16": "100.0e+12",
    "fp32": "10.0e+12",
    "type": "HBM9",
    "capacity_bytes": "10.0e+9",
    "dram_capacity_bytes": "10.0e+9",
    "byte_per_s": "1.0e+12",
}


def filled(text: str) -> str:
    """Every blank written out, each by the key that it stands under."""
    lines = []
    for line in text.splitlines():
        key = re.match(r"\s*(\w+):", line)
        lines.append(line.replace(BLANK, FILLED.get(key[1] if key else "", "1.0e+9")) if key else line)
    return "\n".join(lines)


def blank(file: Path) -> str | None:
    """The path of the blank that the loader names, None where it accepts the file."""
    try:
        load_device(file)
    except InputError as error:
        said = str(error).removeprefix(f"{file}: ")
        return said.removesuffix(f" is still {BLANK}; write its value or delete the line.")
    return None


def test_blanks_are_refused_one_by_one(tmp_path: Path) -> None:
    file, text, named = tmp_path / "mine.yaml", new_device("Mine"), []
    file.write_text(text)
    while path := blank(file):
        named.append(path)
        key = path.removesuffix(".value").rpartition(".")[2]
        text = re.sub(rf"^(\s*{key}:.*){BLANK}", rf"\g<1>{FILLED[key]}", text, count=1, flags=re.M)
        file.write_text(text)
    device = load_device(file)
    assert named == [
        "vendor",
        "architecture",
        "sources.sheet",
        "datasheet.tensor_flop_per_s.bf16.value",
        "datasheet.dram.type",
        "datasheet.dram.capacity_bytes.value",
        "datasheet.dram.byte_per_s.value",
    ]
    assert device.name == "Mine"
    assert [finding for finding in check_device(device) if finding.severity == "error"] == []


def test_every_optional_line_is_accepted(tmp_path: Path) -> None:
    head, _, sheet = new_device("Mine").partition("\ndatasheet:")
    optional = "\ndatasheet:" + re.sub(r"^(\s*)# ", r"\1", sheet, flags=re.M)
    (tmp_path / "mine.yaml").write_text(filled(head + optional))
    device = load_device(tmp_path / "mine.yaml")
    assert device.datasheet.links["nvlink"].byte_per_s.value == 1e12
    assert device.datasheet.l2 is not None
    assert device.datasheet.dram.bus_bits is not None


@pytest.mark.parametrize("name", ['A "quoted" GPU', "a: b # c", "Größe 9", "[1, 2]", "null"])
def test_any_name_survives(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(filled(new_device(name)))
    assert load_device(tmp_path / "mine.yaml").name == name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIe-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("NVIDIA H200", "H200-SXM-141GB"),
        ("NVIDIA B200", "B200-SXM-180GB"),
        ("NVIDIA B300 SXM6 AC", "B300-SXM-288GB"),
        ("NVIDIA A10", "A10-24GB"),
        ("NVIDIA A10G", "A10G-24GB"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("Tesla V100-PCIE-16GB", "V100-PCIe-16GB"),
        ("Tesla T4", "T4-16GB"),
        ("NVIDIA L4", "L4-24GB"),
        ("NVIDIA L40S", "L40S-48GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-Blackwell-Server"),
        ("NVIDIA RTX A6000", "RTX-A6000-48GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000-Blackwell-Workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX-PRO-6000-Blackwell-Max-Q"),
        ("NVIDIA A30", "A30-24GB"),
        ("NVIDIA H200 NVL", "H200-NVL-141GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
        ("NVIDIA GB10", "GB10-128GB"),
        ("Tesla V100-SXM2-16GB", "V100-SXM2-16GB"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_driver_s_name_finds_the_device(asked: str, name: str) -> None:
    """As torch.cuda.get_device_name gives it, so that measured ceilings find their data sheet."""
    assert load_device(asked).name == name
