"""Attention on GPUs that nobody measured: what must follow from paper."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwspecs import load_device
from roofline.ceilings import Ceilings, ceilings
from roofline.optable import predict_table
from roofline.physics.base import Gpu
from roofline.physics.kernels import Kernels
from roofline.times import times
from tests.roofline.physics.conftest import chosen
from workloads.operators import Attention

ASKED = ("h200_sxm", "h20", "b300_sxm", "gb200", "a100_sxm_40gb", "l40s", "rtx4090", "rtx_pro_6000_server")
GPUS = {name: Gpu.of(load_device(name)) for name in (*ASKED, "a100_sxm", "h100_sxm", "b200_sxm")}
KERNELS = {  # of engines, by the generation of the device
    8: (("vllm", "vllm_flash_attn"), ("trtllm", "torch_flow"), ("sglang", "flash_attention")),
    9: (("vllm", "vllm_flash_attn_fa3"), ("trtllm", "torch_flow"), ("sglang", "fa3")),
    10: (("vllm", "vllm_flashinfer_trtllmdecode"), ("trtllm", "torch_flow"), ("sglang", "trtllm_mha")),
}
# FlashAttention 3's tiles of 128 rows take longer on Ampere than their keys: 0.7 to 1.3 TB/s on an A100.
PADDED = ("flash_attention",)
SAME_DIE = (("a100_sxm_40gb", "a100_sxm"), ("h200_sxm", "h100_sxm"), ("gb200", "b200_sxm"))
CACHES = ("bf16", "int8", "int4_g128", "int4", "int2")
LLAMA = {"n_heads": 32.0, "n_kv_heads": 8.0, "head_dim": 128.0, "window": 0.0}


def table(op: str, backend: str, kernel: str, kv_dtype: str = "bfloat16", **sizes: Any) -> pd.DataFrame:
    named = {"op": op, "dtype": "bfloat16", "kv_dtype": kv_dtype, "backend": backend, "kernel": kernel}
    arrays = np.broadcast_arrays(*(np.atleast_1d(size).astype(float) for size in sizes.values()))
    return pd.DataFrame({**dict(zip(sizes, arrays, strict=True)), **named, **LLAMA})


def long_prompts(backend: str, kernel: str, batch: int) -> pd.DataFrame:
    """Of the kernel for prompts that stands beside one for decode."""
    kernel = kernel.replace("trtllmdecode", "trtllmprefill")
    return table("attention_prefill", backend, kernel, batch=batch, q_len=16_384, kv_len=16_384)


@cache
def limits(name: str, fidelity: str) -> Ceilings:
    return ceilings(load_device(name), fidelity)


def seconds(name: str, rows: pd.DataFrame, fidelity: str = "calibrated") -> np.ndarray[Any, Any]:
    found = predict_table(rows, limits(name, fidelity))
    return found["predicted_us"].to_numpy(float) * 1e-6


def pairs() -> Iterator[Any]:
    for other, die in SAME_DIE:
        for backend, kernel in KERNELS[GPUS[die].generation]:
            yield pytest.param(other, die, backend, kernel, id=f"{other}-{kernel}")


@pytest.mark.parametrize(("other", "die", "backend", "kernel"), list(pairs()))
def test_another_memory_changes_what_streams_and_nothing_else(
    other: str, die: str, backend: str, kernel: str
) -> None:
    """Long caches by what latency leaves of the bandwidths' ratio; prompts and short caches not at all."""
    bandwidths = GPUS[die].dram_byte_per_s / GPUS[other].dram_byte_per_s
    clocks = GPUS[die].boost_hz / GPUS[other].boost_hz
    stream = table("attention_decode", backend, kernel, batch=[64, 128], q_len=1, kv_len=32_768)
    ratio = seconds(other, stream) / seconds(die, stream)
    assert (np.minimum(bandwidths, 1) * 0.98 <= ratio).all()
    assert (ratio <= np.maximum(bandwidths, 1) * 1.02).all()
    if bandwidths != 1 and kernel not in PADDED:
        assert (np.log(ratio) / np.log(bandwidths) > 0.4).all()
    prompts = long_prompts(backend, kernel, batch=1)
    peaks = GPUS[die].peak("bf16") / GPUS[other].peak("bf16")
    assert seconds(other, prompts) / seconds(die, prompts) == pytest.approx(peaks, rel=0.05)
    small = table("attention_decode", backend, kernel, batch=1, q_len=1, kv_len=64)
    assert seconds(other, small) / seconds(die, small) == pytest.approx(1, abs=0.02 + abs(clocks - 1))


@pytest.mark.parametrize("name", ASKED)
def test_streams_and_prompts_reach_a_sane_share_of_their_roofs(name: str) -> None:
    gpu = GPUS[name]
    for backend, kernel in KERNELS[gpu.generation]:
        stream = table("attention_decode", backend, kernel, batch=64, q_len=1, kv_len=65_536)
        share = seconds(name, stream, "datasheet") / seconds(name, stream)
        # An H20 has a fifth of an H100's arithmetic and half its processors beside more memory: tiles padded
        # to 64 rows and latencies show that hide there.
        least = 0.25 if name == "h20" else 0.4 if kernel in PADDED else 0.55
        assert least < share[0] <= 1, kernel
        prompts = long_prompts(backend, kernel, batch=4)
        share = seconds(name, prompts, "datasheet") / seconds(name, prompts)
        assert 0.35 < share[0] <= 1, kernel


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "fp8"])
def test_no_attention_beats_its_floor_and_more_of_it_takes_no_less(name: str, kv_dtype: str) -> None:
    grown = 2.0 ** np.arange(4, 18)
    for backend, kernel in KERNELS[GPUS[name].generation]:
        for sizes in (
            {"op": "attention_decode", "batch": 8.0, "q_len": 1.0, "kv_len": grown},
            {"op": "attention_decode", "batch": grown[:9], "q_len": 1.0, "kv_len": 4096.0},
            {"op": "attention_prefill", "batch": 1.0, "q_len": grown, "kv_len": grown},
            {"op": "attention_prefill", "batch": grown[:9], "q_len": 128.0, "kv_len": 128.0},
        ):
            rows = table(backend=backend, kernel=kernel, kv_dtype=kv_dtype, **sizes)
            floor, found = seconds(name, rows, "datasheet"), seconds(name, rows)
            said = f"{name} {kernel} {sizes}"
            assert (found >= floor * (1 - 1e-9)).all(), said
            # Waves that a split fills better make some sizes faster than the one before.
            assert (np.diff(np.log(found)) > -0.1).all(), said


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("backend", ["", "vllm", "sglang", "trtllm"])
def test_a_narrow_cache_that_nobody_measured_saves_bytes_of_its_kernel_and_nothing_else(
    name: str, backend: str
) -> None:
    limits = ceilings(load_device(name), "calibrated", backend)
    for batch, context, saves in ((1, 100, False), (32, 4096, True)):
        cores = (Attention(batch, 1, context, 32, 8, 128, "bf16", kv) for kv in CACHES)
        found = [times(core, limits) for core in cores]
        wide, *narrow = (float(one.time_s) for one in found)
        assert all(fewer <= 1.0001 * more for more, fewer in pairwise([wide, *narrow]))
        assert wide / 8 < narrow[-1] if saves else narrow[-1] > 0.9 * wide
        said = [str(one.kernel.provenance[0]) for one in found if one.kernel]
        assert [one.split()[0] for one in said[1:]] == ["transferred"] * len(narrow)


@pytest.mark.parametrize(
    ("name", "source"),
    [("l40s", "A100"), ("rtx_pro_6000_server", "A100"), ("h200_sxm", "H100"), ("gb200", "B200")],
)
@pytest.mark.parametrize("kernel", ["vllm_flashinfer", "flashinfer"])
def test_prompts_under_flashinfer_run_its_own_kernels_but_on_blackwell(
    name: str, source: str, kernel: str
) -> None:
    """There vLLM's are trtllm-gen's and SGLang's CUTLASS's, which say nothing of other generations."""
    rows = long_prompts("vllm" if "vllm" in kernel else "sglang", kernel, batch=1)
    said = predict_table(rows, limits(name, "calibrated"))["provenance"][0]
    assert said.startswith(f"transferred from {source}")


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server", "h200_sxm"])
def test_vllm_decodes_under_flashinfer_by_its_own_kernel_but_on_blackwell(name: str) -> None:
    """Where trtllm-gen's does not run; SGLang runs the same kernel, on Blackwell, too."""
    sizes = {"batch": [1, 64], "q_len": 1, "kv_len": 8192}
    engines = (("vllm", "vllm_flashinfer"), ("sglang", "flashinfer"))
    found = [seconds(name, table("attention_decode", *engine, **sizes)) for engine in engines]
    assert found[0] == pytest.approx(found[1], rel=0.15)


@pytest.mark.parametrize("name", ["h100_sxm", "h200_sxm"])
@pytest.mark.parametrize("kernel", ["", "fa3"])
def test_triton_s_kernels_stand_in_for_no_other(name: str, kernel: str) -> None:
    """Under SGLang they alone were measured with queries of 16 bits over an fp8 cache, on five rows."""
    sizes = {"batch": 4, "q_len": 8192, "kv_len": 8192}
    narrow, wide = (
        seconds(name, table("attention_prefill", "sglang", kernel, kv_dtype, **sizes))
        for kv_dtype in ("fp8", "bfloat16")
    )
    assert narrow < 1.1 * wide


@pytest.mark.parametrize("name", ["l40s", "rtx_pro_6000_server", "h200_sxm"])
def test_triton_s_kernels_are_stood_in_for_by_triton_s(name: str) -> None:
    """SGLang's kernel splits a sequence in eight at most; both caches are beyond the L2."""
    rows = table("attention_decode", "sglang", "triton", batch=1, q_len=1, kv_len=[2**20, 2**21])
    rows["n_kv_heads"], rows["n_heads"] = 1.0, 4.0
    found, stream = seconds(name, rows), seconds(name, rows, "datasheet")
    assert (found > 1.5 * stream).all()  # eight thread blocks cannot draw on the whole memory
    assert found[1] / found[0] == pytest.approx(2, rel=0.25)
    said = predict_table(rows, limits(name, "calibrated"))["provenance"]
    assert said.str.startswith("transferred").all()


@pytest.mark.parametrize("name", ["l40s", "a10", "rtx5090", "rtx_pro_6000_server"])
@pytest.mark.parametrize("kv_dtype", ["bfloat16", "fp8"])
@pytest.mark.parametrize(
    ("backend", "kernel", "instead"),
    [
        ("vllm", "vllm_flash_attn_fa3", "vllm_flash_attn"),
        ("vllm", "vllm_flashinfer_trtllmdecode", "vllm_flashinfer"),
        ("sglang", "trtllm_mha", "flashinfer"),
        ("sglang", "fa3", "flash_attention"),
    ],
)
def test_before_hopper_another_kernel_runs_than_one_that_needs_a_later_gpu(
    name: str, kv_dtype: str, backend: str, kernel: str, instead: str
) -> None:
    """vLLM's get_flash_attn_version and supports_trtllm_attention; trtllm-gen is for sm10x."""
    sizes = {"batch": [1, 64], "q_len": 1, "kv_len": 4096}
    asked, runs = (table("attention_decode", backend, k, kv_dtype, **sizes) for k in (kernel, instead))
    assert seconds(name, asked) == pytest.approx(seconds(name, runs))


@pytest.mark.parametrize("name", ["b200_sxm", "b300_sxm", "gb200"])
@pytest.mark.parametrize("kernel", ["", "trtllm_mha"])
def test_sglang_attends_by_trtllm_gen_on_blackwell_whatever_its_cache(name: str, kernel: str) -> None:
    """FlashInfer's prompts alone were measured with queries of 16 bits over an fp8 cache."""
    found = chosen(name, "attention_prefill", "bfloat16", "fp8", "sglang", kernel)
    assert found.kernel == "trtllm_mha"


@pytest.mark.parametrize(("other", "die", "backend", "kernel"), list(pairs()))
def test_an_engine_alone_names_its_kernel_of_the_same_generation(
    other: str, die: str, backend: str, kernel: str
) -> None:
    """Not a mean of what all engines run on all generations."""
    rows = table("attention_decode", backend, "", batch=[1, 64], q_len=1, kv_len=4096)
    found = predict_table(rows, limits(other, "calibrated"))
    assert (found["provenance"] == f"transferred from {GPUS[die].name}").all()
    named = table("attention_decode", backend, kernel, batch=[1, 64], q_len=1, kv_len=4096)
    assert seconds(other, rows) == pytest.approx(seconds(other, named))


@pytest.mark.parametrize("name", ["a100_sxm", "l40s", "rtx_pro_6000_server"])
@pytest.mark.parametrize("backend", ["", "vllm", "sglang"])
def test_encoders_of_a_generation_without_any_run_as_its_prompts(name: str, backend: str) -> None:
    """All pairs, not the causal half; FlashAttention 2 reaches 50 to 73 % of an A100 (arXiv:2307.08691).

    And 91 % of an RTX 5090, whose products take four times as many cycles (gau-nernst.github.io/fa-5090).
    """
    encoder = table("attention_encoder", backend, "", batch=16, q_len=8192, kv_len=8192).assign(causal=0.0)
    encoder["n_kv_heads"] = encoder["n_heads"]
    prompt = encoder.assign(op="attention_prefill", causal=1.0)
    # A prompt appends its keys to a cache, too.
    assert 1.6 < (seconds(name, encoder) / seconds(name, prompt))[0] < 2.1
    share = (seconds(name, encoder, "datasheet") / seconds(name, encoder))[0]
    assert 0.5 <= share <= (0.73 if name == "a100_sxm" else 0.91)
    said = predict_table(encoder, limits(name, "calibrated"))["provenance"][0]
    assert said.startswith(f"transferred from {'attention_prefill' if name == 'a100_sxm' else 'A100'}")


def test_encoders_under_vllm_need_no_schedule_before_hopper() -> None:
    """FlashAttention 2 runs there (get_flash_attn_version), before which no kernel counts blocks."""
    names = {"backend": "vllm", "kernel": "vllm_vit_flash_attn_fa3"}
    sizes = {
        "batch": 8,
        "q_len": 1024,
        "kv_len": 1024,
        "causal": 0,
        **LLAMA,
        "n_kv_heads": 32,
        "head_dim": 64,
    }
    rows = {n: np.array([float(v)]) for n, v in sizes.items()}
    rows |= {n: np.array([v], dtype=object) for n, v in names.items()}
    parts = (
        Kernels(load_device(name)).table("attention_encoder", "bfloat16", "", rows)
        for name in ("l40s", "h100_sxm")
    )
    ada, hopper = (found.parts["schedule"][0] for found in parts if found is not None)
    assert ada == 0 < hopper


def test_latent_attention_of_an_h800_is_near_what_flashmla_reaches() -> None:
    """3000 GB/s where memory binds and 660 TFLOP/s where arithmetic does (README of deepseek-ai/FlashMLA)."""
    heads = np.array([16.0, 128.0])
    rows = table("mla_decode", "", "", batch=128, q_len=1, kv_len=16_384).loc[[0, 0]].assign(n_heads=heads)
    found = seconds("h800", rows)
    streamed, computed = 128 * 16_384 * 576 * 2 / found[0], 2 * 128 * 16_384 * 128 * (576 + 512) / found[1]
    assert 0.8 * 3.0e12 < streamed <= 3.35e12
    assert 0.7 * 660e12 < computed < 1.05 * 660e12


# TFLOP/s that attention reaches at best: 740 or 75 % of an H100 (FlashAttention 3, arXiv:2407.08608), 1613 or
# 71 % of a B200 (FlashAttention 4, fa4_paper.pdf of Dao-AILab/flash-attention).
PUBLISHED = (("h200_sxm", 740e12), ("gh200", 740e12), ("b200_sxm", 1613e12), ("gb200", 1613e12 * 2.5 / 2.25))


@pytest.mark.parametrize(("name", "most"), PUBLISHED)
def test_long_encoders_of_heads_that_no_table_has_are_near_the_papers_best(name: str, most: float) -> None:
    """The tables' encoders have heads of 64 to 80 elements."""
    rows = table("attention_encoder", "vllm", "", batch=[1, 2], q_len=16_384, kv_len=16_384)
    rows = rows.assign(causal=0.0, n_heads=16.0, n_kv_heads=16.0)
    flops = 4 * rows["batch"] * 16 * 16_384**2 * 128
    attained = (flops / seconds(name, rows)).to_numpy()
    assert (attained > 0.8 * most).all()
    assert (attained <= 1.02 * most).all()


@pytest.mark.parametrize("name", ["l40s", "rtx4090", "rtx_pro_6000_server"])
def test_engines_triton_kernels_for_latents_split_one_long_sequence(name: str) -> None:
    """SGLang's eight parts, one for each 512 keys of vLLM's, which memory bounds, one of TensorRT-LLM's."""
    engines = (("trtllm", "default"), ("sglang", ""), ("vllm", ""))
    whole, few, many = (
        seconds(name, table("mla_decode", *engine, batch=1, q_len=1, kv_len=131_072).assign(n_heads=16.0))[0]
        for engine in engines
    )
    assert whole > 8 * few
    assert few > 2 * many
    assert many > 131_072 * 576 * 2 / GPUS[name].dram_byte_per_s
