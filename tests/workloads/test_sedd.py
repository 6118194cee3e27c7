"""SEDD against a torch module with the tensors of its authors' (arXiv:2310.16834), on the meta device."""

from __future__ import annotations

from typing import Any

import pytest

from specfiles.errors import InputError
from workloads.catalogue import load_model
from workloads.config import Config
from workloads.convention import convention
from workloads.families import build
from workloads.operators import Modulation
from workloads.phases import Setting, Step, operators, parameters
from workloads.schedule import denoising
from workloads.work import Role

torch = pytest.importorskip("torch")
BATCH, TOKENS = 3, 40


def module(vocabulary: int, hidden: int, condition: int, layers: int, heads: int) -> Any:
    """Table, noise level, blocks of attention and MLP that it modulates, vocabulary."""
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(vocabulary, hidden)
            self.noise = nn.Sequential(nn.Linear(256, condition), nn.SiLU(), nn.Linear(condition, condition))
            self.blocks = nn.ModuleList(
                nn.ModuleDict(
                    {
                        "norm1": nn.LayerNorm(hidden, bias=False),
                        "qkv": nn.Linear(hidden, 3 * hidden, bias=False),
                        "out": nn.Linear(hidden, hidden, bias=False),
                        "norm2": nn.LayerNorm(hidden, bias=False),
                        "up": nn.Linear(hidden, 4 * hidden),
                        "down": nn.Linear(4 * hidden, hidden),
                        "modulation": nn.Linear(condition, 6 * hidden),
                    }
                )
                for _ in range(layers)
            )
            self.norm = nn.LayerNorm(hidden, bias=False)
            self.modulation = nn.Linear(condition, 2 * hidden)
            self.head = nn.Linear(hidden, vocabulary)

        def forward(self, tokens: Any, waves: Any) -> Any:
            x, level = self.table(tokens), functional.silu(self.noise(waves))
            for block in self.blocks:
                shift, scale, gate, *second = block["modulation"](level)[:, None].chunk(6, dim=2)
                q, k, v = block["qkv"](block["norm1"](x) * (1 + scale) + shift).chunk(3, dim=2)
                q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
                mixed = ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2)
                x = x + gate * block["out"](mixed)
                shift, scale, gate = second
                wide = functional.gelu(block["up"](block["norm2"](x) * (1 + scale) + shift))
                x = x + gate * block["down"](wide)
            shift, scale = self.modulation(level)[:, None].chunk(2, dim=2)
            return self.head(self.norm(x) * (1 + scale) + shift)

    with torch.device("meta"):
        return Net()


@pytest.mark.parametrize("name", ["SEDD-Small", "SEDD-Medium"])
def test_parameters_and_products_of_a_denoising_step(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    loaded = load_model(name)
    sizes = loaded.config["model"]
    network = module(50258, sizes["hidden_size"], sizes["cond_dim"], sizes["n_blocks"], sizes["n_heads"])
    assert sum(p.numel() for p in network.parameters()) == parameters(loaded.model)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(torch.zeros(BATCH, TOKENS, dtype=torch.long), torch.zeros(BATCH, 256))
    step = Step(BATCH, TOKENS, TOKENS, scored=TOKENS)
    rows = operators(loaded.model, step, Setting(convention=convention("flop-counter")))
    assert sum(r.count * r.operator.work().matrix_flops for r in rows) == counter.get_total_flops()


def test_every_denoising_step_is_the_same_and_keeps_nothing() -> None:
    model = load_model("SEDD-Small").model
    (one,), (many,) = (denoising(model, 2, 24, 40, steps, Setting()).passes for steps in (1, 128))
    assert (one.times, many.times) == (1, 128)
    assert (one.scored, one.q_len) == (64, 64)
    assert model.cache_bytes(1, 1000, Setting()) == 0


def test_a_uniform_graph_has_no_mask_token() -> None:
    fields = load_model("SEDD-Small").config
    uniform = build(Config({**fields, "graph": {"type": "uniform"}}, "test"), "test")
    assert uniform.vocabulary == 50257
    assert (
        parameters(load_model("SEDD-Small").model) - parameters(uniform) == 2 * 768 + 1
    )  # row, column, bias


def test_a_graph_that_is_neither_is_refused() -> None:
    fields = load_model("SEDD-Small").config
    with pytest.raises(InputError, match="field 'type' is 'ring'; expected absorb or uniform"):
        build(Config({**fields, "graph": {"type": "ring"}}, "test"), "test")


def test_bytes_of_shift_scale_and_gate() -> None:
    """Those of the tensors: x[2, 7, 10] in and out, one vector for each factor and sequence."""
    x, vector = (torch.zeros(shape, dtype=torch.bfloat16).nbytes for shape in ((2, 7, 10), (2, 1, 10)))
    for gate, vectors in ((False, 2), (True, 1)):
        work = Modulation(2, 7, 10, gate).work()
        assert work.bytes_as(Role.INPUT) == x + vectors * vector
        assert work.bytes_as(Role.OUTPUT) == x
        assert Modulation(2, 7, 10, gate, fused=True).work().bytes_as(Role.INPUT) == vectors * vector
