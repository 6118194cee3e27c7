"""What kernels were for: operators, layers, phases and work, by ranges, captures, neighbours and models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hwspecs import load_device
from profiler.traces.alike import frame
from profiler.traces.attribution import Question, attribute
from profiler.traces.formulas import heads_last
from profiler.traces.layer_match import Target, match_layer, pair
from profiler.traces.model_match import Lengths
from profiler.traces.reading import read_traces
from profiler.traces.recorded import Recorded, Tensor
from profiler.traces.steps import StepFacts
from profiler.traces.summary import show
from profiler.traces.tables import Trace
from profiler.traces.work import operator_rule, recorded_work
from roofline.ceilings import Fidelity, ceilings
from roofline.run_tables import step_of
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import build
from workloads.operators import Attention, Gemm, Operator
from workloads.phases import Setting, Step, decode, operators

Write = Callable[..., Path]
BF16 = "c10::BFloat16"
LAYER = (  # a decoder layer as vLLM runs it
    "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(...)",
    "nvjet_tst_64x8_64x16_1x4_h_bz_TNT",
    "void vllm::rotary_embedding_kernel<c10::BFloat16, true>(...)",
    "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>(...)",
    "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<64>>(...)",
    "void flash::flash_fwd_splitkv_combine_kernel<64>(...)",
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
    "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(...)",
    "nvjet_tst_128x8_64x12_2x1_v_bz_TNT",
    "void vllm::act_and_mul_kernel<c10::BFloat16, silu>(...)",
    "nvjet_tst_64x8_64x16_2x1_v_bz_splitK_TNT",
    "void cublasLt::splitKreduce_kernel<32, 16, int>(...)",
)
HEAD = (
    "void vllm::rms_norm_kernel<c10::BFloat16>(...)",
    "nvjet_tst_256x8_64x4_1x2_h_bz_TNT",
    "at::native::argmax_kernel",
)
FIRST = "void at::native::vectorized_gather_kernel<16, long>(...)"


ALONE = "execute_8_context_0(sq0sk0sqsq0sqsk0)_generation_8(sq8sk8192sqsq8sqsk8192)"  # vLLM, a token each
DRAFTED = "execute_12_context_0(sq0sk0sqsq0sqsk0)_generation_4(sq12sk4096sqsq36sqsk12288)"  # three of each

CHUNKED = "execute_512_context_2(sq512sk2048sqsq131072sqsk524288)_generation_0(sq0sk0sqsq0sqsk0)"


def graph_decode(made: Any, layers: int, steps: int = 2, annotation: str = "") -> None:
    """Decode steps in replayed graphs: no operators, only kernels in order, of 10 us each."""
    at = 1000.0
    for step in range(steps):
        begin = at
        made.correlation += 1
        made.add("cuda_runtime", "cudaGraphLaunch", at, 5.0, correlation=made.correlation)
        for name in (FIRST, *LAYER * layers, *HEAD):
            at += 10.0
            args = {"device": 0, "stream": 7, "correlation": made.correlation}
            made.add("kernel", name, at, 10.0, pid=0, **args)
        at += 100.0
        if annotation:
            made.add("user_annotation", annotation, begin - 1, 90.0, **{"External id": step})


def table(trace: Trace) -> Any:
    return frame(trace)


def test_layers_and_steps_show_in_the_order_of_kernels(made: Any, write: Write) -> None:
    graph_decode(made, layers=16, steps=3)
    found = table(attribute(read_traces([write(made.text())])))
    assert sorted(set(found["layer"])) == [-1, *range(16)]
    assert found[found["layer"] >= 0].groupby(["step", "layer"]).size().eq(len(LAYER)).all()
    assert found.groupby("step").size().tolist() == [1 + 16 * len(LAYER) + len(HEAD)] * 3
    assert set(found["phase"]) == {"decode"}


@pytest.mark.parametrize("annotation", [ALONE, ""], ids=["annotated", "given"])
def test_decode_in_graphs_has_a_model_of_nine_tenths_of_its_time(
    made: Any, write: Write, annotation: str
) -> None:
    loaded = load_model("Llama-3.2-1B")
    setting = Setting(convention=convention("eager"))
    graph_decode(made, layers=len(loaded.model.layers), annotation=annotation)
    lengths = Lengths() if annotation else Lengths(batch=8, context=1024)
    trace = attribute(read_traces([write(made.text())]), Question(loaded.model, setting, lengths))
    found = table(trace)
    assert found.loc[found["how"].notna(), "time_s"].sum() >= 0.9 * found["time_s"].sum()
    # All FLOP of two steps, counted once: what the model says of one, times two.
    named = operators(loaded.model, decode(8, 1024), setting)
    wanted = sum(row.count * row.operator.work().matrix_flops for row in named)
    assert found["matrix_flops"].sum() == pytest.approx(2 * wanted)
    weights = sum(
        row.count * row.operator.work().weight_bytes for row in named if row.operator.kind == "gemm"
    )
    assert found.loc[found["kind"] == "gemm", "work_bytes"].sum() >= 2 * weights
    merged = found.loc[found["operator"].astype(str).str.startswith("layers.attention.q_proj"), "operator"]
    assert merged.iloc[0] == "layers.attention.q_proj + k_proj + v_proj"
    assert "layers.mlp.gate_proj + up_proj" in set(found["operator"])


@pytest.mark.parametrize(
    ("annotation", "phase", "step"),
    [(DRAFTED, "decode", Step(4, 3, 1024, scored=3)), (CHUNKED, "prefill", Step(2, 256, 1024))],
    ids=["drafts", "chunks"],
)
def test_drafts_and_chunks_are_of_the_annotated_size(
    annotation: str, phase: str, step: Step, made: Any, write: Write
) -> None:
    """Drafts are multiplied and scored like other positions; chunks attend to what was read before them."""
    model, setting = load_model("Llama-3.2-1B").model, Setting(convention=convention("eager"))
    graph_decode(made, layers=len(model.layers), steps=1, annotation=annotation)
    trace = attribute(read_traces([write(made.text())]), Question(model, setting))
    named = operators(model, step, setting)
    wanted = sum(row.count * row.operator.work().matrix_flops for row in named)
    assert table(trace)["matrix_flops"].sum() == pytest.approx(wanted)
    (point,) = trace["passes"].drop_columns(["step"]).to_pylist()
    assert point["phase"] == phase
    assert step_of((*point.values(), 0)) == step


def test_a_model_of_another_depth_matches_nothing_and_says_so(made: Any, write: Write) -> None:
    graph_decode(made, layers=10)
    question = Question(load_model("Llama-3.2-1B").model, Setting(), Lengths(batch=8, context=1024))
    trace = attribute(read_traces([write(made.text())]), question)
    assert "model" not in set(table(trace)["how"].dropna())
    assert any("10 layers, Llama-3.2-1B has 16" in loss.sentence for loss in trace.losses)


def test_unknown_lengths_are_asked_for(made: Any, write: Write) -> None:
    graph_decode(made, layers=16)
    trace = attribute(
        read_traces([write(made.text())]), Question(load_model("Llama-3.2-1B").model, Setting())
    )
    assert any("give --batch" in loss.sentence for loss in trace.losses)


def gemm(name: str, n: int, k: int) -> Target:
    return Target(name, Gemm(4, n, k))


def test_operators_of_one_input_and_block_merge_first() -> None:
    # The output projection reads as much as gate and up do, and is another block's.
    targets = [
        gemm("a.o", 64, 64),
        gemm("mlp.gate", 128, 64),
        gemm("mlp.up", 128, 64),
        gemm("mlp.down", 64, 128),
    ]
    found = [[t.name for t in group] for _, group in pair([0, 1, 2], targets)]
    assert found == [["a.o"], ["mlp.gate", "mlp.up"], ["mlp.down"]]
    assert pair([0], targets) == []  # two blocks in one kernel: nothing is claimed


def test_more_kernels_than_operators_share_one() -> None:
    assert [kernels for kernels, _ in pair([5, 6, 7], [gemm("only", 8, 8)])] == [[5, 6, 7]]


def test_helpers_follow_what_they_help() -> None:
    kinds, helper = ["gemm", "gemm", "rope"], [False, True, False]
    assert match_layer(kinds, helper, [gemm("a", 8, 8)])[0][0] == [0, 1]


def mm(made: Any, ts: float, m: int, k: int, n: int, op: str = "aten::mm") -> None:
    shapes = {"Input Dims": [[m, k], [k, n]], "Input type": [BF16, BF16]}
    made.add("cpu_op", op, ts, 20.0, **shapes)


def test_an_operator_with_its_overload_has_the_work_of_the_operator(made: Any, write: Write) -> None:
    """As torch.profiler names them with `capture_overload_names`."""
    mm(made, 0.0, 128, 256, 512, "aten::mm.out")
    made.kernel("ampere_bf16_s16816gemm", 50.0, 10.0, launched=5.0)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["operator"].tolist() == ["aten::mm.out"]
    assert found["matrix_flops"].tolist() == [2 * 128 * 256 * 512]


def test_work_follows_from_recorded_shapes(made: Any, write: Write) -> None:
    mm(made, 0.0, 128, 256, 512)
    made.kernel("ampere_bf16_s16816gemm", 50.0, 10.0, launched=5.0)
    made.kernel("splitKreduce_kernel", 60.0, 2.0, launched=8.0)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["matrix_flops"].tolist() == [2 * 128 * 256 * 512, 0]  # on the longest kernel, once
    assert found["work_bytes"].sum() == 2 * (128 * 256 + 256 * 512 + 128 * 512)
    assert found["instance"].nunique() == 1
    assert found["kind"].tolist() == ["gemm", "gemm"]


ATTENDING = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
FORWARD = ("scaled_dot_product_attention", "_flash_attention_forward", "_efficient_attention_forward")


@pytest.mark.parametrize("name", [*(f"_scaled_dot_product_{way}" for way in ATTENDING), *FORWARD])
def test_attention_is_causal_where_that_argument_says_so(name: str) -> None:
    """And no other: one asks for the sums that a backward pass needs, another for shared keys and values."""
    rule = operator_rule(f"aten::{name}")
    assert rule is not None
    schema = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    arguments = next([a.name for a in s.arguments] for s in schema if not s.overload_name)
    own = next(argument for argument in arguments if argument in ("is_causal", "custom_mask_type"))
    by_type = own == "custom_mask_type"
    for causal, of_all in ((True, False), (False, True)):
        said = {"enable_gqa": of_all, "compute_log_sumexp": of_all, "return_debug_mask": of_all}
        values = [
            str(int(causal) if by_type else causal) if a == own else str(said.get(a, "")) for a in arguments
        ]
        dims = [[2, 8, 8, 64]] * 3 + [[]] * (len(arguments) - 3)
        shapes = json.dumps({"dims": dims, "types": [BF16] * 3, "values": values})
        found = recorded_work(rule, shapes)
        assert isinstance(found, Attention)
        assert found.causal == causal


PARTS = [[4, 32, 7], [4, 32, 7], [4, 32, 7, 128]]  # partial sums of split keys
PRODUCTS: list[tuple[str, list[list[int]]]] = [
    ("_C::cutlass_scaled_mm", [[16, 32], [16, 64], [64, 32], [16, 1], [1, 32]]),
    ("sgl_kernel::fp8_scaled_mm", [[16, 64], [64, 32], [16, 1], [32, 1]]),
    ("sgl_kernel::fp8_blockwise_scaled_mm", [[16, 64], [64, 32], [16, 1], [1, 1]]),
]


def worked(name: str, dims: list[list[int]], kinds: list[str], *step: StepFacts) -> Operator:
    """The operator of an engine's call."""
    rule = operator_rule(name)
    assert rule is not None
    found = recorded_work(rule, json.dumps({"dims": dims, "types": kinds}), *step)
    assert found is not None
    return found


@pytest.mark.parametrize("dims", [[[4, 5], [2, 3, 5, 7]], [[2, 1, 4, 5], [3, 5, 7]], [[6, 4, 5], [6, 5, 7]]])
def test_a_matrix_that_several_share_is_multiplied_for_each(dims: list[list[int]]) -> None:
    assert worked("aten::matmul", dims, [BF16, BF16]).work().matrix_flops == 6 * 2 * 4 * 5 * 7


@pytest.mark.parametrize(("name", "dims"), PRODUCTS)
def test_products_of_engines_are_of_their_two_matrices(name: str, dims: list[list[int]]) -> None:
    assert worked(name, dims, ["c10::Float8_e4m3fn"] * 5).work().matrix_flops == 2 * 16 * 64 * 32


@pytest.mark.parametrize(
    ("name", "parts"),
    [("_C::paged_attention_v1", []), ("_C::paged_attention_v2", PARTS), ("_rocm_C::paged_attention", PARTS)],
)
@pytest.mark.parametrize(("stored", "kv"), [(BF16, "bf16"), ("unsigned char", "fp8")])
def test_attention_over_pages_is_of_the_step_s_positions(
    name: str, parts: list[list[int]], stored: str, kv: str
) -> None:
    dims = [[4, 32, 128], *parts, [4, 32, 128], [999, 8, 16, 16, 8], [999, 8, 128, 16]]
    kinds = [*[BF16] * (len(parts) + 2), stored, stored]
    found = worked(name, dims, kinds, StepFacts("decode", decode=4, kv=400))
    assert found == Attention(4, 1, 100, 32, 8, 128, "bf16", kv)


@pytest.mark.parametrize(("stored", "width"), [(BF16, 2), ("unsigned char", 1)])
def test_new_keys_and_values_are_written_in_the_format_of_their_cache(stored: str, width: int) -> None:
    dims = [[4, 8, 128], [4, 8, 128], [999, 16, 8, 128], [999, 16, 8, 128]]
    found = worked("_C_cache_ops::reshape_and_cache_flash", dims, [BF16, BF16, stored, stored])
    assert found.work().bytes == 2 * 4 * 8 * 128 * (2 + width)


def test_fused_experts_multiply_each_token_by_those_chosen() -> None:
    """Two of eight for each of 64 tokens, which together choose every one."""
    dims = [[64, 32], [8, 2 * 48, 32], [8, 32, 48], [64, 2], [64, 2]]
    work = worked("vllm::inplace_fused_experts", dims, [BF16] * 4 + ["int"]).work()
    assert work.matrix_flops == 64 * 2 * 2 * 3 * 48 * 32
    assert work.weight_bytes == pytest.approx(8 * 3 * 48 * 32 * 2)


@pytest.mark.parametrize(("name", "moved"), [("_C::rms_norm", 2), ("_C::fused_add_rms_norm", 4)])
def test_a_sum_fused_with_a_norm_writes_both_in_place(name: str, moved: int) -> None:
    """vLLM's norm has its result and its input as arguments; with the sum, its input and the residual."""
    found = worked(name, [[64, 16], [64, 16], [16]], [BF16] * 3)
    assert found.work().bytes == 2 * (moved * 64 * 16 + 16)


@pytest.mark.parametrize(("name", "width"), [("mul", 2), ("gt", 1), ("gt_", 2), ("logical_not", 1)])
def test_comparisons_write_flags_where_they_do_not_write_in_place(name: str, width: int) -> None:
    found = worked(f"aten::{name}", [[64, 16], [16]], [BF16, BF16])
    assert found.work().bytes == 2 * (64 * 16 + 16) + width * 64 * 16


def test_what_looks_the_same_is_the_same_operator(made: Any, write: Write) -> None:
    names = ["rms_norm_kernel", "my_gemm_a", "silu_and_mul", "my_gemm_b", "fill"]
    for cycle in range(3):
        for at, name in enumerate(names):
            ts = 1000.0 * cycle + 100 * at
            recorded = cycle < 2
            if recorded and "gemm" in name:
                mm(made, ts, 8, 16, 32 if name.endswith("a") else 64)
            made.kernel(name, ts + 50, 10.0, launched=ts + 5 if recorded else None, grid=[4, 1, 1])
    found = table(attribute(read_traces([write(made.text())])))
    last = found[found["kernel"].astype(str).str.startswith("my_gemm")].tail(2)
    assert last["how"].tolist()[0] == "neighbours"
    assert last["matrix_flops"].tolist()[0] == 2 * 8 * 16 * 32


def test_communication_inside_an_operator_is_no_part_of_its_work(made: Any, write: Write) -> None:
    mm(made, 0.0, 128, 256, 512)
    made.kernel("ampere_bf16_s16816gemm", 50.0, 10.0, launched=5.0)
    made.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(...)", 60.0, 2.0, launched=8.0)
    assert table(attribute(read_traces([write(made.text())])))["kind"].tolist() == ["gemm", "allreduce"]


@pytest.mark.parametrize(("attends", "phase"), [(True, "decode"), (False, None)])
def test_a_graph_without_attention_is_of_no_phase(
    made: Any, write: Write, attends: bool, phase: str | None
) -> None:
    """Decode is replayed, and so are steps of encoders and of drafts, which nothing tells apart."""
    made.add("cuda_runtime", "cudaGraphLaunch", 0.0, 5.0, correlation=9)
    for at, name in enumerate((LAYER[1], *(["flash_fwd_kernel"] if attends else []), LAYER[6])):
        made.add("kernel", name, 10.0 * (at + 1), 9.0, pid=0, correlation=9)
    found = table(attribute(read_traces([write(made.text())])))["phase"]
    assert {value if isinstance(value, str) else None for value in found} == {phase}


def test_a_replayed_graph_finds_the_operators_of_its_capture(made: Any, write: Write) -> None:
    made.add("user_annotation", "capture_4", 0.0, 500.0)
    made.add("cuda_runtime", "cudaStreamBeginCapture", 1.0, 1.0, correlation=1)
    for at in range(3):
        mm(made, 100.0 * at + 10, 4, 16, 32 * (at + 1))
        made.add("cuda_runtime", "cudaLaunchKernel", 100.0 * at + 15, 2.0, correlation=10 + at)
    made.add("cuda_runtime", "cudaStreamEndCapture", 400.0, 1.0, correlation=2)
    for replay in range(2):
        made.add("cuda_runtime", "cudaGraphLaunch", 1000.0 * (replay + 1), 5.0, correlation=50 + replay)
        for at in range(3):
            ts = 1000.0 * (replay + 1) + 20 * at + 10
            made.add("kernel", f"gemm_{at}", ts, 5.0, pid=0, stream=7, correlation=50 + replay)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["how"].tolist() == ["capture"] * 6
    assert found["matrix_flops"].tolist() == [2 * 4 * 16 * 32 * n for n in (1, 2, 3)] * 2
    assert found["instance"].nunique() == 6


def test_phases_by_annotation_by_name_and_mixed(made: Any, write: Write) -> None:
    for at, (text, kernel) in enumerate(
        [
            ("step[DECODE bs=4]", "gemm"),
            ("execute_new_2_cached_3", "gemm"),
            ("anything", "BatchPrefillWithRaggedKVCacheKernel"),
        ]
    ):
        made.add("user_annotation", text, 1000.0 * at, 500.0)
        made.kernel(kernel, 1000.0 * at + 600, 5.0, launched=1000.0 * at + 5)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["phase"].tolist() == ["decode", "mixed", "prefill"]


def test_nothing_above_a_peak_goes_unflagged(made: Any, write: Write, paper_device: Any) -> None:
    mm(made, 0.0, 1000, 1000, 1000)  # 2 GFLOP at 100 TFLOP/s: 20 us
    made.kernel("gemm", 50.0, 10.0, launched=5.0)
    mm(made, 100.0, 1000, 1000, 1000)
    made.kernel("gemm", 150.0, 1000.0, launched=105.0)
    trace = attribute(read_traces([write(made.text())]))
    (row,) = show(trace, "operator", ceilings(paper_device(), Fidelity.DATASHEET))["rows"]
    assert row["attained"] == pytest.approx(40 / 1010)  # fine on average, and yet
    assert row["warning"].startswith("ABOVE CEILING in 1")
    assert row["saving_s"] == pytest.approx(970e-6)


@pytest.mark.parametrize(("length", "flagged"), [(19.95, True), (20.0, False)])
def test_a_little_above_a_peak_is_above_it(
    length: float, flagged: bool, made: Any, write: Write, paper_device: Any
) -> None:
    mm(made, 0.0, 1000, 1000, 1000)  # 2 GFLOP at 100 TFLOP/s: 20 us
    made.kernel("gemm", 50.0, length, launched=5.0)
    trace = attribute(read_traces([write(made.text())]))
    (row,) = show(trace, "operator", ceilings(paper_device(), Fidelity.DATASHEET))["rows"]
    assert (row["warning"] is not None) == flagged


PACKED = "c10::Float4_e2m1fn_x2"


@pytest.mark.parametrize(
    ("op", "dims", "types", "weights"),
    [
        ("aten::_scaled_mm", [[8, 32], [32, 16]], [PACKED, PACKED], 0.5),
        ("_C::cutlass_scaled_fp4_mm", [[8, 16], [8, 32], [16, 32]], ["c10::BFloat16", *["unsigned char"] * 2],
         0.5 + 1 / 16),
    ],
)  # fmt: skip
def test_two_numbers_in_a_byte_are_two(
    op: str, dims: Any, types: Any, weights: float, made: Any, write: Write
) -> None:
    made.add("cpu_op", op, 0.0, 20.0, **{"Input Dims": dims, "Input type": types})
    made.kernel("nvjet_sm100_qqtst_128x128", 50.0, 10.0, launched=5.0)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["matrix_flops"].tolist() == [2 * 8 * 16 * 64]
    assert found["dtype"].tolist() == ["fp4"]
    assert found["work_bytes"].tolist() == pytest.approx([8 * 64 / 2 + weights * 16 * 64 + 2 * 8 * 16])


@pytest.mark.parametrize("by", ["kernel", "operator", "layer", "phase", "stream", "kind"])
def test_every_grouping_holds_all_of_the_time(made: Any, write: Write, by: str) -> None:
    graph_decode(made, layers=4)
    made.kernel("odd", 1.0, 3.0, stream=9)
    trace = attribute(read_traces([write(made.text())]))
    shown = show(trace, by)
    assert sum(row["time_s"] for row in shown["rows"]) == pytest.approx(shown["totals"]["kernel_time_s"])
    assert sum(row["share"] for row in shown["rows"]) == pytest.approx(1)
    assert sum(row["count"] for row in shown["rows"]) == shown["totals"]["kernels"]
    assert sum(shown["idle"].values()) == pytest.approx(shown["totals"]["gpu_idle_s"])
    assert [k["name"] for k in shown["unknown_kernels"]] == ["odd"]


def test_real_prefill_is_modelled_though_a_third_has_no_launch(shared: Callable[[str], Path]) -> None:
    trace = attribute(read_traces([shared("traces/kineto_h100_qwen1.5-0.5b_prefill.json.gz")]))
    found = table(trace)
    assert found.loc[found["how"].notna(), "time_s"].sum() >= 0.99 * found["time_s"].sum()
    assert set(found["layer"]) == {-1, *range(24)}


@pytest.mark.parametrize("lengths", [Lengths(), Lengths(batch=1, prompt=8944)])
def test_a_prompt_has_the_sizes_that_its_attention_was_recorded_with(
    shared: Callable[[str], Path], lengths: Lengths
) -> None:
    """16 prompts of 559 tokens, which products alone do not tell from one of 8944."""
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "vocab_size": 151936}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": True}
    model = build(Config({"model_type": "qwen2", **sizes, **heads}, "Qwen1.5-0.5B"), "Qwen1.5-0.5B")
    question = Question(model, Setting(convention=convention("eager")), lengths)
    trace = attribute(read_traces([shared("traces/kineto_h100_qwen1.5-0.5b_prefill.json.gz")]), question)
    (found,) = trace["passes"].to_pylist()
    assert (found["phase"], found["batch"], found["q_len"], found["kv_len"]) == ("prefill", 16, 559, 559)
    told = [loss.sentence for loss in trace.losses if "--batch and --prompt" in loss.sentence]
    assert bool(told) == (lengths != Lengths())


def test_packed_sequences_are_told_by_the_offsets_where_they_begin() -> None:
    """Right behind the values, or behind a bias: efficient attention packs into a batch of one."""
    offsets = Tensor((5,), "int")
    for dims, behind in (((1200, 16, 64), (offsets,)), ((1, 1200, 16, 64), (None, offsets))):
        packed = Tensor(dims, BF16)
        four = heads_last(Recorded((packed, packed, packed, *behind), {}, ()), (0, 1, 2))
        assert isinstance(four, Attention)
        assert (four.batch, four.q_len, four.kv_len) == (4, 300, 300)
        alone = heads_last(Recorded((packed, packed, packed, Tensor((16,), "float")), {}, ()), (0, 1, 2))
        assert alone == (None if len(dims) == 3 else replace(four, batch=1, q_len=1200, kv_len=1200))


def test_real_decode_of_experts_is_modelled_with_and_without_its_capture(
    shared: Callable[[str], Path],
) -> None:
    folder = shared("traces/kineto_mi300x_vllm_gptoss_decode_graph")
    model = load_model("gpt-oss-20b").model
    question = Question(model, Setting(convention=convention("eager")))
    replay, capture = folder / "graph_execution.json.gz", folder / "capture.json.gz"
    for files in ([replay], [replay, capture]):
        trace = attribute(read_traces(files), question)
        found = table(trace)
        assert found.loc[found["how"].notna(), "time_s"].sum() >= 0.95 * found["time_s"].sum()
        windows = found["operator"].astype(str).str.contains("core.window128")
        assert found[windows].groupby("layer").ngroups == 12  # every second layer sees 128 positions
        rows = show(trace, "operator", ceilings(load_device("mi300x"), Fidelity.DATASHEET))["rows"]
        assert not [row["name"] for row in rows if row["warning"]]


def test_real_graph_decode_has_its_layers_with_and_without_capture(shared: Callable[[str], Path]) -> None:
    folder = shared("traces/kineto_mi300x_vllm_gptoss_decode_graph")
    replay, capture = folder / "graph_execution.json.gz", folder / "capture.json.gz"
    for files in ([replay], [replay, capture], [capture, replay]):
        trace = attribute(read_traces(files))
        found = table(trace)
        assert set(found["layer"]) == {-1, *range(24)}
        assert set(found["phase"]) == {"decode"}
        assert len(found) == 434
        if len(files) == 2:
            gemms = found[(found["kind"] == "gemm") & (found["how"] == "capture")]
            assert len(gemms) == 72
            # QKV, output and router of 24 layers at batch 32 (width 2880, 64 + 2 x 8 heads of 64, 32 experts)
            per_layer = 2 * 32 * (2880 * 5120 + 4096 * 2880 + 2880 * 32)
            assert gemms["matrix_flops"].sum() == 24 * per_layer


def test_a_longer_kernel_behind_does_not_take_the_work_of_an_execution(made: Any, write: Write) -> None:
    product = {"Input Dims": [[64, 64], [64, 64]], "Input type": [BF16] * 2}
    made.add("cpu_op", "aten::mm", 0.0, 20.0, **product)
    made.kernel("nvjet", 50.0, 10.0, launched=5.0)
    made.kernel("odd", 100.0, 90.0)
    found = table(attribute(read_traces([write(made.text())])))
    assert found["matrix_flops"].tolist() == [2 * 64**3, 0]
    assert found["instance"].is_unique
