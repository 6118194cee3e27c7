"""A measured device file loads, says where each number comes from, and bounds what runs on the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hwspecs import Device, load_device
from hwspecs.loader import HARDWARE
from hwspecs.values import walk
from profiler.ceilings import device as ceilings_device
from profiler.ceilings.measure import measure_ceilings
from profiler.ceilings.plan import Plan
from profiler.device_file import as_yaml
from profiler.probes import ARRAYS, footprints
from profiler.treatments.weight_only import has_fbgemm
from profiler.yardsticks import CPU_SIZES, GPU_SIZES, TERMS, yardsticks
from roofline.ceilings import Fidelity, available, ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.times import operator_class, times
from specfiles.reading import parse_yaml
from specfiles.strict import validated
from workloads.blocks import MlpBlock
from workloads.catalogue import MODELS, load_model
from workloads.dtypes import Precision
from workloads.operators import Gemm
from workloads.phases import Setting, decode, operators, prefill
from workloads.techniques.registry import parse

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def reloaded(device: Device) -> Device:
    return validated(Device, parse_yaml(as_yaml(device), "again"), "again")


@pytest.fixture(scope="module")
def here(measured_file: Path) -> Device:
    return load_device(measured_file)


@pytest.fixture(scope="module")
def in_memory(brief: None) -> tuple[Device, list[str]]:
    """A second measurement, in two passes and two formats, and what it said meanwhile."""
    told: list[str] = []
    return measure_ceilings(Plan("cpu", ("fp32", "bf16"), passes=2, progress=told.append)), told


def test_the_file_is_the_device(in_memory: tuple[Device, list[str]]) -> None:
    assert reloaded(in_memory[0]) == in_memory[0]


def test_a_given_data_sheet_is_kept_and_its_measured_part_replaced(
    brief: None, paper_device: Callable[..., Device]
) -> None:
    sheet = paper_device(measured={"dram_byte_per_s": {"value": 1.0, "source": "sheet"}}, aliases=["p"])
    found = measure_ceilings(Plan("cpu", ("fp32",), passes=1, sheet=sheet))
    assert (found.name, found.aliases, found.datasheet) == (sheet.name, sheet.aliases, sheet.datasheet)
    assert found.measured.dram_byte_per_s is not None
    assert found.measured.dram_byte_per_s.source == "measured"
    assert {value.source for _, value in walk(found.measured)} == {"measured"}
    assert reloaded(found) == found


@pytest.mark.parametrize("path", HARDWARE.paths(), ids=lambda path: path.stem)
def test_every_shipped_device_survives_being_written(path: Path) -> None:
    """A run keeps a copy of the device file that it belongs to."""
    device = load_device(path)
    assert reloaded(device) == device


@pytest.mark.parametrize("value", [1_082_331_758_592.0, 1 / 3, 5e-24, 123456789.0, 1e-9, 2.0**60])
def test_no_digit_is_lost(value: float, paper_device: Callable[..., Device]) -> None:
    """A machine of a terabyte has thirteen digits of bytes."""
    device = paper_device()
    capacity = device.datasheet.dram.capacity_bytes.replace(value=value)
    dram = device.datasheet.dram.replace(capacity_bytes=capacity)
    device = device.replace(datasheet=device.datasheet.replace(dram=dram))
    assert reloaded(device) == device


def test_every_number_names_a_source(here: Device) -> None:
    """`walk` visits data sheet and measurements; those measured here say how and on what."""
    for path, number in walk(here):
        assert number.source in here.sources, path
        if path.startswith("measured."):
            assert number.source == "measured"
            assert "spread" in (number.note or "")


def test_the_source_is_enough_to_judge_it(here: Device) -> None:
    source = here.sources["measured"]
    assert f"torch {torch.__version__}" in source
    assert "medians of 1 passes, ended by: all repeats" in source
    assert "threads 1" in source
    date = source.partition("date ")[2].partition(",")[0]
    assert datetime.fromisoformat(date).year >= 2024
    assert here.architecture in source  # the processor
    assert here.calibration is not None
    assert f"torch {torch.__version__}" in here.calibration.source
    assert "held out" in here.calibration.source


def test_a_cpu_without_a_data_sheet_has_no_stated_peak(here: Device) -> None:
    assert here.kind == "cpu"
    assert here.name == "here"
    assert not here.datasheet.tensor_flop_per_s
    assert not here.datasheet.vector_flop_per_s
    assert here.datasheet.dram.byte_per_s is None
    assert here.datasheet.dram.capacity_bytes.value > 1e8
    assert here.datasheet.processors is not None
    assert here.datasheet.processors.value == torch.get_num_threads()


def test_no_number_is_above_those_of_the_fastest_socket(here: Device) -> None:
    """How slow a machine may be is nobody's to say; test_probes.py has each on paper."""
    measured = here.measured
    assert 0 < measured.vector_flop_per_s["fp32"].value < 1e14
    assert measured.dram_byte_per_s is not None
    assert 0 < measured.dram_byte_per_s.value < 1e13
    assert measured.special_op_per_s is not None
    assert 0 < measured.special_op_per_s.value < 1e13
    assert measured.launch_s is not None
    assert measured.launch_s.value > 1e-8


def test_the_curve_goes_from_a_first_level_cache_to_memory(here: Device) -> None:
    curve = here.measured.bandwidth_curve
    for pattern in ARRAYS:
        sizes = [p.footprint_bytes for p in curve if p.pattern == pattern]
        assert sizes == [float(size) for size in footprints(1 << 18)]
    assert here.measured.dram_byte_per_s is not None
    beyond = [p.byte_per_s for p in curve if p.footprint_bytes >= 2 * (1 << 18)]
    assert here.measured.dram_byte_per_s.value == max(beyond)


@pytest.mark.parametrize("cache_bytes", [1_000, 32_768, 1_000_000, 33_554_432, 500_000_000])
def test_footprints_double_to_well_beyond_the_cache(cache_bytes: int) -> None:
    sizes = footprints(max(cache_bytes, 4096))
    assert all(b == 2 * a for a, b in pairwise(sizes))
    assert sizes[0] == 16_384
    assert sizes[-1] >= 4 * cache_bytes
    assert any(size >= 2 * cache_bytes for size in sizes)


def test_the_measured_and_the_calibrated_roofline_stand_on_it(here: Device) -> None:
    assert available(here) == [Fidelity.MEASURED, Fidelity.CALIBRATED]
    setting = {"prompt": 32, "output": 4}
    for fidelity in available(here):
        assert ceilings(here, fidelity).device == "here"
        totals = predict(
            Scenario(load_model("SmolLM2-135M").model, setting=Setting(Precision.of("fp32")), **setting),
            here,
            fidelity,
        ).totals()
        assert 0 < totals["tpot_s"] < float("inf")
        assert 0 < totals["ttft_s"] < float("inf")


def test_every_operator_class_of_a_dense_model_is_calibrated(in_memory: tuple[Device, list[str]]) -> None:
    calibration = in_memory[0].calibration
    assert calibration is not None
    assert set(calibration.operators) == set(TERMS)
    for name, entries in calibration.operators.items():
        multiplied = ["int8"] if name in ("gemm", "gemv") and has_fbgemm() else []
        assert sorted(entry.dtype for entry in entries) == sorted(["fp32", "bf16", *multiplied]), name
        for entry in entries:
            assert entry.points >= 3  # one of four models is held out
            assert 0 <= entry.median_error < float("inf")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_terms_cover_what_the_yardsticks_run(device: str) -> None:
    """An operator class without terms would end the calibration in a KeyError."""
    kinds = {
        operator_class(named.operator)
        for loaded in yardsticks(device)
        for step in (prefill(1, 8), decode(1, 8))
        for named in operators(loaded.model, step)
    }
    assert kinds | {"gemv_int8"} == set(TERMS)


@pytest.mark.skipif(not has_fbgemm(), reason="this PyTorch has no FBGEMM, whose products these are")
def test_quantised_products_are_predicted_where_they_were_measured(here: Device) -> None:
    """The technique needs a peak to be applied at all; it has constants of both of its products beside."""
    asked = Scenario(
        load_model("SmolLM2-135M").model, setting=Setting(Precision.of("fp32")), prompt=32, output=4
    )
    treated = replace(asked, techniques=(parse("w8a8"),))
    limits = ceilings(here, "calibrated")
    assert {("gemm", "int8"), ("gemv", "int8")} <= set(limits.constants)
    assert here.measured.vector_flop_per_s["int8"].note is not None
    assert "quantised" in here.measured.vector_flop_per_s["int8"].note
    for fidelity in available(here):
        plain, narrow = (predict(each, here, fidelity).totals() for each in (asked, treated))
        assert plain["tpot_s"] != narrow["tpot_s"] > 0
    for rows in (1, 32):
        product = Gemm(rows, 576, 576, "int8", "int8", "fp32")
        assert (
            times(product, limits).launch_s
            == limits.constants["gemv" if rows == 1 else "gemm", "int8"].launch_s
        )


def test_progress_is_told_pass_by_pass(in_memory: tuple[Device, list[str]]) -> None:
    assert in_memory[1] == ["pass 1 of 2", "pass 2 of 2"]


@pytest.mark.parametrize("sizes", [CPU_SIZES, GPU_SIZES], ids=["cpu", "gpu"])
def test_no_yardstick_is_a_shipped_model(sizes: dict[str, Any]) -> None:
    """Real models test the constants; the constants must not have seen their matrices."""
    models = [load_model(path).model for path in MODELS]
    shipped = {
        (model.hidden, block.width): model.name
        for model in models
        for block in model.layers[0].blocks
        if isinstance(block, MlpBlock)
    }
    assert sorted(sizes) == list(sizes)
    assert len(sizes) >= 4  # every fourth is held out of the fit
    for size in sizes.values():
        assert size.hidden % size.heads == 0
        assert size.heads % size.kv_heads == 0
        assert (size.hidden, size.width) not in shipped, shipped.get((size.hidden, size.width))


def test_yardsticks_are_models_that_can_be_built() -> None:
    for device in ("cpu", "cuda:0"):
        for loaded in yardsticks(device):
            assert loaded.model.family == "llama"
            assert loaded.model.name.startswith("yardstick-")


def test_a_gpu_without_a_data_sheet_is_described_by_its_compute_capability() -> None:
    """By which its kernels are chosen, not by its host's processor."""
    gpu = {"gpu": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "compute_capability": "9.0", "processor": "AMD EPYC"}
    assert ceilings_device._made_by(gpu, "H100 MIG") == ("NVIDIA", "compute capability 9.0 (sm90)")
    cpu = {"processor": "Intel(R) Xeon(R) 6980P"}
    assert ceilings_device._made_by(cpu, cpu["processor"]) == ("Intel", cpu["processor"])


@pytest.mark.gpu
def test_ceilings_of_a_gpu_are_below_its_data_sheet(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from profiler.yardsticks import Size, Steps

    sizes = {name: Size(256 * i, 4 * i, 2 * i, 512 * i, 1000 * i, 2) for i, name in enumerate("abcd", 1)}
    monkeypatch.setattr("profiler.yardsticks.GPU_SIZES", sizes)
    monkeypatch.setattr("profiler.yardsticks.GPU_STEPS", Steps(((1, 64, 64),), ((1, 1, 64), (4, 1, 256))))
    measured = measure_ceilings(Plan(cuda, ("bf16",), passes=1))
    assert reloaded(measured) == measured
    stated = measured.datasheet
    reached = measured.measured
    assert reached.dram_byte_per_s is not None
    if stated.dram.byte_per_s:
        assert 0.3 < reached.dram_byte_per_s.value / stated.dram.byte_per_s.value < 1.05
    if "bf16" in stated.tensor_flop_per_s:
        ratio = reached.tensor_flop_per_s["bf16"].value / stated.tensor_flop_per_s["bf16"].value
        assert 0.3 < ratio < 1.05
