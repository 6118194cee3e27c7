"""Every shipped device file: it loads, cites what it states, agrees with itself and is found by its names."""

from collections import Counter
from pathlib import Path

import pytest

from hwspecs.check import check_device
from hwspecs.loader import DEVICES, device_names, load_device
from hwspecs.values import walk
from specfiles.errors import plain

FILES = DEVICES.paths()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_device_file_can_be_vouched_for(path: Path) -> None:
    device = load_device(str(path))
    assert {value.source for _, value in walk(device)} == set(device.sources), (
        "cited and listed sources differ"
    )
    errors = [finding.message for finding in check_device(device) if finding.severity == "error"]
    assert not errors
    spellings = [device.name.lower().replace("-", " "), device.name.replace("-", "_")]
    spellings += [alias.upper().replace("_", "-") for alias in device.aliases[-1:]]
    assert [DEVICES.find(spelling).stem for spelling in spellings] == [path.stem] * len(spellings)


def test_every_name_belongs_to_one_file() -> None:
    owners: Counter[str] = Counter()
    for path in FILES:
        device = load_device(str(path))
        owners.update({plain(name) for name in (path.stem, device.name, *device.aliases)})
    assert [name for name, count in owners.items() if count > 1] == []


def test_the_catalogue_lists_each_file_once() -> None:
    assert len(device_names()) == len(set(device_names())) == len(FILES)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("a100_sxm", "A100-SXM4-80GB"),
        ("A100", "A100-SXM4-80GB"),
        ("a100 pcie 40gb", "A100-PCIe-40GB"),
        ("h100 sxm5 80gb", "H100-SXM5-80GB"),
        ("H200", "H200-SXM-141GB"),
        ("h20", "H20-96GB"),
        ("H800", "H800-SXM5-80GB"),
        ("b200", "B200-SXM-180GB"),
        ("B300_SXM", "B300-SXM-288GB"),
        ("GB200 (per GPU)", "GB200"),
        ("gb300", "GB300"),
        ("GH200-96GB/144GB", "GH200-96GB"),
        ("l40s", "L40S-48GB"),
        ("A40", "A40-48GB"),
        ("rtx a6000", "RTX-A6000-48GB"),
        ("RTX 4090", "RTX-4090-24GB"),
        ("rtx_pro_6000_server", "RTX-PRO-6000-Blackwell-Server"),
        ("L4", "L4-24GB"),
        ("t4", "T4-16GB"),
        ("v100_pcie", "V100-PCIe-16GB"),
        ("mi210", "MI210"),
        ("MI300x", "MI300X"),
        ("AMD Instinct MI350X", "MI350X"),
        ("trn3", "AWS-Trainium3"),
        ("VR200", "Rubin-288GB"),
        ("jetson agx orin", "Jetson-AGX-Orin-64GB"),
        ("Trillium", "TPU-v6e"),
    ],
)
def test_people_find_the_device_they_mean(asked: str, name: str) -> None:
    assert load_device(asked).name == name


@pytest.mark.parametrize("stem", ["rtx3090", "rtx4090", "rtx5090"])
def test_geforce_peaks_are_those_of_fp32_accumulation(stem: str) -> None:
    """What LLM kernels use: the 16-bit rate is twice, not four times, that of the vector lanes."""
    sheet = load_device(stem).datasheet
    lanes = sheet.vector_flop_per_s["fp32"].value
    assert sheet.tensor_flop_per_s["fp16"].value == pytest.approx(2 * lanes, rel=0.01)
    assert sheet.tensor_flop_per_s["bf16"].value == sheet.tensor_flop_per_s["fp16"].value


def test_what_the_driver_reports_decides_what_fits() -> None:
    """NVIDIA prints 141 GB for 141 GiB, of which nvidia-smi reports 143771 MiB; a TPU has no such reading."""
    h200, tpu = load_device("h200_sxm"), load_device("tpu_v6e")
    assert h200.capacity_bytes == pytest.approx(143771 * 2**20)
    assert h200.datasheet.dram.capacity_bytes.value == 141e9
    assert tpu.capacity_bytes == tpu.datasheet.dram.capacity_bytes.value
