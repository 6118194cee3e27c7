"""Which value of a device file becomes which ceiling, and how far a link reaches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from hwspecs import Device, load_device
from roofline.ceilings import Ceilings, Island, ceilings
from roofline.predict import predict
from roofline.scenario import Scenario
from roofline.times import times
from specfiles.errors import InputError
from tests.conftest import number
from workloads.catalogue import load_model
from workloads.operators import AllReduce, Gemm
from workloads.phases import Setting

LLAMA = load_model("Llama-3.1-8B").model


def test_a_vector_peak_never_stands_in_for_a_tensor_peak(paper_device: Callable[..., Device]) -> None:
    """Measured on the vector lanes only: the tensor units keep their data-sheet peak, ten times higher."""
    measured = {"dram_byte_per_s": number(0.9e12), "vector_flop_per_s": {"fp32": number(9e12)}}
    limits = ceilings(paper_device(tensor=100e12, vector=10e12, measured=measured), "measured")
    assert limits.matrix_flop_per_s("fp32") == 100e12
    assert limits.vector_flop_per_s == 9e12
    assert any("data-sheet" in note and "fp32 peak" in note for note in limits.told())


def test_a_measured_link_counts_when_it_is_asked_for(paper_device: Callable[..., Device]) -> None:
    measured = {"dram_byte_per_s": number(0.9e12), "links": {"nvlink": number(73e9)}}
    device = paper_device(link=100e9, measured=measured)
    assert ceilings(device, "datasheet").link() == 100e9
    assert ceilings(device, "measured").link() == 73e9
    only = paper_device(link=None, measured=measured)
    assert ceilings(only, "measured").link() == 73e9
    with pytest.raises(InputError, match="has no link"):
        ceilings(only, "datasheet").link()


def test_the_floor_leaves_out_only_what_the_sheet_lacks(paper_device: Callable[..., Device]) -> None:
    """A peak that the sheet lacks was measured; the sheet's bandwidth still bounds the time."""
    measured = {"dram_byte_per_s": number(5e12), "tensor_flop_per_s": {"fp64": number(1e15)}}
    device = paper_device(bandwidth=1e12, measured=measured)
    product = Gemm(1, 4096, 4096, "fp64", "fp64", "fp64")
    limits = ceilings(device, "measured")
    assert times(product, limits).memory_s == pytest.approx(product.work().bytes / 5e12)
    assert times(product, limits).time_s == pytest.approx(product.work().bytes / 1e12)
    floor = limits.floor
    assert floor is not None
    assert floor.matrix_flop_per_s("fp64") == math.inf
    without = paper_device(bandwidth=None, measured=measured)
    compute = Gemm(8192, 8192, 8192)
    assert times(compute, ceilings(without, "measured")).time_s >= compute.work().matrix_flops / 100e12


BASE = Ceilings("Paper", "datasheet", {"bf16": 1e12}, None, None, 1e12, 448e9)  # type: ignore[arg-type]


def test_a_link_reaches_as_far_as_its_island() -> None:
    switch = replace(BASE, island=Island("Box", 8, network_byte_per_s=50e9))
    assert [switch.link(n) for n in (2, 8, 9, 16)] == [448e9, 448e9, 50e9, 50e9]
    mesh = replace(BASE, island=Island("Box", 8, mesh=True))
    assert [mesh.link(n) for n in (2, 4, 8)] == [64e9, 192e9, 448e9]
    with pytest.raises(InputError, match=r"Box joins 8 devices.*no network.*16 devices"):
        mesh.link(16)
    assert BASE.link(1000) == 448e9  # nothing is known of the node


def test_a_pair_behind_a_switch_has_all_links_of_a_device() -> None:
    """DGX H100: 450 GB/s per direction to any one peer as to all (NVLink 4 data sheet)."""
    limits = ceilings(load_device("dgx-h100"))
    assert limits.link(2) == limits.link(8) == 450e9


def test_a_pair_in_a_mesh_shares_one_link() -> None:
    """MI300X: 64 GB/s to one peer, 448 GB/s to all seven."""
    limits = ceilings(load_device("MI300X-8GPU"))
    assert limits.link(2) == 64e9
    assert limits.link(8) == 448e9
    pair = AllReduce(1024, 8192, 2)
    assert times(pair, limits).comm_s == pytest.approx(1024 * 8192 * 2 / 64e9)


def test_a_node_refuses_more_devices_than_it_has() -> None:
    device = load_device("dgx-h100")
    predict(Scenario(LLAMA, "decode", setting=Setting(tensor_parallel=8)), device)
    with pytest.raises(InputError, match=r"DGX-H100 has 8 devices, --tp 16 was asked for; .* at most 8"):
        predict(Scenario(LLAMA, "decode", setting=Setting(tensor_parallel=16)), device)


def test_a_node_of_cards_sums_over_pcie() -> None:
    """Eight L40S: the sums of tensor parallelism take 31.5 GB/s, and show."""
    setting = Setting(tensor_parallel=8)
    slow, fast = (
        predict(Scenario(LLAMA, "prefill", 4, 2000, setting=setting), load_device(name))
        for name in ("pcie_l40s_8", "dgx_h100")
    )
    for prediction, rate in ((slow, 31.5e9), (fast, 450e9)):
        row = next(row for row in prediction.rows if row.name == "layers.mlp_allreduce")
        assert row.times.comm_s == pytest.approx(2 * 7 / 8 * 4 * 2000 * 4096 * 2 / rate)


def test_a_group_beyond_the_node_is_as_fast_as_its_slower_link() -> None:
    """NVLink is faster than the network of a DGX H100; a slower one would be the limit itself."""
    limits = ceilings(load_device("dgx_h100"))
    assert limits.link(16) == 50e9
    assert replace(limits, link_byte_per_s=10e9).link(16) == 10e9
