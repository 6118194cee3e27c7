"""RWKV-5 to 7, which transformers has not: tensors as the authors' code lists them, counts as they print."""

from __future__ import annotations

from math import prod

import pytest

from workloads.catalogue import agrees, load_model
from workloads.config import Config
from workloads.families import build
from workloads.model import Model
from workloads.phases import Setting, decode, operators, parameters, prefill

Shapes = dict[str, tuple[int, ...]]
D, A, F, H, L, V = 64, 96, 160, 32, 3, 101  # width, channels, MLP, head, layers, vocabulary


def ends() -> Shapes:
    """emb, head, ln0 and ln_out, and the two norms of each layer."""
    norms = {f"ln{i}.{part}": (D,) for i in ("0", "_out") for part in ("weight", "bias")}
    layers = {f"{i}.ln{j}.{part}": (D,) for i in range(L) for j in (1, 2) for part in ("weight", "bias")}
    return {"emb": (V, D), "head": (V, D), **norms, **layers}


def eagle() -> Shapes:
    """RWKV_Tmix of version 5.2 and its channel mix (RWKV-v5/src/model.py of BlinkDL/RWKV-LM)."""
    mix = {f"time_mix_{name}": (D,) for name in "kvrg"}
    heads = {"time_decay": (A // H, H), "time_faaaa": (A // H, H)}
    matrices = dict.fromkeys(("receptance", "key", "value", "gate"), (A, D))
    return {**mix, **heads, **matrices, "output": (D, A), "ln_x.weight": (A,), "ln_x.bias": (A,), **mlp("kr")}


def finch() -> Shapes:
    """RWKV_Tmix_x060 and RWKV_CMix_x060 (rwkv_v6_demo.py)."""
    mix = {f"time_maa_{name}": (D,) for name in "xwkvrg"}
    low = {"maa_w1": (D, 32 * 5), "maa_w2": (5, 32, D), "decay_w1": (D, 64), "decay_w2": (64, A)}
    heads = {"time_decay": (A,), "time_faaaa": (A // H, H)}
    matrices = dict.fromkeys(("receptance", "key", "value", "gate"), (A, D))
    norm = {"ln_x.weight": (A,), "ln_x.bias": (A,)}
    return {**mix, **low, **heads, **matrices, "output": (D, A), **norm, **mlp("kr")}


def goose(first: bool) -> Shapes:
    """RWKV_Tmix_x070 and RWKV_CMix_x070 (rwkv_v7_demo.py), with ranks 12, 13, 14 and 15."""
    mix = {f"x_{name}": (D,) for name in "rwkvag"}
    low: Shapes = {"w0": (A,), "w1": (D, 12), "w2": (12, A), "a0": (A,), "a1": (D, 13), "a2": (13, A)}
    if not first:
        low |= {"v0": (A,), "v1": (D, 14), "v2": (14, A)}
    low |= {"g1": (D, 15), "g2": (15, A), "k_k": (A,), "k_a": (A,), "r_k": (A // H, H)}
    matrices = dict.fromkeys(("receptance", "key", "value"), (A, D))
    norm = {"ln_x.weight": (A,), "ln_x.bias": (A,)}
    return {**mix, **low, **matrices, "output": (D, A), **norm, **mlp("k")}


def mlp(mixes: str) -> Shapes:
    """The channel mix: two matrices, with a receptance a third."""
    gate: Shapes = {"ffn.receptance": (D, D)} if "r" in mixes else {}
    return {**{f"ffn.x_{m}": (D,) for m in mixes}, "ffn.key": (F, D), "ffn.value": (D, F), **gate}


def small(kind: str) -> Model:
    fields = {
        "model_type": kind,
        "hidden_size": D,
        "attention_hidden_size": A,
        "intermediate_size": F,
        "num_hidden_layers": L,
        "head_size": H,
        "vocab_size": V,
        "decay_low_rank_dim": 12,
        "a_low_rank_dim": 13,
        "v_low_rank_dim": 14,
        "gate_low_rank_dim": 15,
    }
    return build(Config(fields, "test"), "test")


LAYERS = {"rwkv5": [eagle()] * L, "rwkv6": [finch()] * L, "rwkv7": [goose(first=i == 0) for i in range(L)]}


@pytest.mark.parametrize("kind", list(LAYERS))
def test_parameters_are_the_tensors_of_the_authors_code(kind: str) -> None:
    expected = sum(prod(shape) for layer in (ends(), *LAYERS[kind]) for shape in layer.values())
    assert parameters(small(kind)) == expected


@pytest.mark.parametrize("kind", list(LAYERS))
def test_every_matrix_is_multiplied_once_per_token(kind: str) -> None:
    """2 FLOP per element of every matrix but the embedding; the vocabulary at the last position only."""
    layers = [s for layer in LAYERS[kind] for name, s in layer.items() if len(s) > 1 and s != (A // H, H)]
    matrices, head = sum(prod(shape) for shape in layers), D * V
    for step, tokens in ((decode(3, 9), 3), (prefill(3, 48), 3 * 48)):
        rows = operators(small(kind), step)
        seen = sum(
            row.count * row.operator.work().matrix_flops for row in rows if row.operator.kind == "gemm"
        )
        assert seen == 2 * (tokens * matrices + 3 * head)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_state_is_a_matrix_per_head_and_two_rows(kind: str) -> None:
    """fp32 states, 16-bit rows of time and channel mix; nothing grows with the context."""
    one = L * (A * H * 4 + 2 * D * 2)
    model = small(kind)
    assert model.cache_bytes(5, 1, Setting()) == model.cache_bytes(5, 10**6, Setting()) == 5 * one


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("RWKV-5-7B", lambda d, n: n * (13 * d * d + 14 * d)),
        ("RWKV-6-1.6B", lambda d, n: n * (13 * d * d + 464 * d)),
        ("RWKV-6-3B", lambda d, n: n * (13 * d * d + 464 * d)),
        ("RWKV-7-0.1B", lambda d, n: n * d * (12 * d + 2 * 288 + 19) - (2 * d * 32 + d)),
        ("RWKV-7-2.9B", lambda d, n: n * d * (12 * d + 2 * 576 + 19) - (2 * d * 64 + d)),
    ],
)
def test_shipped_models_have_what_is_printed(name: str, formula: object) -> None:
    """Per layer on paper, both tables and four vectors of norms; and what the makers print of it."""
    loaded = load_model(name)
    hidden, layers = loaded.model.hidden, len(loaded.model.layers)
    ends_ = 2 * hidden * loaded.model.vocabulary + 4 * hidden
    assert callable(formula)
    assert parameters(loaded.model) == formula(hidden, layers) + ends_
    assert loaded.file is not None
    assert loaded.file.published.rounded is not None
    assert agrees(parameters(loaded.model), loaded.file.published.rounded)
