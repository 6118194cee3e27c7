"""Work that ncu counted beside the descriptor's: on paper, and on a GPU with a real ncu."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler.counted import AGREE, counted_rows, told
from profiler.forward import Point
from profiler.steps import operators_at
from profiler.tiles import tile_of, tiled_share
from profiler.traces.ncu import RANGES
from roofline.run import open_run
from roofline.run_tables import TABLES
from workloads.catalogue import Loaded, load_model
from workloads.operators.attention import Attention
from workloads.work import Role, Work

pytest.importorskip("torch")

POINT = Point("decode", 1, 1, 9)
STEP = "decode 1x1 of 9"
TENSOR = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
VECTOR = tuple(f"smsp__sass_thread_inst_executed_op_{op}_pred_on.sum" for op in ("fadd", "fmul", "ffma"))
HEADER = ["ID", "Process ID", "Kernel Name", "Device", RANGES, TENSOR, *VECTOR, "dram__bytes.sum"]


def inside(*names: str, domain: str = "roofline") -> str:
    """The column as ncu 2025 prints it: a thread's number, then each open range with its attributes."""
    attributes = "INT64:1:ARGB:4278190335:REGISTERED:none"
    ranges = "".join(f'  "{domain}:{name}:{attributes}"' for name in names)
    return f"1{ranges} "


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Path]:
    """A raw page of kernels: their ranges, FLOP of tensor units, fused multiply-adds, bytes."""

    def write(*kernels: tuple[str, Any, Any, Any]) -> Path:
        path = tmp_path / "page.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(HEADER)
            writer.writerow(["", "", "", "", "", "", "inst", "inst", "inst", "byte"])
            for number, (ranges, tensor, ffma, size) in enumerate(kernels):
                writer.writerow([number, 7, "kernel", 0, ranges, tensor, 0, 0, ffma, size])
        return path

    return write


def test_kernels_are_summed_by_the_innermost_range_of_their_step(
    page: Callable[..., Path], tiny: Callable[..., Loaded]
) -> None:
    """Two steps were replayed; a kernel of an earlier layer stands in another library's range, too."""
    loaded, queries = tiny(), "layers.attention.q_proj"
    rows = counted_rows(
        page(
            (inside(STEP, queries), 100, 1, 1000),
            (inside(STEP, queries), 300, 2, 2000),
            (inside(STEP, queries) + ' "other:thing:none:none:none:none:none:none"', 0, 5, 3000),
            (inside(STEP), 0, 8, 500),  # the framework's own
            (inside("prefill 1x9 of 9", queries), 7e9, 0, 7e9),  # a step that was not asked for
            ("1 ", 5e9, 0, 5e9),  # in no range at all
        ),
        loaded, "bf16", [POINT], repeats=2,
    )  # fmt: skip
    by_name = {row["name"]: row for row in rows}
    assert set(by_name) == {queries, ""}
    described = next(named for named in operators_at(loaded, "bf16", POINT) if named.name == queries)
    row = by_name[queries]
    assert tuple(row) == TABLES["counted"]
    assert row["kind"] == "gemm"
    assert row["counted_flops"] == (100 + 300 + 2 * (1 + 2 + 5)) / 2
    assert row["counted_bytes"] == 3000
    assert row["flops"] == described.count * described.operator.work().flops
    assert row["kernels"] == 2  # of three over two steps, rounded to even
    assert (by_name[""]["flops"], by_name[""]["counted_flops"]) == (None, 8)


def test_what_was_not_counted_on_every_kernel_is_no_sum(
    page: Callable[..., Path], tiny: Callable[..., Loaded]
) -> None:
    name = "layers.attention.q_proj"
    file = page((inside(STEP, name), 100, 1, 1000), (inside(STEP, name), 100, 1, "n/a"))
    (row,) = counted_rows(file, tiny(), "bf16", [POINT], 1)
    assert row["counted_bytes"] is None
    assert row["counted_flops"] == 204


def row(name: str, kind: str, flops: float, counted: float, tiled: float | None = None) -> dict[str, Any]:
    sizes = {
        "flops": flops,
        "tiled_flops": tiled,
        "counted_flops": counted,
        "bytes": 100.0,
        "counted_bytes": 110.0,
    }
    return {**vars(POINT), "name": name, "kind": kind, "kernels": 1, **sizes}


def test_operators_that_do_other_work_are_named() -> None:
    notes = told([row("q", "gemm", 100, 102), row("k", "gemm", 100, 104), row("core", "attention", 100, 109)])
    assert notes[0] == "gemm, counted by ncu against the descriptor, median: FLOP +3.0 %, bytes +10.0 %"
    assert notes[1].startswith("FLOP of k (decode at 9) differ by more than 3 % from the descriptor's")
    assert len([note for note in notes if "differ" in note]) == 1  # attention may differ by 10 %


def test_agreement_is_judged_with_whole_tiles_where_their_size_is_known() -> None:
    """Six percent more than the tile explains is fine, as softmax is counted, too; none of it is not."""
    notes = told([row("core", "attention", 100, 120, 113), row("other", "attention", 100, 100, 113)])
    assert "by the tile in their names +13.0 % FLOP" in notes[1]
    assert notes[2].startswith("FLOP of other (decode at 9) differ by more than 10 %")
    assert len(notes) == 3


@pytest.mark.parametrize(
    ("name", "tile"),
    [
        (
            "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<(int)128, (int)128, "
            "(int)64, (int)4, (bool)0>, (bool)1>(pytorch_flash::Flash_fwd_params)",
            (128, 64),
        ),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", (64, 128)),
        (
            "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1x1_kernel0_0",
            (64, 128),
        ),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", None),  # a product's
    ],
)
def test_tiles_are_read_from_the_names_of_kernels(name: str, tile: tuple[int, int] | None) -> None:
    assert tile_of(["void at::native::elementwise_kernel<128, 4>()", name]) == tile


@pytest.mark.parametrize("tile", [(128, 64), (64, 128), (64, 64), (96, 80)])
@pytest.mark.parametrize(("length", "causal"), [(512, True), (700, True), (700, False)])
def test_tiles_hold_each_visible_pair(tile: tuple[int, int], length: int, causal: bool) -> None:
    """Counted one by one: a tile is computed where any of its pairs is visible."""
    operator = Attention(1, length, length, 8, 2, 64, causal=causal)
    rows, keys = tile
    queries, seen = np.mgrid[:length, :length]
    visible = (seen <= queries) | (not causal)
    used = np.unique((queries // rows * length + seen // keys)[visible]).size
    assert tiled_share(operator, tile) == pytest.approx(used * rows * keys / visible.sum(), rel=1e-12)


def test_what_depends_on_the_kernel_has_no_expectation() -> None:
    for operator in (
        Attention(1, 1, 4096, 8, 2, 64),  # a tile may hold the queries of a group
        Attention(1, 512, 4096, 8, 2, 64),
        Attention(1, 512, 512, 8, 2, 64, window=128),
    ):
        assert tiled_share(operator, (64, 128)) is None


def test_an_ncu_that_sees_no_range_is_said(page: Callable[..., Path], tiny: Callable[..., Loaded]) -> None:
    assert "saw no kernel in a step" in told(counted_rows(page(("", 1, 1, 1)), tiny(), "bf16", [POINT], 1))[0]
    only_step = counted_rows(page((inside(STEP), 1, 1, 1)), tiny(), "bf16", [POINT], 1)
    assert "none in an operator's range" in told(only_step)[0]


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_does_the_work_that_the_descriptor_says(
    roofline: Callable[..., Any], cuda: str, tmp_path: Path
) -> None:
    """Within 3 % for products of whole tiles, and 10 % for attention, which skips masked pairs by tiles.

    Where the kernel's name does not tell its tile, one of 128 at the diagonal adds 128 / 2048.
    """
    if shutil.which("ncu") is None:
        pytest.skip("ncu is not installed")
    fields = {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 2816, "vocab_size": 2048,
        "max_position_embeddings": 4096, "pad_token_id": 0,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    sizes = ("--phase", "prefill", "--prompt", 2048, "--repeats", 1, "--no-alone", "--device", cuda)
    done = roofline("profile", tmp_path, *sizes, "--ncu", "-o", tmp_path / "run")
    if done.code and "ERR_NVGPUCTRPERM" in done.err:
        pytest.skip("this user may not read the GPU's counters")
    assert done.code == 0, done.err
    table = open_run(tmp_path / "run").table("counted")
    layers = table[table["name"].str.startswith("layers.") & table["counted_flops"].notna()]
    for kind, most in AGREE.items():
        mine = layers[layers["kind"] == kind]
        assert len(mine), done.err
        expected = mine["tiled_flops"].astype(float).fillna(mine["flops"])
        assert (mine["counted_flops"] / expected - 1).abs().max() <= most, mine
    products = layers[layers["kind"] == "gemm"].set_index("name")
    prefill = operators_at(load_model(tmp_path), "bf16", Point("prefill", 1, 2048, 2048))
    read = {named.name: named.count * _read_bytes(named.operator.work()) for named in prefill}
    # Nothing is read from caches, which ncu empties before; what is written may stay in them.
    least = products.index.map(read)
    assert (products["counted_bytes"] >= 0.9 * least).all(), products


def _read_bytes(work: Work) -> float:
    return float(sum(moved.bytes for moved in work.traffic if moved.role is not Role.OUTPUT))
