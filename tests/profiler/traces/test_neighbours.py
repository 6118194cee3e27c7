"""Kernels without an operator take that of kernels in the same place, if there is one only."""

from __future__ import annotations

import numpy as np

from profiler.traces.neighbours import known_by_neighbours, signatures


def test_a_place_that_two_operators_share_says_nothing() -> None:
    place = np.array([0, 0, 0, 1, 1, 2])
    operator = np.array([5, 6, -1, 7, -1, -1])
    assert known_by_neighbours(place, operator).tolist() == [-1, -1, -1, -1, 7, -1]


def test_a_place_is_a_kernel_among_two_on_either_side_of_its_own_stream() -> None:
    """Cycles of five kernels on one stream; the second differs in its last kernel, two places on."""
    name = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 9, 0, 1, 2, 3, 4])
    stream, order = np.zeros(15, np.int64), np.arange(15)
    found = signatures(name, stream, order)
    assert found[2] != found[7]  # 0 1 2 3 4 against 0 1 2 3 9
    assert found[2] == found[12]
    apart = signatures(name, np.where(name == 9, 1, stream), order)
    assert apart[2] != apart[7]
