"""What several folders of tests need: public tables beside the repository, and operators of every kind."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hwspecs import Device
from specfiles.strict import validated
from workloads.operators import Operator

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Threads of OpenMP wait by spinning: beside other processes, trees of 600 rows took ten times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, however busy the machine: a red test stays red until its cause is gone.
settings.register_profile(
    "tests", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Where a public table lies; the test is skipped where it is absent."""

    def at(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not beside the repository (looked for {SHARED / name})")
        return SHARED / name

    return at


@pytest.fixture(scope="session")
def published(shared: Callable[[str], Path]) -> Callable[[str], list[dict[str, str]]]:
    """The published numbers of one group."""
    with shared("facts/published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return lambda group: [row for row in rows if row["group"] == group]


@pytest.fixture(scope="session")
def operators_of() -> Callable[..., st.SearchStrategy[Operator]]:
    """Strategies for any operator kind, read from its fields: a new kind needs no new line."""
    return operator_strategy


def operator_strategy(
    kind: type[Operator],
    sizes: st.SearchStrategy[int] | None = None,
    dtypes: tuple[str, ...] = ("bf16", "fp16", "fp8", "int8"),
    **fixed: Any,
) -> st.SearchStrategy[Operator]:
    """Operators of a kind with sizes that belong together; `fixed` fields keep one value."""
    return field_values(kind, sizes, dtypes, **fixed).map(lambda values: kind(**values))


def field_values(
    kind: type[Operator],
    sizes: st.SearchStrategy[int] | None = None,
    dtypes: tuple[str, ...] = ("bf16", "fp16", "fp8", "int8"),
    **fixed: Any,
) -> st.SearchStrategy[dict[str, Any]]:
    """The arguments of such an operator."""
    size = sizes if sizes is not None else st.integers(1, 300)
    by_type: dict[str, st.SearchStrategy[Any]] = {
        "Size": size,
        "Size | None": st.none() | size,
        "DtypeLike": st.sampled_from(dtypes),
        "int": st.integers(1, 3),  # kernel and stride of a convolution
        "bool": st.booleans(),
        "str": st.sampled_from(["silu", "gelu_tanh", "relu"]),
        "RoutedLayer | None": st.none(),  # how kernels of whole layers see it, which changes no work
        "FeatureKind": st.sampled_from(["elu", "positive", "trigonometric"]),
    }
    assert dataclasses.is_dataclass(kind)
    # Laid out without idle processors or padded rows: tests of what is counted already draw those.
    fixed = {"splits": True, "padded": 1, **fixed}
    fields = {
        f.name: st.just(fixed[f.name]) if f.name in fixed else by_type[str(f.type)]
        for f in dataclasses.fields(kind)
    }
    return st.fixed_dictionaries(fields).map(_consistent)


def size_fields(kind: type[Operator]) -> list[str]:
    """The fields of an operator that may be arrays."""
    assert dataclasses.is_dataclass(kind)
    return [f.name for f in dataclasses.fields(kind) if str(f.type).startswith("Size")]


def _consistent(values: dict[str, Any]) -> dict[str, Any]:
    """A cache holds what is being computed; heads are a multiple of KV heads, sums of a kernel's rows."""
    if {"q_len", "kv_len"} <= set(values):
        values["kv_len"] += values["q_len"] - 1
    if {"heads", "kv_heads"} <= set(values):
        values["heads"] *= values["kv_heads"]
    if "kernel" in values and "k" in values:
        values["k"] *= values["kernel"]
    return values


@pytest.fixture(scope="session")
def fields_of() -> Callable[..., st.SearchStrategy[dict[str, Any]]]:
    """The arguments of an operator of any kind."""
    return field_values


def number(value: float) -> dict[str, Any]:
    """A sourced value of a device file."""
    return {"value": value, "source": "sheet"}


@pytest.fixture(scope="session")
def paper_device() -> Callable[..., Device]:
    """A device whose limits are round numbers, so that answers are known on paper."""

    def make(
        *,
        tensor: float = 100e12,
        bandwidth: float | None = 1e12,
        vector: float | None = 10e12,
        special: float | None = 1e12,
        link: float | None = 100e9,
        measured: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Device:
        dtypes = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
        sheet: dict[str, Any] = {
            "tensor_flop_per_s": {dtype: number(tensor) for dtype in dtypes},
            "dram": {"type": "HBM", "capacity_bytes": number(80e9)},
            "tdp_w": number(100),
        }
        if bandwidth:
            sheet["dram"]["byte_per_s"] = number(bandwidth)
        if vector:
            sheet["vector_flop_per_s"] = {"fp32": number(vector)}
        if special:
            sheet["special_op_per_s"] = number(special)
        if link:
            sheet["links"] = {"nvlink": {"type": "wire", "byte_per_s": number(link)}}
        data = {
            "schema": 1,
            "name": "Paper",
            "vendor": "Nobody",
            "kind": "gpu",
            "architecture": "paper",
            "sources": {"sheet": "round numbers"},
            "datasheet": sheet,
            "measured": measured or {},
        }
        return validated(Device, {**data, **changes}, "paper.yaml")

    return make
