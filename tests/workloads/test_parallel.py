"""Tensor parallelism: what is split adds up to the whole, what is not is named, and it costs collectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from specfiles.errors import InputError
from workloads.blocks import MlpBlock
from workloads.catalogue import load_model
from workloads.dtypes import Precision
from workloads.model import Model
from workloads.operators import AllReduce, AllToAll, Gemm, GroupedGemm, Norm, Send
from workloads.phases import (
    Named,
    Setting,
    Step,
    decode,
    operators,
    owners,
    parameters,
    prefill,
    weight_bytes,
)
from workloads.sharing import beside, check_sharing, stages

SPLIT = [  # model and a number of devices that divides its heads, KV heads and MLP
    ("Llama-2-7B", 2),
    ("Llama-3.1-8B", 8),
    ("Llama-3.1-70B", 8),
    ("Qwen2.5-7B", 4),
    ("Qwen3-32B", 8),
    ("Gemma-2-27b", 16),
    ("Phi-4-14B", 5),
    ("OPT-6.7b", 32),
    ("GPT-2", 12),
]
REPLICATED = ("embedding", "attention_norm", "mlp_norm", "post_norm", "final_norm", "residual")


def split(model: Model, step: Step, devices: int) -> dict[str, Named]:
    rows = operators(model, step, Setting(tensor_parallel=devices))
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


@pytest.mark.parametrize(("name", "devices"), SPLIT)
def test_the_parts_of_a_matrix_add_up_to_it(name: str, devices: int) -> None:
    model, step = load_model(name).model, decode(3, 100)
    check_sharing(model, Setting(tensor_parallel=devices), 1)
    whole, part = split(model, step, 1), split(model, step, devices)
    for key, row in whole.items():
        one, own = row.operator, part[key].operator
        assert part[key].count == row.count
        if not isinstance(one, Gemm):
            continue
        assert isinstance(own, Gemm)
        if key == "lm_head":  # rounded up where the vocabulary does not divide
            assert one.n <= own.n * devices < one.n + devices
            continue
        assert own.n * own.k * devices == one.n * one.k, key
        assert own.work().matrix_flops * devices == one.work().matrix_flops, key
        by_columns = own.k == one.k  # QKV, gate and up by columns: whole input; O and down by rows
        assert by_columns == (own.n * devices == one.n)
        assert by_columns == (key.rpartition(".")[2] not in ("o_proj", "down_proj"))
        if one.bias and by_columns:
            assert own.parameters() * devices == one.parameters()


@pytest.mark.parametrize(("name", "devices"), SPLIT)
def test_heads_are_split_and_rows_are_not(name: str, devices: int) -> None:
    model, step = load_model(name).model, decode(3, 100)
    whole, part = split(model, step, 1), split(model, step, devices)
    compared = 0
    for key, row in whole.items():
        one, own = row.operator.work(), part[key].operator.work()
        if ".core" in key:
            assert own.matrix_flops * devices == one.matrix_flops
            assert own.kv_bytes * devices == one.kv_bytes
            compared += 1
        if key.endswith(REPLICATED):
            assert own == one, key
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize(("name", "devices"), [("Llama-3.3-70B", 4), ("Gemma-3-27b", 8), ("Phi-4-14B", 5)])
def test_devices_hold_a_part_of_the_vocabulary_each(name: str, devices: int) -> None:
    """All but norms is shared; Gemma's head is its table; 5 parts of Phi's 100,352 tokens are rounded up."""
    model = load_model(name).model
    norms = sum(row.parameters() for row in owners(model) if isinstance(row.operator, Norm))
    tables = [row for row in owners(model) if row.name in ("embedding", "lm_head") and row.parameters()]
    padded = len(tables) * (-model.vocabulary % devices) * model.hidden
    each = norms + (parameters(model) - norms + padded) // devices
    assert weight_bytes(owners(model, Setting(tensor_parallel=devices))) == 2 * each


def test_tables_of_each_layer_are_shared_too() -> None:
    """Gemma 3n's, larger than the table of tokens."""
    model = load_model("gemma-3n-e2b").model
    whole, part = split(model, decode(1, 10), 1), split(model, decode(1, 10), 2)
    for name in ("embedding", "per_layer_embedding"):
        assert part[name].operator.stored_bytes() * 2 == whole[name].operator.stored_bytes()


def test_each_layer_sums_twice_over_devices() -> None:
    """After attention and after the MLP: hidden x tokens in 16 bits, on a ring."""
    model, step, devices = load_model("Llama-3.1-8B").model, prefill(2, 50), 4
    rows = [row for row in split(model, step, devices).values() if isinstance(row.operator, AllReduce)]
    table, *sums = rows
    assert (table.name, table.count) == ("embedding_allreduce", 1)
    assert [row.name for row in sums] == ["layers.attention_allreduce", "layers.mlp_allreduce"]
    assert table.operator == sums[0].operator
    for row in sums:
        assert row.count == 32
        assert row.operator.work().comm_bytes == 2 * 3 / 4 * (2 * 50 * 4096 * 2)
    order = list(split(model, step, devices))
    assert order.index("layers.attention_allreduce") == order.index("layers.attention.o_proj") + 1
    assert order.index("layers.mlp_allreduce") == order.index("layers.mlp.down_proj") + 1


@pytest.mark.parametrize(("name", "sums"), [("gemma-4-26b-a4b", 3), ("gemma-3n-e2b", 2)])
def test_each_result_that_is_normalised_is_summed_first_and_what_is_whole_is_not(
    name: str, sums: int
) -> None:
    """Gemma 4 normalises shared MLP and experts apart; AltUp, LAuReL and per-layer gates are whole."""
    model = load_model(name).model
    every = [row for row in split(model, decode(2, 100), 2).values() if isinstance(row.operator, AllReduce)]
    rows = [row for row in every if row.name.startswith("layers.")]
    assert [row.count for row in rows] == [30] * sums
    assert {row.operator.tokens * row.operator.width for row in rows} == {2 * model.hidden}


def test_every_device_gets_the_scores_of_all() -> None:
    """GPT-2's vocabulary does not divide by four: parts are rounded up. Tables of layers are summed, too."""
    rows = split(load_model("GPT-2").model, decode(3, 10), 4)
    assert rows["logits_allgather"].operator.work().comm_bytes == 3 / 4 * 3 * 4 * 12565 * 2
    assert rows["sampling"].operator.vocabulary == 50257
    small = load_model("gemma-3n-e2b").model
    summed = split(small, prefill(1, 7), 2)["per_layer_embedding_allreduce"].operator
    assert (summed.tokens, summed.width) == (7, 30 * 256)


@pytest.mark.parametrize(
    ("name", "norm", "sums", "layers"),
    [("minimax-m2.5", "attention.qk_norm", 2, 62), ("mamba-2-2.7b", "mamba.norm", 1, 64)],
)
def test_a_norm_over_all_heads_needs_the_sum_of_all_devices(
    name: str, norm: str, sums: int, layers: int
) -> None:
    """A number in fp32 for each row that is normalised, and before the norm; no rows are sent."""
    rows = split(load_model(name).model, prefill(2, 50), 4)
    sent = rows[f"layers.{norm}_allreduce"]
    assert sent.operator.work().comm_bytes == 2 * 3 / 4 * (2 * 50 * sums * 4)
    assert sent.count == layers
    order = list(rows)
    assert order[order.index(sent.name) + 1] == f"layers.{norm.replace('qk', 'q')}"


def test_norms_of_single_heads_or_groups_stay_on_their_device() -> None:
    """Nemotron-H has eight groups: on sixteen devices each of their rows is gathered."""
    model = load_model("nemotron-h-8b").model
    assert not [row for row in split(model, decode(1, 10), 8) if "norm_all" in row]
    gathered = split(model, decode(3, 10), 16)["layers.mamba.norm_allgather"].operator.work()
    assert gathered.comm_bytes == 15 / 16 * 3 * 128 * 64 * 2  # positions, heads, their width, bf16
    assert not [row for row in split(load_model("qwen3-8b").model, decode(1, 10), 8) if "norm_all" in row]


def test_one_device_talks_to_nobody() -> None:
    rows = operators(load_model("Llama-3.1-8B").model, decode(1, 100))
    assert sum(row.operator.work().comm_bytes for row in rows) == 0
    assert not [row for row in rows if isinstance(row.operator, AllReduce)]


def test_fewer_kv_heads_than_devices_are_copied() -> None:
    """Llama-3.1-8B over 16 devices: 8 KV heads, each on two; none has less than one."""
    model = load_model("Llama-3.1-8B").model
    core = split(model, decode(1, 100), 16)["layers.attention.core"].operator.work()
    assert core.kv_bytes == 2 * 100 * 1 * 128 * 2
    assert model.cache_bytes(1, 100, Setting(tensor_parallel=16)) * 16 == 2 * model.cache_bytes(
        1, 100, Setting()
    )


@pytest.mark.parametrize(
    ("name", "devices", "what"),
    [("Llama-2-7B", 3, "32 attention heads"), ("Qwen2.5-7B", 8, "28 attention heads"), ("GPT-2", 5, "12")],
)
def test_heads_that_do_not_divide_are_refused(name: str, devices: int, what: str) -> None:
    with pytest.raises(InputError, match=f"{name} has {what}.*{devices} devices do not divide"):
        check_sharing(load_model(name).model, Setting(tensor_parallel=devices), 1)


def test_a_second_model_runs_whole_on_each_device_where_it_does_not_divide() -> None:
    """SmolLM2-135M has 9 heads."""
    both = Setting(tensor_parallel=2)
    assert beside(load_model("Llama-3.2-1B").model, both) == both
    assert beside(load_model("SmolLM2-135M").model, both) == Setting()


def test_an_mlp_that_does_not_divide_is_refused() -> None:
    model = load_model("Llama-2-7B").model  # 32 heads divide by 32, the width 11008 = 344 * 32 too
    check_sharing(model, Setting(tensor_parallel=32), 1)
    attention, mlp = model.layers[0].blocks
    assert isinstance(mlp, MlpBlock)
    layer = replace(model.layers[0], blocks=(attention, replace(mlp, width=11007)))
    with pytest.raises(InputError, match="11007 MLP width"):
        check_sharing(
            replace(model, stack=replace(model.stack, layers=(layer,))), Setting(tensor_parallel=32), 1
        )


SPARSE = ("Mixtral-8x7B", "DeepSeek-V3", "Llama-4-Scout-17B-16E", "gpt-oss-120b")


def shared(model: Model, step: Step, **how: Any) -> dict[str, Named]:
    setting = Setting(**how)
    check_sharing(model, setting, int(step.batch))
    return {row.name: row for row in operators(model, step, setting)}


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize(
    "how", [{"expert_parallel": 4}, {"tensor_parallel": 4}, {"tensor_parallel": 4, "expert_parallel": 2}]
)
def test_experts_are_shared_out_whole_or_by_width(name: str, how: dict[str, int]) -> None:
    """Four devices together hold every matrix once and do all of the multiplications."""
    model, step = load_model(name).model, decode(8, 100)
    whole, part = shared(model, step), shared(model, step, **how)
    compared = 0
    for key, row in whole.items():
        one, own = row.operator, part[key].operator
        if not isinstance(one, GroupedGemm) or ".moe." not in key:
            continue
        assert isinstance(own, GroupedGemm)
        compared += 1
        assert own.groups * how.get("expert_parallel", 1) == one.groups
        if own.layer is not None:  # tokens are sent where each device has read a part of them
            assert own.layer.dispatched == ("tensor_parallel" not in how)
        assert own.work().matrix_flops * 4 == pytest.approx(one.work().matrix_flops)
        matrices = own.groups * own.n * own.k
        assert matrices * 4 == one.groups * one.n * one.k
        touched = own.touched * own.n * own.k
        assert touched * 4 == pytest.approx(one.touched * one.n * one.k)  # all tokens choose among all
    assert compared >= 2


def test_tokens_travel_where_the_attention_is_not_shared() -> None:
    """DeepSeek-V3 over 8 devices, 64 sequences: each has 8 and sends them to the devices of their experts.

    As its report has it (arXiv:2412.19437, section 3.3.3), in FP8 there and in 16 bits back.
    """
    model, step, fp8 = load_model("DeepSeek-V3").model, decode(64, 100), Precision.of("fp8", "fp8")
    rows = shared(model, step, expert_parallel=8, precision=fp8)
    sent = [row for row in rows.values() if isinstance(row.operator, AllToAll)]
    assert [row.name for row in sent] == ["layers.moe.dispatch_alltoall", "layers.moe.return_alltoall"]
    spared = 1.0  # 8 experts of 256, none of a device's 32
    for drawn in range(8):
        spared *= (224 - drawn) / (256 - drawn)
    for row, width in zip(sent, (1, 2), strict=True):
        assert row.count == 58
        assert row.operator.work().comm_bytes == pytest.approx(8 * 7 * (1 - spared) * 7168 * width)
    experts = rows["layers.moe.experts_down_proj"].operator
    assert isinstance(experts, GroupedGemm)
    assert experts.layer
    assert (experts.layer.tokens, experts.m) == (64, 64 * 8 / 8)  # of all devices, of one's own experts
    assert not [row for row in rows.values() if isinstance(row.operator, AllReduce)]
    one = shared(model, decode(8, 100), precision=fp8)  # the attention is that of a device's own 8 sequences
    for key in ("layers.attention.q_b_proj", "layers.attention.core", "lm_head"):
        assert rows[key].operator == one[key].operator


def test_tokens_travel_in_the_width_that_experts_work_in() -> None:
    """Nemotron 3 Super: from 4096 to a latent of 1024 before tokens are sent, and back behind."""
    rows = shared(load_model("Nemotron-3-Super-120B-A12B").model, decode(64, 100), expert_parallel=8)
    sent = [row.operator for row in rows.values() if isinstance(row.operator, AllToAll)]
    assert [op.width for op in sent] == [1024, 1024]


def test_devices_that_have_all_tokens_need_no_journey() -> None:
    rows = shared(load_model("Mixtral-8x7B").model, decode(8, 100), tensor_parallel=8, expert_parallel=8)
    assert not [row for row in rows.values() if isinstance(row.operator, AllToAll)]
    assert rows["layers.mlp_allreduce"].count == 32


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "DeepSeek-V3", "Gemma-2-2b"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_stages_hold_the_model_together(name: str, count: int) -> None:
    """Every layer in one stage; a table that embedding and head share is held by both ends."""
    model, setting = load_model(name).model, Setting(pipeline_parallel=count)
    parts = stages(model, setting)
    assert sum((part.layers for part in parts), start=()) == model.layers
    assert max(len(p.layers) for p in parts) - min(len(p.layers) for p in parts) <= 1
    copied = model.vocabulary * model.hidden if name.startswith("Gemma") else 0
    assert sum(parameters(part) for part in parts) == parameters(model) + copied
    plain, split = operators(model, decode(3, 50)), operators(model, decode(3, 50), setting)
    sends = [row for row in split if isinstance(row.operator, Send)]
    assert [row.count for row in sends] == [count - 1]
    assert sends[0].operator.work().comm_bytes == 3 * model.hidden * 2
    assert [row for row in split if row not in sends] == plain  # a token passes every stage
    halved = operators(model, decode(3, 50), replace(setting, tensor_parallel=2))
    (part,) = (row for row in halved if isinstance(row.operator, Send))
    assert part.operator.work().comm_bytes * 2 == sends[0].operator.work().comm_bytes  # each device its half


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("Llama-3.1-8B", {"expert_parallel": 2}, "has no experts to spread over --ep 2"),
        ("Mixtral-8x7B", {"expert_parallel": 3}, "has 8 experts, which 3 devices do not divide"),
        ("Mixtral-8x7B", {"expert_parallel": 8}, "batch 4 is not divisible by 8"),
        ("Mixtral-8x7B", {"expert_parallel": 4, "tensor_parallel": 2}, "--ep 4 does not fit --tp 2"),
        ("Mixtral-8x7B", {"expert_parallel": 3, "tensor_parallel": 4}, "--ep 3 does not fit --tp 4"),
        ("Llama-3.1-8B", {"pipeline_parallel": 33}, "has 32 layers, which --pp 33 stages cannot share"),
        ("T5-small", {"pipeline_parallel": 2}, "has 2 stacks of layers; --pp is known for one"),
    ],
)
def test_sharing_that_does_not_fit_is_refused(name: str, how: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_sharing(load_model(name).model, Setting(**how), 4)  # type: ignore[arg-type]
