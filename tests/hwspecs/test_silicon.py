"""Values of device and node files that no rule of `hwspecs.check` judges, against documents beside theirs.

Values without such a document are left to the files: a figure copied from a file would say nothing of it.
"""

import pytest

from hwspecs.loader import DEVICES, NODES, load_device

# Matrix units x multiply-adds of one per clock, and Hz. Gaudi: stas00/ml-engineering@b9e2972,
# compute/accelerator/README.md, "How To Calculate Theoretical TFLOPS". TPU v5e: four units (Google Cloud
# documentation, TPU v5e) of 128 x 128 at 1.5 GHz (jax-ml/scaling-book@04d8de5, tpus.md, "What Is a TPU?"),
# 8 bits at twice the rate (there, "Key Takeaways").
ARRAYS = {
    ("gaudi2", "bf16"): (2 * 256 * 256, 1.65e9),
    ("gaudi3", "bf16"): (8 * 256 * 256, 1.6e9),
    ("tpu_v5e", "bf16"): (4 * 128 * 128, 1.5e9),
    ("tpu_v5e", "int8"): (2 * 4 * 128 * 128, 1.5e9),
}
# Bytes/s of all links in one direction.
LINKS = {
    ("mi250x", "xgmi"): 7 * 25e9 * 2,  # ROCm documentation, MI250 microarchitecture: 25 GT/s, two bytes each
    ("trainium2", "chip"): 1.28e12
    / 2,  # AWS Neuron documentation, Trainium2 Architecture: 1.28 TB/s per chip
}
# Bytes of L2 for each memory controller of 32 bits. NVIDIA Ampere GA102 GPU Architecture: 512 KB; NVIDIA Ada
# GPU Architecture: 98304 KB in the full AD102, 16 times as much as GA102.
L2 = {**dict.fromkeys(("a10", "a40", "rtx_a6000", "rtx3090"), 0.5e6), "l40s": 8e6, "rtx_6000_ada": 8e6}
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
    assert sheet.l2.capacity_bytes.value == L2[stem] * sheet.dram.bus_bits.value / 32


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
