"""Traced operators through a run's table and back, and tables that nobody should believe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roofline.run_tables import TABLES
from roofline.traced import KINDS, MOST_CALLS, model_of, table_rows
from specfiles.errors import InputError
from workloads.operators import Attention, Embedding, Gemm, Operator
from workloads.operators.traced import Traced
from workloads.phases import Named, operators, prefill

SIZES = st.integers(0, 10**15) | st.floats(0, 1e15)
SMALL = [
    Named("mlp.addmm", Gemm(3, 4, 8, "bf16", "bf16", "bf16", bias=True), 2),
    Named("embed.embedding", Embedding(5, 100, 8, "fp32", "fp32"), 1),
    Named("attn.scaled_dot_product_attention", Attention(2, 16, 16, 4, 2, 8, value_dim=8, cached=False), 3),
    Named("exp", Traced("exp", 48, 0, 48, special_ops=12, outputs=12, owned=3, owned_bytes=1.5), 1),
]


def table(named: list[Named], **changes: Any) -> pd.DataFrame:
    made = pd.DataFrame(table_rows(named), columns=list(TABLES["traced"]))
    return made.assign(**changes)


def again(made: pd.DataFrame) -> list[Named]:
    return operators(model_of(made, "mine:build", "traced.parquet"), prefill(1, 1))


def test_a_table_gives_the_same_operators_back() -> None:
    assert again(table(SMALL)) == SMALL
    assert {entry.operator.kind for entry in SMALL} == set(KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_work_survives_for_any_sizes(
    kind: str, operators_of: Callable[..., st.SearchStrategy[Operator]]
) -> None:
    traced = st.builds(Traced, st.text(), SIZES, SIZES, SIZES, matrix_flops=SIZES, owned_bytes=SIZES)

    @given(traced if kind == Traced.kind else operators_of(KINDS[kind]))
    def survives(operator: Operator) -> None:
        (found,) = again(table([Named("x", operator, 1)]))
        assert found.operator == operator
        assert found.operator.work() == operator.work()

    survives()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "module"}, "no kind of traced operator in traced.parquet: mlp.addmm named 'module'"),
        ({"fields": "{"}, "traced.parquet: mlp.addmm: its fields are not JSON"),
        ({"fields": '{"m": 1, "n": 2}'}, "mlp.addmm: key 'k' is missing"),
        ({"fields": '{"m": -1, "n": 2, "k": 3}'}, "mlp.addmm: m: expected"),
        ({"fields": '{"m": 1, "n": 2, "k": 3, "code": "x"}'}, "mlp.addmm: unknown key 'code'"),
        ({"fields": '{"m": 1, "n": 2, "k": 3, "inputs": "fp33"}'}, "no format in .* named 'fp33'"),
        ({"count": 0}, "has 0 calls"),
        ({"count": MOST_CALLS + 1}, f"expected 1 to {MOST_CALLS}"),
    ],
)
def test_a_broken_table_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        again(table(SMALL[:1], **changes))
    assert "\n" not in str(error.value)
