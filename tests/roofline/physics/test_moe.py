"""The layer of routed experts: limits known on paper, and held-out error on public measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.physics.base import Gpu, total
from roofline.physics.columns import dtypes_of
from roofline.physics.moe import CONSTANTS, MoeModel, launches
from roofline.physics.transfer import TWO_DIES, carried
from roofline.predict import predict
from roofline.scenario import Scenario
from tests.roofline.physics.conftest import chosen
from workloads.catalogue import load_model
from workloads.phases import Setting

GPU = Gpu.of(load_device("h100_sxm"))
START = {c.name: c.start for c in CONSTANTS}
ANY = st.fixed_dictionaries({c.name: st.floats(c.low, c.high) for c in CONSTANTS})


def parts(dtype: str = "bfloat16", c: Any = None, gpu: Gpu = GPU, **sizes: Any) -> dict[str, Any]:
    names = {"num_tokens": 64, "hidden": 2048, "inter": 768, "topk": 8, "num_experts": 128, **sizes}
    count = max(np.size(v) for v in names.values())
    rows = {
        n: np.full(count, v, dtype=object if isinstance(v, str) else np.float64) if np.ndim(v) == 0 else v
        for n, v in names.items()
    }
    return MoeModel().parts(rows, gpu, dtypes_of(dtype), c or START)


def time(dtype: str = "bfloat16", c: Any = None, gpu: Gpu = GPU, **sizes: Any) -> Any:
    return total(parts(dtype, c, gpu, **sizes))


def products(dtype: str = "bfloat16", c: Any = None, gpu: Gpu = GPU, **sizes: Any) -> float:
    """Seconds of the products alone."""
    found = parts(dtype, c, gpu, **sizes)
    return float(np.ravel(found["ideal"] + found["reached"] + found["tiles"])[0])


# What stands beside products made cheap, and their operands: the FLOP are left.
COMPUTE = {**START, "passes": 0.2, "token_passes": 0.1, "l2_share": 2.5}
# Products alone, of whole and of broken waves alike.
SMOOTH = {**START, "tile_s": 1e-7, "whole_waves": 0.0, "reread": 0.03}
ONE = {"topk": 1, "num_experts": 1, "hidden": 8192, "inter": 8192}
SIXTY_FOUR = {"topk": 1, "num_experts": 64, "hidden": 4096, "inter": 4096}


@given(
    ANY, st.integers(1, 30_000), st.sampled_from([1, 2, 8]), st.sampled_from(["balanced", "power_law_1.2"])
)
def test_parts_are_never_negative_and_begin_with_the_roofline(
    c: dict[str, float], tokens: int, ranks: int, distribution: str
) -> None:
    found = parts(c=c, num_tokens=tokens, moe_ep=ranks, distribution=distribution)
    assert next(iter(found)) == "ideal"
    for name, seconds in found.items():
        assert np.isfinite(seconds).all(), name
        assert (seconds >= 0).all(), name


@pytest.mark.parametrize("kernel", ["", "vllm_flashinfer_trtllm_moe_fp4"])
def test_many_tokens_approach_the_share_of_the_peak(kernel: str) -> None:
    alone = {**START, "passes": 0.05, "choice_s": 1e-11, "reread": 0.03, "l2_share": 1.5, "tile_s": 1e-7}
    found = parts(c=alone, num_tokens=100_000, kernel=kernel)
    assert total(found) == pytest.approx(found["ideal"] / alone["compute_share"], rel=0.12)


def test_few_tokens_stream_the_weights_of_the_experts_they_touch() -> None:
    """One token of a layer reads topk experts: 8 of 128 take less than all by what streams at the peak."""
    one, all_ = (time(num_tokens=tokens, hidden=8192, inter=8192) for tokens in (1, 4096))
    weights = 3 * 8192 * 8192 * 2
    streamed = 8 * weights / (START["memory_share"] * GPU.dram_byte_per_s)
    assert one == pytest.approx(streamed, rel=0.05)
    assert all_ > 16 * one * 0.9


def test_more_tokens_take_longer_within_one_kind_of_routing() -> None:
    tokens = np.array([1.0, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384])
    assert (np.diff(time(num_tokens=tokens)) > 0).all()


def test_a_skewed_batch_on_its_hottest_rank_takes_longer_than_a_balanced_one() -> None:
    even, skewed = (
        time(num_tokens=8192, moe_ep=8, distribution=name) for name in ("balanced", "power_law_1.2")
    )
    assert skewed > 1.4 * even


def test_a_layer_without_a_gate_has_two_matrices_of_three_unless_the_kernel_knows_gates_only() -> None:
    gated, plain = (parts(num_tokens=16384, gated=flag)["ideal"] for flag in (1, 0))
    assert plain == pytest.approx(gated * 2 / 3)
    assert time(num_tokens=64, gated=0, kernel="vllm_fused_moe") == time(
        num_tokens=64, kernel="vllm_fused_moe"
    )
    by_class = parts(num_tokens=16384, gated=0, kernel="vllm_unquantizedfusedmoe_triton_tritonexperts")
    assert by_class["ideal"] == plain


@given(ANY, st.integers(1, 30_000), st.sampled_from(["sglang", "vllm"]))
def test_the_engine_s_one_tile_is_never_faster_than_the_best(
    c: dict[str, float], tokens: int, engine: str
) -> None:
    """Of width 800 nobody tuned 128 experts for H100; no engine's name, no rule."""
    sizes = {"kernel": "fused_moe_triton", "num_tokens": tokens, "inter": 800}
    one, best = (time(c=c, backend=name, **sizes) for name in (engine, ""))
    assert best <= one * (1 + 1e-9)


def test_vllm_takes_small_tiles_of_blocks_up_to_64_tokens() -> None:
    """One expert that nobody tuned, multiplied slowly: 64 rows are multiplied for 64 tokens, 128 for 65."""
    alone = {**START, "compute_share": 0.02, "least_rows": 8.0, "whole_waves": 0.0, "tile_s": 1e-7}
    named = {"backend": "vllm", "kernel": "vllm_fused_moe", "topk": 1, "num_experts": 1, "inter": 6400}
    few, more = (time("fp8_block", alone, num_tokens=tokens, hidden=32_768, **named) for tokens in (64, 65))
    assert more == pytest.approx(2 * few, rel=0.02)


def test_a_last_wave_takes_as_long_as_a_full_one_where_nothing_fills_it() -> None:
    """One token of 8 experts of 1100 wide tiles of a product: 66.7 waves on 132 processors are 67."""
    alone = {**START, "compute_share": 0.02, "memory_share": 1.0, "passes": 0.2, "token_passes": 0.1}
    sizes = {"num_tokens": 1, "hidden": 256 * 1100, "inter": 256}
    part, whole = (time(c={**alone, "whole_waves": share}, **sizes) for share in (0.0, 1.0))
    assert part < whole < part * 67 / 66


def test_products_of_single_warps_reach_less_of_newer_peaks() -> None:
    """Marlin at many tokens: all of A100's peak, 63 % of H100's, on B200 less."""
    sizes = {"num_tokens": 200_000, "hidden": 8192, "inter": 8192, "topk": 2, "num_experts": 8}
    alone = {**COMPUTE, "compute_share": 0.5, "tile_s": 1e-7}
    reached = {}
    for name in ("a100_sxm", "h100_sxm", "b200_sxm"):
        gpu = Gpu.of(load_device(name))
        warps, groups = (
            time("int4_wo", alone, gpu, kernel=kernel, **sizes) for kernel in ("sglang_marlin_moe", "another")
        )
        reached[name] = float((groups / warps)[0])
    assert reached["a100_sxm"] == pytest.approx(1, abs=1e-3)
    assert reached["h100_sxm"] == pytest.approx(0.63, abs=0.01)
    assert reached["b200_sxm"] < 0.4


def test_sizes_counted_once_give_the_same_parts() -> None:
    rows = {n: np.array([v]) for n, v in (("num_tokens", 64.0), ("hidden", 2048.0), ("inter", 768.0))}
    rows |= {"topk": np.array([8.0]), "num_experts": np.array([128.0])}
    bound = MoeModel().bound(rows, GPU, dtypes_of("bfloat16"))
    for constants in (START, {**START, "launch_s": 1e-4}):
        assert bound(constants) == MoeModel().parts(rows, GPU, dtypes_of("bfloat16"), constants)


def test_a_long_prompt_of_an_untuned_size_takes_up_to_twice_as_long() -> None:
    """A tile of 64 x 64 needs twice the operands of one of 128 x 128 for each product."""
    named = {"backend": "sglang", "kernel": "sglang_fused_moe_triton", "num_tokens": 16_384}
    tuned, untuned = time(inter=768, **named), time(inter=800, **named)
    assert 1.1 < untuned / tuned * 768 / 800 < 2.5
    few = {**named, "num_tokens": 8}
    assert time(inter=800, **few) / time(inter=768, **few) < 1.15


def test_sglang_multiplied_the_choices_of_other_ranks_until_0_5_10() -> None:
    named = {"backend": "sglang", "kernel": "sglang_fused_moe_triton", "num_tokens": 16_384}
    before, since = (time(moe_ep=8, version=name, **named) for name in ("0.5.10", "0.5.14"))
    assert before > 3 * since
    before, since = (time(version=name, **named) for name in ("0.5.10", "0.5.14"))
    assert before - since == pytest.approx(START["mapped_s"])  # alone, only kernels around them differ


def test_generated_kernels_gather_and_activate_inside_the_first_product() -> None:
    """Of each chosen row what is left is reading it once for the sum: not 2 of hidden and 3 of a width."""
    c = {**START, "row_s": 1e-11, "token_passes": 0.1}
    sizes = {"num_tokens": 4096, "hidden": 4096, "inter": 2048, "c": c}
    generated, cutlass = (
        parts(dtype="fp8", kernel=kernel, **sizes)["around"]
        for kernel in ("sglang_flashinfer_trtllm_moe", "moe_torch_flow_cutlass")
    )
    assert cutlass / generated == pytest.approx((2 * 4096 + 3 * 2048) / 4096, rel=0.02)
    in_blocks = parts(dtype="fp8_block", kernel="sglang_flashinfer_trtllm_moe", **sizes)["around"]
    assert in_blocks / generated == pytest.approx((4096 + 3 * 2048) / 4096, rel=0.02)
    slow = {**sizes, "c": {**c, "row_s": 1e-8}}  # a block of threads a row activates those of blocks alone
    assert (parts(dtype="fp8", kernel="sglang_flashinfer_trtllm_moe", **slow)["around"] == generated).all()
    assert parts(dtype="fp8_block", kernel="sglang_flashinfer_trtllm_moe", **slow)["around"] > in_blocks


def test_blocks_are_quantised_on_hopper_by_eight_warps_of_a_processor() -> None:
    """1024 choices of 4096 and 2048 values are 49,152 blocks of 128 or, on 132 processors, 46.5 turns."""
    sizes = {"num_tokens": 128, "hidden": 4096, "inter": 2048, "kernel": "moe_torch_flow_cutlass"}
    at_once, in_turns = (
        parts(dtype="fp8_block", c={**START, "turn_s": turn_s}, **sizes)["around"] for turn_s in (0.0, 1e-6)
    )
    assert in_turns - at_once == pytest.approx(1024 * 6144 / 128 / (8 * 132) * 1e-6)
    assert (parts(dtype="fp8", c={**START, "turn_s": 1.0}, **sizes)["around"] < 1e-3).all()
    named = [
        {c.name for c in MoeModel().constants(gpu, dtypes_of(dtype))}
        for gpu in (GPU, Gpu.of(load_device("b200_sxm")))
        for dtype in ("fp8_block", "fp8")
    ]
    assert ["turn_s" in names for names in named] == [True, False, False, False]


def test_another_library_s_constants_come_without_its_design_and_with_a_start_per_kernel() -> None:
    half, eight = dtypes_of("bfloat16"), dtypes_of("fp8")
    lent = {"launch_s": 2e-5, "least_rows": 128.0, "expert_s": 1e-7, "elsewhere": 1.0, "memory_share": 0.9}
    of = ("moe_torch_flow_cutlass", half)
    assert MoeModel().borrowed(lent, of, ("vllm_cutlass_flashinferexperts", half)) == lent
    assert MoeModel().borrowed(lent, of, ("", half)) == lent
    quantising = MoeModel().borrowed(lent, of, ("vllm_cutlass_flashinferexperts", eight))
    assert quantising == {**lent, "launch_s": pytest.approx(2e-5 * 9 / 8)}
    generated = MoeModel().borrowed(lent, of, ("sglang_flashinfer_trtllm_moe", eight))
    assert generated == {"launch_s": pytest.approx(2e-5 * 5 / 8), "memory_share": 0.9}
    unknown = MoeModel().borrowed(lent, of, ("someone_s", half))
    assert unknown == {"launch_s": 2e-5, "memory_share": 0.9}
    assert MoeModel().borrowed(lent, ("someone_s", half), of) == {"memory_share": 0.9}


def test_products_that_walk_through_the_experts_tell_each_other_what_one_takes() -> None:
    """DeepGEMM's and, of 8 bits in blocks on Hopper, TensorRT-LLM's, which has its scheduler."""
    block, eight = dtypes_of("fp8_block"), dtypes_of("fp8")
    lent = {"expert_s": 2.5e-7, "least_rows": 64.0}
    walking = ("moe_torch_flow_cutlass", block)
    assert MoeModel().borrowed(lent, walking, ("deepgemm", block)) == {"expert_s": 2.5e-7}
    for kernel in ("sglang_flashinfer_trtllm_moe", "vllm_fused_moe"):
        assert MoeModel().borrowed(lent, walking, (kernel, block)) == {}
    assert MoeModel().borrowed(lent, ("moe_torch_flow_cutlass", eight), ("deepgemm", block)) == {}


def test_engines_transpose_scales_of_blocks_by_a_kernel_for_generated_ones() -> None:
    """TensorRT-LLM's own quantising kernel writes them as these products read them."""
    block, eight = dtypes_of("fp8_block"), dtypes_of("fp8")
    engine, own = "sglang_flashinfer_trtllm_moe", "moe_torch_flow_min_latency"
    assert [launches(engine, "trtllm-gen", of) for of in (eight, block)] == [5, 7]
    assert [launches(own, "trtllm-gen", of) for of in (eight, block)] == [4, 5]


def test_a_kernel_takes_as_long_to_start_whoever_wrote_it() -> None:
    """On a device that was not measured, and in clocks of its own."""
    known = [
        ("bfloat16", "trtllm", "moe_torch_flow_cutlass", 8),
        ("fp8", "trtllm", "moe_torch_flow_cutlass", 9),
        ("bfloat16", "vllm", "vllm_fused_moe", 7),
        ("nvfp4", "sglang", "sglang_flashinfer_trtllm_moe", 5),
    ]
    starts = [
        chosen("b200_sxm", "moe", dtype, "", backend, kernel, unseen=True).values["launch_s"] / count
        for dtype, backend, kernel, count in known
    ]
    assert starts == pytest.approx(starts[:1] * len(starts))
    older, newer = (Gpu.of(load_device(name)) for name in ("a100_sxm", "b200_sxm"))
    constants = MoeModel().carried_constants("moe_torch_flow_cutlass", newer, dtypes_of("bfloat16"))
    slower = carried({"launch_s": 2e-5}, constants, older, newer)["launch_s"]
    assert slower == pytest.approx(2e-5 * older.boost_hz / newer.boost_hz)


def test_rows_of_narrow_experts_cost_a_block_of_threads_each() -> None:
    """However short a row is, a block of threads comes and goes for it: no width makes this term small."""
    c = {**START, "row_s": 5e-9}
    sizes = {"num_tokens": 4096, "c": c}
    for shape in ({"inter": 64}, {"inter": 4096}, {"hidden": 8192}):
        around = parts(**sizes, **shape)["around"]
        assert around - parts(**{**sizes, "c": {**c, "row_s": 0.0}}, **shape)["around"] == pytest.approx(
            4096 * 8 * 5e-9
        )
    here = parts(num_tokens=4096, c={**c, "elsewhere": 0.0, "passes": 0.0, "token_passes": 0.0}, moe_ep=8)
    assert here["around"] == pytest.approx(4096 * 5e-9)  # of 8 ranks each has an eighth of the choices


def test_a_rank_moves_only_the_tokens_that_were_sent_to_it() -> None:
    """Balanced choices of 8 of 256 experts on 32 ranks: a quarter of all tokens has one expert on a rank."""
    kernel = {"backend": "sglang", "version": "0.5.11", "kernel": "sglang_fused_moe_triton"}
    sizes = {"num_tokens": 32 * 4096, "num_experts": 256, "moe_ep": 32, **kernel}
    given, sent = (parts(**sizes, dispatched=each) for each in (0.0, 1.0))
    assert sent["around"] == pytest.approx(given["around"] / 4)
    assert sent["routing"] < given["routing"]
    for term in ("ideal", "reached", "tiles"):
        assert sent[term] == pytest.approx(given[term])
    alone = {**sizes, "moe_ep": 1, "num_tokens": 4096}
    assert time(**alone, dispatched=1.0) == time(**alone)


def test_a_launcher_that_was_never_tuned_takes_two_tiles_of_each_expert_s_rows() -> None:
    """Of 32 rows for 64, of 64 for 128 and more: what the L2 feeds is a tile's rows and its 128 columns."""
    sizes = {**SIXTY_FOUR, "c": {**SMOOTH, "l2_share": 0.05}, "dtype": "fp8"}
    generated = {"kernel": "vllm_flashinfer_trtllm_moe"}
    half, whole = (time(num_tokens=64 * rows, **sizes, **generated) for rows in (64, 128))
    assert whole / half == pytest.approx((64 + 128) / (32 + 128), rel=0.03)
    more = time(num_tokens=64 * 512, **sizes, **generated)
    assert more == pytest.approx(4 * whole, rel=0.03)


@given(ANY, st.integers(1, 30_000), st.sampled_from([1, 8]))
def test_tuned_launchers_are_never_slower_than_those_that_never_were(
    c: dict[str, float], tokens: int, ranks: int
) -> None:
    tuned, not_yet = (
        products("fp8_block", c, num_tokens=tokens, moe_ep=ranks, kernel=name)
        for name in ("moe_torch_flow_min_latency", "sglang_flashinfer_trtllm_moe")
    )
    assert tuned <= not_yet * (1 + 1e-9)


def test_activating_and_summing_see_the_choices_of_all_ranks_where_triton_leaves_them_in_place() -> None:
    sizes = {"num_tokens": 4096, "backend": "vllm"}
    one, eight = (parts(moe_ep=ranks, kernel="vllm_fused_moe", **sizes)["around"] for ranks in (1, 8))
    assert one == pytest.approx(eight)
    one, eight = (parts(moe_ep=ranks, kernel="another", **sizes)["around"] for ranks in (1, 8))
    assert eight < 0.5 * one


@pytest.mark.parametrize("kernel", ["vllm_fused_moe", ""])
def test_a_kernel_that_ran_untuned_stands_in_for_no_other_of_its_engine(kernel: str) -> None:
    """FlashInfer's CUTLASS is vLLM's only measured kernel of fp8 on Hopper, and streams at a sixth."""
    row = {"op": "moe", "dtype": "fp8", "backend": "vllm", "num_tokens": 64, "hidden": 4096, "inter": 14336}
    row |= {"topk": 2, "num_experts": 8, "moe_tp": 1, "moe_ep": 1, "distribution": "balanced"}
    measured = "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts"
    table = pd.DataFrame([{**row, "kernel": name} for name in (kernel, measured)])
    for device in ("h100_sxm", "h200_sxm"):
        limits = ceilings(load_device(device), "calibrated")
        found = predict_table(table, limits)
        streamed = 8 * 3 * 4096 * 14336 / load_device(device).datasheet.dram.byte_per_s.value * 1e6
        asked, untuned = found["predicted_us"]
        assert asked < 1.6 * streamed
        assert untuned > 3 * streamed


def test_untuned_cutlass_on_hopper_reads_the_rows_again_for_every_16_columns() -> None:
    """Where the L2 limits: 288 bytes for 128 x 16 results are 9 times those of a tile of 256 x 256."""
    alone = {**START, "l2_share": 0.1, "passes": 0.2, "token_passes": 0.1, "choice_s": 1e-11, "tile_s": 1e-7}
    sizes = {"num_tokens": 65_536, "topk": 1, "num_experts": 1, "hidden": 8192, "inter": 8192}
    kernels = ("sglang_flashinfer_cutlass_moe", "moe_torch_flow_cutlass")
    untuned, tuned = (time(c=alone, kernel=kernel, **sizes) for kernel in kernels)
    assert untuned / tuned == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize("name", ["b200_sxm", "gb200", "rtx_pro_6000_server"])
def test_experts_of_tensorrt_llm_are_multiplied_by_cutlass_unless_another_kernel_is_named(name: str) -> None:
    """`MoeConfig.backend`; its generated kernels take a third of the time."""
    kernels = ("", "moe_torch_flow_cutlass", "moe_torch_flow_min_latency")
    default, cutlass, generated = (chosen(name, "moe", "nvfp4", "", "trtllm", kernel) for kernel in kernels)
    assert default == cutlass
    assert default.values != generated.values


@pytest.mark.parametrize(
    ("name", "backend", "kernel", "instructions", "rate"),
    [
        ("h100_sxm", "vllm", "vllm_fp8moe_triton_tritonexperts", 3, 1),
        ("h100_sxm", "sglang", "sglang_fused_moe_triton", 1, 1),
        ("h100_sxm", "trtllm", "moe_torch_flow_cutlass", 1, 1),
        ("b200_sxm", "vllm", "vllm_fused_moe", 4, 0.5),
        ("b200_sxm", "sglang", "sglang_fused_moe_triton", 1, 0.5),
        ("b200_sxm", "sglang", "sglang_flashinfer_trtllm_moe", 4, 0.5),
        ("b200_sxm", "trtllm", "deepgemm", 0, 1),
    ],
)
def test_scaling_blocks_outside_the_tensor_cores_takes_the_vector_units(
    name: str, backend: str, kernel: str, instructions: float, rate: float
) -> None:
    """Instructions per 256 FLOP, and tensor instructions of 64 rows, with half of Blackwell's rate."""
    sizes = {"num_tokens": 200_000, "hidden": 8192, "inter": 8192, "topk": 2, "num_experts": 8}
    gpu, alone = Gpu.of(load_device(name)), {**COMPUTE, "compute_share": 0.3}
    found = time("fp8_block", alone, gpu, kernel=kernel, backend=backend, **sizes)
    flop = 2 * 200_000 * 2 * 3 * 8192 * 8192
    vectors = instructions * flop / 256 * 2 / gpu.vector_flop_per_s
    assert found[0] == pytest.approx((flop / (rate * gpu.peak("fp8")) + vectors) / 0.3, rel=0.1)


def test_tiles_of_64_rows_take_blackwell_s_tensor_cores_as_long_as_those_of_128() -> None:
    """vLLM takes 64 rows up to 512 tokens of a layer that nobody tuned, 128 beyond."""
    sizes = {**ONE, "num_tokens": np.array([512.0, 1024]), "kernel": "vllm_fused_moe", "backend": "vllm"}
    alone = {**START, "compute_share": 0.02, "whole_waves": 0.0, "passes": 0.2, "token_passes": 0.1}
    for name, ratio in (("h100_sxm", 2), ("b200_sxm", 1)):
        few, many = time("bfloat16", alone, Gpu.of(load_device(name)), **sizes)
        assert many / few == pytest.approx(ratio, rel=0.01)


def test_sums_that_lie_in_registers_beside_products_leave_room_for_small_tiles_only() -> None:
    """Where the L2 limits: tuned tiles of 64 x 128 fetch 192 bytes for 8192 results of a step; of 256 x 256,
    512 for 65,536."""
    alone = {**COMPUTE, "l2_share": 0.05, "tile_s": 1e-7, "reread": 0.03}
    sizes = {**ONE, "num_tokens": 65_536, "inter": 256, "kernel": "vllm_fp8moe_triton_tritonexperts"}
    blocks, plain = (time(dtype, c=alone, **sizes) for dtype in ("fp8_block", "fp8"))
    assert blocks / plain == pytest.approx(192 / 8192 / (512 / 65_536), rel=0.05)


def test_sglang_streams_mxfp4_weights_as_16_bits_and_takes_the_constants_of_these() -> None:
    named = {"num_tokens": 8, "hidden": 2880, "inter": 2880, "topk": 4, "num_experts": 32}
    kernel = "sglang_fused_moe_triton"
    wide, narrow = (time(dtype, kernel=kernel, **named) for dtype in ("bfloat16", "w4a16_mxfp4"))
    assert narrow == pytest.approx(wide)
    assert time("w4a16_mxfp4", kernel="vllm_mxfp4_moe", **named) < 0.6 * wide
    found = chosen("a100_sxm", "moe", "w4a16_mxfp4", "", "sglang", kernel)
    assert found.provenance == "transferred from bfloat16"


def test_triton_widens_weights_of_4_bits_in_every_tile_by_the_vector_units() -> None:
    """20 turns of a lane a weight and tile of 64 rows, beside 128 FLOP of the tensor cores at their share."""
    named = {"kernel": "vllm_marlin_int4_moe", "backend": "vllm"}
    found = time("int4_wo", {**COMPUTE, "compute_share": 0.5}, num_tokens=65_536, **ONE, **named)
    widened = 3 * 8192 * 8192 * 65_536 / 64
    busy = widened * (20 / (GPU.vector_flop_per_s / 2) + 128 / GPU.peak("bf16") / 0.5)
    assert found == pytest.approx(busy, rel=0.03)


def test_engines_kernels_between_products_keep_their_pace_where_the_memory_is_faster() -> None:
    """H200 is H100's die; L40S has a quarter of its memory for each processor, but moves every byte."""
    hopper, faster, graphics = (Gpu.of(load_device(name)) for name in ("h100_sxm", "h200_sxm", "l40s"))

    def passes(kernel: str, gpu: Gpu) -> float:
        constants = MoeModel().carried_constants(kernel, gpu, dtypes_of("bfloat16"))
        return carried({"passes": 2.0}, constants, hopper, gpu)["passes"]

    more = faster.dram_byte_per_s / hopper.dram_byte_per_s
    assert passes("sglang_fused_moe_triton", faster) == pytest.approx(2 * more)
    assert passes("sglang_marlin_moe", graphics) == pytest.approx(1.0)
    assert passes("moe_torch_flow_cutlass", faster) == pytest.approx(2.0)


def test_operands_that_no_cluster_shares_come_at_the_same_pace_on_every_generation() -> None:
    """Triton's blocks load theirs alone; CUTLASS and generated ones multicast, on Blackwell from two dies."""
    older, newer = (Gpu.of(load_device(name)) for name in ("a100_sxm", "b200_sxm"))
    grown = {}
    for kernel in ("vllm_fused_moe", "moe_torch_flow_cutlass", "vllm_flashinfer_trtllm_moe_fp4"):
        constants = MoeModel().carried_constants(kernel, newer, dtypes_of("bfloat16"))
        grown[kernel] = carried({"l2_share": 0.4}, constants, older, newer)["l2_share"] / 0.4
    assert list(grown.values()) == pytest.approx([1.0, 2.25 * TWO_DIES, 2.25 * TWO_DIES])


def test_vllm_sorts_by_the_experts_of_all_ranks() -> None:
    free = {**START, "expert_s": 1e-9}
    for kernel, experts in (("vllm_fused_moe", 128), ("vllm_flashinfer_cutlass", 16)):
        named = {"backend": "vllm", "kernel": kernel, "moe_ep": 8}
        more, less = (parts(c=c, **named)["routing"] for c in (START, free))
        assert more - less == pytest.approx(experts * (START["expert_s"] - 1e-9))


def test_warps_read_what_they_share_of_a_tile_from_shared_memory() -> None:
    """64 x 64 by 2 x 2 warps: each operand written once and read twice, 768 bytes of 16 bits, 6 clocks.

    An A100's tensor cores take 4 for it, an L40S's 8, so that such tiles are slower on the A100 alone.
    """
    named = {"backend": "sglang", "version": "0.5.14", "kernel": "sglang_fused_moe_triton"}
    alone = {**SMOOTH, "compute_share": 0.5, "l2_share": 2.5}
    took = {}
    for name in ("a100_sxm", "l40s"):
        gpu, sizes = Gpu.of(load_device(name)), {"num_tokens": 65_536, **ONE, **named}
        took[name] = products(c=alone, gpu=gpu, **sizes) / parts(c=alone, gpu=gpu, **sizes)["ideal"]
    assert took["a100_sxm"] == pytest.approx(6 / 4 / 0.5, rel=0.01)
    assert took["l40s"] == pytest.approx(1 / 0.5, rel=0.01)


def test_marlin_never_takes_more_than_64_rows_a_tile() -> None:
    """Where the L2 limits, 64 rows of 2 bytes and 256 columns of half a byte follow the rows of an expert."""
    sizes = {**SIXTY_FOUR, "c": {**SMOOTH, "l2_share": 0.05}, "dtype": "int4_wo"}
    marlin, best = (
        time(num_tokens=64 * 256, kernel=name, **sizes) for name in ("sglang_marlin_moe", "another")
    )
    assert marlin / best == pytest.approx(4 * (64 * 2 + 256 / 2) / (256 * 2 + 256 / 2), rel=0.03)


def test_casting_weights_of_generated_kernels_takes_as_long_whatever_rows_a_tile_has() -> None:
    """Where vector units limit: 2.75 instructions for each of 3 x 4096 x 4096 weights, twice an expert."""
    gpu, free = Gpu.of(load_device("b200_sxm")), {**SMOOTH, "compute_share": 1.0, "l2_share": 2.5}
    sizes = {**SIXTY_FOUR, "copies": np.inf, "kernel": "sglang_flashinfer_trtllm_moe"}
    few, more = (products("w4a16_mxfp4", free, gpu, num_tokens=64 * rows, **sizes) for rows in (16, 32))
    cast_s = 2 * 64 * 3 * 4096**2 * 2.75 * 2 / gpu.vector_flop_per_s
    assert few == pytest.approx(more, rel=0.02)
    assert cast_s < few < 1.2 * cast_s


def test_balanced_rows_of_few_tokens_were_routed_by_groups_of_experts() -> None:
    sizes = {"num_tokens": 16, "num_experts": 128, "dtype": "fp8", "kernel": "moe_torch_flow_min_latency"}
    named, unnamed = (parts(distribution=name, **sizes)["ideal"] for name in ("balanced", ""))
    assert named == pytest.approx(unnamed / 2)


def test_tensorrt_llm_s_default_is_another_library_s_kernel_by_generation() -> None:
    model, (older, hopper, newer) = (
        MoeModel(),
        (Gpu.of(load_device(f"{n}_sxm")) for n in ("a100", "h100", "b200")),
    )
    libraries = [model.library(model.alias("moe_torch_flow", gpu, "w4a16_mxfp4")) for gpu in (hopper, newer)]
    assert libraries == ["Triton", "trtllm-gen"]
    assert model.alias("moe_torch_flow", older, "bfloat16") == "moe_torch_flow"
    assert model.renamed("moe_torch_flow", hopper, newer)
    assert not model.renamed("moe_torch_flow_cutlass", hopper, newer)


def test_a_kernel_that_holds_all_experts_takes_no_notice_of_ranks() -> None:
    alone, spread = (time(kernel="vllm_mxfp4_moe", moe_ep=ranks) for ranks in (1, 32))
    assert alone == spread


def test_weights_that_the_l2_holds_are_read_faster_the_next_time() -> None:
    """Alone in a loop, as tables measure: small experts then cost no memory traffic, large ones all of it."""
    c = {**START, "kept": 0.5, "compute_share": 1.0, "l2_share": 2.5, "tile_s": 1e-7}
    size = {"num_tokens": 8.0, "topk": 8, "num_experts": 8, "hidden": 8192}
    held, large = ({"c": c, "inter": width, **size} for width in (60.0, 6000.0))  # 24 MB and 2.4 GB
    streamed = 8 * 3 * 8192 * 60 * 2 / (c["memory_share"] * GPU.dram_byte_per_s)
    saved = time(**held, copies=np.inf) - time(**held, copies=1.0)
    assert 0.4 * streamed < saved < streamed  # the tiles that read it from the L2 show then
    assert time(**large, copies=1.0) == pytest.approx(time(**large, copies=np.inf), rel=1e-6)
    assert (np.diff(time(c=c, inter=np.geomspace(30, 20_000, 50), **size)) > 0).all()


CELLS = [
    ("h100_sxm", "sglang_fused_moe_triton", "fp8_block", 0.18),
    ("h100_sxm", "sglang_fused_moe_triton", "bfloat16", 0.16),
    ("h100_sxm", "vllm_fp8moe_triton_tritonexperts", "fp8_block", 0.08),
    ("h100_sxm", "moe_torch_flow_cutlass", "bfloat16", 0.15),
    ("b200_sxm", "vllm_unquantizedfusedmoe_flashinfer_trtllm_trtllmbf16experts", "bfloat16", 0.15),
    ("a100_sxm", "sglang_marlin_moe", "int4_wo", 0.11),
]


@pytest.mark.parametrize(("gpu", "kernel", "dtype", "most"), CELLS)
def test_held_out_shapes_are_predicted(
    held_out_error: Any, gpu: str, kernel: str, dtype: str, most: float
) -> None:
    assert held_out_error("aic_moe", MoeModel(), 150, gpu=gpu, kernel=kernel, dtype=dtype) <= most


def test_the_products_of_a_model_take_the_time_of_its_layer() -> None:
    """Gate and up, and down, of a layer on two devices by experts sum to the row of a table."""
    model, device = load_model("Qwen3-30B-A3B").model, load_device("h100_sxm")
    setting = Setting(tensor_parallel=2, expert_parallel=2)
    scenario = Scenario(model, "decode", batch=64, prompt=1024, context=1025, setting=setting)
    rows = {row.name.split(".")[-1]: row for row in predict(scenario, device, "calibrated").rows}
    up, down = (rows[f"experts_{name}_proj"].times.time_s for name in ("gate_up", "down"))
    layer = {"num_tokens": 64, "hidden": 2048, "inter": 768, "topk": 8, "num_experts": 128, "moe_ep": 2}
    table = pd.DataFrame([{"op": "moe", "dtype": "bf16", "distribution": "independent", **layer}])
    whole = predict_table(table, ceilings(device, "calibrated"))["predicted_us"][0] * 1e-6
    assert up + down == pytest.approx(whole, rel=1e-3)  # of 300 MB an L2 of 50 MB keeps next to nothing
    assert up == pytest.approx(2 * down)
