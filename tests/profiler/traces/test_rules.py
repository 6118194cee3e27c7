"""Kernels by their names, as the libraries of 2024 to 2026 write them in traces and in their sources."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from profiler.traces.rules import known_kernel

with Path(__file__).with_name("kernel_names.tsv").open(encoding="utf-8", newline="") as file:
    NAMES = [
        (row["name"], row["kind"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_a_kernel_is_what_its_library_made_it_for(name: str, kind: str) -> None:
    assert known_kernel(name).kind == kind


def test_what_only_ends_another_kernels_work_is_no_layer_of_its_own() -> None:
    """Each layer is known by one attention kernel: reductions and fix-ups must not count beside it."""
    for name in ("flash_attn_combine_results<128>", "reduce_segments", "flash_fwd_mla_combine_kernel<512>"):
        assert known_kernel(name).helper, name


@pytest.mark.parametrize(
    "name",
    [
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16832spgemm_bf16_128x128_64x6_tn_align8>",
        "sm90_xmma_sparse_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x128",
        "void marlin_24::Marlin_24<4, 256, 1, 8>",
        "cutlass::device_kernel<GemmUniversal<CollectiveMma<MainloopSm90TmaGmmaWarpSpecializedSparse<5>>>>",
    ],
)
def test_sparse_tensor_cores_are_told_from_dense_ones(name: str) -> None:
    assert (known_kernel(name).kind, known_kernel(name).sparse) == ("gemm", True)
