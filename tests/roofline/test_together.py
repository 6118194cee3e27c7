"""Names of operators that one kernel does are taken apart into what they were put together from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roofline.together import joined, parts

NAMES = [
    "embedding",
    "final_norm",
    "lm_head",
    "layers.attention_norm",
    "layers.mlp_residual",
    "layers.attention.rope",
    "layers.attention.kv_append",
    "layers.moe.router",
    "layers.moe.topk",
]


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_a_name_is_taken_apart_into_its_operators(names: list[str]) -> None:
    assert parts(joined(names), NAMES) == names


def test_what_is_shared_stands_once() -> None:
    assert (
        joined(["layers.attention.q_proj", "layers.attention.k_proj"]) == "layers.attention.q_proj + k_proj"
    )
    assert (
        parts("layers.attention.q_proj + k_proj", ["layers.attention.k_proj"])[1] == "layers.attention.k_proj"
    )
