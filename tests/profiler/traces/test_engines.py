"""Decode steps as engines launch them in graphs, without a range: which kernel is which operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from profiler.traces.alike import frame
from profiler.traces.attribution import Question, attribute
from profiler.traces.layer_match import Target, pair
from profiler.traces.model_match import Lengths
from profiler.traces.reading import read_traces
from workloads.catalogue import load_model
from workloads.convention import convention
from workloads.operators import Gemm
from workloads.phases import Setting, decode, operators

Write = Callable[..., Path]
Kernels = Sequence[tuple[str, str]]  # names and operators, "" for one without a model
EMBED = [("void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long>", "embedding")]
ARGMAX = [("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<ArgMaxOps<float>>>", "sampling")]
A, M = "layers.attention", "layers.mlp"
QKV = f"{A}.q_proj + k_proj + v_proj"
GATE_UP = f"{M}.gate_proj + up_proj"
NORM = "void flashinfer::norm::FusedAddRMSNormKernel<8u, __nv_bfloat16>"
VLLM_COMPILED = [
    ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", f"{A}_norm"),
    ("nvjet_tst_192x8_64x8_2x1_v_bz_TNT", QKV),
    ("triton_poi_fused_cat_mul_sub_add_1", f"{A}.rope"),
    ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", f"{A}.kv_append"),
    ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<2>>>", f"{A}.core"),
    ("void cutlass::device_kernel<flash::FlashAttnFwdCombine<8>>", f"{A}.core"),
    ("nvjet_tst_64x8_64x16_4x1_v_bz_splitK_TNT", f"{A}.o_proj"),
    ("void cublasLt::splitKreduce_kernel<32, 16, int, __nv_bfloat16>", f"{A}.o_proj"),
    ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_2", f"{M}_norm"),
    ("nvjet_tst_128x8_64x12_2x1_v_bz_TNT", GATE_UP),
    ("triton_poi_fused_mul_silu_slice_3", f"{M}.act_mul"),
    ("nvjet_tst_64x8_64x12_4x1_v_bz_TNT", f"{M}.down_proj"),
]
TRTLLM_REDUCING = [  # the norm is inside the all-reduce
    ("nvjet_qkv", QKV),
    ("void tensorrt_llm::kernels::applyBiasRopeUpdateKVCacheV2<__nv_bfloat16>", f"{A}.kv_append"),
    ("fmhaSm100aKernel_QkvBfloat16OBfloat16H128PagedKvDensePersistentSwapsAbForGen", f"{A}.core"),
    ("nvjet_o", f"{A}.o_proj"),
    ("flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<0>", f"{A}_allreduce"),
    ("nvjet_gu", GATE_UP),
    ("void flashinfer::activation::act_and_mul_kernel<__nv_bfloat16, silu>", f"{M}.act_mul"),
    ("nvjet_down", f"{M}.down_proj"),
    ("flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<1>", f"{M}_allreduce"),
]
EAGER_NORM = ["pow_tensor_scalar", "MeanOps reduce_kernel", "rsqrt", "MulFunctor cast", "MulFunctor weight"]
EAGER = [
    *((f"at::native::elementwise_kernel {part} 1", f"{A}_norm") for part in EAGER_NORM),
    *((f"nvjet_{part}", f"{A}.{part}_proj") for part in "qkv"),
    *((f"at::native::elementwise_kernel {part}", f"{A}.rope + kv_append") for part in ("neg", "mul", "add")),
    ("at::native::index_copy_kernel_impl", f"{A}.rope + kv_append"),
    ("void pytorch_flash::flash_fwd_splitkv_kernel", f"{A}.core"),
    ("nvjet_o", f"{A}.o_proj"),
    ("at::native::CUDAFunctor_add 1", f"{A}_residual"),
    *((f"at::native::elementwise_kernel {part} 2", f"{M}_norm") for part in EAGER_NORM),
    ("nvjet_gate", f"{M}.gate_proj"),
    ("at::native::silu_kernel", f"{M}.act_mul"),
    ("nvjet_up", f"{M}.up_proj"),
    ("nvjet_down", f"{M}.down_proj"),
    ("at::native::CUDAFunctor_add 2", f"{M}_residual"),
]
TRITON = "triton_poi_fused__scaled_dot_product_cudnn_attention__to_copy__unsafe_view_add_bmm_cat_copy"
COMPILED = [  # torch.compile names kernels after all operators whose results they take or give
    ("triton_red_fused__to_copy__unsafe_view_add_mean_mul_pow_rsqrt_8", f"{A}_norm"),
    ("nvjet_q", f"{A}.q_proj"),
    (f"{TRITON}_copy__cos_mul_neg_sin_slice_transpose_unsqueeze_view_2", f"{A}.rope"),
    *((f"nvjet_{part}", f"{A}.{part}_proj") for part in "kv"),
    (f"{TRITON}_cos_mul_neg_sin_slice_transpose_unsqueeze_view_5", f"{A}.rope"),
    ("triton_poi_fused__unsafe_view_copy_copy__transpose_view_3", f"{A}.kv_append"),
    (f"{TRITON}_cos_mul_neg_sin_slice_transpose_unsqueeze_view_4", f"{A}.rope"),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob", f"{A}.core"),
    ("nvjet_o", f"{A}.o_proj"),
    ("triton_red_fused__to_copy__unsafe_view_add_mean_mul_pow_rsqrt_9", f"{M}_norm"),
    *((f"nvjet_{part}", f"{M}.{part}_proj") for part in ("gate", "up")),
    ("triton_poi_fused__unsafe_view_mul_silu_7", f"{M}.act_mul"),
    ("nvjet_down", f"{M}.down_proj"),
]
GPT2 = [
    ("void layer_norm::ln_fwd_kernel<1>", f"{A}_norm"),
    ("nvjet_qkv", f"{A}.qkv_proj"),
    ("void at::native::CatArrayBatchedCopy<4>", f"{A}.kv_append"),
    ("flash_fwd_splitkv_kernel", f"{A}.core"),
    ("nvjet_o", f"{A}.o_proj"),
    ("CUDAFunctor_add 1", f"{A}_residual"),
    ("void layer_norm::ln_fwd_kernel<2>", f"{M}_norm"),
    ("nvjet_fc", f"{M}.up_proj"),
    ("GeluCUDAKernel", f"{M}.act_mul"),
    ("nvjet_proj", f"{M}.down_proj"),
    ("CUDAFunctor_add 2", f"{M}_residual"),
]
LATENT = [  # latents absorbed into queries and behind the attention
    (f"{NORM} 1", f"{A}_norm"),
    ("nvjet_fused_qkv_a", f"{A}.q_a_proj + kv_a_proj"),
    ("void flashinfer::norm::RMSNormKernel<q>", f"{A}.q_a_norm"),
    ("void flashinfer::norm::RMSNormKernel<kv>", f"{A}.kv_a_norm"),
    ("void per_token_group_quant_8bit_kernel<1>", ""),
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<1>", f"{A}.q_b_proj"),
    ("nvjet_bmm_k", f"{A}.q_absorb"),
    ("void flashinfer::BatchQKApplyRotaryPosIdsCosSinCacheKernel", f"{A}.rope"),
    ("set_mla_kv_buffer_kernel", f"{A}.kv_append"),
    ("void flash_fwd_splitkv_mla_kernel", f"{A}.core"),
    ("void flash_fwd_mla_combine_kernel", f"{A}.core"),
    ("nvjet_bmm_v", f"{A}.v_up"),
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<2>", f"{A}.o_proj"),
    ("void sglang::cross_device_reduce_1stage<1>", f"{A}_allreduce"),
    (f"{NORM} 2", f"{M}_norm"),
]
DENSE = [
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<3>", GATE_UP),
    ("void act_and_mul_kernel<silu, 1>", f"{M}.act_mul"),
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<4>", f"{M}.down_proj"),
    ("void sglang::cross_device_reduce_1stage<2>", f"{M}_allreduce"),
]
EXPERTS = [
    ("router_gemm_kernel_float_output", "layers.moe.router"),
    ("void moe_fused_gate_kernel", "layers.moe.topk"),
    ("void moe_align_block_size_kernel", "layers.moe.permute"),
    ("fused_moe_kernel<1>", "layers.moe.experts_gate_up_proj"),
    ("void act_and_mul_kernel<silu, 2>", "layers.moe.experts_act_mul"),
    ("fused_moe_kernel<2>", "layers.moe.experts_down_proj"),
    ("void moe_sum_reduce_kernel", "layers.moe.combine"),
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<5>", "layers.moe.shared_gate_proj + shared_up_proj"),
    ("void act_and_mul_kernel<silu, 3>", "layers.moe.shared_act_mul"),
    ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<6>", "layers.moe.shared_down_proj"),
    ("void sglang::cross_device_reduce_1stage<3>", f"{M}_allreduce"),
]
BLACKWELL_EXPERTS = [
    (f"{NORM} 1", f"{A}_norm"),
    ("nvjet_qkv", QKV),
    ("void rotary_embedding_kernel", f"{A}.rope"),
    ("reshape_and_cache_flash_kernel", f"{A}.kv_append"),
    ("fmhaSm100fKernel_QkvBfloat16OBfloat16H64PagedKvSlidingOrChunkedCausalStaticSwapsAbForGen", f"{A}.core"),
    ("nvjet_o", f"{A}.o_proj"),
    (f"{NORM} 2", f"{M}_norm"),
    ("nvjet_router", "layers.moe.router"),
    ("moe::dev::routing::routingRenormalize::routingIndicesClusterKernel", "layers.moe.topk"),
    ("bmm_MxE4m3_MxE2m1MxE4m3_Fp32_t128x8x512_swiGlu_dynBatch_sm100f", "layers.moe.experts_gate_up_proj"),
    ("bmm_Bfloat16_MxE2m1MxE4m3_Fp32_t128x8x512_sm100f", "layers.moe.experts_down_proj"),
    ("void moe::dev::finalize::finalizeKernel", "layers.moe.combine"),
]
ENGINES: dict[str, tuple[str, int, Callable[[int], Kernels]]] = {
    "vLLM, compiled": ("Llama-3.1-8B", 1, lambda layer: VLLM_COMPILED),
    "TensorRT-LLM, 8 devices": ("Llama-3.1-70B", 8, lambda layer: TRTLLM_REDUCING),
    "transformers": ("Llama-3.2-1B", 1, lambda layer: EAGER),
    "transformers, compiled": ("Llama-3.2-1B", 1, lambda layer: COMPILED),
    "transformers, GPT-2": ("GPT-2", 1, lambda layer: GPT2),
    "SGLang, MLA, 8 devices": ("DeepSeek-V3", 8, lambda at: [*LATENT, *(DENSE if at < 3 else EXPERTS)]),
    "trtllm-gen experts": ("gpt-oss-20b", 1, lambda layer: BLACKWELL_EXPERTS),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_kernels_of_a_graph_are_the_operators_they_compute(engine: str, made: Any, write: Write) -> None:
    name, devices, layer_kernels = ENGINES[engine]
    loaded = load_model(name)
    model, setting = loaded.model, Setting(convention=convention("eager"), tensor_parallel=devices)
    wanted: dict[str, str] = {}
    at = 0.0
    for _ in range(2):
        made.correlation += 1
        made.add("cuda_runtime", "cudaGraphLaunch", at, 5.0, correlation=made.correlation)
        layers = [kernel for number in range(len(model.layers)) for kernel in layer_kernels(number)]
        for kernel, operator in (*EMBED, *layers, (f"{NORM} end", "norm"), ("nvjet_lm", "lm_head"), *ARGMAX):
            wanted[kernel] = operator
            at += 12.0
            args = {"device": 0, "stream": 7, "correlation": made.correlation}
            made.add("kernel", kernel, at, 10.0, pid=0, **args)
    question = Question(model, setting, Lengths(batch=8, context=1024))
    found = frame(attribute(read_traces([write(made.text())]), question))
    inside = found[found["layer"] >= 0].astype({"kernel": str})
    assert inside.groupby("step")["layer"].nunique().eq(len(model.layers)).all()
    for kernel, rows in inside.groupby("kernel"):
        said = rows["operator"].astype(object).where(rows["how"].notna(), "")
        names = {word.split(".window")[0] if ".core" in word else word for word in said}
        assert names == {wanted[str(kernel)]}, kernel
    assert found.loc[found["how"].notna(), "time_s"].sum() >= 0.9 * found["time_s"].sum()
    if devices == 1:  # every product of the model counts once a step
        named = operators(model, decode(8, 1024), setting)
        flops = sum(row.count * row.operator.work().matrix_flops for row in named)
        assert found["matrix_flops"].sum() == pytest.approx(2 * flops, rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "lengths", "phases"),
    [
        (1, Lengths(batch=2, prompt=64), {"prefill"}),
        (1, Lengths(batch=2, context=64), {"decode"}),
        (1, Lengths(batch=2, prompt=64, context=64), set()),
        (2, Lengths(batch=2, prompt=64), set()),  # one of them may be a decode step
    ],
)
def test_a_given_length_tells_the_phase_of_a_single_step(
    steps: int, lengths: Lengths, phases: set[str], made: Any, write: Write
) -> None:
    model, at = load_model("Llama-3.2-1B").model, 0.0
    kernels = [*EMBED, *COMPILED * len(model.layers), ("nvjet_lm", ""), *ARGMAX]
    for kernel, _ in kernels * steps:
        at += 12.0
        made.correlation += 1
        made.add("cuda_runtime", "cudaLaunchKernel", at - 6.0, 5.0, correlation=made.correlation)
        args = {"device": 0, "stream": 7, "correlation": made.correlation}
        made.add("kernel", kernel, at, 10.0, pid=0, **args)
    question = Question(model, Setting(convention=convention("eager")), lengths)
    found = attribute(read_traces([write(made.text())]), question)
    assert set(found["passes"]["phase"].to_pylist()) == phases


def test_products_that_do_not_fit_are_not_claimed() -> None:
    two = [Target("mlp.gate_proj", Gemm(4, 128, 64)), Target("mlp.down_proj", Gemm(4, 64, 128))]
    assert pair([0, 1, 2], two) == []
    assert [kernels for kernels, _ in pair([0, 1, 2, 3], two)] == [[0, 1], [2, 3]]
