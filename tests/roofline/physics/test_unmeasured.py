"""Constants on GPUs that nobody measured: limits known on paper, and sane times on every device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.physics.base import Constant, Gpu
from roofline.physics.gemm import COPIES
from roofline.physics.kernels import Kernels
from roofline.physics.transfer import GRAPHICS_STREAM, MOST_SHARE, carried
from workloads.operators import Gemm

SHARE = Constant("share", "", 0.3, 1.1, 0.8, "share of a peak", "power")
UNITS = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "fp8_block": "fp8"}  # that a format runs on
ASKED = ("h200_sxm", "h20", "h800", "b300_sxm", "gb200", "l40s", "a40", "rtx_a6000", "rtx4090")
ASKED += ("rtx_pro_6000_server", "l4", "t4", "v100_pcie", "mi210", "mi300x")
ASKED += ("a100_sxm_40gb", "a10", "gh200", "rtx5090")
GPUS = {name: Gpu.of(load_device(name)) for name in ASKED}


def products() -> Iterator[Any]:
    for name, gpu in GPUS.items():
        for dtype, unit in UNITS.items():
            if unit in gpu.tensor_flop_per_s:
                yield pytest.param(name, dtype, id=f"{name}-{dtype}")


def predicted(name: str, dtype: str, fidelity: str, sizes: list[tuple[int, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(sizes, columns=["m", "n", "k"]).assign(op="gemm", dtype=dtype)
    return predict_table(table, ceilings(load_device(name), fidelity))


@pytest.mark.parametrize(("name", "dtype"), list(products()))
def test_large_products_and_streams_reach_a_sane_share_of_their_roofs(name: str, dtype: str) -> None:
    sizes = [(8192, 8192, 8192), (1, 16384, 16384), (64, 16384, 16384)]
    floor, found = (predicted(name, dtype, f, sizes) for f in ("datasheet", "calibrated"))
    share = (floor["predicted_us"] / found["predicted_us"]).to_numpy()
    assert (share <= 1).all()
    # Scales by blocks leave 64 rows for one: 128 FLOP per byte, of which an H20 has 74.
    padded = name == "h20" and dtype == "fp8_block"
    assert (share >= [0.35, 74 / 128 * 0.6 if padded else 0.45, 0.5]).all()
    assert found["provenance"].str.startswith("transferred").all()


def test_a_share_that_power_limits_follows_the_cube_root_of_power() -> None:
    h100 = replace(Gpu.of(load_device("h100_sxm")), reached={})
    assert h100.tdp_w is not None
    eighth = replace(h100, tdp_w=h100.tdp_w / 8)
    assert carried({"share": 0.8}, [SHARE], h100, eighth)["share"] == pytest.approx(0.4)
    plenty = replace(h100, tdp_w=h100.tdp_w * 8)
    assert carried({"share": 0.8}, [SHARE], h100, plenty)["share"] == MOST_SHARE
    unknown = replace(h100, tdp_w=None)
    assert carried({"share": 0.8}, [SHARE], h100, unknown)["share"] == 0.8
    assert carried({"share": 0.97}, [SHARE], h100, h100)["share"] == pytest.approx(0.97)


def test_long_runs_keep_their_clock_where_the_same_die_has_more_power_for_each_flop() -> None:
    """An H20 is an H100 of a seventh of the peak at 400 W: 3.8 times the energy for each FLOP."""
    lost = Constant("sustained", "", 0.0, 0.3, 0.05, "clock lost", "heat")
    h100 = replace(Gpu.of(load_device("h100_sxm")), reached={})
    for target, left in ((GPUS["h20"], 0.0), (h100, 0.2), (GPUS["l40s"], 0.2)):  # an L40S is no H100
        assert carried({"sustained": 0.2}, [lost], h100, target)["sustained"] == pytest.approx(left)
    assert h100.tdp_w is not None
    more = replace(h100, tdp_w=h100.tdp_w * 1.1**3)
    assert carried({"sustained": 0.21}, [lost], h100, more)["sustained"] == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["a10", "a100_sxm_40gb", "rtx_a6000"])
def test_four_bit_weights_gain_what_marlin_gains(name: str) -> None:
    """73,728 x 18,432: nearly 4 up to 16 rows, less than 2 at 128 (Marlin, arXiv:2408.11743, figure 1)."""
    sizes = [(m, 73_728, 18_432) for m in (1, 16, 128)]
    wide, narrow = (predicted(name, d, "calibrated", sizes)["predicted_us"] for d in ("float16", "int4_wo"))
    one, few, many = wide / narrow
    assert 3.3 < few <= one * 1.01 < 4.8
    assert 1 < many < 2


@pytest.mark.parametrize("name", ["l40s", "rtx4090", "rtx5090", "rtx_pro_6000_server", "l4"])
def test_half_the_bytes_take_no_longer_where_no_engine_says_which_tiles(name: str) -> None:
    """Of SGLang's kernel for GeForce Blackwell, 128 rows for one, a row without an engine knows nothing."""
    sizes = [(m, n, n) for m in (1, 16, 64) for n in (4096, 8192, 16384)]
    wide, narrow = (predicted(name, d, "calibrated", sizes)["predicted_us"] for d in ("bfloat16", "fp8"))
    assert (narrow <= wide).all()


def test_a_share_of_a_peak_follows_what_was_measured_of_it_in_the_same_way() -> None:
    h100 = replace(
        Gpu.of(load_device("h100_sxm")), reached={"fp8": (0.8, "replays"), "bf16": (0.9, "replays")}
    )
    slower = replace(h100, tdp_w=10.0, reached={"fp8": (0.6, "replays"), "bf16": (0.45, "replays")})
    assert carried({"share": 0.8}, [SHARE], h100, slower, "fp8")["share"] == pytest.approx(0.6)
    assert carried({"share": 0.8}, [SHARE], h100, slower, "int8")["share"] == pytest.approx(0.4)  # as bf16
    other = replace(slower, tdp_w=h100.tdp_w, reached={"fp8": (0.6, "an hour of load")})
    assert carried({"share": 0.8}, [SHARE], h100, other, "fp8")["share"] == pytest.approx(0.8)


def test_a_stream_reaches_what_the_memory_was_measured_to_or_what_its_kind_does() -> None:
    a100, l40s, rtx4090 = (Gpu.of(load_device(name)) for name in ("a100_sxm", "l40s", "rtx4090"))
    share = Constant("memory_share", "", 0.1, 1.0, 0.8, "share of the bandwidth", "stream")
    here, there = a100.reached["dram"][0], l40s.reached["dram"][0]
    found = carried({"memory_share": 0.7}, [share], a100, l40s)["memory_share"]
    assert found == pytest.approx(0.7 * there / here)
    assert "dram" not in rtx4090.reached
    found = carried({"memory_share": 0.7}, [share], a100, rtx4090)["memory_share"]
    assert found == pytest.approx(0.7 * GRAPHICS_STREAM / here)


def test_an_l2_of_one_partition_keeps_twice_the_share_and_feeds_fewer_ports() -> None:
    source = Gpu.of(load_device("a100_sxm"))
    assert (source.partitions, GPUS["l40s"].partitions) == (2, 1)
    kept = Constant("kept", "", 0.01, 8.0, 0.5, "share of the L2", "whole")
    fed = Constant("fed", "", 0.01, 1.0, 0.5, "share of all ports", "slices")
    found = carried({"kept": 0.4, "fed": 0.5}, [kept, fed], source, GPUS["l40s"])
    assert found["kept"] == pytest.approx(0.8)
    assert found["fed"] * GPUS["l40s"].l2_byte_per_s < 5.3e12  # 5.2 TB/s were measured on an L40
    same = carried({"kept": 0.4, "fed": 0.5}, [kept, fed], Gpu.of(load_device("h100_sxm")), GPUS["h200_sxm"])
    assert same == pytest.approx({"kept": 0.4, "fed": 0.5})


# The fastest product of public tables (device files, `measured`), which holds the quantise kernel too.
FASTEST = (("l40s", "bfloat16"), ("rtx_pro_6000_server", "bfloat16"), ("rtx_pro_6000_server", "fp8"))
LARGE = [(m, n, n) for m in (4096, 8192, 16384) for n in (8192, 16384)]


@pytest.mark.parametrize(("name", "dtype"), FASTEST)
def test_the_fastest_product_is_near_the_fastest_measured(name: str, dtype: str) -> None:
    table, gpu = predicted(name, dtype, "calibrated", LARGE), GPUS[name]
    attained = (2 * table["m"] * table["n"] * table["k"] / table["predicted_us"]).max() * 1e6
    measured = gpu.reached[UNITS[dtype]][0] * gpu.peak(UNITS[dtype])
    assert 0.75 < attained / measured < 1.0


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server", "l4", "rtx4090"])
def test_weights_that_stay_in_a_large_l2_come_no_faster_than_its_slices_deliver(name: str) -> None:
    gpu = GPUS[name]
    side = int((0.5 * gpu.l2_bytes / COPIES / 2) ** 0.5)  # half of what is kept of all copies, 16 bits each
    time = predicted(name, "bfloat16", "calibrated", [(1, side, side)])["predicted_us"][0] * 1e-6
    assert 2 * side * side / time < gpu.slices * gpu.l2_byte_per_s


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server", "l4"])
def test_activations_are_quantised_at_the_pace_of_memory_where_the_l2_cannot_keep_them(name: str) -> None:
    """1 byte written for 2 read: from memory beyond the L2, at no less than half its bandwidth."""
    kernels, rows = Kernels(load_device(name)), {"m": 65536.0, "n": 128.0, "k": 8192.0}
    found = kernels.table("gemm", "fp8", "", {size: np.array([count]) for size, count in rows.items()})
    assert found is not None
    moved = 3 * rows["m"] * rows["k"]
    assert moved > 4 * GPUS[name].l2_bytes
    share = moved / GPUS[name].dram_byte_per_s / found.parts["quantise kernel"][0]
    assert 0.5 < share <= 1


def test_products_of_any_size_warn_of_nothing() -> None:
    sizes = [(1, 1, 1), (1, 10**6, 10**6), (10**6, 10**6, 10**6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("l40s", "h200_sxm"):
            assert np.isfinite(predicted(name, "bfloat16", "calibrated", sizes)["predicted_us"]).all()
            nothing = Kernels(load_device(name)).operator(Gemm(np.array([0, 1]), 4096, 4096))
            assert nothing is not None
            assert nothing.time_s[0] <= nothing.time_s[1]


SIZES = np.exp2(np.arange(0, 15))
MOST_TIMES_FLOOR = 10.0  # of rows whose floor is no launch: beyond, a constant was carried by the wrong law
LEAST_FLOOR_US = 100.0


def grown(name: str) -> Iterator[pd.DataFrame]:
    """Tables in which one size grows from row to row, and the rest stays."""
    for dtype, unit in UNITS.items():
        if unit in GPUS[name].tensor_flop_per_s:
            for size in ("m", "n", "k"):
                fixed = {"m": 64.0, "n": 4096.0, "k": 4096.0, size: 16 * SIZES[:12]}
                yield pd.DataFrame({"op": "gemm", "dtype": dtype, **fixed})
    for op in ("rmsnorm", "act_mul", "elementwise_add", "rope"):
        heads = {"n_heads": 32.0, "n_kv_heads": 8.0, "head_dim": 128.0}
        yield pd.DataFrame({"op": op, "dtype": "float16", "num_tokens": SIZES, "hidden": 8192.0, **heads})
    for op, query in (("mla_decode", 1.0), ("mla_prefill", SIZES + 1)):
        # Many sequences: Ampere's kernel does not split one, so that few leave most processors without work.
        latent = {"batch": 256.0, "n_heads": 16.0, "q_len": query, "kv_len": SIZES + 1}
        yield pd.DataFrame({"op": op, "dtype": "bfloat16", "kv_dtype": "bfloat16", **latent})


@pytest.mark.parametrize("name", ASKED)
def test_no_kernel_beats_its_floor_or_is_wildly_above_it_and_more_work_takes_no_less(name: str) -> None:
    device = load_device(name)
    limits = ceilings(device, "datasheet"), ceilings(device, "calibrated")
    for table in grown(name):
        if table["dtype"][0] == "bfloat16" and "bf16" not in GPUS[name].tensor_flop_per_s:
            continue
        floor, found = (predict_table(table, each)["predicted_us"].to_numpy(float) for each in limits)
        said = f"{name} {table['op'][0]} {table['dtype'][0]}"
        assert (found >= floor * (1 - 1e-9)).all(), said
        large = floor > LEAST_FLOOR_US
        assert (found[large] < MOST_TIMES_FLOOR * floor[large]).all(), said
        assert (np.diff(np.log(found)) > -0.06).all(), said  # waves: a larger tile may fill processors better


FORMATS = {**UNITS, "nvfp4": "fp4", "sq": "int8", "int8_wo": "bf16", "int4_wo": "bf16"}
WEIGHTS = ((1024, 1024), (4096, 4096), (8192, 28_672), (16_384, 2048), (28_672, 8192))
ROWS = (17, 64, 256, 1024, 4096, 16_384)  # fewer have kernels of their own on Ampere
LEAST_SHARE = 0.3  # of products longer than LEAST_FLOOR_US: a B300 was measured to 0.43 of its peak in fp4


CARDS = ("l40s", "l4", "rtx4090", "rtx5090", "rtx_pro_6000_server", "a10")
SERVERS = ("h20", "h200_sxm", "gb200", "b300_sxm", "a100_sxm_40gb", "mi300x")


@pytest.mark.parametrize("name", [*CARDS, *SERVERS])
def test_thirty_products_in_every_format_are_sane(name: str) -> None:
    """No faster than the data sheet nor, where they are long, three times as slow; longer with more rows."""
    for dtype, unit in FORMATS.items():
        if unit not in GPUS[name].tensor_flop_per_s:
            continue
        sizes = [(m, n, k) for n, k in WEIGHTS for m in ROWS]
        floor, found = (
            predicted(name, dtype, fidelity, sizes)["predicted_us"].to_numpy(float)
            for fidelity in ("datasheet", "calibrated")
        )
        assert (found >= floor * (1 - 1e-9)).all(), dtype
        long = floor > LEAST_FLOOR_US
        assert (floor[long] > LEAST_SHARE * found[long]).all(), dtype
        growth = np.diff(np.log(found.reshape(len(WEIGHTS), -1)))
        assert (growth > -0.04).all(), dtype  # 17 rows leave more rows of tiles beyond the matrix than 64 do
