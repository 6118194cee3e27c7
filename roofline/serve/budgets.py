"""How many new tokens a step takes unless the user says so: as many as the engine takes by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roofline.serving import USUAL_BUDGET

if TYPE_CHECKING:
    from hwspecs import Device

GIB = 1 << 30


def default_budget(engine: str, device: Device) -> tuple[int, str]:
    """The tokens, and whose default they are, for the output."""
    memory_bytes = device.capacity_bytes
    if engine == "vllm":
        tokens = _vllm(memory_bytes, device.name)
    elif engine == "sglang":
        tokens = _sglang(memory_bytes)
    elif engine == "trtllm":
        return USUAL_BUDGET, "TensorRT-LLM's default"  # max_num_tokens
    else:
        return USUAL_BUDGET, "the default of vLLM on large GPUs and of TensorRT-LLM"
    name = {"vllm": "vLLM", "sglang": "SGLang"}[engine]
    return tokens, f"{name}'s default for {device.name}"


def _vllm(memory_bytes: float, name: str) -> int:
    """`max_num_batched_tokens` of its API server (EngineArgs.get_batch_defaults of vLLM V1)."""
    # vLLM excludes A100 by name, because large steps lowered its throughput (pull request 17885).
    return 8192 if memory_bytes >= 70 * GIB and "a100" not in name.lower() else 2048


def _sglang(memory_bytes: float) -> int:
    """`chunked_prefill_size` (ServerArgs._handle_gpu_memory_settings)."""
    tiers = ((35, 2048), (60, 4096), (160, 8192))
    return next((tokens for below, tokens in tiers if memory_bytes < below * GIB), 16384)
