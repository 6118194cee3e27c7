"""Of what a step computes, nearly all is in the range of an operator or of what the framework prepares.

Counted in bytes that the operations read and write, not timed; a run has the shares of its times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from profiler.forward import Point, greedy, step
from profiler.instrument import instrumented
from profiler.parts.base import FRAMEWORK
from profiler.recorders import Marks
from profiler.subject import Subject

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

FAMILIES = ("llama", "qwen3", "mixtral", "qwen3_moe", "gemma", "gpt2", "phi", "deepseek_v3", "deepseek_v32")
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
ENCODERS = ("bert", "roberta")
ENCODER_DECODERS = ("t5", "switch_transformers", "bart", "whisper")
POINTS = (Point("prefill", 1, 64, 64), Point("decode", 1, 1, 257))
WIDER = {
    48: 256,
    80: 704,
    96: 512,
    101: 2000,
    128: 512,
    24: 128,
    12: 64,
}  # so that operators outweigh views of tensors
HEADS = {"num_attention_heads": 8, "n_head": 8, "num_heads": 32, "mamba_n_heads": 32, "n_mamba_heads": 8}


def wide(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a small model in place of those of a tiny one."""
    sizes = {k: WIDER[v] for k, v in fields.items() if type(v) is int and v in WIDER}
    heads = {name: count for name, count in HEADS.items() if name in fields}
    if fields.get("num_key_value_heads") == 6:
        heads["num_key_value_heads"] = 8
    return {**sizes, **heads}


class Open:
    """A recorder that knows which range is open."""

    def __init__(self) -> None:
        self.range = ""

    def marks(self, name: str) -> Marks:
        return (lambda: setattr(self, "range", name),), (lambda: setattr(self, "range", ""),)


class Bytes(TorchDispatchMode):
    """Bytes that operations touch, by the range that they run in; views and idle dropouts touch none."""

    def __init__(self, recorder: Open) -> None:
        super().__init__()
        self.recorder, self.touched = recorder, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        alias = (returned.alias_info for returned in func._schema.returns)
        if func is not torch.ops.aten.dropout.default and all(
            each is None or each.is_write for each in alias
        ):
            tensors = (t for t in tree_leaves((args, kwargs, found)) if isinstance(t, torch.Tensor))
            self.touched[self.recorder.range] += sum(tensor.nbytes for tensor in tensors)
        return found


@pytest.mark.parametrize("name", [*FAMILIES, *RECURRENT, *ENCODERS, *ENCODER_DECODERS])
def test_a_step_belongs_to_its_operators(
    name: str, subject: Callable[..., Subject], tiny: Callable[..., Any]
) -> None:
    model = subject(name, **wide(tiny(name).config))
    points = [replace(p, encoder_len=64) for p in POINTS] if model.has_memory else POINTS
    for point in points[: 1 if name in ENCODERS else None]:
        recorder = Open()
        with torch.inference_mode():
            run = step(model, point, point.kv_len)
            run(greedy)
            with instrumented(model, recorder, greedy) as watched, Bytes(recorder) as counted:
                run(watched.sampler)
        whole, outside = counted.touched.total(), counted.touched[""]
        beside = sum(count for name, count in counted.touched.items() if name.startswith(FRAMEWORK))
        # T5 scales the decoder's result and makes an empty bias; nothing else is outside all ranges.
        assert outside <= (0.003 * whole if name in ENCODER_DECODERS else 0)
        assert beside <= 0.15 * whole
        assert beside > 0 or not model.attention or name == "t5"  # masks and positions, of which T5 has none
