"""Packing of sequences of different lengths."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import shortened
from workloads.techniques.conditions import no_prompt


@dataclass(frozen=True)
class Varlen(Technique):
    """Sequences of a batch are packed without padding to the longest one."""

    name = "varlen-packing"
    aliases = ("bytetransformer", "varlen", "padding-free")
    category = "graph and operator"
    paper = "ByteTransformer arXiv:2210.03052"
    removes = "work on padding"
    adds = "offsets of sequences; kernels that read them"
    needs = "kernels for packed sequences"
    quality = "exact"
    served = "vLLM, SGLang, TensorRT-LLM"
    slot = "how sequences are batched"
    example = "Llama-3.1-8B --hw h100 --batch 8"
    assumed = ("mean",)
    of_requests = True

    mean: float = parameter(
        0.6, "mean length of prompts over the longest (ByteTransformer: 0.6)", low=0.001, high=1
    )

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """Several prompts of different lengths are needed."""
        return no_prompt(schedule) or (None if schedule.batch > 1 else "one sequence has no padding")

    def apply(self, schedule: Schedule) -> Schedule:
        """The prompt asked for is the longest; packed, each counts its own length."""
        return shortened(schedule, max(1, round(schedule.prompt * self.mean)))
