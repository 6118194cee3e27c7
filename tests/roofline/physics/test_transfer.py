"""Constants on devices that nobody measured: how they are carried, and what the carried times keep to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import device_names, kernels_of, load_device
from roofline.ceilings import ceilings
from roofline.optable import predict_table
from roofline.physics import models
from roofline.physics.base import L2_BYTES_PER_CLOCK, Constant, Gpu
from roofline.physics.transfer import averaged, carried, distance
from specfiles.errors import InputError
from tests.roofline.physics.conftest import chosen

A100, H100, B200 = (Gpu.of(load_device(name)) for name in ("a100_sxm", "h100_sxm", "b200_sxm"))
SHARE = Constant("share", "", 0.01, 1.0, 0.5, "a share")
LATENCY = Constant("latency_s", "s", 1e-9, 1e-3, 1e-6, "a latency", "1/clock")
PART = Constant("part", "", 0.0, 1.0, 0.5, "a part that may be none")


LOADED = Constant("share", "", 0.01, 1.0, 0.5, "a share of the memory's bandwidth", "loads")


def gpus() -> dict[str, Gpu]:
    """All devices that kernel models know and that multiply 16 bits."""
    found = {}
    for name in device_names():
        try:
            gpu = Gpu.of(load_device(name))
        except InputError:
            continue
        if "fp16" in gpu.tensor_flop_per_s:
            found[name] = gpu
    return found


GPUS = gpus()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("h200_sxm", "H100-SXM5-80GB"),
        ("h20", "H100-SXM5-80GB"),
        ("gh200", "H100-SXM5-80GB"),
        ("gb200", "B200-SXM-180GB"),
        ("b300_sxm", "B200-SXM-180GB"),
        ("l40s", "A100-SXM4-80GB"),
        ("rtx4090", "A100-SXM4-80GB"),
        ("a40", "A100-SXM4-80GB"),
        ("l4", "A100-SXM4-80GB"),
        ("rtx_pro_6000_server", "A100-SXM4-80GB"),  # Blackwell without tensor memory runs Ampere's kernels
    ],
)
def test_the_nearest_device_runs_the_same_kernels(name: str, nearest: str) -> None:
    gpu = Gpu.of(load_device(name))
    found = min((A100, H100, B200), key=lambda known: distance(known, gpu))
    assert found.name == nearest
    assert found.generation == gpu.generation


def test_one_source_is_carried_as_it_is() -> None:
    values = {"share": 0.3, "latency_s": 2e-6, "part": 0.1}
    constants = (SHARE, LATENCY, PART)
    found = averaged([(A100, values)], constants, H100)
    assert found == pytest.approx(carried(values, constants, A100, H100))
    assert found["latency_s"] == pytest.approx(2e-6 * A100.boost_hz / H100.boost_hz)


def test_shares_of_two_neighbours_meet_in_the_geometric_middle() -> None:
    given = [(A100, {"share": 0.2, "part": 0.2}), (B200, {"share": 0.8, "part": 0.8})]
    found = averaged(given, (SHARE, PART), H100)
    assert found == pytest.approx({"share": 0.4, "part": 0.5})


def test_a_device_counts_once_and_a_generation_further_half() -> None:
    once = averaged([(A100, {"share": 0.2}), (B200, {"share": 0.8})], (SHARE,), H100)
    twice = averaged([(A100, {"share": 0.2}), (A100, {"share": 0.2}), (B200, {"share": 0.8})], (SHARE,), H100)
    assert once == pytest.approx(twice)
    further = averaged([(A100, {"share": 0.2}), (H100, {"share": 0.8})], (SHARE,), B200)
    assert further["share"] == pytest.approx(math.exp((math.log(0.2) + 2 * math.log(0.8)) / 3))


def test_a_library_s_habit_stays_in_its_generation() -> None:
    habit = Constant("habit_s", "s", 1e-9, 1e-3, 1e-8, "of one kernel", "library")
    assert carried({"habit_s": 1e-5}, [habit], H100, Gpu.of(load_device("h200_sxm"))) == {"habit_s": 1e-5}
    assert averaged([(B200, {"habit_s": 1e-5})], [habit], H100) == {"habit_s": habit.start}


def test_what_no_source_has_keeps_its_start() -> None:
    assert averaged([(A100, {"share": 0.2})], (SHARE, LATENCY), H100)["latency_s"] == LATENCY.start


def attention(**columns: Any) -> pd.DataFrame:
    """Rows of a Llama-3-8B layer."""
    heads = {"n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "causal": 1}
    table = pd.DataFrame({"q_len": 1, **heads, **columns})
    return table.assign(dtype="float16", kv_dtype="float16")


def times_us(name: str, table: pd.DataFrame, fidelity: str = "calibrated") -> np.ndarray[Any, Any]:
    found = predict_table(table, ceilings(load_device(name), fidelity))["predicted_us"]
    return found.to_numpy(dtype=float)


LENGTHS = np.exp2(np.arange(7, 18))
BATCHES = np.exp2(np.arange(0, 10))


@pytest.mark.parametrize("name", list(GPUS))
def test_more_work_takes_no_less_time_on_any_gpu(name: str) -> None:
    longer = attention(op="attention_decode", batch=8, kv_len=LENGTHS)
    wider = attention(op="attention_decode", batch=BATCHES, kv_len=2048)
    prompts = attention(op="attention_prefill", batch=1, kv_len=LENGTHS).assign(q_len=LENGTHS)
    for table in (longer, wider, prompts):
        assert (np.diff(np.log(times_us(name, table))) > -0.03).all()  # splits fill processors unevenly


@pytest.mark.parametrize("name", list(GPUS))
def test_large_attention_reaches_a_plausible_share_of_the_ceiling(name: str) -> None:
    cache = attention(op="attention_decode", batch=[64], kv_len=65_536)
    prompt = attention(op="attention_prefill", batch=[1], kv_len=32_768).assign(q_len=32_768)
    stream, products = (
        (times_us(name, table, "datasheet") / times_us(name, table))[0] for table in (cache, prompt)
    )
    assert 0.5 < stream <= 1  # of the bandwidth: measured kernels reach 0.7 to 0.95
    assert 0.25 < products <= 1  # of the tensor peak: 0.4 to 0.75


@pytest.mark.parametrize("name", list(GPUS))
def test_the_least_attention_costs_a_launch(name: str) -> None:
    least = times_us(name, attention(op="attention_decode", batch=[1], kv_len=16))[0]
    assert 3 < least < 40  # us in a CUDA graph, two or three kernels in series


def test_the_same_die_with_faster_memory_streams_weights_faster_and_multiplies_as_before() -> None:
    """An H200 is an H100 with 4.8 instead of 3.35 TB/s; in fp8 it quantises faster and peaks 5 % higher.

    Its L2 is a fifth larger, too.
    """
    sizes = {"m": [1, 16, 8192, 1], "n": [16_384, 16_384, 8192, 512], "k": [16_384, 16_384, 8192, 512]}
    for dtype, most in (("bfloat16", 1.03), ("fp8", 1.13)):
        table = pd.DataFrame({"op": "gemm", "dtype": dtype, **sizes})
        streams, large, small = np.split(times_us("h100_sxm", table) / times_us("h200_sxm", table), [2, 3])
        assert (streams > 1.25).all()
        assert (streams < 4.8 / 3.35 * 1.01).all()
        assert 0.97 < large[0] < most
        assert small == pytest.approx(1, abs=0.03)


def test_a_kernel_set_by_its_threads_keeps_its_rate_where_there_is_less_memory() -> None:
    rate = Constant("rate", "", 0.02, 2.0, 0.5, "of the memory's", "threads")
    starved = replace(H100, dram_byte_per_s=H100.dram_byte_per_s / 2)
    assert carried({"rate": 0.5}, [rate], H100, starved) == pytest.approx({"rate": 1.0})
    assert carried({"rate": 0.5}, [rate], starved, H100) == pytest.approx({"rate": 0.5})


def test_no_share_is_carried_beyond_the_whole() -> None:
    """Two partitions hold what all read twice, one holds it once: of its 96 MB, and no more."""
    l40s = Gpu.of(load_device("l40s"))
    kept = Constant("kept", "", 0.01, 8.0, 0.5, "share of the L2", "whole")
    fed = Constant("fed", "", 0.01, 1.0, 0.5, "share of all ports", "slices")
    found = carried({"kept": 0.9, "fed": 0.65}, [kept, fed], A100, l40s)
    assert found == {"kept": 1.0, "fed": l40s.slices}
    assert carried({"fed": 0.2}, [fed], A100, l40s) == {"fed": 0.2}, "slower than the slices of either"
    assert carried({"kept": 4.1}, [kept], H100, Gpu.of(load_device("h200_sxm"))) == {"kept": 4.1}


def test_integers_reach_no_more_than_fp8_where_nobody_measured_them() -> None:
    l40s = Gpu.of(load_device("l40s"))
    share = Constant("share", "", 0.3, 1.1, 0.8, "of the tensor peak", "power")
    assert carried({"share": 0.92}, [share], A100, l40s, "int8") == {"share": l40s.reached["fp8"][0]}
    assert carried({"share": 0.92}, [share], A100, l40s)["share"] > l40s.reached["fp8"][0]
    assert carried({"share": 0.92}, [share], A100, replace(l40s, reached={}), "int8")["share"] > 0.8


def test_the_l2_of_two_dies_feeds_the_ports_of_all_processors() -> None:
    """133 MB of slices at 78 bytes per clock and MB are more than the ports; of the same dies, the same."""
    fed = Constant("fed", "", 0.01, 1.0, 0.5, "share of all ports", "slices dies")
    assert carried({"fed": 0.5}, [fed], H100, B200)["fed"] == pytest.approx(0.5 * 0.9 / 0.55)
    assert carried({"fed": 0.8}, [fed], B200, A100)["fed"] == pytest.approx(0.8 / 0.9 * 0.55)
    for source, target in ((H100, "h200_sxm"), (B200, "b300_sxm"), (A100, "a100_pcie")):
        assert carried({"fed": 0.5}, [fed], source, Gpu.of(load_device(target))) == {"fed": 0.5}
    l40s = Gpu.of(load_device("l40s"))
    assert carried({"fed": 0.5}, [fed], A100, l40s) == {"fed": l40s.slices}
    assert B200.processors * L2_BYTES_PER_CLOCK < 78e-6 * B200.l2_bytes
    assert H100.processors * L2_BYTES_PER_CLOCK > 91e-6 * H100.l2_bytes


def choose(name: str, op: str, kv_dtype: str, backend: str, kernel: str) -> Any:
    return chosen(name, op, "bfloat16", kv_dtype, backend, kernel, unseen=True).values


def test_an_engine_brings_its_append_whatever_attends_there() -> None:
    """vLLM's launches blocks of up to 512 threads a token, TensorRT-LLM's moves queries as well."""
    asked = [
        choose("b200_sxm", "attention_prefill", "bfloat16", backend, kernel)
        for backend, kernel in (("vllm", "vllm_flashinfer_trtllmprefill"), ("sglang", "trtllm_mha"))
    ]
    measured = {
        backend: [
            (gpu, k.values["token_s"] * gpu.boost_hz / B200.boost_hz)
            for gpu, name in ((A100, "a100_sxm"), (H100, "h100_sxm"))
            for k in kernels_of(load_device(name))
            if (k.op, k.dtype, k.kv_dtype, k.backend)
            == ("attention_prefill", "bfloat16", "bfloat16", backend)
            and "token_s" in k.values
            and k.points >= 100  # four rows of a kernel know nothing of what stands beside it
        ]
        for backend in ("vllm", "sglang")
    }
    for found, known in zip(asked, measured.values(), strict=True):
        seconds = [value for _, value in known]
        assert min(seconds) * (1 - 1e-9) <= found["token_s"] <= max(seconds) * (1 + 1e-9)


def test_starts_are_those_of_all_formats_and_shares_of_the_tensor_peak_are_not() -> None:
    """Of kernels that stand in for one that nobody measured elsewhere."""
    named = ("vllm", "vllm_flashinfer_trtllmdecode")
    narrow, wide = (choose("b200_sxm", "attention_decode", kv, *named) for kv in ("fp8", "bfloat16"))
    for starts in ("launch_s", "cta_s", "combine_s", "l2_share", "dram_share"):
        assert narrow[starts] == pytest.approx(wide[starts])
    assert narrow["tile_share"] != pytest.approx(wide["tile_share"])


def test_a_name_that_means_another_kernel_speaks_for_none() -> None:
    """TensorRT-LLM decodes by XQA before Blackwell and by trtllm-gen on it, latents by three kernels."""
    decode, latent = models()["attention_decode"], models()["mla_decode"]
    assert decode.renamed("torch_flow", H100, B200)
    assert not decode.renamed("torch_flow", A100, H100)
    assert latent.renamed("default", A100, H100)
    assert latent.renamed("default", H100, B200)
    prompts = models()["attention_prefill"]
    assert prompts.renamed("vllm_flashinfer", B200, Gpu.of(load_device("rtx_pro_6000_server")))
    assert not prompts.renamed("torch_flow", H100, B200)
    # FlashInfer's own kernels are of FlashAttention 2's kind, which Ampere has.
    found = chosen("l40s", "attention_prefill", "bfloat16", "fp8", "vllm", "vllm_flashinfer")
    assert found.kernel == "vllm_flash_attn"


@pytest.mark.parametrize("op", ["mla_prefill", "mla_decode"])
def test_without_fp8_units_a_narrow_cache_is_read_by_the_kernels_of_a_wide_one(op: str) -> None:
    named = ("trtllm", "default")
    assert choose("a100_sxm", op, "fp8", *named) == choose("a100_sxm", op, "bfloat16", *named)
    assert choose("h100_sxm", op, "fp8", *named) != choose("h100_sxm", op, "bfloat16", *named)


def test_loads_in_flight_are_a_larger_share_where_a_processor_has_less_of_the_memory() -> None:
    """A processor of B200 has twice the bandwidth of one of H100; what fed a slower memory says no less."""

    def there(share: float, source: Gpu, target: Gpu) -> float:
        return carried({"share": share}, [LOADED], source, target)["share"]

    less = replace(H100, reached={})
    parts = (gpu.dram_byte_per_s / (gpu.processors * gpu.boost_hz) for gpu in (B200, H100))
    assert there(0.3, B200, less) == pytest.approx(0.3 * next(parts) / next(parts))
    assert there(0.8, B200, less) == pytest.approx(B200.reached["dram"][0])
    assert there(0.98, B200, less) == pytest.approx(0.98)  # an L2 that helped
    assert there(0.8, H100, B200) == pytest.approx(0.8)
    assert there(0.8, B200, Gpu.of(load_device("l40s"))) == pytest.approx(0.8)  # GDDR
