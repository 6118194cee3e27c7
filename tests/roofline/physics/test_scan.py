"""Chains of kernels that read prompts with a recurrent state, against the times that were published."""

from __future__ import annotations

import numpy as np
import pytest

from hwspecs import load_device
from roofline.ceilings import ceilings
from roofline.physics.kernels import Kernels
from roofline.times import times
from workloads.operators import CausalConv, GatedDelta

B200 = load_device("b200_sxm")


def delta(batch: int, length: int, heads: int) -> GatedDelta:
    return GatedDelta(batch, length, 0, heads, max(1, heads // 4), 128, 128)


# sequences, positions of each, value heads of 128: ms. First vllm-project/vllm pull request 38981 (column
# vLLM; the shortest, 2048 positions of 8 heads, takes 0.193 ms, 30 % longer than predicted), then
# flashinfer-ai/flashinfer pull request 2742 (column fla_ms).
PUBLISHED = [
    (1, 8192, 8, 0.384),
    (1, 4096, 8, 0.259),
    (8, 1024, 8, 0.202),
    (4, 2048, 8, 0.219),
    (2, 4096, 8, 0.269),
    (1, 8192, 16, 0.474),
    (1, 8192, 96, 1.4919),
    (1, 4096, 96, 0.7741),
    (9, 512, 32, 0.3030),
    (9, 1024, 32, 0.5529),
]


@pytest.mark.parametrize(("batch", "length", "heads", "ms"), PUBLISHED)
def test_the_delta_rule_takes_what_was_published(batch: int, length: int, heads: int, ms: float) -> None:
    found = Kernels(B200).operator(delta(batch, length, heads))
    assert found is not None
    assert found.time_s[0] == pytest.approx(
        ms * 1e-3, rel=0.1 if batch * length >= 8192 or heads > 8 else 0.2
    )
    assert found.provenance[0] == "vllm pull request 38981"
    assert np.isnan(found.lower_s[0])


def test_chunks_of_a_sequence_follow_each_other() -> None:
    """The same positions in one sequence take the latency of all chunks, in eight that of an eighth."""
    one, eight = (
        times(delta(*sizes, 8), ceilings(B200, "calibrated")).time_s for sizes in ((1, 8192), (8, 1024))
    )
    assert one - eight == pytest.approx((8192 - 1024) / 64 * 1.75e-6)


def test_the_chain_begins_with_a_whole_chunk() -> None:
    """64 positions are one chunk, behind six launches; fewer are updated one by one."""
    most, whole = (times(delta(1, length, 8), ceilings(B200, "calibrated")).time_s for length in (63, 64))
    assert whole - most == pytest.approx(5.3e-5 + 1.75e-6, rel=0.1)


def test_single_positions_update_the_state_without_a_chain() -> None:
    limits = ceilings(B200, "calibrated")
    step = delta(64, 1, 16)
    assert times(step, limits).time_s == pytest.approx(step.work().bytes / limits.dram_byte_per_s, rel=0.2)


@pytest.mark.parametrize(("length", "us"), [(1000, 35.0), (8000, 228.0), (10000, 280.0), (50000, 1280.0)])
def test_the_convolution_takes_what_was_published(length: int, us: float) -> None:
    """10240 channels on a B300, whose memory is as fast as a B200's (TensorRT-LLM pull request 13103)."""
    found = Kernels(load_device("b300_sxm")).operator(CausalConv(1, length, 0, 10240, 4))
    assert found is not None
    assert found.time_s[0] == pytest.approx(us * 1e-6, rel=0.08)
