"""One call on arrays is many calls on numbers, element by element, for every operator kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specfiles.errors import InputError
from tests.conftest import size_fields
from workloads.dtypes import FORMATS, NAMES, Precision, bytes_per_element, codes, known_dtype
from workloads.operators import Attention, Gemm, Norm, Operator
from workloads.operators.kinds import KINDS
from workloads.work import Work

QUANTITIES = ("matrix_flops", "vector_flops", "special_ops", "outputs")
QUANTITIES += ("flops", "bytes", "weight_bytes", "activation_bytes", "kv_bytes", "comm_bytes")


def assert_elementwise(whole: Work, parts: list[Work]) -> None:
    for quantity in QUANTITIES:
        expected = np.array([getattr(part, quantity) for part in parts], dtype=np.float64)
        found = np.broadcast_to(np.asarray(getattr(whole, quantity), dtype=np.float64), expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=quantity)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not Norm], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("number", [np.int64, np.float64])
@given(data=st.data())
def test_an_operator_on_arrays(
    kind: type[Operator], number: type, data: st.DataObject, fields_of: Callable[..., Any]
) -> None:
    sizes = size_fields(kind)
    first = data.draw(fields_of(kind))
    same = {name: value for name, value in first.items() if name not in sizes or value is None}
    points = [first, *data.draw(st.lists(fields_of(kind, **same), min_size=1, max_size=4))]
    if any((point[name] is None) != (first[name] is None) for point in points for name in sizes):
        points = [first]  # a window is an array or absent, not both
    arrays = {
        name: np.array([p[name] for p in points], dtype=number) for name in sizes if first[name] is not None
    }
    assert_elementwise(kind(**{**first, **arrays}).work(), [kind(**point).work() for point in points])


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8))
def test_an_array_of_formats(names: list[str]) -> None:
    coded = codes(names)
    np.testing.assert_array_equal(bytes_per_element(coded), [bytes_per_element(name) for name in names])
    whole = Gemm(3, 5, 7, coded, coded, coded).work()
    parts = [Gemm(3, 5, 7, name, name, name).work() for name in names]
    np.testing.assert_array_equal(whole.bytes, [part.bytes for part in parts])


def test_sizes_broadcast_to_a_grid() -> None:
    batch, context = np.arange(1, 4)[:, None], np.array([128.0, 1024.0, 8192.0, 5.0])[None, :]
    grid = Attention(batch, 1, context, 32, 8, 128).work()
    assert grid.kv_bytes.shape == (3, 4)
    assert grid.kv_bytes[2, 1] == Attention(3, 1, 1024, 32, 8, 128).work().kv_bytes


@pytest.mark.parametrize("name", NAMES)
def test_a_format_takes_the_bytes_of_its_bits(name: str) -> None:
    digits = {
        "mxfp8": 8 + 8 / 32,
        "mxfp4": 4 + 8 / 32,
        "nvfp4": 4 + 8 / 16,
        "tf32": 32,
        "fp8_block": 8 + 32 / 128**2,
        "fp8_g128": 8 + 32 / 128,  # 132 bytes a key of 128 (vLLM's DeepseekV32IndexerCache)
    }
    digits["nf4"] = 4 + 8 / 64 + 32 / (64 * 256)  # scales quantised in their turn (arXiv:2305.14314, 3)
    digits["int2_g32"] = 2 + (16 + 16) / 32  # KIVI: scale and minimum, 16 bits each (arXiv:2402.02750)
    digits["int4_sym_g32"] = 4 + 16 / 32  # a scale and no zero point
    width, _, group = name.partition("_g")
    bits = digits.get(name) or int("".join(c for c in width if c.isdigit()))
    if group and name not in digits:  # a 16-bit scale and a zero point
        bits += (16 + bits) / int(group)
    assert bytes_per_element(name) == bits / 8
    assert FORMATS[name][1] in FORMATS


def test_other_names_of_formats() -> None:
    assert known_dtype("bfloat16") == "bf16"
    assert known_dtype("fp8_e4m3") == "fp8"
    with pytest.raises(InputError, match=r"no dtype named 'bf61'; did you mean bf16"):
        known_dtype("bf61")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("bf16",), ("bf16", "bf16", "bf16", "bf16")),
        (("fp32",), ("fp32", "fp32", "fp32", "fp32")),
        (("int4",), ("int4", "bf16", "bf16", "bf16")),  # weight-only: multiplied in 16 bits
        (("int4", "fp16"), ("int4", "fp16", "fp16", "fp16")),
        (("fp8", "fp8"), ("fp8", "fp8", "bf16", "bf16")),  # the accumulator is written out wide
        (("fp8", "fp8", "fp8"), ("fp8", "fp8", "fp8", "bf16")),
        (("fp16", None, "int8"), ("fp16", "fp16", "int8", "fp16")),
    ],
)
def test_formats_follow_from_the_weights(asked: tuple[str, ...], expected: tuple[str, ...]) -> None:
    precision = Precision.of(*asked)
    assert (precision.weights, precision.activations, precision.kv, precision.wide) == expected
