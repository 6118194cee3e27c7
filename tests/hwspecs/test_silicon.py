"""Values of device and node files that no rule of `hwspecs.check` judges, against the silicon they describe.

They hold without the table of facts, which is not beside every checkout.
"""

import pytest

from hwspecs.check import check_device
from hwspecs.loader import DEVICES, NODES, load_device

# Bits of the memory interface, 1024 for each stack of HBM, and Gbit/s per pin: the vendor's, or the memory's.
MEMORY = {
    "b200_sxm": (8 * 1024, 8.0),
    "b300_sxm": (8 * 1024, 8.0),
    "gaudi2": (6 * 1024, 3.2),
    "gaudi3": (8 * 1024, 3.6),
    "gb200": (8 * 1024, 8.0),
    "gb300": (8 * 1024, 8.0),
    "gh200": (6 * 1024, 5.2),
    "h20": (6 * 1024, 5.2),
    "h800": (5 * 1024, 5.2),
    "jetson_thor_t5000": (256, 8.533),
    "m2_ultra": (1024, 6.4),
    "m3_max": (512, 6.4),
    "m4_max": (512, 8.533),
    "mi300x": (8 * 1024, 5.2),
    "mi325x": (8 * 1024, 6.0),
    "snapdragon_8_gen_3": (64, 9.6),
    "tpu7x": (8 * 1024, 8.0),
    "tpu_v4": (4 * 1024, 2.4),
    "tpu_v5e": (2 * 1024, 3.2),
    "tpu_v5p": (6 * 1024, 3.6),
    "tpu_v6e": (2 * 1024, 6.4),
    "trainium2": (4 * 1024, 6.4),
}
# FLOP/s of units that are not those of a GPU: arrays x rows x columns x 2 x Hz.
ARRAYS = {
    ("gaudi2", "bf16"): 2 * 256 * 256 * 2 * 1.65e9,
    ("gaudi2", "fp8"): 2 * 2 * 256 * 256 * 2 * 1.65e9,
    ("gaudi3", "bf16"): 8 * 256 * 256 * 2 * 1.6e9,
    ("gaudi3", "fp8"): 8 * 256 * 256 * 2 * 1.6e9,
    ("tpu_v4", "bf16"): 8 * 128 * 128 * 2 * 1.05e9,
    ("tpu_v4", "int8"): 8 * 128 * 128 * 2 * 1.05e9,
    ("tpu_v5e", "bf16"): 4 * 128 * 128 * 2 * 1.5e9,
    ("tpu_v5e", "int8"): 2 * 4 * 128 * 128 * 2 * 1.5e9,
    ("tpu_v5p", "bf16"): 8 * 128 * 128 * 2 * 1.75e9,
    ("tpu_v5p", "int8"): 2 * 8 * 128 * 128 * 2 * 1.75e9,
    ("tpu_v6e", "bf16"): 4 * 256 * 256 * 2 * 1.75e9,
    ("tpu_v6e", "int8"): 2 * 4 * 256 * 256 * 2 * 1.75e9,
}
# Links x bytes/s of one link in one direction.
LINKS = {
    ("a40", "nvlink"): 56.25e9,
    ("gb200", "chip"): 450e9,
    ("gb300", "chip"): 450e9,
    ("gh200", "chip"): 450e9,
    ("mi250x", "xgmi"): 7 * 50e9,
    ("mi300x", "xgmi"): 7 * 64e9,
    ("mi325x", "xgmi"): 7 * 64e9,
    ("mi355x", "xgmi"): 7 * 76.5e9,
    ("tpu7x", "ici"): 6 * 100e9,
    ("tpu_v4", "ici"): 6 * 45e9,
    ("tpu_v5e", "ici"): 4 * 50e9,
    ("tpu_v5p", "ici"): 6 * 100e9,
    ("tpu_v6e", "ici"): 4 * 100e9,
    ("trainium2", "chip"): 640e9,
}
INFINIBAND = {"HDR": 200, "NDR": 400, "XDR": 800}  # Gbit/s of a port of four lanes
# Board or package power [W] of the vendors' data sheets.
POWER = {
    **dict.fromkeys(("a10", "a10g"), 150),
    **dict.fromkeys(("a100_sxm", "a100_sxm_40gb", "h100_nvl", "h20"), 400),
    **dict.fromkeys(("h100_sxm", "h200_sxm", "h800"), 700),
    **dict.fromkeys(("a100_pcie", "a40", "mi210", "rtx_a6000", "rtx_6000_ada"), 300),
    **dict.fromkeys(("h100_pcie", "l40s", "rtx3090"), 350),
    **dict.fromkeys(("b200_sxm", "mi325x"), 1000),
    **dict.fromkeys(("gaudi3", "gh200"), 900),
    **dict.fromkeys(("gaudi2", "rtx_pro_6000_server"), 600),
    **dict.fromkeys(("gb300", "mi355x"), 1400),
    "a100_pcie_40gb": 250,
    "b300_sxm": 1100,
    "epyc_9654": 360,
    "gb200": 1200,
    "jetson_agx_orin_64gb": 60,
    "jetson_thor_t5000": 130,
    "l4": 72,
    "mi250x": 560,
    "mi300x": 750,
    "rtx4090": 450,
    "rtx5090": 575,
    "t4": 70,
}
STEMS = [path.stem for path in DEVICES.paths()]


@pytest.mark.parametrize("stem", STEMS)
def test_memory_is_as_fast_as_its_pins(stem: str) -> None:
    """By the file's own pins, or those of this table: a device with neither could state anything."""
    device = load_device(stem)
    if any(finding.rule == "bandwidth" for finding in check_device(device)):
        assert stem not in MEMORY
        return
    bits, gbit_per_s = MEMORY[stem]
    bandwidth = device.datasheet.dram.byte_per_s
    assert bandwidth is not None
    # Some controllers run below the rate of the memory (B200: 7.7 of 8.2 TB/s), rounding may exceed it.
    assert 0.88 <= bandwidth.value / (bits * gbit_per_s * 1e9 / 8) <= 1.02


@pytest.mark.parametrize(("stem", "dtype"), ARRAYS)
def test_peaks_of_systolic_arrays(stem: str, dtype: str) -> None:
    peaks = {str(name): peak.value for name, peak in load_device(stem).datasheet.tensor_flop_per_s.items()}
    assert peaks[dtype] == pytest.approx(ARRAYS[stem, dtype], rel=0.01)


@pytest.mark.parametrize("stem", ["m2_ultra", "m3_max", "m4_max"])
def test_peaks_of_apple_s_lanes(stem: str) -> None:
    """128 lanes per core, a multiply-add each and clock, at 1.2 to 1.9 GHz; 16 bits are no faster."""
    sheet = load_device(stem).datasheet
    assert sheet.processors is not None
    for dtype in ("fp32", "fp16"):
        clock_hz = sheet.vector_flop_per_s[dtype].value / (sheet.processors.value * 128 * 2)
        assert 1.2e9 < clock_hz < 1.9e9, dtype


@pytest.mark.parametrize(("stem", "link"), LINKS)
def test_links_whose_type_has_no_lanes(stem: str, link: str) -> None:
    found = {str(name): one.byte_per_s.value for name, one in load_device(stem).datasheet.links.items()}
    assert found[link] == pytest.approx(LINKS[stem, link], rel=0.01)


@pytest.mark.parametrize(
    "stem", [stem for stem in STEMS if load_device(stem).datasheet.special_op_per_s is not None]
)
def test_special_functions_per_clock(stem: str) -> None:
    """16 per clock and streaming multiprocessor (CUDA Programming Guide, arithmetic throughput); Blackwell
    Ultra doubled them for attention (NVIDIA, Inside Blackwell Ultra)."""
    device = load_device(stem)
    sheet = device.datasheet
    assert sheet.special_op_per_s is not None
    assert sheet.processors is not None
    clock = sheet.clock_hz or sheet.vector_clock_hz
    assert clock is not None
    each = 32 if device.architecture.endswith("(sm103)") else 16
    assert sheet.special_op_per_s.value == pytest.approx(
        each * sheet.processors.value * clock.value, rel=0.01
    )


@pytest.mark.parametrize("stem", STEMS)
def test_power_is_that_of_the_data_sheet(stem: str) -> None:
    stated = load_device(stem).datasheet.tdp_w
    assert (stated.value if stated else None) == POWER.get(stem)


@pytest.mark.parametrize("stem", [path.stem for path in NODES.paths()])
def test_infiniband_has_one_port_per_device(stem: str) -> None:
    """A port per device and Gbit/s of its generation; devices that share ports have a part of them."""
    node = load_device(stem).node
    assert node is not None
    if node.between is None or not node.between.type.startswith("InfiniBand"):
        return
    words = node.between.type.replace(",", "").split()
    gbit_per_s = INFINIBAND[words[1]] if words[1] in INFINIBAND else float(words[1])
    assert node.between.byte_per_s.value == pytest.approx(gbit_per_s * 1e9 / 8)
