"""Libraries' rules for splitting keys: what their sources say of the cases that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwspecs import load_device
from roofline.physics.attention import Shape
from roofline.physics.base import Dtypes, Gpu
from roofline.physics.splits import (
    _fewest,
    flash_2_splits,
    flash_3_keys,
    flash_3_rows,
    flash_3_splits,
    flashinfer_splits,
    flashinfer_tile,
    plain_splits,
    segments,
    triton_splits,
    xqa_splits,
)

BF16 = Dtypes("bfloat16", "bf16", "bf16", "bf16", "bf16")
FP8_CACHE = BF16._replace(kv="fp8")
GPUS = {name: Gpu.of(load_device(name)) for name in ("a100_sxm", "h100_sxm", "l40s")}


def shape(**sizes: Any) -> Shape:
    default = {"batch": 1, "kv_len": 1024, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    merged = {**default, **sizes}
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in merged.values()))
    return Shape.of(dict(zip(merged, arrays, strict=True)))


def test_the_example_in_flash_attention_s_source() -> None:
    """48 blocks of work on 108 processors: two splits keep 0.89 of them busy, three only 0.67."""
    assert _fewest(48.0, 64.0, 108.0, False) == 2.0
    assert _fewest(87.0, 64.0, 108.0, False) == 1.0  # more than 0.8 of the processors


def test_flash_attention_2_counts_only_splits_that_shorten_the_longest() -> None:
    gpu = GPUS["a100_sxm"]
    found = flash_2_splits(shape(n_kv_heads=1, batch=1), np.array([10.0]), gpu)
    assert found == 10.0  # 6 to 9 splits leave two blocks to one of them, as 5 do
    assert flash_2_splits(shape(n_kv_heads=8, batch=32), np.array([10.0]), gpu) == 1.0


def test_rows_are_split_together_as_they_are_one_by_one() -> None:
    gpu, random = GPUS["a100_sxm"], np.random.default_rng(0)
    batch, blocks = random.integers(1, 300, 500), random.integers(1, 400, 500).astype(float)
    together = flash_2_splits(shape(n_kv_heads=2, batch=batch), blocks, gpu)
    alone = [
        _fewest(min(2.0 * one, 216.0), min(many, 128.0), 216.0, True)
        for one, many in zip(batch, blocks, strict=True)
    ]
    assert list(together) == alone


def test_flash_attention_3_takes_other_blocks_before_hopper_where_it_does_not_split() -> None:
    """hopper/tile_size.h, tile_size_fwd_sm8x: with four warps on sm80, with eight on sm86 and sm89."""
    wide, plain = shape(head_dim=128), BF16
    assert flash_3_keys(wide, GPUS["a100_sxm"], plain) == 112
    assert flash_3_keys(wide, GPUS["a100_sxm"], plain, split=False) == 64
    assert flash_3_keys(wide, GPUS["l40s"], plain, split=False) == 128
    hopper = [flash_3_keys(wide, GPUS["h100_sxm"], plain, split=split) for split in (True, False)]
    assert hopper[0] == hopper[1] == 128


@pytest.mark.parametrize(
    ("heads", "dim", "kv", "rows"), [(32, 128, "bf16", 64), (32, 192, "bf16", 128), (32, 128, "fp8", 128)]
)
def test_one_warp_group_of_flash_attention_3_holds_64_rows(heads: int, dim: int, kv: str, rows: int) -> None:
    one = shape(n_heads=heads, n_kv_heads=8, head_dim=dim)
    assert flash_3_rows(one, GPUS["h100_sxm"], BF16._replace(kv=kv)) == rows
    assert flash_3_rows(one, GPUS["a100_sxm"], BF16) == 128


def test_flash_attention_3_gives_every_processor_as_many_blocks() -> None:
    gpu, blocks = GPUS["h100_sxm"], np.array([64.0])
    assert flash_3_splits(shape(n_kv_heads=1), blocks, gpu, most=32.0) == 32.0
    alone = flash_3_splits(shape(n_kv_heads=1), blocks, gpu, most=0.0)
    assert alone == 55.0  # 0.85 of 64 splits, the fullest that are possible, rounded up
    many = flash_3_splits(shape(n_kv_heads=8, batch=128), blocks, gpu, most=32.0)
    assert many == 1.0
    assert flash_3_splits(shape(n_kv_heads=1), np.array([4.0]), gpu, most=0.0) == 1.0


@pytest.mark.parametrize(
    ("keys", "parts"), [(64, 1), (255, 1), (256, 2), (1024, 8), (4096, 16), (131_072, 91)]
)
def test_xqa_takes_the_root_of_eight_times_its_pieces_at_most(keys: int, parts: int) -> None:
    found = xqa_splits(shape(n_kv_heads=1, kv_len=keys), GPUS["h100_sxm"])
    assert found == parts


def test_xqa_stops_at_eight_waves() -> None:
    gpu = GPUS["h100_sxm"]
    found = xqa_splits(shape(n_kv_heads=1, batch=gpu.processors * np.array([1, 2, 8, 64]), kv_len=8192), gpu)
    assert list(found) == [8.0, 4.0, 1.0, 1.0]


def test_tensorrt_s_plain_kernel_makes_larger_blocks_where_heads_are_few() -> None:
    gpu = GPUS["h100_sxm"]
    heads = np.array([1.0, 132.0, 264.0, 528.0, 5280.0])
    splits, step, beside = plain_splits(shape(n_heads=heads, n_kv_heads=heads, kv_len=65_536), gpu)
    assert list(beside) == [1.0, 1.0, 2.0, 4.0, 4.0]  # of 1024, 512 and 256 threads
    assert list(step * 8) == [512.0, 512.0, 256.0, 128.0, 128.0]  # keys of a loop, at 16 threads a key
    assert list(splits) == [128.0, 1.0, 1.0, 1.0, 1.0]


def test_sglang_s_triton_kernel_makes_eight_parts_of_32_keys_or_more() -> None:
    gpu = GPUS["h100_sxm"]

    def parts(seen: float, batch: float = 1.0, group: float = 1.0) -> float:
        return float(triton_splits(shape(batch=batch, n_kv_heads=1, n_heads=group), np.array([seen]), gpu)[0])

    assert parts(131_072) == 8.0  # however long a sequence is and however many processors wait
    assert [parts(32), parts(33), parts(96)] == [1.0, 2.0, 3.0]
    # 132 processors, and 256 keys are 4 blocks of 64: 264 thread blocks.
    assert [parts(256, batch=88), parts(256, batch=264)] == [3.0, 1.0]
    assert parts(1024, batch=100, group=17) == 3.0  # 528 over 200 blocks: 16 heads are one


def test_vllm_s_triton_kernel_makes_16_segments_while_there_are_few_blocks() -> None:
    one, keys = shape(n_kv_heads=8, batch=np.array([16, 17]), kv_len=4096), np.array([4096.0, 4096.0])
    assert list(segments(one, keys, 16.0)) == [16.0, 1.0]
    assert list(segments(one, keys / 32, 16.0)) == [1.0, 1.0]  # of a window that one segment covers
    assert segments(shape(kv_len=40), np.array([40.0]), 16.0)[0] == 3.0  # of one step each


def test_flashinfer_plans_for_two_blocks_a_processor_of_128_keys_or_more() -> None:
    """PrefillPlan: 284 blocks on an L40S, of which each of 8 KV heads gets 35."""
    keys = np.array([1.0, 129.0, 1024.0, 131_072.0])
    assert list(flashinfer_splits(np.array([8.0]), keys, GPUS["l40s"])) == [1.0, 2.0, 8.0, 35.0]
    assert list(flashinfer_splits(np.array([142.0, 143.0]), keys[-1:], GPUS["l40s"])) == [2.0, 1.0]


def test_flashinfer_multiplies_few_heads_by_vector_units_in_blocks_of_which_many_fit() -> None:
    """32 and 8 KB of shared memory and 128 threads each; over fp8 tensor cores take all heads."""
    group = np.array([1.0, 3.0, 4.0, 17.0, 65.0])
    rows, beside = flashinfer_tile(group, GPUS["l40s"], BF16)
    assert list(rows) == [1.0, 1.0, 16.0, 64.0, 128.0]
    assert list(beside) == [3.0, 12.0, 1.0, 1.0, 1.0]
    assert list(flashinfer_tile(group, GPUS["h100_sxm"], BF16)[1][:2]) == [7.0, 16.0]
    assert list(flashinfer_tile(group, GPUS["l40s"], FP8_CACHE)[0]) == [16.0, 16.0, 16.0, 64.0, 128.0]


@given(
    st.integers(1, 2000),
    st.sampled_from([1, 2, 8, 64]),
    st.integers(1, 200_000),
    st.sampled_from(sorted(GPUS)),
)
def test_no_rule_makes_more_parts_than_there_are_blocks(batch: int, heads: int, keys: int, name: str) -> None:
    gpu, one = GPUS[name], shape(batch=batch, n_heads=heads, n_kv_heads=heads, kv_len=keys)
    blocks = np.ceil(np.array([keys / 128]))
    rules = [flash_2_splits(one, blocks, gpu), xqa_splits(one, gpu), plain_splits(one, gpu)[0]]
    rules += [flash_3_splits(one, blocks, gpu, most) for most in (0.0, 32.0)]
    seen = np.array([float(keys)])
    rules += [flashinfer_splits(one.batch * one.kv_heads, seen, gpu)]
    rules += [np.ceil(triton_splits(one, seen, gpu) / 2), np.ceil(segments(one, seen, 16.0) / 4)]
    assert all(1 <= parts[0] <= np.ceil(keys / 64) and parts[0] == np.round(parts[0]) for parts in rules)
