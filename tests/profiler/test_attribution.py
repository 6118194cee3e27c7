"""Of what a step computes, nearly all is in the range of an operator or of what the framework prepares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profiler.kernel_times import shares
from profiler.subject import Point, Subject, greedy, step
from profiler.traced import trace_step

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

FAMILIES = ("llama", "qwen3", "mixtral", "qwen3_moe", "gemma", "gpt2", "phi", "deepseek_v3")
RECURRENT = (
    "mamba",
    "mamba2",
    "rwkv",
    "lfm2",
    "jamba",
    "falcon_h1",
    "zamba2",
    "granitemoehybrid",
    "nemotron_h",
    "qwen3_next",
    "qwen3_5_text",
)
ENCODER_DECODERS = ("t5", "switch_transformers", "bart")
POINTS = (Point("prefill", 1, 64, 64), Point("decode", 1, 1, 257))
WIDER = {
    48: 256,
    80: 704,
    96: 512,
    101: 2000,
    128: 512,
    24: 128,
}  # so that operators outweigh views of tensors
HEADS = {"num_attention_heads": 8, "n_head": 8, "num_heads": 32, "mamba_n_heads": 32, "n_mamba_heads": 8}
REPEATS = 4  # of a trace, whose times hold waits for a processor: the shortest of each operation counts


def wide(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a small model in place of those of a tiny one."""
    sizes = {k: WIDER[v] for k, v in fields.items() if type(v) is int and v in WIDER}
    heads = {name: count for name, count in HEADS.items() if name in fields}
    if fields.get("num_key_value_heads") == 6:
        heads["num_key_value_heads"] = 8
    return {**sizes, **heads}


def shortest(traces: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each operator's operations, with the least time that they took in a trace."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted((row for rows in traces for row in rows), key=lambda row: -row["time_s"]):
        found[row["operator"], row["name"]] = row
    return list(found.values())


@pytest.mark.parametrize("name", [*FAMILIES, *RECURRENT, *ENCODER_DECODERS])
def test_a_step_belongs_to_its_operators(
    name: str, subject: Callable[..., Subject], tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = subject(name, **wide(tiny(name).config))
    points = [replace(p, encoder_len=min(p.kv_len, 200)) for p in POINTS] if model.has_memory else POINTS
    for point in points:
        with torch.inference_mode():
            run = step(model, point, point.kv_len)
            run(greedy)
            traces = [trace_step(model, run, tmp_path / "trace.json.gz") for _ in range(REPEATS)]
        told = shares(shortest(traces), on_device=False)
        inside, beside = (told[part] / told["of_s"] for part in ("in_operators_s", "in_framework_s"))
        print(f"{name} {point.phase}: {inside:.1%} in operators, {beside:.1%} prepared by the framework")
        assert inside + beside >= 0.95
        assert inside >= 0.85
        assert beside > 0 or not model.attention  # which masks and positions are for
