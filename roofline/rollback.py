"""Recurrent states after verified drafts: that of the last token kept becomes the sequence's own.

SGLang keeps the state after each position (`roofline.engine_kernels.kept`) and copies one of them. Up to
0.5.9 PyTorch's advanced indexing does (`update_mamba_state_after_mtp_verify`): element by element, it gathers
all layers' states into a new tensor and scatters that. Since then one kernel copies at the memory's rate.
"""

from __future__ import annotations

from typing import Any

from roofline.engine_kernels import Written
from roofline.physics.base import Gpu
from workloads.dtypes import bytes_per_element
from workloads.operators import Changed
from workloads.schedule import Pass

# Workers that draft, verify and copy one after another, with no step launched ahead, and copy by indexing.
# SGLang's second one overlaps them (SGLANG_ENABLE_SPEC_V2, off by default in 0.5.9 and 0.5.10).
IN_TURN = ("sglang 0.5.9",)
# Elements that are gathered or scattered per clock and processor. The one kernel made Qwen3-Next-80B-A3B on
# 8 H20 3.9 % faster: 1830.60 to 1901.81 tokens/s, 48 sequences, 4 drafts, 0.74 of them kept
# (sgl-project/sglang pull request 18088). That is 3.9 of 104 ms a step, in which 2 x 113 million elements
# were indexed, beside the 0.2 ms that the one kernel takes at the memory's rate.
INDEXED = 0.36


def rollback_s(verified: Pass, gpu: Gpu) -> float:
    """Seconds in which the states of all sequences are gathered and scattered after a verification."""
    elements = 0.0
    for row in verified.operators(verified.last):
        if isinstance(row.operator, Changed) and isinstance(row.operator.edit, Written):
            one: Any = row.operator.unchanged()
            element = bytes_per_element(getattr(one, "state_dtype", one.dtype))
            elements += row.count * one.state_bytes() / element
    return float(2 * elements / (INDEXED * gpu.processors * gpu.boost_hz))
