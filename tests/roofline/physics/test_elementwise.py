"""Passes over rows: limits known on paper, and held-out error on public measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwspecs import load_device
from roofline.physics.base import Gpu, total
from roofline.physics.columns import dtypes_of
from roofline.physics.elementwise import CONSTANTS, ElementwiseModel

GPU = Gpu.of(load_device("a100_sxm"))
START = {c.name: c.start for c in CONSTANTS}
KINDS = ElementwiseModel.kinds
TOKENS = 2.0 ** np.arange(21)


def parts(op: str, gpu: Gpu = GPU, **values: float) -> dict[str, Any]:
    sizes = {"num_tokens": TOKENS, "hidden": 4096.0, "n_heads": 32.0, "n_kv_heads": 8.0, "head_dim": 128.0}
    rows: dict[str, Any] = {n: np.broadcast_to(v, TOKENS.shape) for n, v in sizes.items()}
    rows["op"] = np.full(len(TOKENS), op, dtype=object)
    return ElementwiseModel().parts(rows, gpu, dtypes_of("float16"), {**START, **values})


@pytest.mark.parametrize("op", KINDS)
def test_more_rows_take_longer_and_no_part_is_negative(op: str) -> None:
    found = parts(op)
    assert (np.diff(total(found)) > 0).all()
    assert all((seconds >= 0).all() for seconds in found.values())


@pytest.mark.parametrize("op", KINDS)
def test_long_passes_run_at_the_share_of_the_bandwidth(op: str) -> None:
    bytes_per_token = {
        "rmsnorm": 4 * 4096,
        "rope": 4 * 40 * 128,
        "act_mul": 6 * 4096,
        "elementwise_add": 6 * 4096,
    }
    wide = {"flight_bytes": 1e6}
    last = total(parts(op, **wide))[-1]
    streamed = bytes_per_token[op] * TOKENS[-1] / (START["memory_share"] * GPU.dram_byte_per_s)
    assert last == pytest.approx(streamed, rel=0.01)


@pytest.mark.parametrize("op", KINDS)
def test_too_few_bytes_under_way_follow_processors_and_not_the_memory(op: str) -> None:
    """Little's law: bytes in flight over latency, however fast the memory is."""
    few = {"flight_bytes": 1000.0}
    a100 = total(parts(op, **few))[-1]
    faster = total(parts(op, replace(GPU, dram_byte_per_s=2 * GPU.dram_byte_per_s), **few))[-1]
    wider = total(parts(op, replace(GPU, processors=2 * GPU.processors), **few))[-1]
    assert faster == pytest.approx(a100, rel=0.01)
    assert wider == pytest.approx(a100 / 2, rel=0.01)


@pytest.mark.parametrize(("op", "most"), [("rmsnorm", 0.13), ("rope", 0.10), ("elementwise_add", 0.09)])
def test_held_out_widths_are_predicted(held_out_error: Any, op: str, most: float) -> None:
    cell = {"gpu": "a100_sxm", "op": op, "dtype": "float16"}
    assert held_out_error("vidur_ops", ElementwiseModel(), 200, **cell) <= most
