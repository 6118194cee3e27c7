"""The device files against a table of facts collected by others, where it lies beside the repository."""

import csv
from pathlib import Path

import pytest

from hwspecs import measured
from hwspecs.loader import DEVICES, load_device
from hwspecs.schema import Device
from hwspecs.values import walk

TABLE = Path(__file__).parents[2].parent / "shared" / "facts" / "hardware.csv"
pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason=f"the table of facts is not at {TABLE}")
ROWS = list(csv.DictReader(TABLE.open(encoding="utf-8"))) if TABLE.is_file() else []

COLUMNS: dict[str, tuple[float, tuple[str, ...]]] = {  # column: its unit in SI, the keys that may hold it
    "sm_or_cu": (1, ("processors",)),
    "boost_clock_mhz": (1e6, ("clock_hz", "vector_clock_hz")),
    "fp64_vector_tflops": (1e12, ("vector_flop_per_s.fp64",)),
    "fp64_matrix_tflops": (1e12, ("tensor_flop_per_s.fp64",)),
    "fp32_tflops": (1e12, ("vector_flop_per_s.fp32", "tensor_flop_per_s.fp32")),
    "tf32_dense_tflops": (1e12, ("tensor_flop_per_s.tf32",)),
    "fp16_dense_tflops": (1e12, ("tensor_flop_per_s.fp16", "vector_flop_per_s.fp16")),
    "bf16_dense_tflops": (1e12, ("tensor_flop_per_s.bf16",)),
    "fp8_dense_tflops": (1e12, ("tensor_flop_per_s.fp8",)),
    "int8_dense_tops": (1e12, ("tensor_flop_per_s.int8",)),
    "fp4_dense_tflops": (1e12, ("tensor_flop_per_s.fp4",)),
    "int4_dense_tops": (1e12, ("tensor_flop_per_s.int4",)),
    "sparse_2to4_factor": (1, ("structured_sparsity",)),
    "mem_gb": (1e9, ("dram.capacity_bytes",)),
    "mem_bw_gbs": (1e9, ("dram.byte_per_s",)),
    "l2_mb": (1e6, ("l2.capacity_bytes",)),
    "llc_mb": (1e6, ("last_level_cache.capacity_bytes",)),
    "smem_max_kb_per_sm": (1024, ("shared_bytes_per_processor",)),
    "regfile_kb_per_sm": (1024, ("register_bytes_per_processor",)),
    "link_gbs_per_direction": (
        1e9,
        tuple(f"links.{name}.byte_per_s" for name in ("nvlink", "xgmi", "ici", "ethernet", "chip")),
    ),
    "pcie_gbs_per_direction": (1e9, ("links.pcie.byte_per_s", "links.chip.byte_per_s")),
    "tdp_w": (1, ("tdp_w",)),
}
FP32_ACCUMULATION = "the table has the peak with FP16 accumulation, the file the one with FP32 accumulation"
AMX = "the table took 2048 BF16 FLOP per core and clock from memory; Intel states 1024, and 2048 for INT8"
SIX_STACKS = "50 is the H100 with five stacks of memory; drivers report 60 MiB of Hoppers with six"
ULTRA = "the table has 288 GB at 8 TB/s and FP64 rounded up; the data sheet has 270 GB, 7.7 TB/s, 1.2 TFLOP/s"
DIFFERENT = {
    **{(name, "l2_mb"): SIX_STACKS for name in ("H100-NVL-94GB", "H200-SXM-141GB", "GH200-96GB/144GB")},
    **{
        ("B300-SXM-288GB (HGX)", column): ULTRA
        for column in ("mem_gb", "mem_bw_gbs", "fp64_vector_tflops", "fp64_matrix_tflops")
    },
    ("GB200 (per GPU)", "l2_mb"): "126 is the B200; of the wider memory of this GPU comes more L2",
    ("RTX-PRO-6000-Blackwell-Server", "mem_bw_gbs"): "1792 is the workstation card; the data sheet says 1597",
    ("A10-24GB", "fp64_vector_tflops"): "TechPowerUp's; compute capability 8.6 has half of that rate",
    ("H20-96GB", "tdp_w"): "400 in the table is from memory; the driver allows 500",
    ("RTX-3090-24GB", "fp16_dense_tflops"): FP32_ACCUMULATION,
    ("RTX-4090-24GB", "fp16_dense_tflops"): FP32_ACCUMULATION,
    ("RTX-4090-24GB", "fp8_dense_tflops"): FP32_ACCUMULATION,
    ("RTX-5090-32GB", "fp16_dense_tflops"): FP32_ACCUMULATION,
    ("RTX-5090-32GB", "fp8_dense_tflops"): FP32_ACCUMULATION,
    ("Xeon-Platinum-8480+ (AMX)", "bf16_dense_tflops"): AMX,
    ("Xeon-Platinum-8480+ (AMX)", "int8_dense_tops"): AMX,
    ("L4-24GB", "tf32_dense_tflops"): "60 in the table is from memory; half the 16-bit peak is 60.6",
    ("GB200 (per GPU)", "sm_or_cu"): "148 is the B200; 152 give the 80 TFLOP/s of FP32",
    ("TPU-v4", "mem_bw_gbs"): "both documents that were read say 1200 GB/s",
    (
        "TPU-v4",
        "link_gbs_per_direction",
    ): "the table has the scaling book's estimate; Google: 50 GB/s per link",
}


def agrees(device: Device, row: dict[str, str], column: str) -> bool | None:
    """Whether one of the keys has the table's value, to its printed digits; None where either has none."""
    unit, keys = COLUMNS[column]
    stated = {key: value.value for key, value in walk(device.datasheet)}
    found = [stated[key] for key in keys if key in stated]
    text = row[column]
    if not found or not text.replace(".", "", 1).isdigit():
        return None
    binary = {"mem_gb": 2**30, "l2_mb": 2**20, "llc_mb": 2**20}  # documents print GB for GiB, MB for MiB
    units = (unit, binary.get(column, unit))
    last_digit = 10.0 ** -len(text.partition(".")[2])
    # 31 GB/s of PCIe 4.0 is 31.5 cut off; the other columns are rounded
    slack = 0.02 if column == "pcie_gbs_per_direction" else 0.005
    expected, tolerance = float(text), max(slack * float(text), 0.5 * last_digit if "." in text else 0)
    return any(abs(value / one - expected) <= tolerance * (1 + 1e-9) for value in found for one in units)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["device"])
def test_the_file_agrees_with_the_table(row: dict[str, str]) -> None:
    device = load_device(row["device"])
    for column in COLUMNS:
        verdict = agrees(device, row, column)
        if (row["device"], column) in DIFFERENT:
            assert verdict is False, f"{column}: no longer different, remove the exception"
        else:
            assert verdict is not False, f"{column}: {row[column]}"


def test_every_row_has_a_file_of_its_own() -> None:
    assert len({DEVICES.find(row["device"]) for row in ROWS}) == len(ROWS)


MEASURED = {  # column: its unit in SI, the key below `measured`
    "measured_bw_gbs": (1e9, "dram_byte_per_s"),
    "mamf_bf16_tflops": (1e12, "tensor_flop_per_s.bf16"),
    "mamf_fp8_tflops": (1e12, "tensor_flop_per_s.fp8"),
}
WRITE_ONLY = "reached by writing alone; the file has the figure for reading, which inference mostly does"
OTHER_PART = "reached on a sibling with other memory: it says nothing of this device"
UNFIT = "the benchmark keeps two blocks per SM by design and stays below what weights stream at"
NOT_TAKEN = {
    ("A100-SXM4-40GB", "measured_bw_gbs"): WRITE_ONLY,
    ("A100-SXM4-80GB", "measured_bw_gbs"): WRITE_ONLY,
    ("H100-PCIe-80GB", "measured_bw_gbs"): WRITE_ONLY,
    ("MI210", "measured_bw_gbs"): WRITE_ONLY,
    ("RTX-A6000-48GB", "measured_bw_gbs"): OTHER_PART,
    ("V100-SXM2-32GB", "measured_bw_gbs"): OTHER_PART,
    ("L40S-48GB", "measured_bw_gbs"): OTHER_PART,
    ("H200-SXM-141GB", "measured_bw_gbs"): UNFIT,
    ("GB200 (per GPU)", "measured_bw_gbs"): "weights streamed at 7.439 TB/s; the table has a cloud's 7.35",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["device"])
def test_public_measured_ceilings_stand_in_the_file(
    row: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the value, or in its note where another measurement of the same quantity is higher."""
    monkeypatch.setattr(measured, "FOLDER", tmp_path)  # of shipped campaigns, whose ceilings come first
    found = dict(walk(load_device(row["device"]).measured))
    for column, (unit, key) in MEASURED.items():
        if not row[column]:
            continue
        value, figure = found.get(key), float(row[column])
        taken = value is not None and (
            abs(value.value / unit - figure) <= 0.005 * figure or f"{figure:g}" in (value.note or "")
        )
        if (row["device"], column) in NOT_TAKEN:
            assert not taken or f"{figure:g}" in str(value), "no longer different, remove the exception"
        else:
            assert taken, f"{column}: {figure:g} against {value}"
