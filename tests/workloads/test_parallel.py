"""Tensor parallelism: what is split adds up to the whole, what is not is named, and it costs collectives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specfiles.errors import InputError
from workloads.blocks import MlpBlock
from workloads.catalogue import load_model
from workloads.model import Model
from workloads.operators import AllReduce, Gemm
from workloads.phases import Named, Setting, Step, check_split, decode, operators, prefill

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
    check_split(model, devices)
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


def test_each_layer_sums_twice_over_devices() -> None:
    """After attention and after the MLP: hidden x tokens in 16 bits, on a ring."""
    model, step, devices = load_model("Llama-3.1-8B").model, prefill(2, 50), 4
    rows = [row for row in split(model, step, devices).values() if isinstance(row.operator, AllReduce)]
    assert [row.name for row in rows] == ["layers.attention_allreduce", "layers.mlp_allreduce"]
    for row in rows:
        assert row.count == 32
        assert row.operator.work().comm_bytes == 2 * 3 / 4 * (2 * 50 * 4096 * 2)
    order = list(split(model, step, devices))
    assert order.index("layers.attention_allreduce") == order.index("layers.attention.o_proj") + 1
    assert order.index("layers.mlp_allreduce") == order.index("layers.mlp.down_proj") + 1


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
        check_split(load_model(name).model, devices)


def test_an_mlp_that_does_not_divide_is_refused() -> None:
    model = load_model("Llama-2-7B").model  # 32 heads divide by 32, the width 11008 = 344 * 32 too
    check_split(model, 32)
    attention, mlp = model.layers[0].blocks
    assert isinstance(mlp, MlpBlock)
    layer = replace(model.layers[0], blocks=(attention, replace(mlp, width=11007)))
    with pytest.raises(InputError, match="11007 MLP width"):
        check_split(replace(model, stack=replace(model.stack, layers=(layer,))), 32)
