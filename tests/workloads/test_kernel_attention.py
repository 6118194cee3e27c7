"""Feature maps and the block of kernel attention, against torch on small tensors."""

from __future__ import annotations

from typing import Any

import pytest

from specfiles.errors import InputError
from workloads.blocks import KernelAttentionBlock, Place
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.families import build
from workloads.model import Model
from workloads.operators import FeatureMap
from workloads.operators.features import FeatureKind
from workloads.phases import Setting, Step, parameters
from workloads.work import Role

torch = pytest.importorskip("torch")
BATCH, TOKENS, HEADS, DIM, HIDDEN = 2, 24, 3, 10, 30


def mapped(x: Any, function: FeatureKind, drawn: Any) -> tuple[list[Any], Any]:
    """The tensors that a feature map reads behind the drawn projection, and the features."""
    if function == "elu":
        return [x], torch.nn.functional.elu(x) + 1
    projected = x @ drawn.T
    if function == "positive":
        return [projected, x], torch.exp(projected - x.square().sum(-1, keepdim=True) / 2)
    return [projected], torch.cat([projected.sin(), projected.cos()], dim=-1)


MAPS: list[tuple[FeatureKind, int]] = [("elu", DIM), ("positive", 16), ("trigonometric", 16)]


@pytest.mark.parametrize(("function", "features"), MAPS)
def test_bytes_of_a_feature_map(function: FeatureKind, features: int) -> None:
    block = KernelAttentionBlock(HEADS, DIM, features, function)
    x = torch.rand(2 * BATCH * TOKENS * HEADS, DIM, dtype=torch.bfloat16)
    read, made = mapped(x, function, torch.rand(block.drawn, DIM, dtype=torch.bfloat16))
    work = FeatureMap(x.shape[0], DIM, features, function).work()
    assert work.bytes_as(Role.INPUT) == sum(tensor.nbytes for tensor in read)
    assert work.bytes_as(Role.OUTPUT) == made.nbytes
    assert work.special_ops == made.numel()


@pytest.mark.parametrize(("function", "features"), MAPS)
def test_products_of_the_block_over_all_positions(function: FeatureKind, features: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    block = KernelAttentionBlock(HEADS, DIM, features, function, causal=False)
    x, weight = torch.rand(BATCH, TOKENS, HIDDEN), torch.rand(HIDDEN, HIDDEN)
    drawn = torch.rand(block.drawn, DIM)
    with FlopCounterMode(display=False) as counter:
        q, k, v = ((x @ weight).unflatten(2, (HEADS, DIM)).transpose(1, 2) for _ in range(3))
        q, k = (mapped(t, function, drawn)[1] for t in (q, k))
        sums = k.transpose(2, 3) @ torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        y = q @ sums
        (y[..., :DIM] / y[..., DIM:]).transpose(1, 2).flatten(2) @ weight
    rows = list(block.parts(Place(HIDDEN, Step(BATCH, TOKENS, TOKENS), Setting())))
    assert sum(op.work().matrix_flops for _, _, op in rows) == counter.get_total_flops()
    assert sum(op.parameters() for _, _, op in rows) == 4 * HIDDEN * HIDDEN
    assert block.cache_bytes(TOKENS, Setting()) == 0


def transformer(**changes: Any) -> Model:
    return build(Config({**load_model("Linear-Transformer-GPT-2").config, **changes}, "test"), "test")


@pytest.mark.parametrize(("function", "features"), [("elu", 64), ("positive", 256), ("trigonometric", 128)])
def test_a_decoder_keeps_sums_and_has_the_parameters_of_softmax_attention(
    function: str, features: int
) -> None:
    """12 layers of 12 heads, a matrix and a normaliser each in 2 bytes; GPT-2's weights to the last."""
    model = transformer(feature_map=function, num_features=features)
    assert parameters(model) == parameters(load_model("GPT-2").model)
    for tokens in (1, 1000):
        assert model.cache_bytes(3, tokens, Setting()) == 3 * 2 * 12 * 12 * features * (64 + 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feature_map": "cosine"}, "field 'feature_map' is 'cosine'; expected one of elu, positive, trig"),
        ({"feature_map": "positive"}, "field 'num_features' is missing"),
        ({"feature_map": "trigonometric", "num_features": 7}, "num_features 7 is not divisible by"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        transformer(**changes)
