"""Which constants a row gets, and what every time by a kernel model keeps to."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import Calibration, kernels_of, load_device
from roofline.ceilings import ceilings
from roofline.optable import CALIBRATED_COLUMNS, OUTPUT_COLUMNS, predict_table
from roofline.physics import models
from roofline.physics.base import Gpu
from roofline.physics.columns import dtypes_of
from roofline.physics.kernels import Kernels
from roofline.physics.stand_ins import pools
from roofline.physics.transfer import QUANTITIES, carried, distance
from roofline.times import times
from specfiles.errors import InputError
from tests.roofline.physics.conftest import chosen
from workloads.dtypes import FORMATS, compute_dtype
from workloads.operators import Attention, Gemm

CALIBRATED = ("a100_sxm", "h100_sxm", "b200_sxm")
TRANSFERRED = ("h200_sxm", "l40s", "rtx4090", "b300_sxm", "a100_pcie_40gb")
LIMITS = {name: ceilings(load_device(name), "calibrated") for name in (*CALIBRATED, *TRANSFERRED)}
SIZE = st.integers(1, 30_000)
EIGHT_BITS = (
    ("sglang", "sglang_sgl_kernel_fp8_scaled_mm"),
    ("trtllm", "torch_flow"),
    ("vllm", "CutlassFP8ScaledMMLinearKernel"),
)


def gemms(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"op": "gemm", "dtype": "bfloat16", "m": [16, 4096], "n": 4096, "k": 4096, **columns})


@pytest.mark.parametrize("name", list(LIMITS))
@given(m=SIZE, n=SIZE, k=SIZE)
def test_fidelities_stay_ordered(name: str, m: int, n: int, k: int) -> None:
    table = gemms().assign(m=m, n=n, k=k)
    calibrated = predict_table(table, LIMITS[name])["predicted_us"]
    datasheet = predict_table(table, ceilings(load_device(name)))["predicted_us"]
    assert (calibrated >= datasheet).all()


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_calibrated_device_speaks_for_itself(name: str) -> None:
    result = predict_table(gemms(), LIMITS[name])
    assert list(result.columns)[-3:] == list(CALIBRATED_COLUMNS)
    assert (result["provenance"] == "calibrated").all()
    assert (result["lower_us"] <= result["upper_us"]).all()
    assert (result["fidelity"] == "calibrated").all()


@pytest.mark.parametrize("name", TRANSFERRED)
def test_carried_constants_are_marked(name: str) -> None:
    result = predict_table(gemms(), LIMITS[name])
    assert result["provenance"].str.contains("transferred from").all()
    assert any("transferred from" in note for note in LIMITS[name].notes)


def test_the_kernel_s_own_constants_come_before_the_backend_s_and_these_before_any() -> None:
    named = (("sglang", "sglang"), ("sglang", "no such kernel"), ("no such backend", ""))
    own, backend, anyone = (chosen("h100_sxm", "gemm", "bfloat16", "", *names) for names in named)
    assert own.provenance == "calibrated"
    assert "any backend" in anyone.provenance
    assert len({tuple(c.values.items()) for c in (own, backend, anyone)}) == 3


def test_weights_are_widened_unless_a_library_that_multiplies_integers_is_asked_for() -> None:
    asked, plain = (chosen("h100_sxm", "gemm", "int8_wo", "", engine) for engine in ("sglang", ""))
    assert asked.provenance == "calibrated"
    assert plain.provenance == "transferred from bfloat16"
    asked, fp8 = (chosen("h100_sxm", "gemm", d, "", "sglang", unseen=True) for d in ("int8_wo", "fp8"))
    assert asked.values["compute_share"] == fp8.values["compute_share"], "of another product of 8 bits"
    assert not asked.kernel, "its tiles are those of the kernel that is asked for"


def test_integers_of_a_weight_only_product_are_bound_by_their_own_peak() -> None:
    """SGLang's `int8_scaled_mm` was measured at 1.33e15 on an H100 (sgl-project/sglang pull request 3035)."""
    device = load_device("h100_sxm")
    row = {"op": "gemm", "dtype": "int8_wo", "m": 2048, "n": 8192, "k": 21_760}
    table = pd.DataFrame([row | {"backend": backend} for backend in ("sglang", "")])
    integers, widened = predict_table(table, ceilings(device, "calibrated"))["predicted_us"]
    flop, peaks = 2 * row["m"] * row["n"] * row["k"], device.datasheet.tensor_flop_per_s
    assert peaks["bf16"].value < flop / integers * 1e6 < peaks["int8"].value
    assert flop / widened * 1e6 < peaks["bf16"].value


def test_a_replayed_product_is_faster_than_the_memory_where_the_l2_keeps_its_weights() -> None:
    """An L40S took 8.6 us with 16.8 MB of weights in fp8 (vllm-project/vllm pull request 6677): 1.95 TB/s."""
    sizes = {"m": 8, "n": [1024, 1024, 8192], "k": [4096, 4096, 16_384]}
    linear = "torch.nn.functional.linear"
    table = pd.DataFrame({"op": "gemm", "dtype": "bfloat16", **sizes, "kernel": [linear, "", linear]})
    kept, unnamed, streamed = predict_table(table, ceilings(load_device("l40s"), "calibrated"))[
        "predicted_us"
    ]
    bound_us = 2 * 1024 * 4096 / 864e9 * 1e6
    assert 2.0 < kept < bound_us <= unnamed, "what names no kernel may be an operator of a model"
    assert streamed > 2 * 8192 * 16_384 / 864e9 * 1e6


@pytest.mark.parametrize("name", ["b200_sxm", "b300_sxm", "rtx_pro_6000_server"])
def test_sglang_has_no_product_of_integers_on_blackwell(name: str) -> None:
    """`int8_scaled_mm` is not implemented beyond compute capability 9.0: weights are widened."""
    found, product = (chosen(name, "gemm", d, "", "sglang") for d in ("int8_wo", "bfloat16"))
    assert found.values["launch_s"] == product.values["launch_s"]
    rows = {**{n: np.array([4096.0]) for n in "mnk"}, "backend": np.array(["sglang"], dtype=object)}
    time = Kernels(load_device(name)).table("gemm", "int8_wo", "", rows)
    assert time is not None
    assert "quantise kernel" not in time.parts


@pytest.mark.parametrize("name", ["a100_sxm", "h100_sxm", "l40s", "a10"])
def test_a_library_s_product_of_integers_is_no_other_s_engine(name: str) -> None:
    """TensorRT's was measured between two events of its engine's profiler, which nobody else pays."""
    own, product = (chosen(name, "gemm", d, "", "vllm") for d in ("sq", "fp8"))
    assert own.values["launch_s"] == product.values["launch_s"] < 4e-6


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server"])
@pytest.mark.parametrize(
    ("backend", "kernel"),
    [("vllm", "CutlassFP8ScaledMMLinearKernel"), ("trtllm", "torch_flow"), ("", "")],
)
def test_tiles_by_rule_are_those_of_the_library_that_is_asked_for(
    name: str, backend: str, kernel: str
) -> None:
    assert chosen(name, "gemm", "fp8", "", backend).kernel == kernel


@pytest.mark.parametrize("name", ["a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s"])
@pytest.mark.parametrize("dtype", ["int8_wo", "int4_wo"])
def test_a_library_s_weight_only_product_is_its_own_and_not_another_s(name: str, dtype: str) -> None:
    """vLLM's (Marlin) starts as its 16-bit product does: neither in TensorRT's engine nor by quantising."""
    own, product = (chosen(name, "gemm", d, "", "vllm") for d in (dtype, "bfloat16"))
    other = chosen(name, "gemm", dtype, "", "trtllm")
    assert own.values["launch_s"] == product.values["launch_s"] < 4e-6
    assert own.provenance.startswith("transferred")
    assert other.values["launch_s"] > 2 * own.values["launch_s"]


@pytest.mark.parametrize("name", list(LIMITS))
def test_narrow_weights_make_a_large_product_of_one_row_faster(name: str) -> None:
    """Weights are all that it moves: half and a quarter of the bytes, whatever widening costs beside them."""
    tables = [gemms().assign(m=1, n=65536, k=8192, dtype=d) for d in ("bfloat16", "int8_wo", "int4_wo")]
    times = [predict_table(table, LIMITS[name])["predicted_us"].iloc[0] for table in tables]
    assert times[0] > 1.3 * times[1]
    assert times[1] > 1.3 * times[2]


def test_a_weight_only_product_that_nobody_measured_is_the_library_s_own_with_narrow_weights() -> None:
    narrow = ("int8_wo", "bfloat16")
    found, product = (chosen("a100_sxm", "gemm", d, "", "trtllm", unseen=True) for d in narrow)
    assert found.provenance == product.provenance
    shared = set(found.values) & set(product.values)
    assert {n: found.values[n] for n in shared} == pytest.approx({n: product.values[n] for n in shared})
    starts = {
        c.name: c.start
        for c in models()["gemm"].constants(Gpu.of(load_device("a100_sxm")), dtypes_of("int8_wo"))
    }
    assert found.values["widen_share"] == starts["widen_share"]


def test_all_backends_products_of_16_bits_speak_for_another_generation() -> None:
    """They are all cuBLAS, whatever the backend calls them: a mean over more of them is surer."""

    def sets(dtype: str, names: Iterable[tuple[str, str]]) -> int:
        """How many different ones."""
        found = [chosen("h100_sxm", "gemm", dtype, "", *each, unseen=True) for each in names]
        return len({tuple(one.values.items()) for one in found})

    assert sets("bfloat16", [(backend, "") for backend in ("sglang", "trtllm", "vllm", "")]) == 1
    assert sets("fp8", EIGHT_BITS) == len(EIGHT_BITS)


def test_a_format_says_more_than_a_kernel_s_name() -> None:
    pairs = [
        (Gpu.of(load_device("b200_sxm")), kernel)
        for kernel in kernels_of(load_device("b200_sxm"))
        if kernel.op == "gemm" and kernel.backend
    ]
    formats = [("fp8_block", ""), ("fp8", "")]
    order = pools(pairs, Gpu.of(load_device("h100_sxm")), "gemm", formats, "trtllm", "torch_flow")
    first = next(pool for pool, one in order if any((k.dtype, k.kv_dtype) == one for _, k in pool))
    assert any(k.dtype == "fp8_block" for _, k in first)


def test_ampere_s_latent_attention_does_not_speak_for_kernels_that_split_sequences() -> None:
    for name, other in (("h100_sxm", "B200-SXM-180GB"), ("b200_sxm", "H100-SXM5-80GB")):
        found = chosen(name, "mla_decode", "bfloat16", "bfloat16", "trtllm", "default", unseen=True)
        assert found.provenance == f"transferred from {other}"


@pytest.mark.parametrize("op", ["rmsnorm", "rope", "act_mul", "elementwise_add"])
def test_passes_over_rows_move_as_many_bytes_in_either_format_of_16_bits(op: str) -> None:
    half, brain = (chosen("a100_sxm", op, dtype) for dtype in ("float16", "bfloat16"))
    carried_there = chosen("l40s", op)
    assert brain.values == half.values
    assert brain.provenance == "transferred from float16"
    assert carried_there.provenance == "transferred from A100-SXM4-80GB"
    (_, lower, upper), *others = carried_there.bands
    assert not others
    measured = next(k for k in kernels_of(load_device("a100_sxm")) if k.op == op)
    assert (lower, upper) == (measured.carried_lower, measured.carried_upper)
    assert measured.upper is not None
    assert measured.lower is not None
    assert upper / lower > measured.upper / measured.lower, "carried from one measured device"


@pytest.mark.parametrize(("op", "library"), [("attention_prefill", "vllm"), ("mla_decode", "sglang")])
def test_attention_of_no_library_is_that_of_the_usual_one_and_less_sure(op: str, library: str) -> None:
    anyone, usual = (chosen("h100_sxm", op, "bfloat16", "fp8", backend) for backend in ("", library))
    assert (anyone.values, anyone.backend, anyone.kernel) == (usual.values, library, usual.kernel)
    assert anyone.provenance == "calibrated (any backend)"
    widths = [np.mean([upper / lower for _, lower, upper in one.bands]) for one in (anyone, usual)]
    assert widths[0] > widths[1], "which library it is, nobody said"


def test_a_device_not_seen_is_predicted_without_its_own_measured_peaks() -> None:
    assert Kernels(load_device("h100_sxm")).gpu.reached
    assert not Kernels(load_device("h100_sxm"), unseen=True).gpu.reached


def test_a_size_beyond_the_fit_is_marked_and_has_no_interval() -> None:
    result = predict_table(gemms(m=[16, 4_000_000]), LIMITS["h100_sxm"])
    assert list(result["provenance"]) == ["calibrated", "calibrated, extrapolated"]
    assert np.isnan(result["upper_us"][1])
    assert result["predicted_us"][1] > result["predicted_us"][0]


def test_a_row_alone_is_the_row_among_many() -> None:
    rng = np.random.default_rng(0)
    many = pd.DataFrame(
        {"op": "gemm", "dtype": "bfloat16", **dict(zip("mnk", rng.integers(1, 9000, (3, 40)), strict=True))}
    )
    whole = predict_table(many, LIMITS["h100_sxm"])["predicted_us"]
    alone = [predict_table(many.iloc[[i]], LIMITS["h100_sxm"])["predicted_us"].iloc[0] for i in range(40)]
    assert list(whole) == pytest.approx(alone, rel=1e-6)  # sums over candidates are of single precision


@pytest.mark.parametrize(
    ("op", "sizes"), [("sampling", {"num_tokens": 64, "n": 128_256}), ("copy", {"bytes": 1e9})]
)
def test_kinds_without_a_kernel_model_keep_to_the_ceilings(op: str, sizes: dict[str, float]) -> None:
    assert op not in models()
    table = pd.DataFrame([{"op": op, "dtype": "bfloat16", **sizes}])
    assert (predict_table(table, LIMITS["h100_sxm"])["provenance"] == "ceilings").all()


@pytest.mark.parametrize("name", [*CALIBRATED, "rtx4090"])
@pytest.mark.parametrize("op", [op for op in models() if op.startswith(("attention", "mla"))])
def test_attention_has_a_time_whatever_kernel_a_row_names(op: str, name: str) -> None:
    backends, kernels = (
        ("", "trtllm", "vllm", "sglang"),
        ("torch_flow", "default", "trtllm_mha", "fa3", "triton"),
    )
    named = pd.DataFrame(
        product(backends, kernels, ("bfloat16", "fp8")), columns=["backend", "kernel", "kv_dtype"]
    )
    sizes = {"batch": 4, "q_len": 1 if op.endswith("decode") else 512, "kv_len": 512, "head_dim": 128}
    table = named.assign(op=op, dtype="bfloat16", n_heads=32, n_kv_heads=32, **sizes)
    assert (predict_table(table, LIMITS[name])["predicted_us"] > 1).all()


def test_other_fidelities_have_no_new_columns() -> None:
    table = gemms()
    found = predict_table(table, ceilings(load_device("h100_sxm")))
    assert list(found.columns) == [*table.columns, *OUTPUT_COLUMNS]


def test_no_dense_peak_is_said_at_every_fidelity() -> None:
    with pytest.raises(InputError, match="no dense peak"):
        predict_table(gemms(dtype="nvfp4"), LIMITS["h100_sxm"])


def test_a_device_is_its_own_nearest_and_keeps_its_constants() -> None:
    gpus = {name: Gpu.of(load_device(name)) for name in (*CALIBRATED, *TRANSFERRED)}
    h100 = gpus["h100_sxm"]
    assert distance(h100, h100) == 0
    assert min(CALIBRATED, key=lambda name: distance(gpus[name], gpus["h200_sxm"])) == "h100_sxm"
    assert min(CALIBRATED, key=lambda name: distance(gpus[name], gpus["b300_sxm"])) == "b200_sxm"
    for model in set(models().values()):
        for dtype in (LIMITS["h100_sxm"].kernels or pytest.fail("no kernels")).formats(model.kinds[0]):
            constants = model.constants(h100, dtype)
            values = {c.name: (c.low + c.high) / 2 for c in constants}
            assert carried(values, constants, h100, h100) == pytest.approx(values)
            assert all(set(c.scales_with.split()) <= set(QUANTITIES) for c in constants)


@pytest.mark.parametrize("inputs", FORMATS)
def test_formats_that_no_table_has_keep_to_the_ceilings(inputs: str) -> None:
    """Ampere multiplies integers of 4 bits, CDNA 4 floats of 6: their kernels were not measured."""
    made = Gemm(64, 4096, 4096, inputs, inputs)
    for device in map(load_device, ("a100_sxm", "mi355x")):
        limits = ceilings(device, "calibrated")
        if compute_dtype(inputs) in limits.matrix_by_dtype:
            assert times(made, limits).time_s >= times(made, ceilings(device)).time_s


def test_an_operator_of_a_model_gets_the_default_kernel() -> None:
    device = LIMITS["h100_sxm"].kernels
    assert device is not None
    found = device.operator(Gemm(16, 4096, 4096))
    assert found is not None
    row = predict_table(gemms(), LIMITS["h100_sxm"])  # 5.5 copies of 34 MB stay in no L2
    assert found.time_s[0] * 1e6 == pytest.approx(row["predicted_us"][0], rel=0.01)


@pytest.mark.parametrize("name", CALIBRATED)
def test_shipped_constants_are_those_that_the_models_ask_for(name: str) -> None:
    """A model that changed its constants needs a new fit: old ones would be used for something else."""
    device = load_device(name)
    for kernel in kernels_of(device):
        model, formats = models()[kernel.op], dtypes_of(kernel.dtype, kernel.kv_dtype)
        asked = {c.name for c in model.constants(Gpu.of(device), formats)}
        assert set(kernel.values) <= asked  # without those that no row of the kernel depends on
        assert kernel.backend or kernel.kernel or set(kernel.values) == asked
        assert kernel.source


@pytest.mark.parametrize(
    ("name", "inputs"), [("a100_sxm", "int8"), ("h100_sxm", "int8"), ("h100_sxm", "fp8")]
)
@pytest.mark.parametrize("m", [1, 16, 4096])
def test_narrow_weights_help_where_the_inputs_are_narrow_too(name: str, inputs: str, m: int) -> None:
    """W4A8 reads the bytes of W4A16 and multiplies as fast as W8A8: no slower than either."""
    made = {
        (a, w): float(times(Gemm(m, 14336, 4096, a, w, "bf16"), LIMITS[name]).time_s)
        for a, w in ((inputs, "int4_g128"), (inputs, inputs), ("bf16", "int4_g128"))
    }
    both = made.pop((inputs, "int4_g128"))
    assert both == pytest.approx(min(made.values()), rel=0.01)
    assert m > 16 or both < 0.9 * made[inputs, inputs]  # a decode step reads half the bytes


@pytest.mark.parametrize("name", CALIBRATED)
def test_few_positions_after_a_long_past_read_each_key_once(name: str) -> None:
    """As where drafts are verified; what more rows multiply and store is small beside endless keys."""

    def time_s(q_len: int, kv_len: int = 32_768) -> float:
        core = Attention(64, q_len, kv_len, 32, 8, 128, "bf16", "bf16", causal=True)
        return float(times(core, LIMITS[name]).time_s)

    assert 1 <= time_s(4) / time_s(1) < 1.5
    assert time_s(4, 4) < time_s(4)  # a prompt of four, without a past


def test_what_a_file_lacks_for_kernel_models_is_named() -> None:
    l4 = load_device("l4")
    with pytest.raises(InputError, match=r"its file lacks l2\.capacity_bytes; use"):
        Gpu.of(l4.replace(datasheet=l4.datasheet.replace(l2=None)))
    with pytest.raises(InputError, match=r"its file lacks an architecture that ends as \(sm90\)"):
        Gpu.of(l4.replace(architecture="Ada"))


def test_attention_without_a_format_of_its_cache_has_that_of_its_inputs() -> None:
    row = {"op": "attention_decode", "dtype": "bf16", "batch": 16, "kv_len": 8192, "n_heads": 32}
    row |= {"n_kv_heads": 8, "head_dim": 128}
    limits = LIMITS["h100_sxm"]
    for named in ({}, {"backend": "vllm"}, {"backend": "sglang"}, {"kernel": "flashinfer"}):
        both = pd.DataFrame([{**row, **named, "kv_dtype": kv} for kv in ("", "bf16")])
        unsaid, said = predict_table(both, limits)["predicted_us"]
        assert unsaid == said


@pytest.mark.parametrize("name", ["h100_sxm", "l40s", "rtx4090"])
@pytest.mark.parametrize("limit", ["bytes", "FLOP"])
def test_an_interval_begins_no_lower_than_what_the_data_sheet_allows(name: str, limit: str) -> None:
    """Also where constants come from other GPUs, so that intervals are wide."""
    cache = {"op": "attention_decode", "batch": 16, "kv_len": 8192, "n_heads": 32, "n_kv_heads": 8}
    row = cache | {"head_dim": 128} if limit == "bytes" else {"op": "gemm", "m": 8192, "n": 8192, "k": 8192}
    table = pd.DataFrame([{"dtype": "bf16", **row}])
    found = predict_table(table, LIMITS[name]).iloc[0]
    floor = predict_table(table, ceilings(load_device(name))).iloc[0]
    assert floor["predicted_us"] <= found["lower_us"] * (1 + 1e-9)
    assert found["lower_us"] <= found["predicted_us"] <= found["upper_us"]


def test_constants_of_the_device_s_own_file_come_before_shipped_ones_of_more_rows() -> None:
    h100 = load_device("h100_sxm")
    shipped = next(k for k in kernels_of(h100) if (k.op, k.dtype, k.backend) == ("gemm", "bfloat16", ""))
    own = shipped.replace(points=5, values={**shipped.values, "launch_s": 2 * shipped.values["launch_s"]})
    mine = h100.replace(calibration=Calibration(source="mine", operators={}, kernels=[own]))
    usual, slower = (Kernels(each).choose("gemm", "bfloat16", "", "", "") for each in (h100, mine))
    assert usual is not None
    assert slower is not None
    assert slower.values["launch_s"] == 2 * usual.values["launch_s"]
