"""Default budgets are those that the engines' sources state for a GPU."""

from __future__ import annotations

import pytest

from hwspecs import load_device
from roofline.serve.budgets import default_budget


@pytest.mark.parametrize(
    ("engine", "device", "tokens"),
    [
        ("vllm", "h100_sxm", 8192),
        ("vllm", "h200_sxm", 8192),
        ("vllm", "mi300x", 8192),
        ("vllm", "a100_sxm", 2048),  # 80 GB, excluded by name
        ("vllm", "l40s", 2048),
        ("sglang", "l4", 2048),
        ("sglang", "a100_sxm_40gb", 4096),
        ("sglang", "l40s", 4096),
        ("sglang", "h100_sxm", 8192),
        ("sglang", "h200_sxm", 8192),
        ("sglang", "b200_sxm", 16384),
        ("sglang", "mi300x", 16384),
        ("trtllm", "l4", 8192),
        ("none", "l4", 8192),
    ],
)
def test_the_tokens_of_a_step(engine: str, device: str, tokens: int) -> None:
    assert default_budget(engine, load_device(device))[0] == tokens
