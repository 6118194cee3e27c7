"""Linformer (arXiv:2006.04768): the block against torch, the family against BERT of the same sizes."""

from __future__ import annotations

import pytest

from specfiles.errors import InputError
from workloads.blocks import LinformerBlock, Place
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.families import build
from workloads.model import Model
from workloads.operators import PositionProjection
from workloads.phases import Setting, Step, operators, parameters, prefill
from workloads.work import Role


def linformer(rank: int, sharing: str = "headwise") -> Model:
    """BERT-base with its attention shortened."""
    fields = load_model("BERT-base-uncased").config
    own = {"model_type": "linformer", "projected_length": rank, "sharing": sharing}
    return build(Config({**fields, **own}, "test"), "test")


def products(model: Model, tokens: int, end: str) -> float:
    rows = operators(model, prefill(8, tokens))
    return sum(r.count * r.operator.work().matrix_flops for r in rows if r.name.endswith(end))


def test_products_and_parameters_of_the_block() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    batch, tokens, heads, dim, rank, longest = 2, 24, 3, 10, 7, 40
    x, weight = torch.rand(batch, tokens, heads * dim), torch.rand(heads * dim, heads * dim)
    along = torch.rand(rank, longest)
    with FlopCounterMode(display=False) as counter:
        q, k, v = (x @ weight for _ in range(3))
        k, v = (torch.matmul(along[:, :tokens], t) for t in (k, v))
        q, k, v = (t.unflatten(2, (heads, dim)).transpose(1, 2) for t in (q, k, v))
        ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2) @ weight
    for shared, matrices in ((False, 2), (True, 1)):
        block = LinformerBlock(heads, dim, rank, longest, shared)
        rows = list(block.parts(Place(heads * dim, Step(batch, tokens, tokens), Setting())))
        assert sum(op.work().matrix_flops for _, _, op in rows) == counter.get_total_flops()
        own = 4 * weight.numel() + matrices * along.numel()
        assert sum(op.parameters() for _, _, op in rows) == own
        assert sum(op.stored_bytes() for _, _, op in rows) == 2 * own


def test_a_short_sequence_reads_its_own_columns() -> None:
    work = PositionProjection(30, 7, 24, positions=40).work()
    assert work.bytes_as(Role.WEIGHT) == 2 * 7 * 24


def test_at_full_rank_the_core_is_that_of_attention() -> None:
    assert products(linformer(512), 512, ".core") == products(
        load_model("BERT-base-uncased").model, 512, ".core"
    )


def test_work_grows_in_proportion_to_the_length() -> None:
    for end in (".core", "_positions"):
        assert products(linformer(64), 512, end) == 4 * products(linformer(64), 128, end) > 0


@pytest.mark.parametrize(("sharing", "matrices"), [("headwise", 2), ("key-value", 1)])
def test_matrices_along_the_sequence_are_owned_once_a_layer(sharing: str, matrices: int) -> None:
    more = parameters(linformer(100, sharing)) - parameters(load_model("BERT-base-uncased").model)
    assert more == 12 * matrices * 100 * 512


@pytest.mark.parametrize(
    ("rank", "sharing", "said"),
    [
        (513, "headwise", "projected_length 513 is above max_position_embeddings 512"),
        (64, "all", "field 'sharing' is 'all'; expected headwise or key-value"),
    ],
)
def test_what_contradicts_itself_is_refused(rank: int, sharing: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        linformer(rank, sharing)
