"""What names tell of kernels for experts, on names that stand in published tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwspecs import kernels_of, load_device
from roofline.physics import cutlass_tiles, model_of
from roofline.physics.base import Gpu
from roofline.physics.calibration import _groups, _kin
from roofline.physics.choice import Chosen
from roofline.physics.columns import dtypes_of
from roofline.physics.fit import Cell, _trust, cross_fitted
from roofline.physics.libraries import OF_ATTENTION, OF_EXPERTS, library, numbers, of_engine, says, since
from roofline.physics.moe import CONSTANTS, MoeModel
from roofline.physics.stand_ins import MEASURED_WELL
from roofline.physics.triton_tiles import Sizes, default_tile_by_tokens, untuned
from tests.roofline.physics.conftest import chosen

GPU = Gpu.of(load_device("h100_sxm"))


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (
            OF_EXPERTS,
            {
                "sglang_marlin_moe": "Marlin",
                "vllm_marlin_int4_moe": "Triton",
                "vllm_compressedtensorsw4a4mxfp4moe_marlin_marlinexperts": "Marlin",
                "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts": "CUTLASS",
                "moe_torch_flow_cutlass": "CUTLASS",
                "moe_torch_flow_min_latency": "trtllm-gen",
                "vllm_flashinfer_trtllm_moe_fp4": "trtllm-gen",
                "vllm_fp8moe_triton_tritonexperts": "Triton",
                "sglang_fused_moe_triton": "Triton",
                "deepgemm": "DeepGEMM",
                "a kernel of tomorrow": "a kernel of tomorrow",
            },
        ),
        (
            OF_ATTENTION,
            {
                "vllm_triton_attn": "Triton",
                "trtllm_mha": "trtllm-gen",
                "vllm_flashinfer_trtllmprefill": "trtllm-gen",
                "vllm_flashinfer": "FlashInfer",
                "torch_flow_flashinfer": "FlashInfer",
                "torch_flow": "TensorRT-LLM",
                "vllm_flash_attn_fa3": "FlashAttention",
                "flash_attention": "FlashAttention",
            },
        ),
    ],
    ids=["experts", "attention"],
)
def test_a_kernel_s_name_tells_its_library(of: Any, names: dict[str, str]) -> None:
    assert {kernel: library(kernel, of) for kernel in names} == names


def test_versions_compare_by_their_numbers_and_none_is_of_today() -> None:
    assert numbers("1.3.0rc10") == (1, 3, 0)
    rows = {"num_tokens": np.ones(4), "version": np.array(["0.5.9", "0.5.10", "0.5.14", ""], object)}
    assert since(rows, 0, 5, 10).tolist() == [False, True, True, True]
    assert since({"num_tokens": np.ones(2)}, 0, 5, 10).all()


def test_absent_columns_say_nothing() -> None:
    rows = {"num_tokens": np.ones(3)}
    assert not says(rows, "triton").any()
    assert not of_engine(rows, "sglang").any()


def tuned(
    gpu: str, engine: str, dtype: str, sizes: list[tuple[float, float]], version: str = ""
) -> list[bool]:
    """Whether an engine tuned so many experts of such a width."""
    experts, width = np.array(sizes).T
    names = {"backend": engine, "version": version}
    rows = {name: np.full(len(sizes), value, object) for name, value in names.items()}
    plain = np.full(len(sizes), dtype == "bfloat16")
    ruled, _ = untuned({**rows, "num_tokens": width}, gpu, Sizes(width, experts, width), dtype, plain)
    return [not each for each in ruled]


def test_tiles_are_tuned_for_a_gpu_s_sizes_alone() -> None:
    """sglang ships E=128,N=768 for H100, E=64,N=768 only since 0.5.10, and nothing for 100 experts."""
    sizes = [(128.0, 768.0), (64.0, 768.0), (100.0, 768.0)]
    assert tuned("H100-SXM5-80GB", "sglang", "bfloat16", sizes, "0.5.10") == [True, False, False]
    assert tuned("H100-SXM5-80GB", "sglang", "bfloat16", sizes, "0.5.14") == [True, True, False]
    assert tuned("GB200", "sglang", "bfloat16", sizes) == [False] * 3


def test_engines_tune_other_sizes_in_other_formats() -> None:
    """Of B200: vllm 0.19.0 E=128 with N=384 for 8 bits in blocks, 512 for 8 bits, 1856 for 16 bits."""
    sizes = [(128.0, 384.0), (128.0, 704.0), (128.0, 1856.0), (257.0, 256.0)]
    assert tuned("B200-SXM-180GB", "vllm", "fp8_block", sizes) == [True, False, False, False]
    assert tuned("B200-SXM-180GB", "vllm", "fp8", sizes) == [False, True, False, False]
    assert tuned("B200-SXM-180GB", "vllm", "bfloat16", sizes) == [False, False, True, False]
    assert tuned("B200-SXM-180GB", "sglang", "fp8_block", sizes) == [True, False, False, True]


def test_a_rule_that_is_not_known_decides_nothing() -> None:
    """Of 8 bits with one scale, vLLM's before 0.15, SGLang's, and those of no engine."""
    for engine, version in (("vllm", "0.14.0"), ("sglang", ""), ("", "")):
        assert tuned("B200-SXM-180GB", engine, "fp8", [(100.0, 100.0)], version) == [True]


def test_default_tiles_grow_with_the_batch() -> None:
    """As `get_default_config` of both engines says (sglang 0.5.14, vllm 0.19.0)."""
    tokens = np.array([1.0, 32, 64, 65, 97, 513])
    layer = Sizes(tokens, np.full(6, 64.0), np.full(6, 800.0))

    def of(engine: str, dtype: str) -> list[list[float]]:
        rows = {"num_tokens": tokens, "backend": np.full(6, engine, object)}
        chosen = untuned(rows, "H100-SXM5-80GB", layer, dtype, np.full(6, dtype == "bfloat16"))[1]
        return [each.tolist() for each in chosen]

    assert of("sglang", "bfloat16") == [[16, 16, 16, 64, 64, 64], [32, 32, 32, 64, 64, 64]]
    assert of("sglang", "fp8_block") == [[64] * 6, [128] * 6]
    by_tokens = [[16, 16, 32, 32, 64, 128], [64, 64, 64, 128, 128, 128]]
    assert of("vllm", "bfloat16") == of("vllm", "fp8") == by_tokens
    assert default_tile_by_tokens(tokens, True)[0].tolist() == [16, 16, 16, 64, 64, 64]


@pytest.mark.parametrize(
    ("gpu", "dtype", "tile"),
    [
        ("l40s", "fp8", (32, 128)),
        ("rtx_pro_6000_server", "nvfp4", (128, 128)),
        ("h100_sxm", "bfloat16", (128, 16)),
        ("h200_sxm", "fp8", (128, 16)),
        ("h100_sxm", "w4a16_mxfp4", (16, 64)),
        ("b200_sxm", "fp8", (128, 128)),
        ("b200_sxm", "nvfp4", (128, 64)),
        ("b300_sxm", "nvfp4", (128, 128)),
    ],
)
def test_cutlass_takes_its_first_tile_where_nobody_tuned_it(gpu: str, dtype: str, tile: Any) -> None:
    """The first of `get_candidate_configs` of cutlass_heuristic.cpp for the generation."""
    kernels = np.array(["sglang_flashinfer_cutlass_moe", "moe_torch_flow_cutlass"], object)
    rows = {"num_tokens": np.ones(2), "kernel": kernels}
    found, first = cutlass_tiles.untuned(rows, Gpu.of(load_device(gpu)), dtypes_of(dtype))
    assert found.tolist() == [True, False]  # TensorRT-LLM tunes its own
    assert first == tile
    assert not cutlass_tiles.untuned(rows, GPU, dtypes_of("fp8_block"))[0].any()  # DeepGEMM's


def layer(
    kernel: str,
    rows: int,
    dtype: str = "bfloat16",
    hidden: float = 2048,
    engine: str = "engine",
    slower: float = 1.2,
) -> tuple[Any, Any, Cell]:
    """Layers of growing batches that take longer than the starting constants say."""
    tokens = np.round(np.geomspace(1, 16_384, rows))
    sizes = {"hidden": hidden, "inter": 768.0, "topk": 8.0, "num_experts": 128.0}
    columns = {"num_tokens": tokens, **{n: np.full(rows, v) for n, v in sizes.items()}}
    cell = Cell(MoeModel(), GPU, dtypes_of(dtype), columns, np.ones(rows), kernel)
    time = slower * cell.predicted_s({c.name: c.start for c in CONSTANTS})
    found = Cell(cell.model, cell.gpu, cell.dtype, columns, time, kernel)
    return ("moe", dtype, "", engine, kernel), np.arange(rows), found


def test_a_prior_is_the_library_s_of_the_format_then_of_any_format_then_the_format_s() -> None:
    group = [
        layer("sglang_marlin_moe", MEASURED_WELL, "int4_wo"),
        layer("another_marlin", 10, "w4a16_mxfp4"),
        layer("sglang_fused_moe_triton", MEASURED_WELL),
        layer("vllm_fused_moe", 10),
        layer("deepgemm", 10),
    ]
    assert _kin(group) == [(0,), (0, 1), (2, 3, 4), (2, 3), (2, 3, 4)]


def test_a_library_s_kernels_of_the_same_backend_come_first() -> None:
    group = [
        layer("one_cutlass", MEASURED_WELL, engine="trtllm"),
        layer("nongated", 10, engine="trtllm"),
        layer("nongated", 10, "fp8", engine="trtllm"),
        layer("another_cutlass", MEASURED_WELL, engine="vllm"),
    ]
    assert _kin(group) == [(0, 1, 3), (0, 1), (0, 1, 2), (0, 1, 3)]


def prompts(op: str, kernel: str, rows: int, dtype: str = "bfloat16") -> tuple[Any, Any, Cell]:
    cell = Cell(model_of(op), GPU, dtypes_of(dtype, "fp8"), {}, np.ones(rows), kernel)
    return (op, dtype, "fp8", "engine", kernel), np.arange(rows), cell


def test_prompts_lean_on_their_library_in_any_format_and_encoders_on_all_kernels() -> None:
    """Triton's kernels multiply in 16 bits whatever the cache is in, and share tiles and loops."""
    kernels = [("triton", 10), ("vllm_triton_attn", MEASURED_WELL), ("torch_flow", MEASURED_WELL)]
    group = [prompts("attention_prefill", *one) for one in kernels]
    group.append(prompts("attention_prefill", "triton", MEASURED_WELL, "fp8"))
    assert [len(each) for each in _groups(iter(group))] == [4]
    assert _kin(group) == [(0, 1), (0, 1, 3), (0, 1, 2), (0, 1, 3)]
    encoders = [prompts("attention_encoder", *one) for one in kernels]
    assert _kin(encoders) == [(0, 1, 2)] * 3


def test_tritons_decode_leans_on_tritons_alone_and_other_kernels_on_their_format() -> None:
    """Even on few rows of another format, as its steps and tiles are none of the others'."""
    op = "attention_decode"
    group = [prompts(op, "triton", 5), prompts(op, "triton", 5, "fp8"), prompts(op, "fa3", MEASURED_WELL)]
    group += [prompts(op, "torch_flow", MEASURED_WELL), prompts(op, "vllm_triton_attn", 5)]
    groups = _groups(iter(group))
    kernels = [[key[4] for key, _, _ in each] for each in groups]
    assert kernels == [["triton", "triton", "vllm_triton_attn"], ["fa3", "torch_flow"]]
    assert [_kin(each) for each in groups] == [[(0, 1, 2)] * 3, [(0, 1)] * 2]


def test_a_kernel_that_ran_without_tuning_speaks_for_no_other() -> None:
    """FlashInfer's CUTLASS streams 8-bit weights at a fifth on H100: TensorRT-LLM's stands in for it."""
    slow = [k for k in kernels_of(load_device("h100_sxm")) if "modeloptfp8moe_flashinfer_cutlass" in k.kernel]
    model, dtype = MoeModel(), dtypes_of("fp8")
    assert not model.sound(slow[0].values, GPU, dtype)
    found = chosen("b200_sxm", "moe", "fp8", "", "vllm", slow[0].kernel, unseen=True)
    assert model.sound(found.values, Gpu.of(load_device("b200_sxm")), dtype)


def test_a_kernel_that_ran_without_tuning_is_no_prior_of_others_and_has_one_itself() -> None:
    """Marlin's 4-bit integers stream at a seventh of B200's bandwidth, its mxfp4 at a third."""
    group = [
        layer("slow_marlin", MEASURED_WELL, "int4_wo", slower=8),
        layer("another_marlin", 10, "w4a16_mxfp4"),
        layer("a_triton", 10, "w4a16_mxfp4"),
        layer("a_marlin", MEASURED_WELL, "fp8"),
    ]
    model = MoeModel()
    assert [model.tuned(cell) for _, _, cell in group] == [False, True, True, True]
    assert _kin(group) == [(0, 1, 3), (1, 3), (1, 2), (3,)]


def test_a_fold_of_families_is_the_same_in_every_kernel_and_spread_over_each() -> None:
    cells = [layer(name, 8, hidden=size)[2] for name in ("a_marlin", "a_triton") for size in (2048, 4096)]
    pair = [
        replace(one, rows={**one.rows, "hidden": np.where(np.arange(8) % 2, low, low + 1024.0)})
        for one, low in ((cells[0], 2048.0), (cells[2], 3072.0))  # 2048 and 3072; 3072 and 4096
    ]
    folds = [found.fold for found in cross_fitted([*pair, cells[1]], kin=[(0, 2), (1,), (0, 2)])]
    of = [dict(zip(cell.rows["hidden"], fold, strict=True)) for cell, fold in zip(pair, folds, strict=False)]
    assert all(len(set(one.values())) == 2 for one in of)
    assert of[0][3072.0] == of[1][3072.0]
    assert set(folds[2]) == {of[1][4096.0]}


def test_constants_without_a_fold_have_not_seen_it_through_their_prior_either() -> None:
    """Of two families one is another kernel's alone: without it this kernel's prior is fitted without it."""
    own, other = layer("a_marlin", 30)[2], layer("b_marlin", 30, hidden=4096)[2]
    spoiled = replace(other, time_s=3 * other.time_s)
    alone = layer("a_triton", 10)[2]
    kept, seen = (cross_fitted([own, one, alone], kin=[(0, 1), (0, 1), (2,)]) for one in (other, spoiled))
    (fold,) = set(kept[1].fold.tolist())
    assert fold not in kept[0].fold
    assert kept[0].constants[fold] == seen[0].constants[fold]
    assert all(set(found.constants) == set(kept[0].constants) for found in kept)


def test_a_prior_weighs_more_where_one_family_is_all_there_is() -> None:
    """Rows of one model, 20 % slower than the prior says, or 10 %."""
    _, _, cell = layer("a_marlin", 30)
    prior = {c.name: c.start for c in CONSTANTS}
    near = replace(cell, time_s=cell.time_s / 1.2 * 1.1)
    many = np.arange(30)
    other = replace(near, rows={**near.rows, "hidden": np.where(many % 2, 4096.0, 2048.0)})
    assert _trust([near], prior) > _trust([other], prior) > 0
    assert _trust([near], prior) > _trust([cell], prior)


def test_a_kernel_that_no_other_device_has_is_stood_in_for_by_its_library() -> None:
    """An unknown Marlin kernel on A100 follows those of H100 and B200, not what else they multiply with."""

    def of(dtype: str, kernel: str) -> Chosen:
        return chosen("a100_sxm", "moe", dtype, "", "tomorrow", f"tomorrow_s_{kernel}", unseen=True)

    assert of("int4_wo", "marlin").provenance == "transferred from H100-SXM5-80GB and B200-SXM-180GB"
    assert of("bfloat16", "triton").values != of("bfloat16", "cutlass").values


def test_a_family_held_out_is_not_in_the_prior_of_another_format_either() -> None:
    """One family in two formats: its rows are predicted without either, hence by the starting values."""
    cells = [layer("a_marlin", 30, dtype)[2] for dtype in ("int4_wo", "w4a16_mxfp4")]
    other = layer("a_marlin", 30, "int4_wo", hidden=4096)[2]
    spoiled = [Cell(c.model, c.gpu, c.dtype, c.rows, 3 * c.time_s, c.name) for c in cells]
    kin = [(0, 1, 2)] * 3
    kept, seen = (cross_fitted([*pair, other], kin=kin)[0].predicted_s(pair[0]) for pair in (cells, spoiled))
    assert kept == pytest.approx(seen, rel=1e-6)
