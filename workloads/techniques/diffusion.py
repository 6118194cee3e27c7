"""Diffusion generation, with and without a block cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.operators import Attention
from workloads.schedule import Schedule
from workloads.techniques.base import Target, Technique, parameter
from workloads.techniques.changes import both_ways, on
from workloads.techniques.conditions import decodes, keeps_states, reads_a_prompt


@dataclass(frozen=True)
class Diffusion(Technique):
    """Prompt and answer are denoised together in a few passes, in which every position sees every other."""

    name = "diffusion-generation"
    aliases = ("masked-diffusion", "discrete-diffusion", "ar-diffusion", "diffusion-llm", "llada", "sedd")
    # arXiv:2505.22618, section 5: blocks of 32 tokens
    variants = {"block-diffusion": {"block": 32}, "fast-dllm": {"block": 32}}
    category = "alternative paradigms"
    paper = "LLaDA arXiv:2502.09992; SEDD arXiv:2310.16834; AR-Diffusion 2305.09515; Fast-dLLM 2505.22618"
    removes = "decode steps: a pass yields several tokens"
    adds = "whole passes over prompt and answer, without a cache or with one that each block makes anew"
    needs = "a model trained to denoise"
    quality = "retrained"
    slot = "how tokens are made"
    assumed = ("steps",)

    steps: float = parameter(0.5, "passes over tokens of the answer (1: a pass per token)", low=0.001, high=4)
    block: int = parameter(0, "tokens of a block whose context is cached; 0: no cache", low=0, high=1_000_000)

    def refuse(self, schedule: Schedule, target: Target) -> str | None:
        """A whole answer is denoised, from a prompt."""
        if not (decodes(schedule) and reads_a_prompt(schedule)):
            return "a whole answer is needed; ask for generate"
        if schedule.main.model.has_memory or keeps_states(schedule):
            return "every position must be able to see every other, which takes attention in every layer"
        return None

    def apply(self, schedule: Schedule) -> Schedule:
        """The first block's passes come before the first token, those of the others after it."""
        first = schedule.of_main("prefill")[0]
        others = tuple(p for p in schedule.passes if p.scope != "")
        seen = first.last + schedule.output
        block = min(self.block or schedule.output, schedule.output)
        count = -(-schedule.output // block)
        changes = (*first.changes, on(Attention, both_ways))
        whole = replace(first, q_len=seen, first=seen, last=seen, scored=block, changes=changes)
        passes = []
        for index in range(count):
            phase = "prefill" if index == 0 else "decode"
            steps = max(1.0, self.steps * block)
            full = 1 if self.block else steps  # with a cache a block's other passes see its positions only
            passes.append(replace(whole, phase=phase, times=full))
            if steps > full:
                passes.append(replace(whole, phase=phase, q_len=block, times=steps - full))
        return replace(schedule, passes=(*others, *passes)).with_main(tokens=seen if self.block else 0)
