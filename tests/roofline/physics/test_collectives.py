"""Collectives: limits known on paper, and held-out error on public measurements."""

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
from roofline.physics.collectives import CollectiveModel
from roofline.physics.columns import dtypes_of
from roofline.physics.kernels import Kernels
from roofline.physics.transfer import carried
from workloads.dtypes import bytes_per_element
from workloads.operators.collective import PATTERNS, AllToAll, Collective, sent_share

H100, A100 = (Gpu.of(load_device(name)) for name in ("h100_sxm", "a100_sxm"))
BYTES = 2.0 ** np.arange(8, 31)
START = {c.name: c.start for c in CollectiveModel().constants(H100, dtypes_of("bfloat16"))}
OWN = "vLLM_custom_graph"


def parts(gpu: Gpu = H100, c: Any = None, **columns: Any) -> dict[str, Any]:
    count = max((np.size(v) for v in columns.values() if not isinstance(v, str)), default=1)
    rows = {
        n: np.full(count, v, dtype=object if isinstance(v, str) else np.float64) if np.ndim(v) == 0 else v
        for n, v in columns.items()
    }
    return CollectiveModel().parts(rows, gpu, dtypes_of("bfloat16"), c or START)


@pytest.mark.parametrize("op", PATTERNS)
@pytest.mark.parametrize("kernel", ["NCCL", OWN])
def test_one_gpu_has_nothing_to_send(op: str, kernel: str) -> None:
    assert total(parts(op=op, bytes=BYTES, n_gpus=1, kernel=kernel)).max() == 0


@pytest.mark.parametrize("op", PATTERNS)
@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_larger_messages_take_longer(op: str, gpus: int) -> None:
    found = parts(op=op, bytes=BYTES, n_gpus=gpus, kernel="NCCL")
    assert (np.diff(total(found)) > 0).all()
    assert all((seconds >= 0).all() for seconds in found.values())


@pytest.mark.parametrize("op", PATTERNS)
@given(st.integers(256, 2**30), st.integers(2, 8))
def test_never_faster_than_the_link(op: str, size: int, gpus: int) -> None:
    sent = Collective(op, float(size), gpus).work().comm_bytes
    assert H100.link_byte_per_s is not None
    for kernel in ("NCCL", OWN):
        found = total(parts(op=op, bytes=float(size), n_gpus=gpus, kernel=kernel))
        assert found >= sent / H100.link_byte_per_s


def test_a_long_ring_sends_twice_what_it_gathers() -> None:
    """2 (n - 1) / n of the message around the ring against (n - 1) / n, both at the link's share."""
    c = {**START, "local_share": 1e9, "fill": 0.0}
    sums, gathered = (
        total(parts(A100, c, op=op, bytes=1e12, n_gpus=4, kernel="NCCL")) for op in ("allreduce", "allgather")
    )
    assert sums == pytest.approx(2 * gathered, rel=1e-3)
    assert A100.link_byte_per_s is not None
    assert sums == pytest.approx(1.5e12 / A100.link_byte_per_s / START["link_share"], rel=1e-3)


@pytest.mark.parametrize("name", ["l40s", "gb200", "h100_pcie", "mi300x", "rtx_pro_6000", "v100_sxm2"])
def test_on_unmeasured_links_short_sums_wait_and_long_ones_approach_the_link(name: str) -> None:
    """By the constants that each GPU gets, from 2 to 72 of them; PCIe boxes and racks of one fabric alike."""
    device = load_device(name)
    table = pd.DataFrame({"op": "allreduce", "dtype": "bf16", "kernel": "NCCL", "bytes": [1e3, 4e9]})
    for gpus in (2, 8, 16, 72):
        rows = table.assign(n_gpus=gpus)
        time = predict_table(rows, ceilings(device, "calibrated"))["predicted_us"].to_numpy()
        floor = predict_table(rows, ceilings(device))["predicted_us"].to_numpy()
        assert 2 < time[0] < 120, gpus
        assert 1 <= time[1] / floor[1] < 1.8, gpus


@pytest.mark.parametrize(("op", "steps"), [("allreduce", 6), ("allgather", 3), ("alltoall", 1)])
def test_steps_of_a_short_message(op: str, steps: int) -> None:
    """Around a ring of 4 a sum goes twice, what is gathered once; all-to-all is sent to all at once."""
    c = {**START, "spread": 0.0}
    found = parts(H100, c, op=op, bytes=256.0, n_gpus=4, kernel="NCCL")["latency"][0]
    assert found - c["launch_s"] == pytest.approx(steps * c["step_s"])


def test_two_shots_send_a_slice_to_every_peer_twice_and_one_shot_all_of_it_once() -> None:
    """7 / 8 of the message each, beside 7 times the message."""
    message = 1e6
    assert H100.link_byte_per_s is not None
    c = {**START, "direct_bytes": 1e12, "one_shot_share": 0.5, "two_shot_share": 0.5, "second_s": 0.0}
    ends = {"one_shot_share": 1e-6}, {"two_shot_share": 1e-6}
    found = [parts(H100, c | slow, op="allreduce", bytes=message, n_gpus=8, kernel=OWN) for slow in ends]
    two, one = (each["ideal"] + each["algorithm"] for each in found)
    half = 0.5 * H100.link_byte_per_s  # the whole link would be the floor of any all-reduce
    assert two == pytest.approx(2 * 7 / 8 * message / half)
    assert one == pytest.approx(7 * message / half)


def test_a_short_sum_over_hosts_climbs_a_tree_not_a_ring() -> None:
    eight, sixteen, rack = (
        float(parts(op="allreduce", bytes=256.0, n_gpus=n, kernel="NCCL")["latency"][0]) for n in (8, 16, 64)
    )
    assert sixteen - eight == pytest.approx((rack - eight) / 3)  # one level more, and three
    assert rack < 2 * eight


def test_a_switch_that_reduces_takes_each_message_once() -> None:
    """(1 + 1 / n) of the message at the switch's share of the link, against 2 (n - 1) / n in the ring."""
    c = {**START, "local_share": 1e9, "fill": 0.0}
    two, eight = (total(parts(H100, c, op="allreduce", bytes=1e12, n_gpus=n, kernel="NCCL")) for n in (2, 8))
    assert eight / two == pytest.approx((1 + 1 / 8) * START["link_share"] / START["switch_share"], rel=1e-3)


def test_engines_kernels_are_quick_for_short_messages_only() -> None:
    short, long = (
        [total(parts(op="allreduce", bytes=size, n_gpus=8, kernel=kernel)) for kernel in (OWN, "NCCL")]
        for size in (4096.0, 1e9)
    )
    assert short[0] < short[1]
    assert long[0] == pytest.approx(long[1], rel=1e-3)


def test_engines_leave_sums_over_pcie_to_the_library() -> None:
    """vLLM between more than two GPUs (CustomAllreduce), TensorRT-LLM all (ifFallbackToNCCL)."""
    l40s = Gpu.of(load_device("l40s"))
    names = {"vllm": OWN, "trtllm": "TRTLLM", "nccl": "NCCL"}
    two, four = (
        {
            b: total(parts(l40s, op="allreduce", bytes=4096.0, n_gpus=n, backend=b, kernel=k))[0]
            for b, k in names.items()
        }
        for n in (2, 4)
    )
    assert four["vllm"] == four["trtllm"] == four["nccl"]
    assert two["vllm"] < two["trtllm"] == two["nccl"]


def test_long_messages_over_pcie_go_at_what_nccl_counts_on() -> None:
    """12 GB/s of the 15.75 of 16 lanes (topo.h), or less where less was reached."""
    l40s = Gpu.of(load_device("l40s"))
    assert l40s.link_byte_per_s is not None
    for reached, share in ((0.95, 12 / 15.75), (0.5, 0.5)):
        c = {**START, "local_share": 1e9, "fill": 0.0, "link_share": reached}
        found = total(parts(l40s, c, op="allreduce", bytes=1e12, n_gpus=4, kernel="NCCL"))[0]
        assert found == pytest.approx(1.5e12 / l40s.link_byte_per_s / share, rel=1e-3)


def test_no_switch_reduces_over_pcie() -> None:
    """RTX PRO 6000 is a later generation than Hopper, but eight of them go around the ring."""
    rtx = Gpu.of(load_device("rtx_pro_6000_server"))
    c = {**START, "local_share": 1e9, "fill": 0.0, "link_share": 0.5}
    two, eight = (total(parts(rtx, c, op="allreduce", bytes=1e12, n_gpus=n, kernel="NCCL")) for n in (2, 8))
    assert eight / two == pytest.approx(7 / 4, rel=1e-3)


def test_steps_over_pcie_follow_no_gpu_clock() -> None:
    step = next(c for c in CollectiveModel().constants(A100, dtypes_of("bfloat16")) if c.name == "step_s")
    given = {"step_s": 0.6e-6}
    slow, fast = (Gpu.of(load_device(name)) for name in ("a10", "rtx4090"))
    found = [carried(given, [step], A100, gpu)["step_s"] for gpu in (slow, fast)]
    assert found == pytest.approx([1e-6, 1e-6])
    assert carried(given, [step], A100, H100)["step_s"] == pytest.approx(
        0.6e-6 * A100.boost_hz / H100.boost_hz
    )


def test_what_a_ring_was_measured_to_reach_bounds_no_sum_in_the_switch() -> None:
    """H200 has H100's die and links, and its file the rate of a ring (366 GB/s), which H100's has not."""
    rows = pd.DataFrame({"op": "allreduce", "dtype": "bf16", "kernel": "NCCL", "bytes": [1e9], "n_gpus": 8})
    found = [ceilings(load_device(name), "calibrated") for name in ("h200_sxm", "h100_sxm")]
    new, old = (predict_table(rows, limits)["predicted_us"][0] for limits in found)
    assert new <= old
    assert 2 * 7 / 8 * 1e9 / (new * 1e-6) > 366e9


@pytest.mark.parametrize("name", ["h100_sxm", "l40s", "b200_sxm"])
@pytest.mark.parametrize("op", PATTERNS[:4])
def test_messages_of_any_16_bits_take_as_long(name: str, op: str) -> None:
    rows = pd.DataFrame({"op": op, "backend": "nccl", "kernel": "NCCL", "bytes": BYTES, "n_gpus": 4})
    limits = ceilings(load_device(name), "calibrated")
    one, two = (predict_table(rows.assign(dtype=d), limits)["predicted_us"] for d in ("bf16", "fp16"))
    assert one.to_numpy() == pytest.approx(two.to_numpy())
    eight = predict_table(rows.assign(dtype="fp8"), limits)
    assert not eight["provenance"].str.contains("ceilings").any()


def test_engines_kernels_sum_16_bits_of_either_kind_alike() -> None:
    rows = pd.DataFrame({"op": "allreduce", "backend": "vllm", "bytes": [4096.0], "n_gpus": 4})
    limits = ceilings(load_device("h100_sxm"), "calibrated")
    one, two = (predict_table(rows.assign(dtype=d), limits)["predicted_us"][0] for d in ("bf16", "fp16"))
    assert one == two


@pytest.mark.parametrize("dtype", ["fp8", "bf16", "nvfp4"])
def test_experts_dispatch_takes_as_long_as_the_benchmark_s_message(dtype: str) -> None:
    """A rank sends 7 / 8 of its message to the other 7 of 8 GPUs."""
    sent = AllToAll(rows=7 * 64, width=4096, dtype=dtype, devices=8)
    size = 8 * 64 * 4096 * bytes_per_element(dtype)
    rows = pd.DataFrame({"op": "alltoall", "dtype": dtype, "bytes": [size], "n_gpus": 8})
    device = load_device("h100_sxm")
    found = Kernels(device).operator(sent)
    assert found is not None
    stated = predict_table(rows, ceilings(device, "calibrated"))["predicted_us"][0]
    assert found.time_s[0] * 1e6 == pytest.approx(stated)


def test_shares_of_a_message() -> None:
    assert [sent_share(p, 4) for p in PATTERNS] == [1.5, 0.75, 0.75, 0.75, 1.0]
    assert [sent_share(p, 1) for p in PATTERNS] == [0.0] * 5


CELLS = [
    ("a100_sxm", "allreduce", "half", "NCCL", 0.09),
    ("a100_sxm", "allgather", "half", "NCCL", 0.11),
    ("h100_sxm", "reduce_scatter", "half", "NCCL", 0.11),
    ("h100_sxm", "allreduce", "bfloat16", OWN, 0.09),
]


@pytest.mark.parametrize(("gpu", "op", "dtype", "kernel", "most"), CELLS)
def test_held_out_sizes_are_predicted(
    held_out_error: Any, gpu: str, op: str, dtype: str, kernel: str, most: float
) -> None:
    cell = {"gpu": gpu, "op": op, "dtype": dtype, "kernel": kernel}
    assert held_out_error("aic_comm", CollectiveModel(), 250, **cell) <= most
