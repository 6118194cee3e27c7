"""Values of device and node files that no rule of `hwspecs.check` judges, against documents beside theirs.

Values without such a document are left to the files: a figure copied from a file would say nothing of it.
"""

import math
import re

import pytest

from hwspecs.check import RATES, check_device, lanes_byte_per_s
from hwspecs.loader import DEVICES, NODES, load_device
from hwspecs.schema import Device

# Matrix units x multiply-adds of one per clock, and Hz. Gaudi: stas00/ml-engineering@b9e2972,
# compute/accelerator/README.md, "How To Calculate Theoretical TFLOPS". TPU v4: ISCA 2023 (Jouppi and others),
# section 2 and table 4. TPU v5e and v5p: Google Cloud documentation, pages of both; their clocks, and 8 bits
# at twice the rate: jax-ml/scaling-book@04d8de5, tpus.md, "What Is a TPU?", "Key Takeaways" and appendix A.
ARRAYS = {
    ("gaudi2", "bf16"): (2 * 256 * 256, 1.65e9),
    ("gaudi3", "bf16"): (8 * 256 * 256, 1.6e9),
    ("tpu_v4", "bf16"): (8 * 128 * 128, 1.05e9),
    ("tpu_v5e", "bf16"): (4 * 128 * 128, 1.5e9),
    ("tpu_v5e", "int8"): (2 * 4 * 128 * 128, 1.5e9),
    ("tpu_v5p", "bf16"): (8 * 128 * 128, 1.75e9),
    ("tpu_v5p", "int8"): (2 * 8 * 128 * 128, 1.75e9),
}
# Of each compute capability: FP32, FP64 and special-function results per clock and streaming multiprocessor
# (CUDA C++ Programming Guide 12.8, section 5.4.1, table 4), and KiB of its shared memory (there, table of
# technical specifications). FP64 of Blackwell Ultra is in no such table.
GUIDE: dict[str, tuple[int, int | None, int, int]] = {
    "sm70": (64, 32, 16, 96),
    "sm75": (64, 2, 16, 64),
    "sm80": (64, 32, 16, 164),
    "sm86": (128, 2, 16, 100),
    "sm87": (128, None, 16, 164),
    "sm89": (128, 2, 16, 100),
    "sm90": (128, 64, 16, 228),
    "sm100": (128, 64, 16, 228),
    "sm103": (128, None, 32, 228),  # exponentials at twice the rate (NVIDIA, Inside NVIDIA Blackwell Ultra)
    "sm110": (128, None, 16, 228),
    "sm120": (128, 2, 16, 100),
}
# Tensor cores of a multiprocessor x dense multiply-adds of 16 bits per clock with FP32 sums: NVIDIA's white
# papers of the V100, Turing, A100, GA102, Ada and H100; half the rate for GeForce (GA102 and Ada).
TENSOR = {
    "Volta (sm70)": 8 * 64,
    "Turing (sm75)": 8 * 64,
    "Ampere (sm80)": 4 * 256,
    "Ampere (sm86)": 4 * 128,
    "Ampere GeForce (sm86)": 4 * 64,
    "Ada (sm89)": 4 * 128,
    "Ada GeForce (sm89)": 4 * 64,
    "Hopper (sm90)": 4 * 512,
}
# Bytes/s of all links in one direction.
LINKS = {
    ("mi250x", "xgmi"): 7 * 25e9 * 2,  # ROCm documentation, MI250 microarchitecture: 25 GT/s, two bytes each
    ("trainium2", "chip"): 1.28e12
    / 2,  # AWS Neuron documentation, Trainium2 Architecture: 1.28 TB/s per chip
}
# Bytes of L2 for each memory controller, and the controller's bits; a part of one may be cut off. V100, A100
# and H100 (white papers): 768 KB, 4 MB and 5 MB for each of 512 bits; Hoppers with six stacks have twelve.
# GA102: 512 KB for 32. Ada: 98304 KB in the full AD102, and 73728 KB left of it in the RTX 4090. RTX
# Blackwell and RTX Blackwell PRO: 98304 KB and 128 MB of the GB202.
L2 = {
    **dict.fromkeys(("v100_sxm", "v100_sxm_16gb", "v100_pcie"), (768 * 2**10, 512)),
    **dict.fromkeys(("a100_sxm", "a100_pcie", "a100_sxm_40gb", "a100_pcie_40gb", "a30"), (4 * 2**20, 512)),
    **dict.fromkeys(("h100_sxm", "h100_pcie", "h800"), (5 * 2**20, 512)),
    **dict.fromkeys(("h100_nvl", "h200_sxm", "h200_nvl", "gh200"), (5 * 2**20, 512)),
    **dict.fromkeys(("t4", "a10", "a10g", "a40", "rtx_a6000", "rtx3090"), (2**19, 32)),
    **dict.fromkeys(("l4", "l40s", "rtx_6000_ada"), (8 * 2**20, 32)),
    **dict.fromkeys(("rtx4090", "rtx5090"), (6 * 2**20, 32)),
    **dict.fromkeys((f"rtx_pro_6000_{kind}" for kind in ("server", "workstation", "max_q")), (8 * 2**20, 32)),
}
# Compute units in use of a die with 4 MiB of L2 (CDNA 3 and CDNA 4 white papers, ROCm documentation).
DIES = {"mi300x": 38, "mi325x": 38, "mi350x": 32, "mi350p": 32, "mi355x": 32}
# Gbit/s of a port of four lanes: InfiniBand Trade Association, InfiniBand Roadmap.
INFINIBAND = {"HDR": 200, "NDR": 400, "XDR": 800}
STEMS = [path.stem for path in DEVICES.paths()]


@pytest.mark.parametrize(("stem", "dtype"), ARRAYS)
def test_peaks_of_systolic_arrays(stem: str, dtype: str) -> None:
    peaks = {str(name): peak.value for name, peak in load_device(stem).datasheet.tensor_flop_per_s.items()}
    multiply_adds, clock_hz = ARRAYS[stem, dtype]
    assert peaks[dtype] == pytest.approx(2 * multiply_adds * clock_hz, rel=0.01)


@pytest.mark.parametrize(("stem", "link"), LINKS)
def test_links_whose_type_has_no_lanes(stem: str, link: str) -> None:
    found = {str(name): one.byte_per_s.value for name, one in load_device(stem).datasheet.links.items()}
    assert found[link] == pytest.approx(LINKS[stem, link], rel=0.01)


@pytest.mark.parametrize("stem", L2)
def test_l2_is_that_of_all_memory_controllers(stem: str) -> None:
    sheet = load_device(stem).datasheet
    assert sheet.l2
    assert sheet.dram.bus_bits
    each, bits = L2[stem]
    assert sheet.l2.capacity_bytes.value == each * math.ceil(sheet.dram.bus_bits.value / bits)


@pytest.mark.parametrize("stem", DIES)
def test_l2_is_that_of_all_dies(stem: str) -> None:
    sheet = load_device(stem).datasheet
    assert sheet.l2
    assert sheet.processors
    assert sheet.l2.capacity_bytes.value == 4 * 2**20 * sheet.processors.value / DIES[stem]


def capability(device: Device) -> str | None:
    """The compute capability that an architecture's name ends with, where the programming guide has it."""
    name = device.architecture.rpartition("(")[2].rstrip(")")
    return name if name in GUIDE else None


@pytest.mark.parametrize("stem", [stem for stem in STEMS if capability(load_device(stem))])
def test_lanes_and_memory_of_a_multiprocessor(stem: str) -> None:
    """Peaks at the clock that a file states for them; registers are 65536 of 4 bytes in all of these."""
    device = load_device(stem)
    sheet, of = device.datasheet, capability(device)
    assert of
    assert sheet.processors
    fp32, fp64, special, shared = GUIDE[of]
    clock = sheet.vector_clock_hz or sheet.clock_hz
    assert clock
    for dtype, lanes in (("fp32", fp32), ("fp64", fp64)):
        peak = {str(name): value for name, value in sheet.vector_flop_per_s.items()}.get(dtype)
        if peak and lanes and not peak.note:  # a note says why a peak is another: cut for export
            assert peak.value == pytest.approx(2 * lanes * sheet.processors.value * clock.value, rel=0.03)
    if sheet.special_op_per_s:
        at = sheet.clock_hz or clock
        assert sheet.special_op_per_s.value == pytest.approx(
            special * sheet.processors.value * at.value, rel=0.01
        )
    if sheet.shared_bytes_per_processor and sheet.register_bytes_per_processor:
        assert sheet.shared_bytes_per_processor.value == shared * 1024
        assert sheet.register_bytes_per_processor.value == 65536 * 4


@pytest.mark.parametrize("architecture", TENSOR)
def test_rates_of_tensor_cores_are_those_of_the_white_papers(architecture: str) -> None:
    assert RATES[architecture][0] == 2 * TENSOR[architecture]


# Peaks that a data sheet rounds or prints of another clock, by how much they are off: of 2.52 GHz the L40S
# has 366 TFLOP/s; of 2.032 GHz the B300 has 77.
LOOSE = {("L40S-48GB", "bf16"): 0.012, ("L40S-48GB", "fp16"): 0.012, ("B300-SXM-288GB", "fp32"): 0.027}


@pytest.mark.parametrize("stem", [s for s in STEMS if load_device(s).vendor == "NVIDIA"])
def test_stated_peaks_are_processors_times_rate_times_clock(stem: str) -> None:
    """Within 1 %: counts and clocks are the driver's or a product brief's, peaks the data sheet's."""
    device = load_device(stem)
    for finding in check_device(device):
        if finding.rule == "peaks" and finding.severity != "note":
            off = re.search(r"\.(\w+): .* is ([+-][\d.]+) % from", finding.message)
            assert off
            assert abs(float(off[2])) <= 100 * LOOSE.get((device.name, off[1]), 0.01), finding.message


@pytest.mark.parametrize("stem", [stem for stem in STEMS if "pcie" in load_device(stem).datasheet.links])
def test_pcie_is_that_of_its_lanes(stem: str) -> None:
    """All lanes of its generation in one direction; the link of a TPU's host has no lanes in its name."""
    link = load_device(stem).datasheet.links["pcie"]
    if lanes := lanes_byte_per_s(link.type):
        assert link.byte_per_s.value == pytest.approx(lanes, rel=0.01)
    else:
        assert link.type == "host connection"


def generation(stem: str) -> str | None:
    """The generation of InfiniBand between nodes, where a file names one."""
    node = load_device(stem).node
    words = node.between.type.replace(",", "").split() if node and node.between else []
    return words[1] if words[:1] == ["InfiniBand"] and words[1] in INFINIBAND else None


@pytest.mark.parametrize("stem", [path.stem for path in NODES.paths() if generation(path.stem)])
def test_infiniband_has_one_port_per_device(stem: str) -> None:
    node, found = load_device(stem).node, generation(stem)
    assert node
    assert node.between
    assert found
    assert node.between.byte_per_s.value == pytest.approx(INFINIBAND[found] * 1e9 / 8)


# Peaks in TFLOP/s that NVIDIA's attention benchmark printed: SM x FLOP per clock x a clock in whole MHz.
PRINTED = {
    "gb200": {"bf16": (2568, 2269), "fp8": (5135,)},
    "gb300": {"bf16": (2578, 2474), "fp8": (5155, 4948, 4911)},
    "h200_sxm": {"bf16": (1071,), "fp8": (2141,)},
    "rtx_pro_6000_server": {"bf16": (468, 453), "fp8": (936, 904)},
}


@pytest.mark.parametrize("name", PRINTED)
def test_processors_give_the_peaks_that_a_benchmark_of_nvidia_printed(name: str) -> None:
    """NVIDIA/cudnn-frontend, results of August 2026; of 148 SM no clock gives those of GB200 and GB300."""
    device = load_device(name)
    assert device.datasheet.processors is not None
    rate, ratios, *_ = RATES[device.architecture]
    for dtype, peaks in PRINTED[name].items():
        flop_per_mhz = device.datasheet.processors.value * rate * ratios.get(dtype, 1) * 1e6
        for peak in peaks:
            whole = round(peak * 1e12 / flop_per_mhz)
            assert round(whole * flop_per_mhz / 1e12) == peak, f"{dtype}: {peak} TFLOP/s at no whole MHz"
