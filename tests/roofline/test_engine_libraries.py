"""An engine multiplies experts by the library that its source names, in every kind of prediction."""

from __future__ import annotations

from typing import Any

import pytest

from hwspecs import kernels_of, load_device
from roofline import api
from roofline.ceilings import ceilings
from roofline.engine_libraries import GENERATED, IN_BLOCKS, experts_by
from roofline.engines import find_engine
from roofline.physics.base import Gpu
from roofline.physics.kernels import Kernels
from roofline.predict import predict
from roofline.whatif import whatif
from workloads.operators import GroupedGemm
from workloads.operators.routed import RoutedLayer
from workloads.techniques.registry import parse

OSS: dict[str, Any] = {"phase": "decode", "batch": 64, "context": 1024}
SPARSE: dict[str, Any] = {"phase": "decode", "batch": 16, "context": 1024}


def experts(weights: str, inputs: str = "bf16", ep: int = 1) -> GroupedGemm:
    layer = RoutedLayer(64, 4096, 2048, 4, 32, expert_parallel=ep)
    return GroupedGemm(256, 4096, 4096, 32, 32, inputs=inputs, weights=weights, layer=layer)


@pytest.mark.parametrize(
    ("engine", "operator", "gpu", "by"),
    [
        ("sglang", experts("mxfp4"), "h100_sxm", "vllm"),
        ("sglang", experts("mxfp4", ep=2), "h100_sxm", ""),
        ("sglang", experts("mxfp4"), "b200_sxm", ""),
        ("sglang", experts("mxfp4"), "rtx_pro_6000_server", "vllm"),
        ("vllm", experts("mxfp4"), "h100_sxm", ""),
        ("vllm", experts("mxfp4"), "b200_sxm", ""),
        ("vllm", experts("mxfp4"), "a100_sxm", "marlin"),
        ("vllm", experts("mxfp4"), "rtx_pro_6000_server", "marlin"),
        ("vllm", experts("mxfp4", inputs="fp8"), "b200_sxm", ""),
        ("vllm", experts("nvfp4"), "h200_sxm", "sglang"),
        ("vllm", experts("int4_g128"), "a100_sxm", "sglang"),
        ("vllm", experts("bf16"), "a100_sxm", ""),
        ("vllm", experts("bf16"), "h100_sxm", ""),
        ("vllm", experts("bf16"), "gb200", GENERATED["bfloat16"]),
        ("vllm", experts("fp8", inputs="fp8"), "b200_sxm", GENERATED["fp8"]),
        ("vllm", experts("nvfp4", inputs="nvfp4"), "b200_sxm", ""),
        ("vllm", experts("fp8_block", inputs="fp8"), "h100_sxm", IN_BLOCKS),
        ("vllm", experts("fp8_block", inputs="fp8", ep=8), "h100_sxm", ""),
        ("sglang", experts("int4_g128"), "a100_sxm", ""),
        ("trtllm", experts("mxfp4"), "h100_sxm", ""),
    ],
)
def test_an_engines_source_names_the_library(engine: str, operator: GroupedGemm, gpu: str, by: str) -> None:
    assert experts_by(engine, operator, Gpu.of(load_device(gpu))) == by


def experts_s(found: Any) -> float:
    return float(sum(row.total_s for row in found.rows if row.kind == "grouped_gemm"))


def test_experts_by_another_engines_library_take_its_time() -> None:
    asked = {**OSS, "expert_weights": "mxfp4"}
    by = {
        one: experts_s(api.predict("gpt-oss-120b", "h100", "calibrated", engine=one, **asked))
        for one in ("sglang", "vllm")
    }
    assert by["sglang"] == by["vllm"]


def test_what_a_run_was_told_comes_before_the_engines_choice() -> None:
    scenario = api.scenario("Qwen3-30B-A3B", **SPARSE, weights="int4_g128")
    device = load_device("h100")

    def told(named: dict[str, str]) -> float:
        return experts_s(predict(scenario, device, limits=ceilings(device, "calibrated", "vllm", named)))

    assert told({}) == told({"moe": "sglang"}) < told({"moe": "vllm"}) / 2


def test_kernels_that_vllms_oracles_take_were_measured_in_it() -> None:
    known = {k.kernel for name in ("h100_sxm", "b200_sxm") for k in kernels_of(load_device(name))}
    assert {*GENERATED.values(), IN_BLOCKS} <= known


def test_other_vendors_gpus_run_what_was_measured() -> None:
    """Marlin is for NVIDIA's."""
    assert type(ceilings(load_device("mi300x"), "calibrated", "vllm").kernels) is Kernels


def test_a_technique_that_narrows_experts_changes_the_library() -> None:
    """Ceilings are those of the baseline, whose experts are in 16 bits."""
    scenario, device = api.scenario("Qwen3-30B-A3B", **SPARSE), load_device("h100")
    narrow = parse("weight-only-quantisation:format=int4_g128")

    def after(engine: str) -> float:
        found = whatif(scenario, device, "calibrated", [narrow], find_engine(engine))
        return experts_s(found.outcomes[0].after)

    assert after("vllm") == pytest.approx(after("sglang"))


def test_grids_run_experts_as_single_predictions_do() -> None:
    lists: dict[str, Any] = {
        "phase": "decode",
        "context": 1024,
        "fidelity": "calibrated",
        "engines": ["sglang"],
    }
    dtypes = [{"experts": "mxfp4"}]
    table = api.sweep("gpt-oss-20b", "h100", batch=[1, 64], dtypes=dtypes, **lists)
    one = api.predict("gpt-oss-20b", "h100", "calibrated", engine="sglang", **OSS, expert_weights="mxfp4")
    assert table.tpot_s.iloc[1] == pytest.approx(one.totals()["tpot_s"])
