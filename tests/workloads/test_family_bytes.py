"""Bytes of what single families bring along, by making the tensors or running the reference that has them."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.products import ours
from tests.workloads.tensors import moved, rows, size
from tests.workloads.test_mixers_in_transformers import CACHE, CASES, batch_of, case_id, reference
from workloads.dtypes import Precision
from workloads.operators import (
    AllGather,
    CausalConv,
    Collective,
    Copy,
    DeltaWkv,
    FeatureMap,
    MatrixWkv,
    Modulation,
    PositionProjection,
    RelativeBias,
    ResidualChoice,
    RoutedExperts,
    Send,
    SequenceConv,
    SparseAttention,
    StreamMix,
    StreamUpdate,
    TokenShift,
)
from workloads.operators.kinds import KINDS
from workloads.phases import Setting, Step, operators
from workloads.work import Role

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BATCH, TOKENS, WIDTH = 2, 12, 24


@pytest.mark.parametrize("past", [0, 5])
def test_token_shift(past: int) -> None:
    """RWKV's three mixes of a row and the one before it, of which the last stays for the next step."""
    from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

    config = transformers.RwkvConfig(hidden_size=WIDTH, num_hidden_layers=1)
    block = RwkvSelfAttention(config).to(torch.bfloat16)
    x = rows(BATCH, TOKENS, WIDTH)
    mixed = []
    for name in ("key", "value", "receptance"):
        getattr(block, name).register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    block.extract_key_value(x)
    mixes = (block.time_mix_key, block.time_mix_value, block.time_mix_receptance)
    last = x[:, -1].contiguous()
    op = TokenShift(BATCH, TOKENS, past, WIDTH, 3)
    assert op.parameters() == sum(mix.numel() for mix in mixes)
    assert op.state_bytes() == last.nbytes
    assert moved(op) == {
        Role.INPUT: x.nbytes,
        Role.WEIGHT: size(*mixes),
        Role.OUTPUT: size(*mixed),
        Role.KV_WRITE: last.nbytes,
        **({Role.KV_READ: last.nbytes} if past else {}),
    }


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("past", [0, 5])
def test_a_matrix_valued_wkv(moving: bool, past: int) -> None:
    """The recurrence of RWKV-5 and 6 on tensors: states of 6 heads in fp32, a decay of weights or of rows."""
    r, k, v, w = (rows(BATCH, TOKENS, 6, 4) for _ in "rkvw")
    bonus, fixed, s = rows(6, 4), rows(6, 4), rows(BATCH, 6, 4, 4, dtype="float32")
    output = []
    for t in range(TOKENS):
        new = k[:, t, :, :, None] * v[:, t, :, None]
        output.append((r[:, t, :, None] @ (s.bfloat16() + bonus[..., None] * new))[:, :, 0])
        s = (w[:, t] if moving else fixed)[..., None] * s + new
    op = MatrixWkv(BATCH, TOKENS, past, 6, 4, moving=moving)
    weights = (bonus,) if moving else (bonus, fixed)
    assert op.parameters() == sum(t.numel() for t in weights)
    assert moved(op) == {
        Role.INPUT: size(r, k, v, *((w,) if moving else ())),
        Role.WEIGHT: size(*weights),
        Role.OUTPUT: torch.stack(output, dim=1).nbytes,
        Role.KV_WRITE: s.nbytes,
        **({Role.KV_READ: s.nbytes} if past else {}),
    }


@pytest.mark.parametrize("mixed", [False, True])
def test_the_generalised_delta_rule(mixed: bool) -> None:
    """RWKV-7: beside r, k, v, decay and rate, the first layer's values and how much of them."""
    r, k, v, w, a, first, share = (rows(BATCH, TOKENS, 6, 4) for _ in range(7))
    removal, update, bonus = (rows(6, 4) for _ in range(3))
    s, output = rows(BATCH, 6, 4, 4, dtype="float32"), []
    values = v + (first - v) * share if mixed else v
    for t in range(TOKENS):
        key = torch.nn.functional.normalize(k[:, t] * removal, dim=-1)
        new = k[:, t] * (1 + (a[:, t] - 1) * update)
        found = s @ key[..., None].float()
        s = (
            s * w[:, t, :, None]
            - found * (key * a[:, t])[:, :, None]
            + values[:, t, ..., None] * new[:, :, None]
        )
        extra = (r[:, t] * new * bonus).sum(-1, keepdim=True) * values[:, t]
        output.append((s.bfloat16() @ r[:, t, ..., None])[..., 0] + extra)
    op = DeltaWkv(BATCH, TOKENS, 0, 6, 4, mixed=mixed)
    assert op.parameters() == sum(t.numel() for t in (removal, update, bonus))
    assert moved(op) == {
        Role.INPUT: size(r, k, v, w, a, *((first, share) if mixed else ())),
        Role.WEIGHT: size(removal, update, bonus),
        Role.OUTPUT: torch.stack(output, dim=1).nbytes,
        Role.KV_WRITE: s.nbytes,
    }


def test_sparse_attention_moves_each_tensor_once() -> None:
    """Whatever the pattern: blocks that several queries see stay on the chip, as in full attention."""
    q, k, v = (rows(BATCH, 4, TOKENS, 16) for _ in "qkv")
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    op = SparseAttention(BATCH, TOKENS, 4, 16, 1, 2, 1, 2)
    assert moved(op) == {Role.INPUT: size(q, k, v), Role.OUTPUT: output.nbytes}


def test_relative_bias() -> None:
    """T5's own: a table of 32 buckets becomes a bias of every head, query and key."""
    from transformers.models.t5.modeling_t5 import T5Attention

    config = transformers.T5Config(num_heads=6, d_model=WIDTH, d_kv=4)
    attention = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).to(torch.bfloat16)
    table, bias = attention.relative_attention_bias.weight, attention.compute_bias(TOKENS, 15)
    op = RelativeBias(TOKENS, 15, 6, 32)
    assert op.parameters() == table.numel()
    assert moved(op) == {Role.WEIGHT: table.nbytes, Role.OUTPUT: bias.nbytes}


def test_modulation() -> None:
    """adaLN: a vector per sequence shifts and scales, or gates, all its rows."""
    x, (shift, scale, gate) = rows(BATCH, TOKENS, WIDTH), (rows(BATCH, 1, WIDTH) for _ in range(3))
    shifted, gated = x * (1 + scale) + shift, x * gate
    assert moved(Modulation(BATCH, TOKENS, WIDTH)) == {
        Role.INPUT: size(x, shift, scale),
        Role.OUTPUT: shifted.nbytes,
    }
    assert moved(Modulation(BATCH, TOKENS, WIDTH, gate=True)) == {
        Role.INPUT: size(x, gate),
        Role.OUTPUT: gated.nbytes,
    }


def test_streams() -> None:
    """AltUp of transformers: four streams from each other, then corrected by what the layer made of one."""
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextAltUp

    altup = Gemma3nTextAltUp(transformers.Gemma3nTextConfig(hidden_size=WIDTH)).to(torch.bfloat16)
    streams, made = rows(4, 1, TOKENS, WIDTH), rows(1, TOKENS, WIDTH)
    factors = altup.correction_coefs(altup.compute_router_modalities(made))
    square = altup.prediction_coefs(altup.compute_router_modalities(made))
    predicted = altup.predict(streams)
    assert moved(StreamMix(TOKENS, 4, WIDTH)) == {
        Role.INPUT: size(streams, square),
        Role.OUTPUT: predicted.nbytes,
    }
    op = StreamUpdate(TOKENS, 4, WIDTH, corrects=True)
    assert op.parameters() == altup.correct_output_scale.numel()
    assert moved(op) == {
        Role.INPUT: size(predicted, made, factors),
        Role.WEIGHT: altup.correct_output_scale.nbytes,
        Role.OUTPUT: altup.correct(predicted, made).nbytes,
    }
    # A difference and, of the first stream, its factors; of each stream a product and a sum.
    assert op.work().vector_flops == TOKENS * WIDTH * (2 + 4 * 2)
    others = streams[1:]
    assert moved(StreamUpdate(TOKENS, 3, WIDTH)) == {
        Role.INPUT: size(others, made),
        Role.OUTPUT: (others + made).nbytes,
    }


@pytest.mark.parametrize("begins", [False, True])
def test_a_choice_among_sums(begins: bool) -> None:
    """Attention residuals: three sums of earlier layers and the running one, to which y is added."""
    sums, running, y = rows(TOKENS, 3, WIDTH), rows(TOKENS, 1, WIDTH), rows(TOKENS, 1, WIDTH)
    scale, vector = rows(WIDTH), rows(WIDTH)
    sources = torch.cat([sums, running + y], dim=1)
    scores = torch.nn.functional.rms_norm(sources, (WIDTH,), scale) @ vector
    output = (scores.softmax(-1)[:, None] @ sources)[:, 0]
    op = ResidualChoice(TOKENS, 4, WIDTH, begins)
    assert op.parameters() == scale.numel() + vector.numel()
    assert moved(op) == {
        Role.INPUT: size(sums, running, y),
        Role.WEIGHT: size(scale, vector),
        Role.OUTPUT: size(running, output) + (running.nbytes if begins else 0),
    }


def test_feature_maps() -> None:
    """Linear Transformer from x alone; Performer from W x and x, whose square it takes; RFA from W x."""
    x, drawn = rows(TOKENS, 16), rows(16, 10)
    product = x @ drawn
    elu = torch.nn.functional.elu(x) + 1
    positive = torch.exp(product - x.square().sum(-1, keepdim=True) / 2)
    waves = torch.cat([product.sin(), product.cos()], dim=-1)
    assert moved(FeatureMap(TOKENS, 16, 16)) == {Role.INPUT: x.nbytes, Role.OUTPUT: elu.nbytes}
    assert moved(FeatureMap(TOKENS, 16, 10, "positive")) == {
        Role.INPUT: size(product, x),
        Role.OUTPUT: positive.nbytes,
    }
    assert moved(FeatureMap(TOKENS, 16, 20, "trigonometric")) == {
        Role.INPUT: product.nbytes,
        Role.OUTPUT: waves.nbytes,
    }


def test_a_projection_of_positions_reads_as_many_columns_as_there_are_positions() -> None:
    keys, matrix = rows(BATCH * WIDTH, TOKENS), rows(5, 100)
    used = matrix[:, :TOKENS].contiguous()
    op = PositionProjection(BATCH * WIDTH, 5, TOKENS, positions=100)
    assert op.parameters() == matrix.numel()
    assert op.stored_bytes() == matrix.nbytes
    assert moved(op) == {
        Role.INPUT: keys.nbytes,
        Role.WEIGHT: used.nbytes,
        Role.OUTPUT: (keys @ used.T).nbytes,
    }


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_of_frames_reads_those_that_rows_share_once(stride: int) -> None:
    conv = torch.nn.Conv1d(7, WIDTH, 3, stride, padding=1, dtype=torch.bfloat16)
    x = rows(BATCH, 7, TOKENS)
    y = conv(x)
    op = SequenceConv(BATCH * TOKENS // stride, WIDTH, 3 * 7, bias=True, kernel=3, stride=stride)
    assert op.parameters() == sum(p.numel() for p in conv.parameters())
    assert moved(op) == {Role.INPUT: x.nbytes, Role.WEIGHT: size(*conv.parameters()), Role.OUTPUT: y.nbytes}


def test_experts_in_one_kernel_keep_what_lies_between() -> None:
    """Five tokens, two experts each of eight, of which four are touched: gate, up and down of those."""
    x, matrices = rows(5, WIDTH), rows(8, 3, 10, WIDTH)
    chosen = torch.tensor([[0, 3], [3, 6], [1, 6], [0, 1], [3, 0]]).unique()
    op = RoutedExperts(5, 10, len(chosen), WIDTH, 10)
    assert moved(op) == {
        Role.INPUT: x.nbytes,
        Role.WEIGHT: matrices[chosen].nbytes,
        Role.OUTPUT: torch.zeros_like(x).nbytes,
    }


def test_a_stage_sends_its_rows() -> None:
    sent = rows(5, WIDTH)
    assert moved(Send(5, WIDTH)) == {
        Role.INPUT: sent.nbytes,
        Role.OUTPUT: sent.nbytes,
        Role.WIRE: sent.nbytes,
    }


def test_a_copy_is_read_and_written() -> None:
    source = rows(5, WIDTH)
    assert moved(Copy(source.nbytes)) == {Role.INPUT: source.nbytes, Role.OUTPUT: source.clone().nbytes}


@pytest.mark.parametrize("devices", [2, 4])
def test_messages_of_collectives(devices: int) -> None:
    """A ring on tensors: each device hands on one part per step, n - 1 times, twice that to reduce all."""
    message = rows(devices * 6, WIDTH)
    part = message.chunk(devices)[0].contiguous()
    around = (devices - 1) * part.nbytes
    gathered, benchmark = (
        AllGather(devices * 6, WIDTH, devices),
        Collective("allgather", message.nbytes, devices),
    )
    assert moved(gathered) == moved(benchmark)
    for pattern, read, written, sent in (
        ("allreduce", message, message, 2 * around),
        ("allgather", part, message, around),
        ("reduce_scatter", message, part, around),
        ("alltoall", message, message, around),
    ):
        assert moved(Collective(pattern, message.nbytes, devices)) == {
            Role.INPUT: read.nbytes,
            Role.OUTPUT: written.nbytes,
            Role.WIRE: pytest.approx(sent, rel=1e-15),
        }


@pytest.mark.parametrize(("family", "fields"), CASES, ids=case_id)
def test_a_cache_holds_what_the_reference_keeps(family: str, fields: dict[str, Any]) -> None:
    """Keys, values and states of a prompt in fp32, tensor by tensor, through the reference's own cache.

    It keeps as many inputs of a convolution as there are taps, of which the next position needs all but one,
    and of ZAYA's no more than these; RWKV has one array of all layers' rows.
    """
    model, batch = ours(family, fields), batch_of(family)
    with torch.no_grad():
        tokens = torch.zeros(batch, TOKENS, dtype=torch.long)
        made = reference(family, fields)(input_ids=tokens, use_cache=True)
    kept = size(*tensors_of(made[CACHE.get(family, "past_key_values")]))
    setting = Setting(Precision.of("fp32"))
    found = operators(model, Step(batch, 1, TOKENS), setting)
    convolutions = [(r.count, r.operator) for r in found if isinstance(r.operator, CausalConv)]
    spare = 0 if family == "zaya" else sum(count * batch * op.channels * 4 for count, op in convolutions)
    assert kept == model.cache_bytes(batch, TOKENS, setting) + spare > 0


def tensors_of(cache: Any) -> list[Any]:
    if isinstance(cache, list):
        return cache
    sums = getattr(cache, "linear_cache", ())  # MiniMax-01's, empty lists for layers that attend
    found: dict[int, Any] = {id(each): each for each in sums if isinstance(each, torch.Tensor)}
    for layer in cache.layers:
        for value in vars(layer).values():
            for tensor in value.values() if isinstance(value, dict) else (value,):
                if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                    continue  # a sliding layer has its window's length as a tensor, too
                if math.prod(tensor.shape):
                    found[id(tensor)] = tensor
    return list(found.values())


def test_no_operator_moves_bytes_that_nobody_counted() -> None:
    """Every kind is made and measured in one of the four files about bytes."""
    here = Path(__file__).parent
    called = set()
    for name in ("test_bytes.py", "test_mixer_bytes.py", "test_family_bytes.py", "test_compressed.py"):
        tree = ast.parse((here / name).read_text(encoding="utf-8"))
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        called |= {function.id for function in calls if isinstance(function, ast.Name)}
    assert {kind.__name__ for kind in KINDS} <= called
